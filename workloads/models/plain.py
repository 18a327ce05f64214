"""Configurations as plain data: dicts, lists, text, whole and finite numbers; what JSON can write."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from codesign.base.document import Document, KeyPath, parse_yaml
from codesign.base.errors import ConfigError

_DEEPEST = 60


def parse_json(text: str, origin: str) -> Document:
    """Parse a JSON configuration, with the line of every field where it can be told.

    Raises
    ------
    ConfigError   not JSON, a field that stands twice, nested too deeply
    """
    try:
        data = json.loads(text, object_pairs_hook=_Pairs)
    except json.JSONDecodeError as error:
        raise ConfigError(f"{origin}:{error.lineno}: not valid JSON: {error.msg}") from None
    except RecursionError:
        raise ConfigError(f"{origin}: nested too deeply") from None
    except ValueError as error:  # an integer of more than 4300 digits
        raise ConfigError(f"{origin}: not valid JSON: {str(error).splitlines()[0]}") from None
    lines = _lines(text, origin)
    return Document(_unpaired(data, Document(None, origin, lines), ()), origin, lines)


def plain(document: Document) -> Document:
    """Return the document with mappings as dicts, sequences as lists, and no number that is not finite.

    Such numbers stand in files that mean no limit (``Infinity``): they become that word.

    Raises
    ------
    ConfigError   a key that is not text, a value that a file cannot hold, nested too deeply
    """
    data = _plain(document.data, document, ())
    return Document(data, document.origin, dict(document.lines), dict(document.origins), document.prefix)


class _Pairs(list[tuple[str, Any]]):
    """The pairs of one JSON object, before it is known whether a key stands twice."""


def _unpaired(value: Any, document: Document, path: KeyPath) -> Any:
    if len(path) > _DEEPEST:
        raise ConfigError(f"{document.origin}: nested too deeply")
    if isinstance(value, _Pairs):
        out: dict[str, Any] = {}
        for key, item in value:
            if key in out:
                raise document.error((*path, key), "duplicate key; keep one")
            out[key] = _unpaired(item, document, (*path, key))
        return out
    if isinstance(value, list):
        return [_unpaired(item, document, (*path, i)) for i, item in enumerate(value)]
    return value


def _lines(text: str, origin: str) -> dict[KeyPath, int]:
    try:  # JSON is YAML but for tabs between tokens and a few escapes
        return parse_yaml(text.replace("\t", " "), origin).lines
    except ConfigError as error:
        if ": duplicate key" in str(error):
            raise
        return {}


def _plain(value: Any, document: Document, path: KeyPath) -> Any:
    if len(path) > _DEEPEST:
        raise ConfigError(f"{document.origin}: nested too deeply, or contains itself")
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise document.error(path, f"a field's name must be text, not {key!r}")
        return {key: _plain(item, document, (*path, key)) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, document, (*path, i)) for i, item in enumerate(value)]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else str(value)
    if value is None or isinstance(value, bool | int | str):
        return value
    raise document.error(
        path, f"a field holds numbers, text, lists or mappings, not a {type(value).__name__}"
    )
