"""Writes routing as ``.npz`` or Parquet from blocks of tokens: files larger than memory, piece by piece."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any
from zipfile import ZIP_DEFLATED, ZIP_STORED, ZipFile

import numpy as np

from codesign.base.errors import ConfigError
from workloads.routing.tables import Spool, Table, forget_pages
from workloads.routing.trace import Block, Header

_CHUNK = 2**20  # numbers of a column that are written at once
MAPPED_IDS = 2**26  # from so many ids on a file is stored, not compressed, so that it can be mapped


def write_blocks(path: str | Path, header: Header, tokens: int, blocks: Iterator[Block]) -> None:
    """Write a stream of `tokens` tokens as ``.npz`` or ``.parquet``; memory holds one block.

    Raises
    ------
    ConfigError   another suffix, or a file that cannot be written
    """
    place = Path(path)
    if place.suffix not in (".npz", ".parquet"):
        raise ConfigError(f"{place}: a routing trace is written as .npz or .parquet")
    with _made_beside(place) as made:
        if place.suffix == ".npz":
            _write_npz(made, header, tokens, blocks)
        else:
            from workloads.routing.parquet import write_parquet

            write_parquet(made, header, blocks)


@contextmanager
def _made_beside(place: Path) -> Iterator[Path]:
    """Give a path to write to; it takes its place when all is written: the blocks may be read from there."""
    made = place.with_name(f".{place.name}.{os.getpid()}.part")
    try:
        yield made
        os.replace(made, place)
    except OSError as error:
        raise ConfigError(f"{place}: cannot be written: {error.strerror or error}") from None
    finally:
        made.unlink(missing_ok=True)


def id_type(n_experts: int) -> np.dtype[np.signedinteger[Any]]:
    """Return the type of ids in files: the smaller of int8 and int16 that holds them."""
    return np.dtype(np.int8 if n_experts <= 127 else np.int16)


def _write_npz(made: Path, header: Header, tokens: int, blocks: Iterator[Block]) -> None:
    """Write the ids as they come; the other columns, which stand behind them in the file, wait in spools."""
    width = (len(header.layer_ids), header.top_k)
    compression = ZIP_DEFLATED if tokens * math.prod(width) < MAPPED_IDS else ZIP_STORED
    columns = {"sequence": Spool(np.int32, (), str(made)), "domain": Spool(np.int16, (), str(made))}
    kind = id_type(header.n_experts)
    with ZipFile(made, "w", compression, compresslevel=1) as archive:
        with archive.open("experts.npy", "w", force_zip64=True) as file:
            _npy_header(file, kind, (tokens, *width))
            for block in blocks:
                file.write(np.ascontiguousarray(block.experts, kind).data)
                columns["sequence"].append(block.sequence)
                columns["domain"].append(block.domain)
                if block.gates is not None:
                    spool = Spool(block.gates.dtype, width, str(made))
                    columns.setdefault("gate_weights", spool).append(block.gates)
        for name, spool in columns.items():
            _write_column(archive, name, spool.table())
        for name, value in header.arrays().items():
            _write_column(archive, name, value)


def _write_column(archive: ZipFile, name: str, table: Table) -> None:
    """Write an array; of one that is mapped a bounded part is held in memory."""
    with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
        _npy_header(file, table.dtype, table.shape)
        rows = table.reshape(-1)
        for first in range(0, len(rows), _CHUNK):
            file.write(rows[first : first + _CHUNK].tobytes())
            forget_pages(table)


def _npy_header(file: IO[bytes], kind: np.dtype[Any], shape: tuple[int, ...]) -> None:
    about = {"descr": kind.str, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_2_0(file, about)
