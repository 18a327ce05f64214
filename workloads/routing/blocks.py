"""Routing on disk in blocks of tokens: files larger than memory are written and read piece by piece."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any
from zipfile import ZIP_DEFLATED, ZIP_STORED, BadZipFile, ZipFile

import numpy as np
import numpy.typing as npt

from codesign.base.errors import ConfigError
from workloads.routing.files import FORMAT_VERSION
from workloads.routing.stream import Int16Array, IntArray


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
    """Write the ids as they come; the small columns are kept until the end (6 bytes a token)."""
    shape = (tokens, len(header.layer_ids), header.top_k)
    sequence, domain = np.empty(tokens, np.int32), np.empty(tokens, np.int16)
    kind, row = _id_type(header.n_experts), 0
    compression = ZIP_DEFLATED if np.prod(shape) < 2**26 else ZIP_STORED
    try:
        with ZipFile(place, "w", compression, compresslevel=1) as archive:
            with archive.open("experts.npy", "w", force_zip64=True) as file:
                _npy_header(file, kind, shape)
                for block in blocks:
                    file.write(np.ascontiguousarray(block.experts, kind).data)
                    sequence[row : row + len(block.experts)] = block.sequence
                    domain[row : row + len(block.experts)] = block.domain
                    row += len(block.experts)
            columns: dict[str, npt.NDArray[Any]] = {"sequence": sequence, "domain": domain}
            for name, value in (columns | header.arrays()).items():
                with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                    np.lib.format.write_array(file, value, allow_pickle=False)
    except OSError as error:
        raise ConfigError(f"{place}: cannot be written: {error.strerror}") from None


def _npy_header(file: IO[bytes], kind: type[np.signedinteger[Any]], shape: tuple[int, ...]) -> None:
    about = {"descr": np.dtype(kind).str, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_2_0(file, about)


def read_blocks(path: str | Path, tokens: int = 65536) -> tuple[Header, Iterator[Block]]:
    """Read a routing file of our own in blocks; memory holds one block (and 6 bytes a token of an ``.npz``).

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
            for batch in file.iter_batches(batch_size=tokens):
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


def _read_npz(place: Path, tokens: int) -> tuple[Header, Iterator[Block]]:
    try:
        with place.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            names = [name for name in file.files if name != "experts"]
            small = {name: file[name] for name in names}
    except (BadZipFile, ValueError, EOFError, OSError, AttributeError, KeyError) as error:
        raise ConfigError(f"{place}: cannot be read as .npz: {str(error)[:120]}") from None
    header = _header_of(small, place)

    def blocks() -> Iterator[Block]:
        row = 0
        try:
            with ZipFile(place) as archive, archive.open("experts.npy") as file:
                np.lib.format.read_magic(file)
                shape, _, kind = np.lib.format.read_array_header_2_0(file)
                if shape[1:] != (len(header.layer_ids), header.top_k) or kind.kind not in "iu":
                    raise ConfigError(f"{place}: experts: is {kind} {shape}; does not suit the header")
                width = int(np.prod(shape[1:])) * kind.itemsize
                while row < shape[0]:
                    n = min(tokens, shape[0] - row)
                    ids = np.frombuffer(file.read(n * width), kind).reshape(n, *shape[1:])
                    at = slice(row, row + n)
                    yield Block(
                        _checked(ids, header, row, place),
                        small["sequence"][at].astype(np.int64), small["domain"][at].astype(np.int64),
                    )  # fmt: skip
                    row += n
        except (BadZipFile, ValueError, EOFError, OSError, KeyError) as error:
            raise ConfigError(f"{place}: damaged after token {row}: {str(error)[:120]}") from None

    return header, blocks()
