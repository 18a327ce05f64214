"""Typed reading of a Hugging Face configuration: one meaning, several field names, clear refusals."""

from __future__ import annotations

import math
from collections.abc import Mapping
from copy import copy
from difflib import get_close_matches
from typing import Any

from codesign.base.document import Document, KeyPath
from codesign.base.errors import ConfigError

NESTS = ("text_config", "language_config", "llm_config", "text_model_config", "thinker_config")
LARGEST = 2**40  # of any size
MOST_LAYERS = 4096
MOST_EXPERTS = 2**15 - 1  # experts are numbered by int16 in routing streams


class Fields:
    """The fields of the language model in a configuration, wherever its wrapper nests them.

    A name may be dotted (``ffn_config.moe_top_k``).  A field that is null counts as absent.  Every
    reader takes the accepted names in order of preference and, if none is there, gives `default`.
    """

    def __init__(self, document: Document) -> None:
        self.document = document
        self.data: dict[str, Any] = {}
        self.places: dict[str, KeyPath] = {}
        if not isinstance(document.data, dict):
            raise ConfigError(f"{document.origin}: a model configuration is a mapping of fields to values")
        self._take(document.data, ())

    def _take(self, node: Any, path: KeyPath) -> None:
        if not isinstance(node, dict) or len(path) > 4:
            return
        for key, value in node.items():
            if value is None and self.data.get(key) is not None:
                continue
            self.data[key], self.places[key] = value, (*path, key)
        for nest in NESTS:
            if isinstance(node.get(nest), dict):
                self._take(node[nest], (*path, nest))

    def renamed(self, names: Mapping[str, str]) -> Fields:
        """Return the fields with each key of `names` holding what its value names (if that is there)."""
        out = copy(self)
        out.data, out.places = dict(self.data), dict(self.places)
        for new, old in names.items():
            if self.data.get(old) is not None:
                out.data[new], out.places[new] = self.data[old], self.places[old]
        return out

    def value(self, name: str) -> Any:
        """Return the value of a (dotted) name, or None."""
        node: Any = self.data
        for step in name.split("."):
            node = node.get(step) if isinstance(node, Mapping) else None
        return node

    def path(self, name: str) -> KeyPath:
        """Return where a (dotted) name stands in the file."""
        first, *rest = name.split(".")
        return (*self.places.get(first, (first,)), *rest)

    def error(self, name: str, rule: str) -> ConfigError:
        """Build the error for a faulty field: file, line, field, value, rule."""
        value = self.value(name)
        return self.document.error(self.path(name), rule, ... if value is None else value)

    def missing(self, names: tuple[str, ...]) -> ConfigError:
        """Build the error for a field that is needed and has none of its names."""
        others = f" (nor {', '.join(names[1:])})" if len(names) > 1 else ""
        given = [key for key, value in self.data.items() if value is not None]
        near = next((near for name in names for near in get_close_matches(name, given, 1, 0.9)), None)
        hint = f"; is {near!r} misspelt?" if near else ""
        return self.document.error(self.path(names[0]), f"is required and missing{others}{hint}")

    def find(self, *names: str) -> str | None:
        """Return the first of `names` that has a value."""
        return next((name for name in names if self.value(name) is not None), None)

    def integer(self, *names: str, default: int | None = None, low: int = 1, high: int = LARGEST) -> int:
        """Read a whole number within [low, high]; `default` None means that it is required."""
        name = self.find(*names)
        if name is not None:
            return self._whole(name, self.value(name), low, high)
        if default is None:
            raise self.missing(names)
        return default

    def optional(self, *names: str, low: int = 1, high: int = LARGEST) -> int | None:
        """Read a whole number, or None if no name has a value."""
        return self.integer(*names, low=low, high=high) if self.find(*names) else None

    def at(self, layer: int, *names: str, default: int | None = None, low: int = 0) -> int:
        """Read a whole number that may be one for all layers (also in a list) or a list with one for each."""
        name = self.find(*names)
        if name is None or not isinstance(self.value(name), list):
            return self.integer(*names, default=default, low=low)
        values = self.value(name)
        if len(values) == 1:
            layer = 0
        if len(values) <= layer:
            raise self.error(name, f"has {len(values)} entries, one is needed for layer {layer}")
        return self._whole(name, values[layer], low, LARGEST, layer)

    def numbers(self, name: str, low: int = -LARGEST) -> list[int]:
        """Read a list of whole numbers; also written as ``"4,5,6"`` in some configurations."""
        value = self.value(name)
        if isinstance(value, str):
            value = [int(v) if v.strip().isdecimal() else v for v in value.split(",")]
        if not isinstance(value, list):
            raise self.error(name, "must be a list of whole numbers")
        return [self._whole(name, v, low, LARGEST, i) for i, v in enumerate(value)]

    def words(self, name: str, count: int) -> list[str]:
        """Read a list of words with one for each of `count` layers (further ones are ignored)."""
        value = self.value(name)
        if not isinstance(value, list) or not all(isinstance(v, str) for v in value):
            raise self.error(name, "must be a list of words, one per layer")
        if len(value) < count:
            raise self.error(name, f"has {len(value)} entries for {count} layers")
        return value[:count]

    def flags(self, name: str, count: int) -> list[bool]:
        """Read a list of 0 or 1 with one for each of `count` layers (further ones are ignored)."""
        value = self.value(name)
        if not isinstance(value, list) or any(not isinstance(v, int) or v not in (0, 1) for v in value):
            raise self.error(name, "must be a list of 0 or 1, one per layer")
        if len(value) < count:
            raise self.error(name, f"has {len(value)} entries for {count} layers")
        return [bool(v) for v in value[:count]]

    def flag(self, *names: str, default: bool = False) -> bool:
        """Read true or false."""
        name = self.find(*names)
        if name is None:
            return default
        value = self.value(name)
        if value not in (True, False, 0, 1):
            raise self.error(name, "must be true or false")
        return bool(value)

    def text(self, *names: str, default: str = "") -> str:
        """Read a word."""
        name = self.find(*names)
        if name is None:
            return default
        value = self.value(name)
        if not isinstance(value, str):
            raise self.error(name, "must be a word")
        return value

    def real(self, *names: str, default: float) -> float:
        """Read a finite number."""
        name = self.find(*names)
        if name is None:
            return default
        value = self.value(name)
        if isinstance(value, bool) or not isinstance(value, int | float) or not _finite(value):
            raise self.error(name, "must be a finite number")
        return float(value)

    def _whole(self, name: str, value: object, low: int, high: int, index: int | None = None) -> int:
        path: KeyPath = self.path(name) if index is None else (*self.path(name), index)
        if isinstance(value, float) and _finite(value) and value == int(value):
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int):
            raise self.document.error(path, "must be a whole number", value)
        if value < low:
            rule = {1: "must be positive", 0: "must not be negative"}.get(low, f"must be at least {low}")
            raise self.document.error(path, rule, value)
        if value > high:
            raise self.document.error(path, f"must be at most {high}", value)
        return value


def _finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:
        return False
