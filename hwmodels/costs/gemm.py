"""Dense matrix multiplication y[m,n] = x[m,k] w[k,n] on a device of tiles, waves and two memories."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np

from ext.tiling import Rates, choose, choose_one, tile_times

from .cost import Terms
from .machine import Machine, value_bytes
from .namespace import SCALAR, blend

SPLITS = (1, 2, 3, 4, 6, 8, 16)
OVERLAP = 10.0  # of a kernel's resources: close to the longest of their times
_RESIDENCY_POWER = 8.0
_NO_HOST_S = 1e-6  # below any launch: the kernels were recorded and replayed


def gemm(xp: Any, machine: Machine, m: Any, n: Any, k: Any, weights: str, activations: str,
         section: str = "gemm", quantise: bool = False, groups: Any = 1.0) -> Terms:  # fmt: skip
    """Cost one GEMM; `quantise` adds the kernel that turns bf16 activations into `activations`.

    With `groups`, as many independent products of that shape in one kernel (one for each head).
    What overlaps: the tensor cores on waves of tiles; their operands, which each tile fetches anew (units
    are built to feed their tensor cores, so this rate is a share of the peak); main memory and the on-chip
    cache, each operand once; the steps in k of one tile, each of which waits for its operands; and the
    FLOPs within the power of the board.  The tile and the number of parts that k is split into are those
    with the least time.
    """
    c = machine.section(section)
    weight_bytes, act_bytes = value_bytes(weights), value_bytes(activations)
    moved = (k * n * weight_bytes + m * k * act_bytes + m * n * 2.0) * groups
    working_set = (k * n * weight_bytes * c["copies"] + m * k * act_bytes + m * n * 2.0) * groups
    from_memory = moved * (1.0 - residency(xp, machine, working_set, _RESIDENCY_POWER))
    rates = _rates(machine, c, weight_bytes, act_bytes, activations)
    shape = (m, n, k, groups, from_memory)
    tile = _fastest(xp, machine.tiles, shape, rates)
    compute_s, feed_s, memory_s, steps_s, reduce_s, join_s = tile_times(xp, shape, tile, rates)
    flop = 2.0 * m * n * k * groups
    powered_s = machine.powered_s(flop * c["power_share"], activations)
    if machine.warm:  # a short kernel is over before the board's regulators answer
        powered_s = powered_s * powered_s / (powered_s + c["throttle_s"])
    parts = blend(OVERLAP, compute_s, feed_s, powered_s, memory_s, moved / rates.cache_rate, steps_s)
    out = Terms(compute=parts[0] + parts[1] + parts[2], memory=parts[3], cache=parts[4] + reduce_s)
    out.vector = m * n * groups * c["epilogue_flop"] / machine.vector_rate  # scaling, converting, storing
    out.launch = machine.launch_s + machine.cycles_s(c["start_cycles"]) + parts[5] + join_s
    out.flop, out.bytes_main = flop, moved
    if quantise:
        extra = m * k * groups * (2.0 + act_bytes)
        out.launch = out.launch + machine.launch_s * c["quantise_launch"]
        out.memory = out.memory + extra / (machine.bandwidth * c["quantise_bandwidth"])
        out.vector = out.vector + m * groups * c["quantise_flop"] / machine.vector_rate
    if c["host_s"] < _NO_HOST_S:
        return out
    return out.behind(c["host_s"] / machine.speed["launch"], OVERLAP)


def _rates(machine: Machine, c: Mapping[str, float], weight_bytes: float, act_bytes: float,
           precision: str) -> Rates:  # fmt: skip
    """Return what the times of tiles depend on besides the shape."""
    return Rates(
        float(machine.units), machine.peak(precision) * c["compute_efficiency"] / machine.units,
        c["tile_overhead"], machine.bandwidth * c["memory_efficiency"],
        machine.bytes_per_s(c["unit_bytes"]), weight_bytes, act_bytes,
        machine.peak("bf16") * c["feed_bytes_per_flop"], machine.l2_bandwidth * c["cache_efficiency"],
        machine.cycles_s(c["step_cycles"]), machine.cycles_s(c["split_cycles"]),
    )  # fmt: skip


def _fastest(xp: Any, tiles: tuple[tuple[int, int], ...], shape: tuple[Any, ...], rates: Rates,
             ) -> tuple[Any, Any, Any]:  # fmt: skip
    """Return (tile_m, tile_n, split) with the least time."""
    table, rows = _grid(tiles)
    if xp is SCALAR:
        index: int = choose_one(*shape, table, rates)
        return rows[index]
    wide = np.stack(np.broadcast_arrays(*shape), axis=1)
    best = table[choose(wide, table, rates)]
    return best[:, 0], best[:, 1], best[:, 2]


@lru_cache(maxsize=64)
def _grid(tiles: tuple[tuple[int, int], ...]) -> tuple[Any, list[tuple[float, float, float]]]:
    """Return every tile with every split, as an array and as rows."""
    every = np.array([(m, n, split) for m, n in tiles for split in SPLITS], dtype=np.float64)
    return every, [(m, n, split) for m, n, split in every.tolist()]


def residency(xp: Any, machine: Machine, working_set: Any, power: float) -> Any:
    """Return the share (0..1) of a working set of bytes that is found in the cache.

    Nothing is, unless the model describes a benchmark that runs one operator over and over (`warm`).
    """
    if not machine.l2_bytes or not machine.warm:
        return working_set * 0.0
    return 1.0 / (1.0 + (working_set / machine.l2_bytes) ** power)
