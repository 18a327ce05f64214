"""The value of any field of the experiment after some changes, without building the whole point."""

from __future__ import annotations

from typing import Any

from codesign.base.document import Document, validate
from codesign.base.errors import ConfigError
from codesign.base.hashing import canonical_json
from codesign.explore.evaluate import Setup
from codesign.explore.expression import MissingError

Changes = dict[str, Any]


class Known:
    """Looks up fields; parts that several points share are resolved once."""

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        self._parts: dict[tuple[str, str], Any] = {}

    def __call__(self, changes: Changes, path: str) -> Any:
        """Return the value at a dotted path; `MissingError` where there is none."""
        first, _, rest = path.partition(".")
        inside = {p: v for p, v in changes.items() if p.partition(".")[0] == first}
        key = (first, canonical_json(inside))
        if key not in self._parts:
            self._parts[key] = self._part(first, inside)
        node = self._parts[key]
        for step in rest.split(".") if rest else ():
            node = node.get(step, ...) if isinstance(node, dict) else getattr(node, step, ...)
            if node is ...:
                raise MissingError(path)
        return node

    def _part(self, first: str, inside: Changes) -> Any:
        from codesign.experiment.override import override

        pairs = sorted(inside.items(), key=lambda pair: pair[0].count("."))
        document = override(self.setup.document, pairs)
        if document.get((first,)) is ... and first not in _fields():
            raise MissingError(first)
        return _resolved(document, first)


def _fields() -> dict[str, Any]:
    from codesign.experiment.schema import ExperimentSpec

    return dict(ExperimentSpec.model_fields)


def _resolved(document: Document, first: str) -> Any:
    """Return one part of an experiment: model and system expanded, others with their defaults."""
    import hwmodels
    import workloads.models
    from codesign.experiment.schema import ExperimentSpec

    if first == "model":
        return workloads.models.resolve(document.child("model")).data
    if first == "system":
        return hwmodels.resolve(document.child("system"), "system").data
    written = document.get((first,))
    try:
        defaults = getattr(validate(ExperimentSpec, document), first).model_dump()
    except (ConfigError, AttributeError):
        defaults = {}
    if isinstance(written, dict):
        return {**defaults, **written}
    return written if written is not ... else defaults
