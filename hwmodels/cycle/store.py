"""What the cycle models found, kept in memory and on disk by the content of the question.

A file per answer, named by the hash of everything that the answer depends on; written to one side and moved
into place, so that processes that run at once never read half a file.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from codesign.base.hashing import content_hash

Answer = Mapping[str, float]


def default_folder() -> Path:
    """Return ``$CODESIGN_CACHE_DIR``, else ``codesign`` in the user's cache folder."""
    chosen = os.environ.get("CODESIGN_CACHE_DIR")
    if chosen:
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "codesign"


class Store:
    """Answers by question; a folder that cannot be used leaves the memory."""

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder
        self._known: dict[str, dict[str, float]] = {}

    @property
    def folder(self) -> Path:
        """The folder in use, looked up anew so that the environment may change it."""
        return (self._folder or default_folder()) / "dram"

    def get(self, question: object, answer: Callable[[], Answer]) -> dict[str, float]:
        """Return the answer to a question (anything that JSON can write), found once.

        Law: the same question gives the same answer from memory, from disk and anew.
        """
        key = content_hash(question)
        if key not in self._known:
            found = self._read(key)
            if found is None:
                found = dict(answer())
                self._write(key, found)
            self._known[key] = found
        return self._known[key]

    def _read(self, key: str) -> dict[str, float] | None:
        try:
            found = json.loads((self.folder / f"{key}.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        good = isinstance(found, dict) and all(isinstance(value, int | float) for value in found.values())
        return found if good else None

    def _write(self, key: str, found: Answer) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(dir=self.folder, prefix=f".{key[:8]}")
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                json.dump(dict(found), file)
            Path(name).replace(self.folder / f"{key}.json")
        except OSError:
            return  # a cache is a convenience
