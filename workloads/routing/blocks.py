"""Routing on disk in blocks of tokens: files larger than memory are written and read piece by piece."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any
from zipfile import ZIP_DEFLATED, ZIP_STORED, BadZipFile, ZipFile

import numpy as np
import numpy.typing as npt

from codesign.base.errors import ConfigError
from workloads.routing.files import FORMAT_VERSION, check_version
from workloads.routing.stream import Int16Array, IntArray

_GROUPS = 16  # row groups of a Parquet file that are open at once


@dataclass(frozen=True)
class Header:
    """What a routing file says about itself."""

    n_experts: int
    top_k: int
    layer_ids: tuple[int, ...]
    domain_names: tuple[str, ...] = ("all",)
    model: str = ""
    provenance: str = ""

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Return the header as arrays, as they stand in an ``.npz``."""
        return {
            "domain_names": np.array(self.domain_names),
            "layer_ids": np.array(self.layer_ids, np.int64),
            "num_experts": np.array(self.n_experts),
            "top_k": np.array(self.top_k),
            "model": np.array(self.model),
            "provenance": np.array(self.provenance),
            "format_version": np.array(FORMAT_VERSION),
        }


@dataclass(frozen=True)
class Block:
    """Some tokens in order: experts int16 (T, L, k), sequence and domain of each, int64 (T,)."""

    experts: Int16Array
    sequence: IntArray
    domain: IntArray


def write_blocks(path: str | Path, header: Header, tokens: int, blocks: Iterator[Block]) -> None:
    """Write a stream of `tokens` tokens as ``.npz`` or ``.parquet``; memory holds one block.

    Raises
    ------
    ConfigError   another suffix, or a file that cannot be written
    """
    place = Path(path)
    if place.suffix == ".parquet":
        _write_parquet(place, header, blocks)
    elif place.suffix == ".npz":
        _write_npz(place, header, tokens, blocks)
    else:
        raise ConfigError(f"{place}: a routing trace is written as .npz or .parquet")


def _id_type(n_experts: int) -> type[np.signedinteger[Any]]:
    return np.int8 if n_experts <= 127 else np.int16


def _write_parquet(place: Path, header: Header, blocks: Iterator[Block]) -> None:
    from workloads.routing.parquet import write_parquet_blocks

    kind = _id_type(header.n_experts)
    texts = {name: value.tolist() for name, value in header.arrays().items()}
    tables = (
        {
            "experts": block.experts.astype(kind),
            "sequence": block.sequence.astype(np.int32),
            "domain": block.domain.astype(np.int16),
        }
        for block in blocks
    )
    metadata = {b"codesign.routing": json.dumps(texts).encode()}
    write_parquet_blocks(place, metadata, tables, 65536)


def _write_npz(place: Path, header: Header, tokens: int, blocks: Iterator[Block]) -> None:
    """Write the ids as they come; of the two small columns runs of equal values are kept until the end."""
    shape = (tokens, len(header.layer_ids), header.top_k)
    kind, runs = _id_type(header.n_experts), list[npt.NDArray[np.int64]]()
    compression = ZIP_DEFLATED if np.prod(shape) < 2**26 else ZIP_STORED
    try:
        with ZipFile(place, "w", compression, compresslevel=1) as archive:
            with archive.open("experts.npy", "w", force_zip64=True) as file:
                _npy_header(file, kind, shape)
                for block in blocks:
                    file.write(np.ascontiguousarray(block.experts, kind).data)
                    runs.append(_runs(block))
            table = np.concatenate(runs) if runs else np.zeros((0, 3), np.int64)
            _write_runs(archive, "sequence", table[:, 0], table[:, 2], np.int32)
            _write_runs(archive, "domain", table[:, 1], table[:, 2], np.int16)
            for name, value in header.arrays().items():
                with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                    np.lib.format.write_array(file, value, allow_pickle=False)
    except OSError as error:
        raise ConfigError(f"{place}: cannot be written: {error.strerror}") from None


def _runs(block: Block) -> npt.NDArray[np.int64]:
    """Return (sequence, domain, tokens) of each run of equal values; int64, shape (R, 3)."""
    changed = (np.diff(block.sequence) != 0) | (np.diff(block.domain) != 0)
    starts = np.concatenate([[0], np.flatnonzero(changed) + 1])[: len(block.sequence)]
    lengths = np.diff(starts, append=len(block.sequence))
    return np.stack([block.sequence[starts], block.domain[starts], lengths], axis=1)


def _write_runs(archive: ZipFile, name: str, values: IntArray, lengths: IntArray, kind: type) -> None:
    with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
        _npy_header(file, kind, (int(lengths.sum()),))
        for first in range(0, len(values), 4096):
            at = slice(first, first + 4096)
            file.write(np.repeat(values[at].astype(kind), lengths[at]).data)


def _npy_header(file: IO[bytes], kind: type[np.signedinteger[Any]], shape: tuple[int, ...]) -> None:
    about = {"descr": np.dtype(kind).str, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_2_0(file, about)


def read_blocks(path: str | Path, tokens: int = 65536) -> tuple[Header, Iterator[Block]]:
    """Read a routing file of our own in blocks; memory holds one block.

    Raises
    ------
    ConfigError   no such file, a header that is missing or wrong, ids out of range, a truncated file
    """
    place = Path(path)
    if not place.is_file():
        raise ConfigError(f"{place}: no such routing trace")
    if place.suffix == ".parquet":
        return _read_parquet(place, tokens)
    return _read_npz(place, tokens)


def _header_of(values: dict[str, Any], place: Path) -> Header:
    version = values.get("format_version")
    check_version(None if version is None else np.asarray(version), str(place))
    try:
        return Header(
            int(values["num_experts"]), int(values["top_k"]), tuple(int(i) for i in values["layer_ids"]),
            tuple(str(n) for n in values["domain_names"]), str(values["model"]), str(values["provenance"]),
        )  # fmt: skip
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"{place}: the header is missing or damaged ({error})") from None


def _checked(ids: npt.NDArray[Any], header: Header, row: int, place: Path) -> Int16Array:
    if len(ids) and (int(ids.min()) < -1 or int(ids.max()) >= header.n_experts):
        token = row + int(np.argwhere((ids < -1) | (ids >= header.n_experts))[0][0])
        raise ConfigError(f"{place}: experts[{token}]: an id is not -1 .. {header.n_experts - 1}")
    return ids.astype(np.int16)


def _read_parquet(place: Path, tokens: int) -> tuple[Header, Iterator[Block]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(place)
        raw = (file.schema_arrow.metadata or {})[b"codesign.routing"]
        header = _header_of(json.loads(raw), place)
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:
        raise ConfigError(f"{place}: cannot be read as a routing trace: {str(error)[:120]}") from None

    def blocks() -> Iterator[Block]:
        row = 0
        try:
            for batch in _batches(file, tokens):
                ids = batch.column("experts").flatten().to_numpy(zero_copy_only=False)
                ids = ids.reshape(batch.num_rows, len(header.layer_ids), header.top_k)
                sequence, domain = (
                    batch.column(n).to_numpy().astype(np.int64) for n in ("sequence", "domain")
                )
                yield Block(_checked(ids, header, row, place), sequence, domain)
                row += len(ids)
        except (pa.ArrowException, OSError, ValueError, KeyError) as error:
            raise ConfigError(f"{place}: damaged after token {row}: {str(error)[:120]}") from None

    return header, blocks()


def _batches(file: Any, tokens: int) -> Iterator[Any]:
    """Yield the rows of a Parquet file; one iterator over all row groups would keep what it has read."""
    for first in range(0, file.num_row_groups, _GROUPS):
        groups = range(first, min(first + _GROUPS, file.num_row_groups))
        yield from file.iter_batches(batch_size=tokens, row_groups=list(groups))


def _read_npz(place: Path, tokens: int) -> tuple[Header, Iterator[Block]]:
    big = ("experts", "sequence", "domain")
    try:
        with place.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            small = {name: file[name] for name in file.files if name not in big}
            missing = [name for name in big if name not in file.files]
    except (BadZipFile, ValueError, EOFError, OSError, AttributeError, KeyError) as error:
        raise ConfigError(f"{place}: cannot be read as .npz: {str(error)[:120]}") from None
    header = _header_of(small, place)
    if missing:
        raise ConfigError(f"{place}: has no array {missing[0]!r}")

    def blocks() -> Iterator[Block]:
        row = 0
        try:
            with ExitStack() as stack:
                ids, sequence, domain = (_Column(stack, place, name) for name in big)
                _check_columns(ids, sequence, domain, header, place)
                while row < ids.shape[0]:
                    n = min(tokens, ids.shape[0] - row)
                    experts = _checked(ids.rows(n), header, row, place)
                    yield Block(experts, sequence.rows(n).astype(np.int64), domain.rows(n).astype(np.int64))
                    row += n
        except (BadZipFile, ValueError, EOFError, OSError, KeyError) as error:
            raise ConfigError(f"{place}: damaged after token {row}: {str(error)[:120]}") from None

    return header, blocks()


class _Column:
    """One array of an ``.npz`` that is read from front to back."""

    def __init__(self, stack: ExitStack, place: Path, name: str) -> None:
        archive = stack.enter_context(ZipFile(place))
        self._file = stack.enter_context(archive.open(f"{name}.npy"))
        version = np.lib.format.read_magic(self._file)
        read = (
            np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        )
        self.shape, fortran, self.kind = read(self._file)
        if fortran or self.kind.kind not in "iu":
            raise ValueError(f"{name}: must be whole numbers in C order, is {self.kind}")

    def rows(self, n: int) -> npt.NDArray[Any]:
        """Return the next n rows."""
        width = int(np.prod(self.shape[1:])) * self.kind.itemsize
        raw = self._file.read(n * width)
        if len(raw) != n * width:
            raise ValueError("fewer rows than the header says")
        return np.frombuffer(raw, self.kind).reshape(n, *self.shape[1:])


def _check_columns(ids: _Column, sequence: _Column, domain: _Column, header: Header, place: Path) -> None:
    if len(ids.shape) != 3 or ids.shape[1:] != (len(header.layer_ids), header.top_k):
        raise ConfigError(f"{place}: experts: has shape {ids.shape}; does not suit the header")
    if sequence.shape != ids.shape[:1] or domain.shape != ids.shape[:1]:
        raise ConfigError(
            f"{place}: sequence {sequence.shape} or domain {domain.shape} differ from the tokens"
        )
