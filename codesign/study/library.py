"""Where studies are found: the shipped files, and a path to one's own."""

from __future__ import annotations

from pathlib import Path

from codesign.base.document import read_yaml
from codesign.base.errors import unknown_name
from codesign.study.spec import Study, read_study

LIBRARY = Path(__file__).parent / "library"


def names() -> list[str]:
    """Return the names of the shipped studies."""
    return sorted(path.stem for path in LIBRARY.glob("*.yaml"))


def load_study(name: str) -> Study:
    """Load a study by name, or by the path of a file.

    Raises
    ------
    ConfigError   unknown name, or a file that is wrong
    """
    if name.endswith((".yaml", ".yml")):
        return read_study(read_yaml(name, "study file"))
    if name not in names():
        raise unknown_name("study", name, names())
    return read_study(read_yaml(LIBRARY / f"{name}.yaml", "study file"))
