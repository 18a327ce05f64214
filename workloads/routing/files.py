"""Recorded routing on disk: ``.npz`` (never pickled) and Parquet, checked whole before use, block by block.

An ``.npz`` holds ``experts`` [tokens, layers, k] (ids in router order, -1 unused) and ``num_experts``; if
given, ``sequence`` [tokens] (else one sequence), ``domain`` [tokens] with ``domain_names``, ``layer_ids``
[layers], ``top_k``, ``model``, ``gate_weights`` [tokens, layers, k] (weights of the chosen experts: floats,
or uint8 of 255ths) and the header ``format_version``, ``provenance``.  What is not compressed is mapped where
it lies; what is compressed, or has interleaved sequences, is unpacked: in memory if small, else to a file
without a name in the folder for temporary files (`TMPDIR`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from codesign.base.errors import ConfigError
from workloads.routing.sequences import Sequences
from workloads.routing.sources import ArraySource, NpzSource, Source
from workloads.routing.tables import Spool, Table, empty_table, forget_pages
from workloads.routing.trace import FORMAT_VERSION, RoutingTrace
from workloads.routing.writing import id_type, write_blocks

_BLOCK_BYTES = 8 * 2**20
_COLUMN_ROWS = 2**20
_MOST_LAYERS = 1024  # more are another order of the axes
_GATES = ("gate_weights", "weights_u8")  # the second: as in published recordings
_GATE_TYPES = (np.uint8, np.float16, np.float32, np.float64)


def read_trace(path: str | Path, n_experts: int | None = None) -> RoutingTrace:
    """Read a recorded trace, ``.npz`` or ``.parquet``, of any length; memory holds a bounded part.

    Parameters
    ----------
    n_experts : int    experts per layer of an ``.npz`` that does not say `num_experts`

    Raises
    ------
    ConfigError   missing, truncated, pickled, of a wrong shape, ids out of range: with the place
    """
    place = Path(path)
    if place.is_dir():
        raise ConfigError(f"{place}: is a directory; a routing trace (.npz or .parquet) is needed")
    if not place.exists():
        raise ConfigError(f"{place}: no such routing trace")
    if place.suffix == ".parquet":
        from workloads.routing.parquet import ParquetSource

        return trace_of(ParquetSource(place))
    return trace_of(NpzSource(place), n_experts)


def trace_from_arrays(arrays: Mapping[str, npt.NDArray[Any]], origin: str) -> RoutingTrace:
    """Check the arrays of a trace and build it."""
    return trace_of(ArraySource(arrays, origin))


def trace_of(source: Source, n_experts: int | None = None) -> RoutingTrace:
    """Check the columns of a trace and build it."""
    origin = source.origin
    _check_version(source)
    shape = _experts_shape(source)
    if n_experts is None or "num_experts" in source.names:
        n_experts = _integer(source, "num_experts")
    if not 1 <= n_experts <= 32767:
        raise ConfigError(f"{origin}: num_experts = {n_experts}: must be between 1 and 32767")
    sequences, names = _sequences(source, shape[0]), _names(source)
    domains = sequences.domains
    if not 0 <= int(domains.min()) <= int(domains.max()) < max(len(names), 1):
        raise ConfigError(f"{origin}: domain = {int(domains.max())}: there are {len(names)} domain_names")
    layer_ids, gates = _layer_ids(source, shape[1]), _gates_name(source, shape)
    note = "sequences were interleaved; tokens were put in sequence order"
    ids = _table(source, "experts", _checked_ids(source, n_experts), id_type(n_experts), sequences)
    weights = None
    if gates is not None:
        kind = source.about(gates)[1]
        weights = _table(source, gates, _checked_gates(source, gates), kind, sequences)
    return RoutingTrace(
        ids, sequences.offsets, n_experts, domains, names, layer_ids, _text(source, "model"),
        _text(source, "provenance"), (note,) if sequences.interleaved else (), weights,
    )  # fmt: skip


def _table(
    source: Source, name: str, blocks: Iterator[Table], kind: np.dtype[Any], sequences: Sequences
) -> Table:
    """Run through the blocks of a column, which checks them, and return it in the order of sequences."""
    shape, found = source.about(name)
    whole = source.whole(name) if not sequences.interleaved else None
    if whole is not None and (found == kind or found in (np.int8, np.int16, np.int32)):
        for _ in blocks:
            pass
        return whole
    if not sequences.interleaved:
        spool = Spool(kind, shape[1:], source.origin)
        for block in blocks:
            spool.append(block)
        return spool.table()
    table, rows_of = empty_table(kind, shape, source.origin), sequences.placer()
    numbers = _in_step(source.column("sequence", _COLUMN_ROWS))
    for block in blocks:
        table[rows_of(numbers(len(block)))] = block
        forget_pages(table)
    return table


def _in_step(column: Iterator[Table]) -> Callable[[int], Table]:
    """Return what gives the next n rows of a column, however it is cut."""
    left = np.zeros(0, np.int64)

    def next_rows(n: int) -> Table:
        nonlocal left
        parts = [left]
        while sum(map(len, parts)) < n:
            parts.append(next(column))
        whole = np.concatenate(parts)
        left = whole[n:]
        return whole[:n]

    return next_rows


def _rows(shape: tuple[int, ...], kind: np.dtype[Any]) -> int:
    return max(_BLOCK_BYTES // (int(np.prod(shape[1:])) * kind.itemsize), 1)


def _check_version(source: Source) -> None:
    """Refuse a file of a later version of the format than this program knows; none is fine."""
    if "format_version" not in source.names:
        return
    version = source.read("format_version")
    if (
        version.size != 1
        or version.dtype.kind not in "iu"
        or not 1 <= int(version.reshape(-1)[0]) <= FORMAT_VERSION
    ):
        raise ConfigError(
            f"{source.origin}: format_version = {str(version)[:20]}: this program reads up to"
            f" {FORMAT_VERSION}; convert the file with the program that wrote it"
        )


def _experts_shape(source: Source) -> tuple[int, ...]:
    if "experts" not in source.names:
        held = ", ".join(sorted(source.names)) or "nothing"
        raise ConfigError(f"{source.origin}: has no array 'experts' [tokens, layers, k]; it holds {held}")
    shape, kind = source.about("experts")
    if len(shape) != 3 or kind.kind not in "iu":
        raise ConfigError(
            f"{source.origin}: experts: is {kind} {shape}; must be integers [tokens, layers, k]"
        )
    if 0 in shape:
        raise ConfigError(f"{source.origin}: experts: has shape {shape}; holds no routing")
    if shape[1] > _MOST_LAYERS:
        raise ConfigError(
            f"{source.origin}: experts: has shape {shape}, {shape[1]} layers; the order is"
            " [tokens, layers, k]"
        )
    return shape


def _checked_ids(source: Source, n_experts: int) -> Iterator[Table]:
    """Yield the ids in blocks; refuse one that is out of range or stands twice in a (token, layer)."""
    token = 0
    for ids in source.column("experts", _rows(*source.about("experts"))):
        low, high = int(ids.min()), int(ids.max())
        if low < -1 or high >= n_experts:
            bad = np.argwhere((ids < -1) | (ids >= n_experts))[0]
            row, layer, slot = (int(i) for i in bad)
            raise ConfigError(
                f"{source.origin}: experts[{token + row}, {layer}, {slot}] = {int(ids[row, layer, slot])}:"
                f" must be -1 .. {n_experts - 1}"
            )
        _check_different(ids, token, source.origin)
        yield ids
        token += len(ids)


def _check_different(ids: Table, token: int, origin: str) -> None:
    slots = np.ascontiguousarray(np.moveaxis(ids, 2, 0))
    for i in range(len(slots)):
        for j in range(i):
            same = slots[i] == slots[j]
            if same.any() and (same := same & (slots[i] >= 0)).any():
                row, layer = (int(x) for x in np.argwhere(same)[0])
                raise ConfigError(
                    f"{origin}: experts[{token + row}, {layer}]: expert {int(slots[i, row, layer])} stands in"
                    f" slots {j} and {i}; a token goes to different experts"
                )


def _gates_name(source: Source, shape: tuple[int, ...]) -> str | None:
    """Return the name of the column of gate weights, if there is one."""
    name = next((name for name in _GATES if name in source.names), None)
    if name is not None:
        found, kind = source.about(name)
        if found != shape or kind not in _GATE_TYPES:
            raise ConfigError(
                f"{source.origin}: {name}: is {kind} {found}; must be uint8 or floats {shape}, as experts"
            )
    return name


def _checked_gates(source: Source, name: str) -> Iterator[Table]:
    token = 0
    for weights in source.column(name, _rows(*source.about(name))):
        if not (np.isfinite(weights).all() and (weights >= 0).all()):
            row, layer, slot = (int(i) for i in np.argwhere(~(weights >= 0) | ~np.isfinite(weights))[0])
            raise ConfigError(
                f"{source.origin}: {name}[{token + row}, {layer}, {slot}] = {weights[row, layer, slot]}:"
                " must be finite and not negative"
            )
        yield weights
        token += len(weights)


def _sequences(source: Source, tokens: int) -> Sequences:
    sequences, names = Sequences(), ("sequence", "domain")
    for name in names:
        _check_per_token(source, name, tokens)
    columns = [_in_step(_or_zeros(source, name, tokens)) for name in names]
    for first in range(0, tokens, _COLUMN_ROWS):
        sequences.add(*(rows(min(_COLUMN_ROWS, tokens - first)) for rows in columns))
    return sequences.close()


def _check_per_token(source: Source, name: str, tokens: int) -> None:
    if name in source.names:
        shape, kind = source.about(name)
        if shape != (tokens,) or kind.kind not in "iu":
            raise ConfigError(f"{source.origin}: {name}: is {kind} {shape}; must be integers ({tokens},)")


def _or_zeros(source: Source, name: str, tokens: int) -> Iterator[Table]:
    if name in source.names:
        return source.column(name, _COLUMN_ROWS)
    return (np.zeros(min(_COLUMN_ROWS, tokens - i), np.int64) for i in range(0, tokens, _COLUMN_ROWS))


def _integer(source: Source, name: str) -> int:
    if name not in source.names:
        raise ConfigError(
            f"{source.origin}: has no number {name!r}: write it into the file, or give --experts to"
            " codesign routing"
        )
    value = source.read(name)
    if value.size != 1 or value.dtype.kind not in "iu":
        raise ConfigError(f"{source.origin}: {name}: is {value.dtype} {value.shape}; must be one integer")
    return int(value.reshape(-1)[0])


def _text(source: Source, name: str) -> str:
    value = source.read(name) if name in source.names else None
    return str(value.reshape(-1)[0]) if value is not None and value.size == 1 else ""


def _names(source: Source) -> tuple[str, ...]:
    given = source.read("domain_names") if "domain_names" in source.names else np.array(["all"])
    return tuple(str(name) for name in np.atleast_1d(given))


def _layer_ids(source: Source, layers: int) -> tuple[int, ...]:
    ids = source.read("layer_ids") if "layer_ids" in source.names else np.arange(layers)
    if ids.shape != (layers,) or ids.dtype.kind not in "iu":
        raise ConfigError(
            f"{source.origin}: layer_ids: is {ids.dtype} {ids.shape}; must be integers ({layers},)"
        )
    return tuple(int(i) for i in ids)


def write_trace(trace: RoutingTrace, path: str | Path) -> None:
    """Write a trace as ``.npz`` or ``.parquet``, by the file's suffix."""
    write_blocks(path, trace.header, len(trace.experts), trace.blocks())
