"""Tables of shapes as files: CSV or Parquet in, the same rows with our columns out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from codesign.base.errors import ConfigError

if TYPE_CHECKING:
    import pyarrow

SUFFIXES = (".csv", ".parquet")


def read_table(place: Path) -> pyarrow.Table:
    """Read a table; the suffix says which kind it is.

    Raises
    ------
    ConfigError   no such file, another suffix, or a file that cannot be read as one
    """
    import pyarrow as pa
    from pyarrow import csv, parquet

    check_suffix(place)
    if not place.is_file():
        raise ConfigError(f"{place}: no such file")
    try:
        return csv.read_csv(place) if place.suffix == ".csv" else parquet.read_table(place)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{place}: not a table: {str(error).splitlines()[0]}") from None


def check_suffix(place: Path) -> None:
    """Refuse a file name that is neither CSV nor Parquet (raises ConfigError)."""
    if place.suffix not in SUFFIXES:
        raise ConfigError(f"{place}: a table is a .csv or a .parquet file")


def columns_of(table: pyarrow.Table) -> dict[str, npt.NDArray[Any]]:
    """Return the columns as arrays; missing numbers are nan, missing words None."""
    return {name: table[name].to_numpy() for name in table.column_names}


def write_table(table: pyarrow.Table, place: Path) -> None:
    """Write a table; the suffix says which kind.

    Raises
    ------
    ConfigError   another suffix, or a place that cannot be written
    """
    from pyarrow import csv, parquet

    check_suffix(place)
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        if place.suffix == ".csv":
            csv.write_csv(_plain(table), place)
        else:
            parquet.write_table(table, place)
    except OSError as error:
        raise ConfigError(f"{place}: cannot be written: {error.strerror or error}") from None


def _plain(table: pyarrow.Table) -> pyarrow.Table:
    """Return the table without dictionary columns, which CSV does not know."""
    import pyarrow as pa

    for i, column in enumerate(table.schema):
        if pa.types.is_dictionary(column.type):
            table = table.set_column(i, column.name, table[column.name].cast(column.type.value_type))
    return table


def with_prediction(
    table: pyarrow.Table, microseconds: npt.NDArray[np.float64], reason: npt.NDArray[Any]
) -> pyarrow.Table:
    """Return the table with ``predicted_us`` (empty where not covered) and ``reason`` (why not)."""
    import pyarrow as pa

    values = pa.array(microseconds, mask=np.isnan(microseconds))
    words = [text or None for text in reason.tolist()]
    for name, column in (("predicted_us", values), ("reason", pa.array(words, type=pa.string()))):
        if name in table.column_names:
            table = table.drop_columns([name])
        table = table.append_column(name, column)
    return table
