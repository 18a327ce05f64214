"""Matrix products on systolic arrays and tensor cores, cycle by cycle, with buffers and DRAM."""

from __future__ import annotations

from dataclasses import dataclass

from codesign.base.errors import ConfigError, unknown_name
from ext.systolic import DATAFLOWS, Array, double_buffer, plan


@dataclass(frozen=True)
class ArrayCost:
    """What one matrix product on one array took."""

    cycles: float  # stalls included
    stall_cycles: float
    folds: int
    utilization: float  # multiplications over cells times cycles
    load_bytes: float
    store_bytes: float


def gemm(
    array: Array, m: int, n: int, k: int, value_bytes: float = 2.0, bytes_per_cycle: float = float("inf")
) -> ArrayCost:
    """Cost ``y[m, n] = x[m, k] @ w[k, n]`` on one array.

    Parameters
    ----------
    bytes_per_cycle : float   DRAM bandwidth of the array in bytes per cycle of the array

    Raises
    ------
    ConfigError   unknown dataflow, an array without cells, a bandwidth that is not positive

    Notes
    -----
    Without stalls: cycles == folds * (2 R + C + T - 2) (ws, is), folds * (R + C + T - 2) (os).
    """
    if array.dataflow not in DATAFLOWS:
        raise unknown_name("dataflow", array.dataflow, DATAFLOWS)
    if min(array.rows, array.columns) < 1:
        raise ConfigError(f"array of {array.rows} x {array.columns}: both must be at least 1")
    if not bytes_per_cycle > 0:
        raise ConfigError(f"bytes_per_cycle = {bytes_per_cycle}: must be positive")
    if min(m, n, k) <= 0:
        return ArrayCost(0.0, 0.0, 0, 0.0, 0.0, 0.0)
    folds = plan(array, m, n, k, value_bytes)
    total, stalled = double_buffer(folds.cycles, folds.load_bytes, folds.store_bytes, bytes_per_cycle)
    used = m * n * k / (total * array.rows * array.columns)
    loads, stores = float(folds.load_bytes.sum()), float(folds.store_bytes.sum())
    return ArrayCost(total, stalled, len(folds.cycles), used, loads, stores)
