"""From a file, a mapping or a document to a checked `Experiment`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from codesign.base.document import Document, read_yaml
from codesign.experiment.experiment import Experiment, from_document
from codesign.experiment.override import override


def read_experiment(
    source: str | Path | Mapping[str, Any],
    overrides: Mapping[str, Any] | Iterable[tuple[str, Any]] | None = None,
) -> Experiment:
    """Read an experiment, and resolve its model and system; see `codesign.load_experiment`.

    Parameters
    ----------
    source : path of a YAML file, or a mapping of the same form
    overrides : mapping or pairs, dotted path -> value    ``{"workload.requests.limit": 100}``

    Raises
    ------
    ConfigError   file:line, key, value, rule, nearest name
    """
    if isinstance(source, Mapping):
        document, base_dir = Document(dict(source), "experiment"), Path()
    else:
        document, base_dir = read_yaml(source, "YAML experiment file"), Path(source).parent
    return from_document(override(document, overrides or {}), base_dir)
