"""Times of tiles and splits, and the fastest of them: the definition of what the compiled twin computes."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
DEPTH = 64.0  # k advances in steps of this many values


class Rates(NamedTuple):
    """What a product's time depends on besides its shape; seconds, bytes, FLOP."""

    units: float  # processors that take one tile at a time
    unit_rate: float  # FLOP/s of one
    tile_overhead: float  # rows and columns by which a tile's work grows
    wave_share: float  # how much of a last, partial wave is saved
    bandwidth: float  # bytes/s of main memory
    memory_efficiency: float
    unit_memory: float  # multiples of its share of the bandwidth that one processor can draw
    weight_bytes: float  # of a value of w[k, n]
    act_bytes: float  # of a value of x[m, k]
    feed_rate: float  # bytes/s at which all processors together take operands into tiles
    unit_feed: float  # multiples of its share of that which one processor can take
    feed_waves: float  # how much of a partial wave feeding waits for (0: a unit takes the next tile at once)
    cache_rate: float  # bytes/s of the cache, for partial sums
    reduction_traffic: float
    join_s: float  # of a split product


def tile_times(xp: Any, shape: tuple[Any, Any, Any, Any, Any], tile: tuple[Any, Any, Any], rates: Rates,
               ) -> tuple[Any, Any, Any, Any, Any]:  # fmt: skip
    """Return seconds of (compute, feeding it, memory, reduction through the cache, joining of splits).

    Parameters
    ----------
    xp                        a namespace with ceil, maximum, minimum
    shape                     (m, n, k, groups, bytes that come from main memory), floats or arrays
    tile                      (tile_m, tile_n, split), floats or arrays

    Notes
    -----
    The order of the operations is part of the definition: the compiled twin gives the same bits.
    """
    m, n, k, groups, from_memory = shape
    tile_m, tile_n, split = tile
    blocks = xp.ceil(m / tile_m) * xp.ceil(n / tile_n) * groups
    whole = blocks * split / rates.units
    full = xp.ceil(whole)
    waves = full - rates.wave_share * (full - whole) * (whole > 1.0)
    depth = xp.ceil(k / split / DEPTH) * DEPTH
    overhead = 1.0 + rates.tile_overhead * (1.0 / tile_m + 1.0 / tile_n) * 0.5
    compute_s = waves * depth * (2.0 * tile_m * tile_n / rates.unit_rate) * overhead
    share = xp.minimum(1.0, whole)
    drawn = xp.minimum(rates.memory_efficiency, share * rates.unit_memory)
    memory_s = from_memory / (rates.bandwidth * drawn)
    result = m * n * groups * 4.0
    rounds = xp.maximum(1.0, whole + rates.feed_waves * (waves - whole))
    fetched = rounds * depth * (tile_m * rates.act_bytes + tile_n * rates.weight_bytes) * rates.units
    alone = xp.maximum(1.0, xp.minimum(rates.unit_feed, 1.0 / whole))
    feed_s = (fetched / alone + result * 0.5) / rates.feed_rate
    is_split = split > 1.0
    reduce_s = is_split * split * result * rates.reduction_traffic / rates.cache_rate
    return compute_s, feed_s, memory_s, reduce_s, is_split * rates.join_s


class _Arrays:
    ceil, maximum, minimum = np.ceil, np.maximum, np.minimum


class _Floats:
    ceil, maximum, minimum = math.ceil, max, min


def _total(xp: Any, shape: Any, tile: Any, rates: Rates) -> Any:
    compute_s, feed_s, memory_s, reduce_s, join_s = tile_times(xp, shape, tile, rates)
    return np.maximum(np.maximum(compute_s, feed_s), memory_s) + reduce_s + join_s


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
