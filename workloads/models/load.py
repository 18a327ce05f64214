"""From a name, a path or a mapping to a `Model`.

A name is looked up in ``workloads/models/library``; what holds a slash or ends in ``.json`` or ``.yaml``
is a path (of a configuration, or of a folder with a ``config.json``), relative to the file in which it
stands or to the working directory.  ``from: NAME`` lays the mapping in which it stands over the fields of
that model; a field may be called by any of the names that its meaning has.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

from codesign.base.compose import from_mapping
from codesign.base.document import Document, parse_yaml
from codesign.base.errors import ConfigError, nearest, read_text, unknown_name
from workloads.models.build import build
from workloads.models.overlay import lay
from workloads.models.plain import parse_json, plain
from workloads.models.spec import Model

Source = str | Path | Document | Mapping[str, object]
LIBRARY = Path(__file__).parent / "library"
_FILES = (".json", ".yaml", ".yml")
_ABOUT = ("published", "source")  # what a library file says about the model, beside its configuration


def names() -> list[str]:
    """Return the names of the library, sorted."""
    return sorted(path.stem for path in LIBRARY.glob("*.yaml"))


def load(source: Source, overrides: Mapping[str, object] | None = None) -> Model:
    """Load a model.

    Parameters
    ----------
    source : str, Path, Document or mapping      library name; ``config.json``; the fields themselves
    overrides : mapping, dotted path -> value    laid over it: ``{"num_experts_per_tok": 4}``

    Raises
    ------
    ConfigError   unknown name, broken file, a field that is missing or impossible: file, line, field, rule

    Notes
    -----
    Law: ``load(resolve(x)) == load(x)``, also after the document was written and read back.
    """
    document = resolve(source, overrides)
    return build(document, _called(document))


def resolve(source: Source, overrides: Mapping[str, object] | None = None) -> Document:
    """Expand every ``from`` and lay the overrides on: plain data that hashes and can be written back.

    Law: ``resolve(resolve(x)) == resolve(x)``.  Raises ConfigError on unknown names, fields and cycles.
    """
    document = _expand(_document(source), ())
    if overrides:
        document = lay(document, plain(from_mapping(overrides)))
    return document


def described(name: str) -> dict[str, object]:
    """Return a library file as it stands: the configuration, its ``source``, what is ``published``."""
    return dict(_read(_find(name, Document(name, "model"))).data)


def published(name: str) -> dict[str, object]:
    """Return what a library model's publisher says: ``total`` and ``active`` parameters, their source."""
    about = described(name).get("published")
    return dict(about) if isinstance(about, dict) else {}


def _called(document: Document) -> str:
    place = Path(document.origin)
    return place.parent.name if place.stem == "config" and place.parent.name else place.stem


def _document(source: Source) -> Document:
    if isinstance(source, Document):
        return plain(source)
    if isinstance(source, Mapping):
        return plain(Document(dict(source), "model"))
    return Document(str(source), "model")


def _expand(document: Document, trail: tuple[str, ...]) -> Document:
    data = document.data
    if isinstance(data, dict) and "from" not in data:
        return _named(document)
    base, below = _base(document, trail)
    expanded = _expand(base, below)
    if not isinstance(data, dict):
        return expanded
    own = document.copy()
    for key in ("from", *_ABOUT):
        own.data.pop(key, None)
    return lay(expanded, own)


def _named(document: Document) -> Document:
    """Return the configuration alone, with the name that it is called by."""
    out = document.copy()
    for key in _ABOUT:
        out.data.pop(key, None)
    if out.data.get("name") is None:
        out.data["name"] = _called(document)
    return out


def _base(document: Document, trail: tuple[str, ...]) -> tuple[Document, tuple[str, ...]]:
    """Open the file that a name, or the ``from`` of a mapping, stands for; refuse a cycle."""
    path = ("from",) if isinstance(document.data, dict) else ()
    name, where = document.get(path), document.where(path)
    if not isinstance(name, str) or not name.strip():
        raise document.error(path, "a model is a library name, a path, or a mapping of fields", name)
    place = _find(name.strip(), document)
    if str(place) in trail:
        chain = " -> ".join(Path(step).stem for step in (*trail, str(place)))
        raise ConfigError(f"{where}: from = {name!r}: is built from itself ({chain})")
    return _read(place), (*trail, str(place))


def _find(name: str, document: Document) -> Path:
    if "/" in name or "\\" in name or name.endswith(_FILES):
        return _file(name, document)
    known = name.lower().replace("_", "-")
    place = LIBRARY / f"{known}.yaml"
    if known in names():
        return place
    where = document.where(("from",)) if isinstance(document.data, dict) else document.where(())
    if _exists(Path(name)):
        raise ConfigError(f"{where}: {name!r} is not in the library; for the file write './{name}'")
    raise unknown_name("model", name, names(), where)


def _file(name: str, document: Document) -> Path:
    origin = document.origins.get(("from",), document.origin)
    beside = Path(origin).parent / name
    place = beside if _exists(beside) else Path(name)
    if not _exists(place):
        near = nearest(place.name, names())
        hint = f" (the library has {near!r})" if near else ""
        raise ConfigError(f"{document.where(())}: {name}: no such file{hint}")
    inside = place / "config.json"
    return inside if place.is_dir() and _exists(inside) else place


def _exists(place: Path) -> bool:
    try:
        return place.exists()
    except (OSError, ValueError):  # a name that no file can have
        return False


def _read(place: Path) -> Document:
    if place.parent == LIBRARY:
        return _read_library(place).copy()
    text = read_text(place, "model configuration")
    if place.suffix in (".yaml", ".yml"):
        return plain(parse_yaml(text, str(place)))
    return plain(parse_json(text, str(place)))


@lru_cache(maxsize=256)
def _read_library(place: Path) -> Document:
    """Read a library file once; callers copy before they change anything."""
    return parse_yaml(read_text(place, "model file"), str(place))
