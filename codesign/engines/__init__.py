"""Serving engine profiles: what a named engine costs on the host, how it batches, what memory it keeps.

``engine: vllm`` in an experiment, or ``engine: {from: vllm, step: 1 ms}``.  A profile is a file of
`library`: ``engine``, ``policies`` and ``memory`` as an experiment writes them, each constant with its
source.  What the experiment says itself wins.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from codesign.base.compose import merge, without
from codesign.base.document import Document, KeyPath, read_yaml
from codesign.base.errors import unknown_name

LIBRARY = Path(__file__).parent / "library"
_PARTS = ("engine", "policies", "memory")


def names() -> list[str]:
    """Return the names of the profiles, sorted."""
    return sorted(path.stem for path in LIBRARY.glob("*.yaml"))


def expand(document: Document) -> Document:
    """Return an experiment with its engine's profile laid under it.

    A batching that the experiment names replaces the profile's whole.

    Raises
    ------
    ConfigError   an engine that nobody knows

    Notes
    -----
    Laws: ``expand(expand(x)) == expand(x)``; what has no profile comes back as it is.
    """
    engine = document.get(("engine",))
    place: KeyPath = ("engine", "from") if isinstance(engine, dict) else ("engine",)
    name = document.get(place)
    if not isinstance(name, str):
        return document
    if name not in names():
        raise unknown_name("engine", name, names(), f"{document.where(place)}: {'.'.join(map(str, place))}")
    profile = _profile(name)
    for policy in document.get(("policies",)) if isinstance(document.get(("policies",)), dict) else ():
        profile = without(profile, ("policies", policy))
    return merge(profile, without(document, place))


def constants(name: str) -> list[tuple[str, str, str]]:
    """Return (dotted name, value as written, source) of each constant of a profile that has a source."""
    data = read_yaml(LIBRARY / f"{name}.yaml", "serving engine profile").data
    found = []
    for place, source in data["sources"].items():
        value = data
        for key in place.split("."):
            value = value[key]
        found.append((place, str(value), source))
    return found


@lru_cache(maxsize=64)
def _profile(name: str) -> Document:
    document = read_yaml(LIBRARY / f"{name}.yaml", "serving engine profile")
    for key in set(document.data) - set(_PARTS):
        document = without(document, (key,))
    return document
