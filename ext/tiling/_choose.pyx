"""The compiled twin of `ext.tiling.reference`."""
import numpy as np
from libc.math cimport INFINITY, ceil

cdef double DEPTH = 64.0
cdef double ALONE = 2.0


cdef struct Rates:
    double units, unit_rate, tile_overhead, memory_rate, unit_memory
    double weight_bytes, act_bytes, feed_rate, cache_rate, step_s, join_s


cdef Rates unpack(given):
    cdef Rates r
    (r.units, r.unit_rate, r.tile_overhead, r.memory_rate, r.unit_memory, r.weight_bytes, r.act_bytes,
     r.feed_rate, r.cache_rate, r.step_s, r.join_s) = given
    return r


cdef inline double smaller(double a, double b) noexcept nogil:
    return a if a < b else b


cdef inline double larger(double a, double b) noexcept nogil:
    return a if a > b else b


cdef Py_ssize_t fastest(double m, double n, double k, double groups, double from_memory,
                        const double[:, ::1] tiles, const Rates *r) noexcept nogil:
    cdef double least = INFINITY, result = m * n * groups * 4.0
    cdef double tile_m, tile_n, split, blocks, whole, steps, depth, overhead, active, fetched, alone, total, other
    cdef Py_ssize_t i, best = 0
    for i in range(tiles.shape[0]):
        tile_m, tile_n, split = tiles[i, 0], tiles[i, 1], tiles[i, 2]
        blocks = ceil(m / tile_m) * ceil(n / tile_n) * groups
        whole = blocks * split / r.units
        steps = ceil(k / split / DEPTH)
        depth = steps * DEPTH
        overhead = 1.0 + r.tile_overhead * (1.0 / tile_m + 1.0 / tile_n) * 0.5
        total = ceil(whole) * depth * (2.0 * tile_m * tile_n / r.unit_rate) * overhead
        fetched = larger(1.0, whole) * depth * (tile_m * r.act_bytes + tile_n * r.weight_bytes)
        alone = larger(1.0, smaller(ALONE, 1.0 / whole))
        total = larger(total, (fetched * r.units / alone + result * 0.5) / r.feed_rate)
        active = smaller(1.0, whole) * r.units
        other = from_memory * (1.0 / r.memory_rate + 1.0 / (active * r.unit_memory))
        total = larger(larger(total, other), steps * r.step_s)
        if split > 1.0:
            other = split * result / r.cache_rate
            total = total + other + r.join_s
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
