"""Tables of numbers larger than memory: mapped files, tables kept aside on disk, random rows of either.

What a process has touched of a mapped file counts as its memory until it gives the pages back, which costs
nothing but the next look at them.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable
from tempfile import SpooledTemporaryFile, TemporaryFile
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from codesign.base.errors import ConfigError
from workloads.routing.stream import IntArray

Table = npt.NDArray[Any]
IN_MEMORY_BYTES = 64 * 2**20  # a table made here that is larger lies on disk
_PAGE_BYTES = 16 * 2**10
_PAGES = 8192  # copies that are held of one table
_TOUCHED_PAGES = 64  # pages that are copied before the mapped ones are given back


def forget_pages(table: Table) -> None:
    """Give back the memory that a mapped table holds; do nothing for one that is not mapped."""
    pages = _map_of(table)
    if pages is not None and hasattr(pages, "madvise"):
        pages.madvise(mmap.MADV_DONTNEED)


def _map_of(table: Table) -> mmap.mmap | None:
    base: object = table
    while isinstance(base, np.ndarray):
        base = base.base
    return base if isinstance(base, mmap.mmap) else None


class Rows:
    """Takes rows of a table in any order; of a mapped one a bounded part stays in memory.

    Law: ``Rows(table).take(rows)`` equals ``table[rows]``.
    """

    def __init__(self, table: Table) -> None:
        self._kind, self._width = table.dtype, table.shape[1:]
        flat = np.ascontiguousarray(table).reshape(len(table), -1).view(np.uint8)  # need not be aligned
        self._take: Callable[..., Table] = flat.take if _map_of(table) is None else _Pages(flat).take

    def take(self, rows: IntArray) -> Table:
        """Return some rows, shape (n, ...); rows must be of the table."""
        found: Table = self._take(rows, axis=0)
        return found.view(self._kind).reshape(-1, *self._width)


class _Pages:
    """Copies of the last used pages of a mapped table of bytes (T, W), the first fetched dropped first.

    Reading a file by mapped pages alone is no faster and has no bound: what one look at it brings in is the
    system's choice, 4 KiB to 2 MiB.
    """

    def __init__(self, table: Table) -> None:
        self._table, self._rows = table, max(_PAGE_BYTES // table.shape[1], 1)
        pages = -(-len(table) // self._rows)
        self._slot_of = np.full(pages, -1, np.int32)
        self._page_of = np.full(min(pages, _PAGES), -1, np.int32)
        self._copies = np.empty((len(self._page_of), self._rows, table.shape[1]), np.uint8)
        self._next = self._touched = 0

    def take(self, rows: IntArray, axis: int) -> Table:
        """Return some rows of bytes, (n, W)."""
        pages = rows // self._rows
        slots = self._slot_of[pages]
        while (slots < 0).any():
            if self._full(pages) and len(rows) > 1:
                return np.concatenate([self.take(part, axis) for part in np.array_split(rows, 2)])
            for page in np.unique(pages[slots < 0]).tolist():
                self._fetch(page)
            slots = self._slot_of[pages]  # a page that was held may have made room for another
        flat = self._copies.reshape(-1, self._copies.shape[2])
        found: Table = flat.take(slots * np.int64(self._rows) + rows % self._rows, axis=axis)
        return found

    def _full(self, pages: IntArray) -> bool:
        """Return whether so many pages are wanted at once that they may push out each other."""
        held = len(self._page_of)
        return held < len(self._slot_of) and 2 * len(np.unique(pages)) > held

    def _fetch(self, page: int) -> None:
        slot = self._next
        self._next = (slot + 1) % len(self._page_of)
        if self._page_of[slot] >= 0:
            self._slot_of[self._page_of[slot]] = -1
        found = self._table[page * self._rows : (page + 1) * self._rows]
        self._copies[slot, : len(found)] = found
        self._page_of[slot], self._slot_of[page] = page, slot
        self._touched = (self._touched + 1) % _TOUCHED_PAGES
        if self._touched == 0:
            forget_pages(self._table)


class Spool:
    """A table that grows at its end: in memory while it is small, else in a file without a name."""

    def __init__(self, kind: npt.DTypeLike, width: tuple[int, ...], origin: str) -> None:
        self.kind, self.width, self.origin = np.dtype(kind), width, origin
        self.rows = 0
        self._file = SpooledTemporaryFile(max_size=IN_MEMORY_BYTES)  # noqa: SIM115  it lives as the table

    def __del__(self) -> None:
        self._file.close()

    def append(self, rows: Table) -> None:
        """Write rows of shape (n, *width) behind the others."""
        try:
            self._file.write(np.ascontiguousarray(rows, self.kind).reshape(-1).view(np.uint8).data)
        except OSError as error:
            raise _no_room(self.origin, error) from None
        self.rows += len(rows)

    def table(self) -> Table:
        """Return all rows; mapped, where they lie on disk."""
        shape = (self.rows, *self.width)
        if self._file.tell() > IN_MEMORY_BYTES:
            self._file.flush()
            return _mapped(self._file, self.kind, shape)
        self._file.seek(0)
        return np.frombuffer(self._file.read(), self.kind).reshape(shape)


def empty_table(kind: npt.DTypeLike, shape: tuple[int, ...], origin: str) -> Table:
    """Return a table to be filled in any order; one that is large lies in a file without a name.

    Notes
    -----
    The room on disk is taken at once: a disk that fills up later would end the process without a word.
    """
    n_bytes = int(np.prod(shape, dtype=np.int64)) * np.dtype(kind).itemsize
    if n_bytes <= IN_MEMORY_BYTES:
        return np.empty(shape, kind)
    with TemporaryFile() as file:
        try:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, n_bytes)
            else:
                file.truncate(n_bytes)
        except OSError as error:
            raise _no_room(origin, error) from None
        return _mapped(file, kind, shape)


def _mapped(file: Any, kind: npt.DTypeLike, shape: tuple[int, ...]) -> Table:
    pages = mmap.mmap(file.fileno(), 0)
    return np.ndarray(shape, kind, buffer=pages)


def map_file(file: IO[bytes], offset: int, kind: npt.DTypeLike, shape: tuple[int, ...]) -> Table:
    """Map a table that stands in a file at an offset, read only."""
    pages = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    return np.ndarray(shape, kind, buffer=pages, offset=offset)


def _no_room(origin: str, error: OSError) -> ConfigError:
    return ConfigError(
        f"{origin}: no room to keep it unpacked in the folder for temporary files ({error.strerror}): set"
        " TMPDIR to a folder on a larger disk, or store it as an .npz that is not compressed"
    )
