"""From a name, a path or a document to a checked `Device` or `System`.

Files compose.  ``from: NAME`` lays the mapping in which it stands over the file of that name; a system's
``device`` is a name, a path, or a mapping (with ``from``: over that device; without: over the device that
the system already has).  A name is looked up in ``hwmodels/library``; what holds a slash or ends in
``.yaml`` is a path, relative to the file in which it stands or to the working directory.  ``NAME-xN`` is
the library system NAME with N nodes.  A device named where a system is needed is a workstation with one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Literal

from codesign.base.compose import from_mapping, merge, without
from codesign.base.document import Document, read_yaml, show, validate
from codesign.base.errors import ConfigError, nearest, unknown_name
from hwmodels.check import check_device, check_system
from hwmodels.spec import Device, System

Kind = Literal["device", "system"]
Source = str | Path | Document | Mapping[str, object]
LIBRARY = Path(__file__).parent / "library"
_FOLDER: dict[str, Path] = {"device": LIBRARY / "devices", "system": LIBRARY / "systems"}
_WORKSTATION = "workstation"
_NODES = re.compile(r"(?P<name>.+)-x(?P<nodes>[1-9][0-9]{0,5})")
_DEVICE_KEYS = {"compute", "memory", "main_memory"}
_SYSTEM_KEYS = {"device", "devices_per_node", "nodes"}


def names(kind: Kind) -> list[str]:
    """Return the names of the library, sorted: ``names("device")``, ``names("system")``."""
    return sorted(path.stem for path in _FOLDER[kind].glob("*.yaml"))


def load(name_or_path: Source, overrides: Mapping[str, object] | None = None) -> Device | System:
    """Load a device or a system, whichever it is.

    Parameters
    ----------
    name_or_path : str, Path, Document or mapping   library name, file, or the description itself
    overrides : mapping, dotted path -> value       laid over it: ``{"memory.hbm.bandwidth": "4 TB/s"}``

    Raises
    ------
    ConfigError   unknown name, broken file, impossible value: file, line, key, value, rule
    """
    return load_described(name_or_path, overrides)[1]


def load_described(
    source: Source, overrides: Mapping[str, object] | None = None
) -> tuple[Document, Device | System]:
    """Load a device or a system with its resolved document (values as written, places, sources)."""
    document = _document(source)
    kind = kind_of(document)
    resolved = resolve(document, kind, overrides)
    return resolved, load_system(resolved) if kind == "system" else load_device(resolved)


def load_device(source: Source, overrides: Mapping[str, object] | None = None) -> Device:
    """Load a device; arguments and errors as `load`."""
    document = resolve(source, "device", overrides)
    device = validate(Device, document)
    check_device(document, device)
    return device


def load_system(source: Source, overrides: Mapping[str, object] | None = None) -> System:
    """Load a system; a device becomes a workstation with one.  Arguments and errors as `load`."""
    document = resolve(source, "system", overrides)
    system = validate(System, document)
    check_system(document, system)
    return system


def resolve(source: Source, kind: Kind = "system", overrides: Mapping[str, object] | None = None) -> Document:
    """Expand every ``from`` and every named device; values keep the file and line they stand in.

    Law: ``resolve(resolve(x)) == resolve(x)``.  Raises ConfigError on unknown names and cycles.
    """
    document = _expand(_document(source), kind, ()).copy()
    if overrides:
        document = _lay(document, from_mapping(overrides), kind, ())
    return _expand_pool(document) if kind == "system" else document


def kind_of(document: Document, trail: tuple[str, ...] = ()) -> Kind:
    """Tell a device from a system by its keys, or by the keys of what it is built from."""
    data = document.data
    keys = set(data) if isinstance(data, dict) else set()
    if keys & _SYSTEM_KEYS:
        return "system"
    if keys & _DEVICE_KEYS or (isinstance(data, dict) and "from" not in keys):
        return "device"
    base, trail = _base(document, "system", trail)
    return kind_of(base, trail)


def _document(source: Source) -> Document:
    if isinstance(source, Document):
        return source
    return Document(dict(source) if isinstance(source, Mapping) else str(source), "hardware")


def _expand(document: Document, kind: Kind, trail: tuple[str, ...]) -> Document:
    data = document.data
    if isinstance(data, dict) and "from" not in data:
        return _expand_device(document, trail) if kind == "system" else document
    base, below = _base(document, kind, trail)
    if kind == "system" and kind_of(base, below) == "device":
        expanded = _workstation(document, _expand(base, "device", below))
    else:
        expanded = _expand(base, kind, below)
    if not isinstance(data, dict):
        return expanded
    return _lay(expanded, without(document, ("from",)), kind, trail)


def _lay(base: Document, over: Document, kind: Kind, trail: tuple[str, ...]) -> Document:
    """Lay `over` on an expanded base; a device that is named anew replaces the base's device."""
    device = over.get(("device",))
    if kind == "system" and (isinstance(device, str) or (isinstance(device, dict) and "from" in device)):
        over = _expand_device(over, trail)
        base = without(base, ("device",))
    return merge(base, over)


def _expand_device(document: Document, trail: tuple[str, ...]) -> Document:
    if document.get(("device",)) is ...:
        return document
    device = _expand(document.child("device"), "device", trail)
    out = without(document, ("device",))
    return merge(out, _under("device", device))


def _expand_pool(document: Document) -> Document:
    """Expand the device of ``attention``, if it is a name or stands on one."""
    device = document.get(("attention", "device"))
    if not isinstance(device, str) and not (isinstance(device, dict) and "from" in device):
        return document
    expanded = _expand(document.child("attention").child("device"), "device", ())
    out = without(document, ("attention", "device"))
    return merge(out, _under("attention", _under("device", expanded)))


def _under(key: str, document: Document) -> Document:
    """Return the document one level deeper, below `key`."""
    lines = {(key, *path): line for path, line in document.lines.items()}
    origins = {(key, *path): origin for path, origin in document.origins.items()}
    return Document({key: document.data}, document.origin, lines, origins)


def _workstation(document: Document, device: Document) -> Document:
    name = device.get(("name",))
    frame = _expand(_read_library(_FOLDER["system"] / f"{_WORKSTATION}.yaml"), "system", ())
    named = Document({"name": f"{_WORKSTATION}-{name}"}, document.where(()))
    return merge(merge(without(frame, ("device",)), named), _under("device", device))


def _base(document: Document, kind: Kind, trail: tuple[str, ...]) -> tuple[Document, tuple[str, ...]]:
    """Open the file that a name, or the ``from`` of a mapping, stands for; refuse a cycle."""
    path = ("from",) if isinstance(document.data, dict) else ()
    name, where = document.get(path), document.where(path)
    if not isinstance(name, str) or not name.strip():
        key = "from" if path else kind
        raise ConfigError(f"{where}: {key} = {show(name)}: a {kind} is a library name, a path, or a mapping")
    place, nodes = _find(name.strip(), kind, document, where)
    if str(place) in trail:
        chain = " -> ".join(Path(step).stem for step in (*trail, str(place)))
        raise ConfigError(f"{where}: from = {name!r}: is built from itself ({chain})")
    base = _read_library(place) if LIBRARY in place.parents else read_yaml(place, f"{kind} file")
    if nodes:
        base = merge(base, Document({"nodes": nodes, "name": name.strip()}, where))
    return base, (*trail, str(place))


def _find(name: str, kind: Kind, document: Document, where: str) -> tuple[Path, int]:
    if "/" in name or "\\" in name or name.endswith((".yaml", ".yml")):
        return _file(name, document), 0
    kinds: tuple[Kind, ...] = ("system", "device") if kind == "system" else ("device",)
    for known in kinds:
        if name in names(known):
            return _FOLDER[known] / f"{name}.yaml", 0
    match = _NODES.fullmatch(name)
    if kind == "system" and match and match["name"] in names("system"):
        return _FOLDER["system"] / f"{match['name']}.yaml", int(match["nodes"])
    if kind == "device" and name in names("system"):
        raise ConfigError(f"{where}: {name!r} is a system; a device is needed here")
    choices = [choice for known in kinds for choice in names(known)]
    if _exists(Path(name)):
        raise ConfigError(f"{where}: {name!r} is not in the library; for the file write './{name}'")
    raise unknown_name(kind if kind == "device" else "system or device", name, choices, where)


def _file(name: str, document: Document) -> Path:
    origin = document.origins.get((), document.origin)
    beside = Path(origin).parent / name
    place = beside if _exists(beside) else Path(name)
    if not _exists(place):
        near = nearest(place.stem, names("device") + names("system"))
        hint = f" (the library has {near!r})" if near else ""
        raise ConfigError(f"{document.where(())}: {show(name)}: no such file{hint}")
    return place.resolve()


def _exists(place: Path) -> bool:
    try:
        return place.exists()
    except OSError:  # a name that is too long to be one
        return False


@lru_cache(maxsize=256)
def _read_library(place: Path) -> Document:
    """Read a library file once; callers copy before they change anything."""
    return read_yaml(place, "hardware file")
