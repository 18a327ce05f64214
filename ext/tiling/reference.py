"""Times of tiles and splits, and the fastest of them: the definition of what the compiled twin computes."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
DEPTH = 64.0  # k advances in steps of this many values
ALONE = 2.0  # multiples of its share of the feeding rate that one processor can take


class Rates(NamedTuple):
    """What a product's time depends on besides its shape; seconds, bytes, FLOP."""

    units: float  # processors that take one tile at a time
    unit_rate: float  # FLOP/s of one
    tile_overhead: float  # rows and columns by which a tile's work grows
    memory_rate: float  # bytes/s of main memory, achieved by enough processors
    unit_memory: float  # bytes/s that the requests which one processor keeps in flight can draw from it
    weight_bytes: float  # of a value of w[k, n]
    act_bytes: float  # of a value of x[m, k]
    feed_rate: float  # bytes/s at which all processors together take operands into tiles
    cache_rate: float  # bytes/s of the cache, for partial sums
    step_s: float  # from a tile's request for the operands of one step in k to the end of the step
    join_s: float  # of a split product


def tile_times(xp: Any, shape: tuple[Any, Any, Any, Any, Any], tile: tuple[Any, Any, Any], rates: Rates,
               ) -> tuple[Any, Any, Any, Any, Any, Any]:  # fmt: skip
    """Return seconds of (compute, feeding it, memory, steps in k, reduction through the cache, joining).

    Parameters
    ----------
    xp                        a namespace with ceil, maximum, minimum
    shape                     (m, n, k, groups, bytes that come from main memory), floats or arrays
    tile                      (tile_m, tile_n, split), floats or arrays

    Notes
    -----
    A processor alone takes operands twice as fast as when all do.  Memory answers a processor at the rate
    of its requests in flight, so what few processors ask for takes longer.
    The order of the operations is part of the definition: the compiled twin gives the same bits.
    """
    m, n, k, groups, from_memory = shape
    tile_m, tile_n, split = tile
    blocks = xp.ceil(m / tile_m) * xp.ceil(n / tile_n) * groups
    whole = blocks * split / rates.units
    steps = xp.ceil(k / split / DEPTH)
    depth = steps * DEPTH
    overhead = 1.0 + rates.tile_overhead * (1.0 / tile_m + 1.0 / tile_n) * 0.5
    compute_s = xp.ceil(whole) * depth * (2.0 * tile_m * tile_n / rates.unit_rate) * overhead
    active = xp.minimum(1.0, whole) * rates.units
    memory_s = from_memory * (1.0 / rates.memory_rate + 1.0 / (active * rates.unit_memory))
    result = m * n * groups * 4.0
    fetched = xp.maximum(1.0, whole) * depth * (tile_m * rates.act_bytes + tile_n * rates.weight_bytes)
    alone = xp.maximum(1.0, xp.minimum(ALONE, 1.0 / whole))
    feed_s = (fetched * rates.units / alone + result * 0.5) / rates.feed_rate
    is_split = split > 1.0
    reduce_s = is_split * split * result / rates.cache_rate
    return compute_s, feed_s, memory_s, steps * rates.step_s, reduce_s, is_split * rates.join_s


class _Arrays:
    ceil, maximum, minimum = np.ceil, np.maximum, np.minimum


class _Floats:
    ceil, maximum, minimum = math.ceil, max, min


def _total(xp: Any, shape: Any, tile: Any, rates: Rates) -> Any:
    compute_s, feed_s, memory_s, steps_s, reduce_s, join_s = tile_times(xp, shape, tile, rates)
    return np.maximum(np.maximum(np.maximum(compute_s, feed_s), memory_s), steps_s) + reduce_s + join_s


def choose(shapes: FloatArray, tiles: FloatArray, rates: Rates) -> npt.NDArray[np.int64]:
    """Return for each shape the row of `tiles` with the least time; the first of equals.

    Parameters
    ----------
    shapes : float array, shape (N, 5)   m, n, k, groups, bytes that come from main memory
    tiles : float array, shape (T, 3)    tile_m, tile_n, split
    """
    columns = tuple(np.ascontiguousarray(column) for column in shapes.T)
    least = np.full(len(shapes), np.inf)
    best = np.zeros(len(shapes), dtype=np.int64)
    for i, tile in enumerate(tiles.tolist()):
        total = _total(_Arrays, columns, tile, rates)
        better = total < least
        least, best = np.where(better, total, least), np.where(better, i, best)
    return best


def choose_one(m: float, n: float, k: float, groups: float, from_memory: float, tiles: FloatArray,
               rates: Rates) -> int:  # fmt: skip
    """Return the row of `tiles` with the least time for one shape; as `choose`."""
    shape = (m, n, k, groups, from_memory)
    return int(np.argmin(_total(_Arrays, shape, (tiles[:, 0], tiles[:, 1], tiles[:, 2]), rates)))
