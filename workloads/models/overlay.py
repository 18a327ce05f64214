"""Overrides of a model's fields: put where the field stands, under the name that it has there."""

from __future__ import annotations

from codesign.base.compose import merge, without
from codesign.base.document import Document, KeyPath
from codesign.base.errors import nearest
from workloads.models import names as n
from workloads.models.fields import Fields


def lay(base: Document, over: Document) -> Document:
    """Lay the fields of `over` on those of `base`, whatever synonym each is called by.

    ``num_experts`` laid on a configuration that says ``num_local_experts`` replaces it, inside
    ``text_config`` if it stands there.

    Raises
    ------
    ConfigError   a field that no configuration has (with the nearest that one has), or given twice
    """
    fields = Fields(base)
    out, given = base, dict[KeyPath, str]()
    for key, value in over.data.items():
        place = _place(fields, key, over)
        if place in given:
            raise over.error((key,), f"says the same as {given[place]}; keep one")
        given[place] = key
        out = merge(_without_rivals(out, fields, key), _moved(over, key, value, place))
    return out


def _place(fields: Fields, key: str, over: Document) -> KeyPath:
    for same in n.SAME_MEANING:
        if key in same and (name := fields.find(*same)):
            return fields.path(name)
    if key in fields.places:
        return fields.places[key]
    known = {name for same in n.SAME_MEANING for name in same} | {*n.OTHER_KNOWN, *fields.data}
    if key not in {name.split(".")[0] for name in known}:
        near = nearest(key, known)
        hint = f" (did you mean {near!r}?)" if near else ""
        raise over.error((key,), f"unknown field of a model{hint}")
    nest = fields.places.get(fields.find(*n.HIDDEN) or "", ())[:-1]  # beside the width of the model
    return (*nest, key)


def _without_rivals(document: Document, fields: Fields, key: str) -> Document:
    for fresh, stale in n.RIVALS:
        for name in stale if key in fresh else ():
            if fields.find(name):
                document = without(document, fields.path(name))
    return document


def _moved(over: Document, key: str, value: object, place: KeyPath) -> Document:
    """Return the document that holds one field of `over` at `place`, with its file and lines."""
    data: object = value
    for step in reversed(place):
        data = {step: data}
    lines = {(*place, *path[1:]): line for path, line in over.lines.items() if path[:1] == (key,)}
    origins = {(*place, *path[1:]): o for path, o in over.origins.items() if path[:1] == (key,)}
    return Document(data, over.origin, lines, origins)
