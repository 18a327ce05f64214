"""What a sweep has found so far: an SQLite file that survives a killed process.

Every outcome is one row, committed on its own or with its neighbours; a row is whole or absent.  Names of
points are content hashes, so that resuming, merging and adding replicates are one operation: run what has
no row yet.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from codesign.base.errors import ConfigError
from codesign.base.hashing import canonical_json
from codesign.explore.evaluate import Outcome, Task

VERSION = 1
FILE = "store.sqlite"
_TABLES = """
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS outcomes (
    id TEXT PRIMARY KEY, status TEXT NOT NULL, lasting INTEGER NOT NULL, changes TEXT NOT NULL,
    seed INTEGER NOT NULL, metrics TEXT NOT NULL, error TEXT NOT NULL, hash TEXT NOT NULL, violation REAL,
    wall_s REAL NOT NULL
) WITHOUT ROWID;
"""
_COLUMNS = "id, status, lasting, changes, seed, metrics, error, hash, violation, wall_s"


class Store:
    """The outcomes of one sweep, in ``DIR/store.sqlite`` (or in memory).

    Only one process writes a folder at a time: the others are refused.
    """

    def __init__(self, folder: Path | None, *, write: bool = True) -> None:
        self.folder, self._lock = folder, None
        if folder is not None and write:
            self._lock = _locked(folder)
        self.path = ":memory:" if folder is None else str(folder / FILE)
        try:
            self.database = sqlite3.connect(self.path, timeout=30.0, isolation_level=None)
            self._open(write)
        except sqlite3.DatabaseError as error:
            self.close()
            raise ConfigError(f"{self.path}: is not a store of a sweep: {error}") from None
        except BaseException:
            self.close()
            raise

    def _open(self, write: bool) -> None:
        known = self.database.execute("SELECT name FROM sqlite_master WHERE name = 'meta'").fetchone()
        found = self.meta("version") if known else None
        if known and found != str(VERSION):
            raise ConfigError(
                f"{self.path}: is a store of version {found}; this program writes version {VERSION}:"
                " give another folder, or use the program that wrote it"
            )
        if write:
            self.database.execute("PRAGMA journal_mode = WAL")
            self.database.execute("PRAGMA synchronous = NORMAL")
            self.database.executescript(_TABLES)
            self.set_meta("version", str(VERSION))

    def close(self) -> None:
        """Close the file and let others write."""
        with suppress(AttributeError, sqlite3.Error):
            self.database.close()
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def meta(self, key: str) -> str | None:
        """Return what was noted under a key."""
        row = self.database.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return None if row is None else str(row[0])

    def set_meta(self, key: str, value: str) -> None:
        """Note a text under a key."""
        self.database.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))

    def add(self, pairs: Iterable[tuple[Task, Outcome]]) -> None:
        """Add outcomes in one transaction.  Law: a point that lasts is never replaced."""
        rows = [
            (o.id, o.status, o.lasting, canonical_json(t.changes), t.seed, json.dumps(o.metrics), o.error,
             o.hash, o.violation, o.wall_s)
            for t, o in pairs
        ]  # fmt: skip
        with self._transaction():
            self.database.executemany(
                f"INSERT INTO outcomes ({_COLUMNS}) VALUES (?,?,?,?,?,?,?,?,?,?)"
                " ON CONFLICT (id) DO UPDATE SET status = excluded.status, lasting = excluded.lasting,"
                " metrics = excluded.metrics, error = excluded.error, hash = excluded.hash,"
                " violation = excluded.violation, wall_s = excluded.wall_s WHERE NOT outcomes.lasting",
                rows,
            )

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self.database.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self.database.execute("ROLLBACK")
            raise
        self.database.execute("COMMIT")

    def done(self, *, retry: bool = False) -> set[str]:
        """Return the points that need not run: all that have an outcome, or with `retry` all that last."""
        where = " WHERE lasting" if retry else ""
        return {row[0] for row in self.database.execute(f"SELECT id FROM outcomes{where}")}

    def outcomes(self) -> dict[str, Outcome]:
        """Return every outcome by id."""
        found = self.database.execute(
            "SELECT id, status, metrics, error, hash, violation, wall_s FROM outcomes"
        )
        return {row[0]: Outcome(row[0], row[1], json.loads(row[2]), *row[3:]) for row in found}

    def tasks(self, ids: Iterable[str]) -> list[Task]:
        """Return points by id, in the order given; those that the store has not are left out."""
        found = self.database.execute("SELECT id, changes, seed FROM outcomes")
        known = {row[0]: Task(row[0], json.loads(row[1]), row[2]) for row in found}
        return [known[key] for key in ids if key in known]

    def merge(self, other: Path) -> int:
        """Take over what another sweep's store has and this one has not; return how many points.

        Raises
        ------
        ConfigError   no store there, or one of another version
        """
        if not (other / FILE).is_file():
            raise ConfigError(f"{other}: holds no sweep ({FILE})")
        Store(other, write=False).close()
        before = len(self.done())
        self.database.execute("ATTACH ? AS other", (str(other / FILE),))
        with self._transaction():
            self.database.execute(
                f"INSERT OR IGNORE INTO outcomes SELECT {_COLUMNS} FROM other.outcomes WHERE lasting"
            )
        self.database.execute("DETACH other")
        return len(self.done()) - before


def _locked(folder: Path) -> Any:
    """Make the folder and lock it; the lock goes with the process, however it ends."""
    import fcntl

    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = open(folder / ".lock", "a")  # noqa: SIM115
    except OSError as error:
        raise ConfigError(f"{folder}: cannot be written: {error.strerror or error}") from None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        handle.close()
        raise ConfigError(
            f"{folder}: another sweep is writing here; wait for it, or give another folder"
        ) from None
    return handle


def exists(folder: Path) -> bool:
    """Tell whether a folder holds a store."""
    return (folder / FILE).is_file()
