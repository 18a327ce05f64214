"""Where the columns of a routing trace come from: arrays at hand, and ``.npz`` files, not read whole."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Protocol
from zipfile import ZIP_STORED, BadZipFile, ZipFile
from zlib import error as ZlibError

import numpy as np
import numpy.typing as npt

from codesign.base.errors import ConfigError
from workloads.routing.tables import Table, map_file

_DAMAGED = (BadZipFile, ZlibError, ValueError, EOFError, OSError, KeyError, SyntaxError, NotImplementedError,
            RuntimeError)  # fmt: skip


class Source(Protocol):
    """A file of named arrays, some of which are too long to be read whole."""

    origin: str

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all arrays."""
        ...

    def about(self, name: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
        """Return shape and type of an array without reading it."""
        ...

    def read(self, name: str) -> npt.NDArray[Any]:
        """Return an array whole, in memory."""
        ...

    def column(self, name: str, rows: int) -> Iterator[Table]:
        """Yield an array from front to back, `rows` rows at a time; say if the file is damaged."""
        ...

    def whole(self, name: str) -> Table | None:
        """Return an array without reading it, as it lies in memory or mapped; None where that cannot be."""
        ...


class ArraySource:
    """Arrays at hand, in memory or mapped."""

    def __init__(self, arrays: Mapping[str, npt.NDArray[Any]], origin: str) -> None:
        self._arrays, self.origin = arrays, origin
        self.names = tuple(arrays)

    def about(self, name: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
        """Return shape and type of an array."""
        return self._arrays[name].shape, self._arrays[name].dtype

    def read(self, name: str) -> npt.NDArray[Any]:
        """Return an array."""
        return self._arrays[name]

    def column(self, name: str, rows: int) -> Iterator[Table]:
        """Yield an array from front to back."""
        array = self._arrays[name]
        yield from (array[first : first + rows] for first in range(0, len(array), rows))

    def whole(self, name: str) -> Table | None:
        """Return an array, if its rows lie one after the other."""
        return self._arrays[name] if self._arrays[name].flags.c_contiguous else None


class NpzSource:
    """An ``.npz``: arrays that are stored, not compressed, are mapped; nothing is ever unpickled.

    Raises
    ------
    ConfigError   no archive, a truncated one, or a member that is no array of plain numbers
    """

    def __init__(self, path: Path) -> None:
        self.path, self.origin = path, str(path)
        try:
            with path.open("rb") as file:
                start = file.read(6)
                if start == b"\x93NUMPY":
                    raise ConfigError(f"{path}: is one array, not an .npz with 'experts' and 'num_experts'")
                if start[:2] != b"PK":
                    raise ValueError("no .npz archive (pickled data is never read)")
                held = ZipFile(file).infolist()
        except _DAMAGED as error:
            raise ConfigError(f"{path}: cannot be read as .npz: {_short(error)}") from None
        self._members = {info.filename.removesuffix(".npy"): info for info in held}
        self.names = tuple(self._members)

    def about(self, name: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
        """Return shape and type of an array from its header."""
        with self._open(name) as (_, shape, kind, _fortran):
            return shape, kind

    def read(self, name: str) -> npt.NDArray[Any]:
        """Return an array whole, in memory."""
        with self._open(name) as (file, shape, kind, fortran):
            raw = file.read()
            if len(raw) != _size(shape, kind):
                raise EOFError("fewer rows than its header says")
            return np.ndarray(shape, kind, buffer=raw, order="F" if fortran else "C").copy(order="C")

    def column(self, name: str, rows: int) -> Iterator[Table]:
        """Yield an array from front to back; its checksum is verified on the way."""
        with self._open(name) as (file, shape, kind, fortran):
            if fortran:
                raise ConfigError(
                    f"{self.path}: {name}: lies in Fortran order; save it by np.ascontiguousarray"
                )
            width = _size(shape[1:], kind)
            for first in range(0, shape[0], rows):
                n = min(rows, shape[0] - first)
                raw = file.read(n * width)
                if len(raw) != n * width:
                    raise EOFError(f"after row {first + len(raw) // width}")
                yield np.frombuffer(raw, kind).reshape(n, *shape[1:])
            if file.read(1):
                raise ValueError("more rows than its header says")

    def whole(self, name: str) -> Table | None:
        """Return a mapped array, if it is stored as it lies in memory."""
        info = self._members[name]
        with self._open(name) as (member, shape, kind, fortran):
            header = member.tell()
        if info.compress_type != ZIP_STORED or fortran or not kind.isnative:
            return None
        with self.path.open("rb") as file:
            file.seek(info.header_offset + 26)
            title, extra = struct.unpack("<HH", file.read(4))
            start = info.header_offset + 30 + title + extra + header
            return map_file(file, start, kind, shape)

    @contextmanager
    def _open(self, name: str) -> Iterator[tuple[IO[bytes], tuple[int, ...], np.dtype[Any], bool]]:
        """Open an array behind its header: the file, shape, type, and whether columns come first."""
        try:
            with ZipFile(self.path) as archive, archive.open(self._members[name]) as file:
                old = np.lib.format.read_magic(file) == (1, 0)
                header = np.lib.format.read_array_header_1_0 if old else np.lib.format.read_array_header_2_0
                shape, fortran, kind = header(file)
                if kind.hasobject:
                    raise ConfigError(
                        f"{self.path}: {name}: holds pickled objects, which are never read;"
                        " save plain numbers"
                    )
                yield file, shape, kind, fortran and len(shape) > 1
        except _DAMAGED as error:
            if isinstance(error, ConfigError):
                raise
            raise ConfigError(f"{self.path}: {name}: truncated or damaged ({_short(error)})") from None


def _size(shape: tuple[int, ...], kind: np.dtype[Any]) -> int:
    return int(np.prod(shape, dtype=np.int64)) * kind.itemsize


def _short(error: Exception) -> str:
    return str(error).splitlines()[0][:80] if str(error) else type(error).__name__
