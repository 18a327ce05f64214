"""What a formula of a study may read of a run: a path in `Result.to_dict`, or a short name.

A short name is looked up in the summary first, then in the whole: ``output_tokens_per_s``, ``tbt_s.p50``,
``energy_j.total``, ``cost.counters.pim_bytes``.  ``fits`` is 1 if the run found room in memory, else 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from codesign.base.errors import ConfigError

FITS = "fits"


def measure(result: Mapping[str, Any], path: str, where: str = "") -> float:
    """Return one number of a result.

    Raises
    ------
    ConfigError   there is no such number in this result
    """
    if path == FITS:
        return 1.0
    for start in (result["summary"], result):
        found = _descend(start, path.split("."))
        if isinstance(found, int | float):
            return float(found)
    place = f"{where}: " if where else ""
    known = ", ".join([*result["summary"], *result])
    raise ConfigError(f"{place}a result has no number {path!r}; it begins with one of {known}")


def _descend(node: Any, steps: list[str]) -> Any:
    for step in steps:
        if not isinstance(node, Mapping) or step not in node:
            return None
        node = node[step]
    return node
