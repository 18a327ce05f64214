"""Dense matrix multiplication y[m,n] = x[m,k] w[k,n] on a device of tiles, waves and two memories."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np

from .cost import Terms
from .machine import Machine, value_bytes
from .namespace import SCALAR, VECTOR, blend

SPLITS = (1, 2, 3, 4, 6, 8, 16)


def gemm(xp: Any, machine: Machine, m: Any, n: Any, k: Any, weights: str, activations: str,
         section: str = "gemm", quantise: bool = False, groups: Any = 1.0) -> Terms:  # fmt: skip
    """Cost one GEMM; `quantise` adds the kernel that turns bf16 activations into `activations`.

    With `groups`, as many independent products of that shape in one kernel (one for each head).
    Four times overlap: the tensor cores on waves of tiles; their operands, which each tile fetches anew
    (units are built to feed their tensor cores, so this rate is a share of the peak); main memory and
    the on-chip cache, each operand once.  The tile and the number of parts that k is split into are
    those with the least time.
    """
    c = machine.section(section)
    weight_bytes, act_bytes = value_bytes(weights), value_bytes(activations)
    moved = (k * n * weight_bytes + m * k * act_bytes + m * n * 2.0) * groups
    working_set = (k * n * weight_bytes * c["copies"] + m * k * act_bytes + m * n * 2.0) * groups
    from_memory = moved * (1.0 - residency(xp, machine, working_set, c["residency_power"]))
    shape = _Shape(xp, machine, c, (m, n, k, groups), (weight_bytes, act_bytes), activations, from_memory)
    compute_s, feed_s, memory_s, reduce_s, join_s = shape.times(*_best(shape))
    cache_s = moved / shape.cache_rate
    parts = blend(c["overlap_power"], compute_s, feed_s, memory_s, cache_s)
    out = Terms(compute=parts[0] + parts[1], memory=parts[2], cache=parts[3] + reduce_s)
    out.vector = m * n * groups * c["epilogue_flop"] / machine.vector_rate  # scaling, converting, storing
    out.launch = machine.launch_s * c["launch_factor"] + join_s + c["host_s"] / machine.speed["launch"]
    out.flop, out.bytes_main = 2.0 * m * n * k * groups, moved
    if quantise:
        extra = m * k * (2.0 + act_bytes)
        out.launch = out.launch + machine.launch_s * c["quantise_launch"]
        out.memory = out.memory + extra / (machine.bandwidth * c["quantise_bandwidth"])
    return out


class _Shape:
    """One shape (or arrays of them): the times of a tile and a split."""

    def __init__(self, xp: Any, machine: Machine, c: Mapping[str, float], shape: tuple[Any, Any, Any, Any],
                 widths: tuple[float, float], precision: str, from_memory: Any) -> None:  # fmt: skip
        self.xp, self.machine, self.c = xp, machine, c
        self.m, self.n, self.k, self.groups = shape
        self.weight_bytes, self.act_bytes = widths
        self.from_memory = from_memory
        self.unit_rate = machine.peak(precision) * c["compute_efficiency"] / machine.units
        self.feed_rate = machine.peak("bf16") * c["feed_bytes_per_flop"]
        self.cache_rate = machine.l2_bandwidth * c["cache_efficiency"]
        self.join_s = machine.cycles_s(c["split_cycles"])

    def times(self, tile_m: Any, tile_n: Any, split: Any) -> tuple[Any, Any, Any, Any, Any]:
        """Return seconds of (compute, feeding it, memory, reduction through the cache, joining of splits)."""
        xp, c, units = self.xp, self.c, self.machine.units
        blocks = xp.ceil(self.m / tile_m) * xp.ceil(self.n / tile_n) * self.groups
        ctas = blocks * split
        whole = ctas / units
        full = xp.ceil(whole)
        waves = full - c["wave_share"] * (full - whole) * (whole > 1.0)
        depth = xp.ceil(self.k / split / 64.0) * 64.0
        overhead = 1.0 + c["tile_overhead"] * (1.0 / tile_m + 1.0 / tile_n) * 0.5
        compute_s = waves * depth * (2.0 * tile_m * tile_n / self.unit_rate) * overhead
        share = xp.minimum(1.0, whole)
        reach = xp.minimum(c["memory_efficiency"], share * c["unit_memory"])
        memory_s = self.from_memory / (self.machine.bandwidth * reach)
        traffic = blocks * (tile_m * self.act_bytes + tile_n * self.weight_bytes) * self.k
        result = self.m * self.n * self.groups * 4.0
        feed_s = (traffic + result * 0.5) / (self.feed_rate * xp.minimum(1.0, share * c["unit_feed"]))
        is_split = split > 1
        reduce_s = is_split * split * result * c["reduction_traffic"] / self.cache_rate
        return compute_s, feed_s, memory_s, reduce_s, is_split * self.join_s


def _best(shape: _Shape) -> tuple[Any, Any, Any]:
    """Return (tile_m, tile_n, split) with the least time; of one shape: all candidates at once."""
    xp = shape.xp
    if xp is SCALAR:
        grid = _grid(shape.machine.tiles)
        shape.xp = VECTOR
        compute_s, feed_s, memory_s, reduce_s, join_s = shape.times(*grid)
        shape.xp = SCALAR
        total = np.maximum(np.maximum(compute_s, feed_s), memory_s) + reduce_s + join_s
        chosen = int(total.argmin())
        return float(grid[0][chosen]), float(grid[1][chosen]), float(grid[2][chosen])
    best: Any = None
    choice: tuple[Any, ...] = ()
    for tile_m, tile_n in shape.machine.tiles:
        for split in SPLITS:
            compute_s, feed_s, memory_s, reduce_s, join_s = shape.times(tile_m, tile_n, split)
            total = xp.maximum(xp.maximum(compute_s, feed_s), memory_s) + reduce_s + join_s
            if best is None:
                best, choice = total, (tile_m + 0.0 * total, tile_n + 0.0 * total, split + 0.0 * total)
                continue
            better = total < best
            best = xp.where(better, total, best)
            new = (tile_m, tile_n, split)
            choice = tuple(xp.where(better, a, b) for a, b in zip(new, choice, strict=True))
    return choice[0], choice[1], choice[2]


@lru_cache(maxsize=64)
def _grid(tiles: tuple[tuple[int, int], ...]) -> tuple[Any, Any, Any]:
    """Return every tile with every split, as three columns."""
    every = np.array([(m, n, split) for m, n in tiles for split in SPLITS], dtype=np.float64)
    return every[:, 0], every[:, 1], every[:, 2]


def residency(xp: Any, machine: Machine, working_set: Any, power: float) -> Any:
    """Return the share (0..1) of a working set of bytes that is found in the cache.

    Nothing is, unless the model describes a benchmark that runs one operator over and over (`warm`).
    """
    if not machine.l2_bytes or not machine.warm:
        return working_set * 0.0
    return 1.0 / (1.0 + (working_set / machine.l2_bytes) ** power)
