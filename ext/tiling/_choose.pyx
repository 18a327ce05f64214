"""The compiled twin of `ext.tiling.reference`."""
import numpy as np
from libc.math cimport INFINITY, ceil

cdef double DEPTH = 64.0


cdef struct Rates:
    double units, unit_rate, tile_overhead, wave_share, bandwidth, memory_efficiency, unit_memory
    double weight_bytes, act_bytes, feed_rate, unit_feed, feed_waves, cache_rate, reduction_traffic, join_s


cdef Rates unpack(given):
    cdef Rates r
    (r.units, r.unit_rate, r.tile_overhead, r.wave_share, r.bandwidth, r.memory_efficiency, r.unit_memory,
     r.weight_bytes, r.act_bytes, r.feed_rate, r.unit_feed, r.feed_waves, r.cache_rate, r.reduction_traffic,
     r.join_s) = given
    return r


cdef inline double smaller(double a, double b) noexcept nogil:
    return a if a < b else b


cdef inline double larger(double a, double b) noexcept nogil:
    return a if a > b else b


cdef Py_ssize_t fastest(double m, double n, double k, double groups, double from_memory,
                        const double[:, ::1] tiles, const Rates *r) noexcept nogil:
    cdef double least = INFINITY
    cdef double tile_m, tile_n, split, blocks, whole, full, waves, depth, overhead, share, total, fetched, alone, rounds
    cdef double memory_s, feed_s, reduce_s = 0.0, result = m * n * groups * 4.0
    cdef Py_ssize_t i, best = 0
    for i in range(tiles.shape[0]):
        tile_m, tile_n, split = tiles[i, 0], tiles[i, 1], tiles[i, 2]
        blocks = ceil(m / tile_m) * ceil(n / tile_n) * groups
        whole = blocks * split / r.units
        full = ceil(whole)
        waves = full
        if whole > 1.0:
            waves = full - r.wave_share * (full - whole)
        depth = ceil(k / split / DEPTH) * DEPTH
        overhead = 1.0 + r.tile_overhead * (1.0 / tile_m + 1.0 / tile_n) * 0.5
        total = waves * depth * (2.0 * tile_m * tile_n / r.unit_rate) * overhead
        share = smaller(1.0, whole)
        rounds = larger(1.0, whole + r.feed_waves * (waves - whole))
        fetched = rounds * depth * (tile_m * r.act_bytes + tile_n * r.weight_bytes) * r.units
        alone = larger(1.0, smaller(r.unit_feed, 1.0 / whole))
        feed_s = (fetched / alone + result * 0.5) / r.feed_rate
        memory_s = from_memory / (r.bandwidth * smaller(r.memory_efficiency, share * r.unit_memory))
        if feed_s > total:
            total = feed_s
        if memory_s > total:
            total = memory_s
        if split > 1.0:
            reduce_s = split * result * r.reduction_traffic / r.cache_rate
            total = total + reduce_s + r.join_s
        if total < least:
            least = total
            best = i
    return best


def choose(shapes, tiles, rates):
    """Return for each shape the row of `tiles` with the least time; as `ext.tiling.reference.choose`."""
    cdef const double[:, ::1] given = np.ascontiguousarray(shapes, dtype=np.float64)
    cdef const double[:, ::1] table = np.ascontiguousarray(tiles, dtype=np.float64)
    cdef Rates r = unpack(rates)
    cdef Py_ssize_t i, count = given.shape[0]
    out = np.empty(count, dtype=np.int64)
    cdef long long[::1] best = out
    if given.shape[1] != 5 or table.shape[1] != 3:
        raise ValueError("a shape has five numbers, a tile three")
    with nogil:
        for i in range(count):
            best[i] = fastest(given[i, 0], given[i, 1], given[i, 2], given[i, 3], given[i, 4], table, &r)
    return out


def choose_one(double m, double n, double k, double groups, double from_memory, const double[:, ::1] tiles,
               rates):
    """Return the row of `tiles` with the least time for one shape; as `choose`."""
    cdef Rates r = unpack(rates)
    if tiles.shape[1] != 3:
        raise ValueError("a tile has three numbers")
    return fastest(m, n, k, groups, from_memory, tiles, &r)
