"""Overrides: one function for ``-s path=value`` and for Python."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from codesign.base.compose import replace as lay
from codesign.base.compose import without
from codesign.base.document import Document, parse_yaml
from codesign.base.errors import ConfigError

# a slot that is written as a bare name, and the key that the name gets when settings join it
_NAMED: dict[tuple[str, ...], str] = {
    ("model",): "from",
    ("system",): "from",
    ("system", "device"): "from",
    ("system", "attention", "device"): "from",
    ("workload", "routing"): "generator",
    ("cost_model",): "name",
    ("engine",): "from",
    ("policies", "*"): "name",
}
# forms of a mapping that exclude each other: naming another form starts a new mapping
_FORMS: dict[tuple[str, ...], tuple[str, ...]] = {
    ("workload", "requests"): ("trace", "dataset", "prompt_tokens")
}


def parse_override(text: str) -> tuple[str, Any]:
    """Split ``path=value`` of the command line; the value is YAML.

    Raises
    ------
    ConfigError   no ``=``, or a value that is not YAML
    """
    path, equals, value = text.partition("=")
    if not equals or not path.strip():
        raise ConfigError(f"-s {text}: an override is written path=value, as -s workload.requests.limit=100")
    if not value.strip():
        return path.strip(), value
    return path.strip(), parse_yaml(value, f"-s {path.strip()}").data


def replace(document: Document, path: str, value: Any, origin: str = "override") -> Document:
    """Return the experiment with `value` at a dotted path; a mapping is merged.

    A component that is written as a bare name becomes a mapping when one of its settings is set; naming
    another form of the requests (``trace``, ``dataset``) replaces the form that stands there.

    Raises
    ------
    ConfigError   an empty step in the path, or a step below something that is no mapping
    """
    steps = tuple(step.strip() for step in path.split("."))
    for depth in range(1, len(steps)):
        document = _open(document, steps[:depth], path, origin)
    parent = steps[:-1]
    if steps[-1] in _FORMS.get(parent, ()) and steps[-1] not in (document.get(parent) or {}):
        document = without(document, parent)
    if not isinstance(value, dict):
        document = without(document, steps)
    return lay(document, path, value, origin)


def override(document: Document, overrides: Mapping[str, Any] | Iterable[tuple[str, Any]]) -> Document:
    """Apply overrides in order; those that name a form of the requests come first."""
    pairs = list(overrides.items() if isinstance(overrides, Mapping) else overrides)
    pairs.sort(key=lambda pair: not _names_form(pair[0]))
    for path, value in pairs:
        document = replace(document, path, value, f"-s {path}")
    return document


def _names_form(path: str) -> bool:
    steps = tuple(path.split("."))
    return steps[-1] in _FORMS.get(steps[:-1], ())


def _open(document: Document, steps: tuple[str, ...], path: str, origin: str) -> Document:
    """Turn the bare name at `steps` into a mapping, if one stands there."""
    value = document.get(steps)
    if value is ... or value is None or isinstance(value, dict):
        return document
    key = _NAMED.get(steps) or _NAMED.get((*steps[:-1], "*"))
    if key is None or not isinstance(value, str):
        raise ConfigError(
            f"{origin}: {path}: {'.'.join(steps)} = {value!r} is not a mapping; nothing is below it"
        )
    return lay(without(document, steps), ".".join(steps), {key: value}, document.where(steps))
