"""Routing traces as Parquet: one row per token, the experts of all layers as one fixed-size list."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from codesign.base.errors import ConfigError
from workloads.routing.tables import Table
from workloads.routing.trace import Block, Header

_KEY = b"codesign.routing"
_COLUMNS = ("sequence", "domain", "experts", "gate_weights")
_GROUPS = 16  # row groups of a file that are open at once
_GROUP_ROWS = 65536


def write_parquet(path: Path, header: Header, blocks: Iterator[Block]) -> None:
    """Write blocks of tokens one after the other; memory holds one block."""
    import pyarrow.parquet as pq

    about = {name: value.tolist() for name, value in header.arrays().items()}
    writer = None
    try:
        for block in blocks:
            table = _table(block, header.n_experts).replace_schema_metadata({_KEY: json.dumps(about)})
            writer = writer or pq.ParquetWriter(path, table.schema, compression="zstd")
            writer.write_table(table, row_group_size=_GROUP_ROWS)
    finally:
        if writer is not None:
            writer.close()


def _table(block: Block, n_experts: int) -> Any:
    import pyarrow as pa

    ids = block.experts.astype(np.int8) if n_experts <= 127 else block.experts
    columns = {
        "sequence": pa.array(block.sequence.astype(np.int32)),
        "domain": pa.array(block.domain.astype(np.int16)),
        "experts": _lists(ids),
    }
    if block.gates is not None:
        columns["gate_weights"] = _lists(block.gates)
    return pa.table(columns)


def _lists(rows: Table) -> Any:
    import pyarrow as pa

    return pa.FixedSizeListArray.from_arrays(pa.array(rows.reshape(-1)), int(np.prod(rows.shape[1:])))


class ParquetSource:
    """A Parquet file of our own; its columns are read a few row groups at a time.

    Raises
    ------
    ConfigError   not Parquet, no header, columns missing or of another type
    """

    def __init__(self, path: Path) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        self.path, self.origin = path, str(path)
        try:
            with pq.ParquetFile(path) as file:
                self._rows, schema = file.metadata.num_rows, file.schema_arrow
        except (pa.ArrowException, OSError, ValueError) as error:
            raise ConfigError(f"{path}: cannot be read as Parquet: {_short(error)}") from None
        raw = (schema.metadata or {}).get(_KEY)
        if raw is None or "experts" not in schema.names:
            raise ConfigError(
                f"{path}: no header '{_KEY.decode()}' or no column 'experts': not a routing trace; it has the"
                f" columns {', '.join(schema.names)[:80] or 'none'}. Another recording is written as .npz"
                " (experts [tokens, layers, k], num_experts, sequence) or as JSON lines {request_id,"
                " experts}, which codesign routing convert reads"
            )
        try:
            self._header = {name: np.array(value) for name, value in json.loads(raw).items()}
            self._width = len(self._header["layer_ids"]), int(self._header["top_k"])
            self._kinds = {field.name: _kind(field.type) for field in schema if field.name in _COLUMNS}
        except (KeyError, ValueError, TypeError, AttributeError, pa.ArrowException) as error:
            raise ConfigError(f"{path}: the header or a column is damaged: {_short(error)}") from None
        self.names = (*self._header, *self._kinds)

    def about(self, name: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
        """Return shape and type of a column or of a part of the header."""
        if name in self._header:
            return self._header[name].shape, self._header[name].dtype
        width = () if name in ("sequence", "domain") else self._width
        return (self._rows, *width), self._kinds[name]

    def read(self, name: str) -> npt.NDArray[Any]:
        """Return a part of the header."""
        return self._header[name]

    def column(self, name: str, rows: int) -> Iterator[Table]:
        """Yield a column from front to back."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        (_, *width), row = self.about(name)[0], 0
        try:
            with pq.ParquetFile(self.path) as file:
                for first in range(0, file.num_row_groups, _GROUPS):  # one iterator would keep what it read
                    groups = list(range(first, min(first + _GROUPS, file.num_row_groups)))
                    for batch in file.iter_batches(batch_size=rows, row_groups=groups, columns=[name]):
                        values = batch.column(0).flatten() if width else batch.column(0)
                        numbers = values.to_numpy(zero_copy_only=False)
                        yield numbers.reshape(batch.num_rows, *width)
                        row += batch.num_rows
        except (pa.ArrowException, OSError, ValueError, KeyError) as error:
            raise ConfigError(f"{self.path}: {name}: damaged after token {row}: {_short(error)}") from None

    def whole(self, name: str) -> Table | None:
        """Return nothing: what is compressed cannot be mapped."""
        return None


def _kind(kind: Any) -> np.dtype[Any]:
    """Return the NumPy type of a column, or of the members of its lists."""
    found: np.dtype[Any] = np.dtype(getattr(kind, "value_type", kind).to_pandas_dtype())
    return found


def _short(error: Exception) -> str:
    return str(error).splitlines()[0][:120] if str(error) else type(error).__name__
