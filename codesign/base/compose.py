"""One document laid over another; every value keeps the file and line in which it stands.

The same functions serve ``from: NAME`` in files, overrides in Python and ``-s path=value``.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

from codesign.base.document import Document, KeyPath
from codesign.base.errors import ConfigError


def merge(base: Document, over: Document) -> Document:
    """Lay `over` on `base`: mappings are merged key by key, anything else is replaced.

    Laws: ``merge(base, {}) == base``; ``merge(merge(a, b), b) == merge(a, b)``; inputs are unchanged.
    """
    out = base.copy()
    out.data = _merged(out, over, ())
    return out


def nested(path: str, value: object) -> dict[str, Any]:
    """Return the mapping that holds `value` at a dotted path: ``a.b`` -> ``{a: {b: value}}``.

    Raises
    ------
    ConfigError   an empty path or an empty step in it
    """
    steps = path.split(".")
    if not all(step.strip() for step in steps):
        raise ConfigError(f"override {path!r}: a path is written a.b.c, without empty steps")
    for step in reversed(steps):
        value = {step.strip(): value}
    return value  # type: ignore[return-value]


def replace(document: Document, path: str, value: object, origin: str = "override") -> Document:
    """Return the document with `value` at a dotted path (a mapping is merged, see `merge`)."""
    return merge(document, Document(nested(path, value), origin))


def from_mapping(overrides: Mapping[str, object], origin: str = "override") -> Document:
    """Build the document of overrides whose keys are dotted paths; later keys win."""
    out = Document({}, origin)
    for path, value in overrides.items():
        out = replace(out, path, deepcopy(value), origin)
    return out


def without(document: Document, path: KeyPath) -> Document:
    """Return the document without the key at `path` (and without what stands below it)."""
    out = document.copy()
    parent = out.get(path[:-1])
    if isinstance(parent, dict):
        parent.pop(path[-1], None)
    _forget(out, path)
    return out


def _merged(out: Document, over: Document, path: KeyPath) -> Any:
    old, new = out.get(path), over.get(path)
    if not (isinstance(old, dict) and isinstance(new, dict)):
        _forget(out, path)
        _adopt(out, over, path)
        return deepcopy(new)
    merged = dict(old)
    for key in new:
        merged[key] = _merged(out, over, (*path, key))
    return merged


def _forget(out: Document, path: KeyPath) -> None:
    out.lines = {key: line for key, line in out.lines.items() if key[: len(path)] != path}
    out.origins = {key: origin for key, origin in out.origins.items() if key[: len(path)] != path}


def _adopt(out: Document, over: Document, path: KeyPath) -> None:
    below = [key for key in over.lines if key[: len(path)] == path]
    for key in below:
        out.lines[key] = over.lines[key]
        out.origins[key] = over.origins.get(key, over.origin)
    if path not in over.lines:  # given in Python or on the command line: the place of what holds it
        near = path
        while near and near not in over.lines:
            near = near[:-1]
        out.lines[path] = over.lines.get(near, 0)
        out.origins[path] = over.origins.get(near, over.origin)
