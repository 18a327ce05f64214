"""Measured tables: read, clean, and split into shapes to fit on and shapes to judge by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from codesign.base.errors import ConfigError
from hwmodels.costs.rows import complete, table_of

DEFAULT_FOLDER = Path("../shared/data/measured")
DEVICES = {"a100_sxm": "a100", "h100_sxm": "h100", "l40s": "l40s"}  # measured name -> device file
ARCHITECTURES = {"a100_sxm": "ampere", "h100_sxm": "hopper", "l40s": "ada"}
TEST_SHARE = 0.3
_MIX = (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB)  # splitmix64


@dataclass(frozen=True)
class Measured:
    """One operator's measurements on one or more devices."""

    columns: dict[str, npt.NDArray[Any]]
    gpu: npt.NDArray[Any]
    seconds: npt.NDArray[np.float64]
    test: npt.NDArray[np.bool_]  # True: a shape that no constant was fitted to

    def where(self, mask: npt.NDArray[Any]) -> Measured:
        """Return the rows of a mask or of indices."""
        columns = {name: values[mask] for name, values in self.columns.items()}
        return Measured(columns, self.gpu[mask], self.seconds[mask], self.test[mask])


def read(operator: str, folder: Path, gpus: Sequence[str] = tuple(DEVICES)) -> Measured:
    """Read ``<operator>.parquet``; rows without bytes, without a positive latency or of other GPUs go.

    Raises
    ------
    ConfigError   no such file
    """
    import pyarrow.parquet as parquet

    place, table = folder / f"{operator}.parquet", table_of(operator)
    if not place.is_file():
        raise ConfigError(f"{place}: no such file; the measured tables are not here")
    raw = parquet.read_table(place)
    wanted = [name for name in (*table.names, *table.numbers, *table.optional) if name in raw.column_names]
    columns = complete(operator, {name: raw[name].to_numpy() for name in wanted})
    gpu = raw["gpu"].to_numpy().astype(object)
    seconds = np.asarray(raw["latency_us"].to_numpy(), dtype=np.float64) * 1e-6
    keep = np.isin(gpu, list(gpus)) & (seconds > 0)
    if operator == "collectives":
        keep &= columns["bytes"] > 0
    return Measured(columns, gpu, seconds, is_test(operator, columns)).where(keep)


def is_test(operator: str, columns: Mapping[str, npt.NDArray[Any]]) -> npt.NDArray[np.bool_]:
    """Return which rows belong to shapes that are kept from fitting: a hash of the shape alone.

    The same shape falls on the same side for every device, framework, kernel and type.
    """
    table = table_of(operator)
    names = [*table.numbers, *table.optional]
    words = [name for name in ("num_gpus", "op") if operator == "collectives"]
    key = np.zeros(len(columns[names[0]]), dtype=np.uint64)
    with np.errstate(over="ignore"):
        for name in names:
            key = _mix(key + columns[name].astype(np.int64).astype(np.uint64) * np.uint64(_MIX[0]))
        for name in words:
            unique, code = np.unique(columns[name].astype(str), return_inverse=True)
            label = np.array([sum(map(ord, text)) for text in unique], dtype=np.uint64)
            key = _mix(key + label[code])
    return np.asarray((key >> np.uint64(11)).astype(np.float64) * 2.0**-53 < TEST_SHARE)


def _mix(x: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    x = (x ^ (x >> np.uint64(30))) * np.uint64(_MIX[1])
    x = (x ^ (x >> np.uint64(27))) * np.uint64(_MIX[2])
    return x ^ (x >> np.uint64(31))
