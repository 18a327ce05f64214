"""Routing traces as Parquet: one row per token, the experts of all layers as one fixed-size list."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from codesign.base.errors import ConfigError

_HEADER = ("domain_names", "layer_ids", "num_experts", "top_k", "model", "provenance", "format_version")


def _table(arrays: dict[str, npt.NDArray[Any]], metadata: dict[bytes, bytes]) -> Any:
    import pyarrow as pa

    experts = arrays["experts"]
    flat = pa.array(experts.reshape(-1))
    width = experts.shape[1] * experts.shape[2]
    columns = [
        pa.array(arrays["sequence"]),
        pa.array(arrays["domain"]),
        pa.FixedSizeListArray.from_arrays(flat, width),
    ]
    table = pa.Table.from_arrays(columns, names=["sequence", "domain", "experts"])
    return table.replace_schema_metadata(metadata)


def _metadata(arrays: dict[str, npt.NDArray[Any]]) -> dict[bytes, bytes]:
    import json

    header = {name: arrays[name].tolist() for name in _HEADER}
    return {b"codesign.routing": json.dumps(header).encode()}


def write_parquet(trace: Any, path: Path, rows_per_group: int = 65536) -> None:
    """Write a `RoutingTrace` as Parquet in row groups."""
    from workloads.routing.files import trace_arrays

    arrays = trace_arrays(trace)
    write_parquet_blocks(path, _metadata(arrays), iter([arrays]), rows_per_group)


def write_parquet_blocks(
    path: Path, metadata: dict[bytes, bytes], blocks: Iterator[dict[str, npt.NDArray[Any]]], rows: int
) -> None:
    """Write blocks of tokens one after the other; memory holds one block."""
    import pyarrow.parquet as pq

    writer = None
    try:
        for arrays in blocks:
            table = _table(arrays, metadata)
            writer = writer or pq.ParquetWriter(path, table.schema, compression="zstd")
            writer.write_table(table, row_group_size=rows)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written: {error}") from None
    finally:
        if writer is not None:
            writer.close()


def read_parquet_arrays(path: Path) -> dict[str, npt.NDArray[Any]]:
    """Read the arrays of a trace from Parquet.

    Raises
    ------
    ConfigError   not Parquet, no header, columns missing or of another type
    """
    import json

    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be read as Parquet: {str(error).splitlines()[0][:120]}") from None
    raw = (table.schema.metadata or {}).get(b"codesign.routing")
    if raw is None or "experts" not in table.column_names:
        raise ConfigError(f"{path}: no header 'codesign.routing' or no column 'experts': not a routing trace")
    try:
        header = json.loads(raw)
        arrays = {name: np.array(header[name]) for name in _HEADER}
        layers, top_k = len(header["layer_ids"]), int(header["top_k"])
        column = table.column("experts").combine_chunks()
        values = column.chunk(0).values if isinstance(column, pa.ChunkedArray) else column.values
        arrays["experts"] = values.to_numpy(zero_copy_only=False).reshape(-1, layers, top_k)
        arrays |= {name: table.column(name).to_numpy() for name in ("sequence", "domain")}
    except (KeyError, ValueError, TypeError, AttributeError, pa.ArrowException) as error:
        raise ConfigError(f"{path}: the header or a column is damaged: {str(error)[:120]}") from None
    return arrays
