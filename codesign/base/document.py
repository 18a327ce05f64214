"""YAML documents that remember where each value stands, and their validation.

`read_yaml` gives a `Document`: plain data plus the line of every key.  `validate` checks it against a
pydantic model and turns the first fault into one `ConfigError` with file, line, key, value and rule.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, TypeVar, Union, cast, get_args, get_origin, get_type_hints

import yaml
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from codesign.base.errors import ConfigError, nearest, read_text

KeyPath = tuple[str | int, ...]
T = TypeVar("T")


class Strict(BaseModel):
    """Base of every described thing: frozen, no unknown keys, no silent conversions."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=False, allow_inf_nan=False)


@dataclass
class Document:
    """Plain data (dicts, lists, scalars) with the file and line of each key."""

    data: Any
    origin: str = "<python>"
    lines: dict[KeyPath, int] = field(default_factory=dict)
    origins: dict[KeyPath, str] = field(default_factory=dict)  # of keys that came from another file
    prefix: KeyPath = ()  # of a part: where it stands in its file, so that errors name the whole key

    def where(self, path: KeyPath) -> str:
        """Return ``file:line`` of a key, or of its nearest described parent."""
        while path and path not in self.lines:
            path = path[:-1]
        line, origin = self.lines.get(path), self.origins.get(path, self.origin)
        return f"{origin}:{line}" if line else origin

    def error(self, path: KeyPath, rule: str, value: object = ...) -> ConfigError:
        """Build the one error for a faulty key."""
        shown = "" if value is ... else f" = {show(value)}"
        key = dotted((*self.prefix, *path))
        return ConfigError(f"{self.where(path)}: {key}{shown}: {rule}".replace(": : ", ": "))

    def get(self, path: KeyPath) -> Any:
        """Return the value at `path`, or ``...`` if there is none."""
        node = self.data
        for key in path:
            try:
                node = node[key]
            except (KeyError, IndexError, TypeError):
                return ...
        return node

    def copy(self) -> Document:
        """Return a deep copy that can be changed freely."""
        return Document(deepcopy(self.data), self.origin, dict(self.lines), dict(self.origins), self.prefix)

    def child(self, key: str) -> Document:
        """Return the document below one top-level key; places keep their lines."""
        lines = {path[1:]: line for path, line in self.lines.items() if path[:1] == (key,)}
        origins = {path[1:]: origin for path, origin in self.origins.items() if path[:1] == (key,)}
        return Document(self.data[key], self.origin, lines, origins, (*self.prefix, key))


def dotted(path: KeyPath) -> str:
    """Write a key path as ``a.b[3].c``."""
    text = ""
    for key in path:
        text += f"[{key}]" if isinstance(key, int) else (f".{key}" if text else str(key))
    return text


def show(value: object, limit: int = 80) -> str:
    """Show a value in an error message, shortened."""
    text = f'"{value}"' if isinstance(value, str) else repr(value)
    text = "".join(c if c.isprintable() else "?" for c in text)
    return text if len(text) <= limit else text[: limit - 3] + "..."


class _Loader(yaml.CSafeLoader if hasattr(yaml, "CSafeLoader") else yaml.SafeLoader):  # type: ignore[misc]
    """YAML with the scalar rules of YAML 1.2 that matter: 1e-3 is a number, on/off/yes/no are text."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, rule) for tag, rule in rules if tag not in _SKIPPED]
    for _SKIPPED in [
        {
            "tag:yaml.org,2002:bool",
            "tag:yaml.org,2002:float",
            "tag:yaml.org,2002:int",
            "tag:yaml.org,2002:timestamp",
        }
    ]
    for first, rules in _Loader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)
_Loader.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"^[-+]?[0-9]+$"), list("-+0123456789"))
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(
        r"^(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?"
        r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
    ),
    list("-+.0123456789"),
)

_MAX_NODES = 200_000


class _Converter:
    """Turns YAML nodes into plain data, noting lines; refuses what would be lost silently."""

    def __init__(self, origin: str, loader: Any) -> None:
        self.origin, self.loader = origin, loader
        self.lines: dict[KeyPath, int] = {}
        self.open: set[int] = set()
        self.count = 0

    def convert(self, node: Any, path: KeyPath) -> Any:
        self.count += 1
        line = node.start_mark.line + 1
        self.lines.setdefault(path, line)
        if self.count > _MAX_NODES or len(path) > 60 or id(node) in self.open:
            raise ConfigError(f"{self.origin}:{line}: too large, too deep, or contains itself")
        self.open.add(id(node))
        try:
            if isinstance(node, yaml.MappingNode):
                return self._mapping(node, path)
            if isinstance(node, yaml.SequenceNode):
                return [self.convert(item, (*path, i)) for i, item in enumerate(node.value)]
            return self._scalar(node, path)
        finally:
            self.open.discard(id(node))

    def _mapping(self, node: Any, path: KeyPath) -> dict[str, Any]:
        out: dict[str, Any] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode):
                raise ConfigError(f"{self.origin}:{line}: a key must be a plain word")
            key = str(key_node.value)
            if key in out:
                first = self.lines[(*path, key)]
                raise ConfigError(
                    f"{self.origin}:{line}: {dotted((*path, key))}: duplicate key"
                    f" (first on line {first}); keep one"
                )
            self.lines[(*path, key)] = line
            out[key] = self.convert(value_node, (*path, key))
        return out

    def _scalar(self, node: Any, path: KeyPath) -> Any:
        try:
            return self.loader.construct_object(node, deep=True)
        except (yaml.YAMLError, ValueError) as error:
            line = node.start_mark.line + 1
            reason = getattr(error, "problem", None) or str(error).splitlines()[0]
            raise ConfigError(f"{self.origin}:{line}: {dotted(path)}: {reason}") from None


def parse_yaml(text: str, origin: str) -> Document:
    """Parse one YAML document.

    Raises
    ------
    ConfigError   syntax error, duplicate key, a structure that contains itself
    """
    try:
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
            if node is None:
                raise ConfigError(f"{origin}: is empty")
            converter = _Converter(origin, loader)
            data = converter.convert(node, ())
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f":{mark.line + 1}" if mark else ""
        raise ConfigError(f"{origin}{line}: not valid YAML: {error.problem}") from None
    except (yaml.YAMLError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"{origin}: not valid YAML: {reason}") from None
    except RecursionError:
        raise ConfigError(f"{origin}: nested too deeply") from None
    return Document(data, origin, converter.lines)


def read_yaml(path: str | Path, what: str = "YAML file") -> Document:
    """Read a YAML file with the line of every key."""
    document = parse_yaml(read_text(path, what), str(path))
    if not isinstance(document.data, dict):
        raise ConfigError(f"{path}: a {what} is a mapping of keys to values")
    return document


def validate(model: type[T], document: Document) -> T:
    """Check a document against a pydantic model (or any annotated type).

    Raises
    ------
    ConfigError   for the first fault by line: place, key, value, rule, nearest valid name
    """
    try:
        valid: T = _adapter(cast(Any, model)).validate_python(document.data)
        return valid
    except ValidationError as error:
        faults = error.errors(include_url=False)
        first = min(faults, key=lambda fault: _line_of(document, fault))
        raise _explain(model, document, first, len(faults) - 1) from None


@lru_cache(maxsize=256)
def _adapter(model: Any) -> TypeAdapter[Any]:
    return TypeAdapter(model)


def _path_of(document: Document, fault: Any) -> KeyPath:
    # pydantic adds tags of unions to the path: keep the steps that exist in the data
    path: KeyPath = ()
    loc = fault["loc"]
    for i, step in enumerate(loc):
        if document.get((*path, step)) is not ... or i == len(loc) - 1:
            path = (*path, step)
    if fault["type"] not in ("missing",) and path and document.get(path) is ...:
        path = path[:-1]
    return path


def _line_of(document: Document, fault: Any) -> tuple[bool, int, int]:
    path = _path_of(document, fault)
    while path and path not in document.lines:
        path = path[:-1]
    # a misspelt key says more than the key that it leaves missing, whose line is that of what lacks it
    return fault["type"] == "missing", document.lines.get(path, 0), -len(fault["loc"])


def _explain(model: Any, document: Document, fault: Any, others: int) -> ConfigError:
    path, value = _path_of(document, fault), fault.get("input", ...)
    kind, message = fault["type"], str(fault["msg"])
    if kind in ("extra_forbidden", "unexpected_keyword_argument"):
        allowed = _fields_at(model, path[:-1])
        near = nearest(path[-1], allowed)
        hint = f" (did you mean {near!r}?)" if near else ""
        message = f"unknown key; known here: {', '.join(allowed) or 'none'}{hint}"
        value = ...
    elif kind == "missing":
        message, value = "is required and missing", ...
    elif kind == "literal_error":
        expected = str(fault["ctx"]["expected"])
        near = nearest(value, re.findall(r"'([^']*)'", expected))
        message = f"must be {expected}" + (f" (did you mean {near!r}?)" if near else "")
    elif kind in ("model_type", "dataclass_type", "dict_type"):
        allowed = _fields_at(model, path)
        message = "must be a mapping of keys to values" + (f": {', '.join(allowed)}" if allowed else "")
    elif kind.startswith("value_error"):
        message = message.removeprefix("Value error, ")
    else:
        message = message[:1].lower() + message[1:]
    if isinstance(value, dict | list) and kind != "literal_error":
        value = ...
    more = f" (and {others} more)" if others else ""
    return document.error(path, message + more, value)


def _fields_at(model: Any, path: KeyPath) -> list[str]:
    """Names that are allowed at `path` of a model, through nested models, mappings and lists."""
    here = [model]
    for step in path:
        here = [below for option in here for below in _below(option, step)]
    found = (_fields(option) for annotation in here for option in _options(annotation))
    fields = next((names for names in found if names), {})
    return [getattr(field_, "alias", None) or name for name, field_ in fields.items()]


def _fields(annotation: Any) -> dict[str, Any]:
    fields = getattr(annotation, "model_fields", None) or getattr(annotation, "__dataclass_fields__", {})
    return dict(fields)


def _options(annotation: Any) -> list[Any]:
    """Return what may stand where an annotation stands: members of unions, without metadata."""
    if get_origin(annotation) is Annotated:
        return _options(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return [option for member in get_args(annotation) for option in _options(member)]
    return [annotation]


def _below(annotation: Any, step: str | int) -> list[Any]:
    """Return the annotations of what stands at one step below."""
    found = []
    for option in _options(annotation):
        arguments = get_args(option)
        if get_origin(option) in (dict, Mapping):
            found.append(arguments[-1])
        elif arguments and isinstance(step, int):
            found.append(arguments[0])
        else:
            found += [_annotation(option, name, known) for name, known in _fields(option).items()
                      if step in (name, getattr(known, "alias", None))]  # fmt: skip
    return found


def _annotation(model: Any, name: str, known: Any) -> Any:
    if hasattr(known, "annotation"):
        return known.annotation
    try:
        return get_type_hints(model, include_extras=True).get(name)
    except NameError:  # a name that only a type checker imports
        return None


def finite(value: float, rule: str = "must be finite") -> float:
    """Return `value` or raise ValueError (for use in validators)."""
    if not math.isfinite(value):
        raise ValueError(rule)
    return value


Validator = Callable[[object], object]
