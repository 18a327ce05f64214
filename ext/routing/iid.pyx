"""Compiled twins of the independent draws and of the counts (see `reference` for the laws)."""

import numpy as np

from libc.stdint cimport int16_t, int32_t, int64_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free

cdef uint64_t GOLDEN = 0x9E3779B97F4A7C15ULL
cdef uint64_t REQUEST = 0xD1B54A32D192ED03ULL
DEF TRIES = 64


cdef inline uint64_t mix(uint64_t x) noexcept nogil:
    x = (x ^ (x >> 30)) * <uint64_t>0xBF58476D1CE4E5B9ULL
    x = (x ^ (x >> 27)) * <uint64_t>0x94D049BB133111EBULL
    return x ^ (x >> 31)


cdef inline int32_t alias_pick(uint64_t bits, uint64_t columns, const uint32_t* thresholds,
                               const int32_t* aliases) noexcept nogil:
    # no branch: which side is taken is random, and a mispredicted jump costs more than both
    cdef int32_t column = <int32_t>(((bits >> 32) * columns) >> 32)
    cdef int32_t other = -<int32_t>(<uint32_t>bits >= thresholds[column])
    return column ^ ((column ^ aliases[column]) & other)


cdef inline int32_t group_pick(uint64_t bits, const double* edges, const int32_t* chosen, Py_ssize_t n_chosen,
                               Py_ssize_t size, const uint32_t* thresholds,
                               const int32_t* aliases) noexcept nogil:
    # high 24 bits: which of the chosen groups; 20 bits: the column inside; 20 bits: it or its alias
    cdef double target = <double>(bits >> 40) * 5.9604644775390625e-08 * edges[n_chosen - 1]
    cdef Py_ssize_t g = 0, j
    for j in range(n_chosen - 1):
        g += target >= edges[j]
    cdef int32_t first = chosen[g] * <int32_t>size
    cdef int32_t column = first + <int32_t>((((bits >> 20) & 0xFFFFF) * <uint64_t>size) >> 20)
    cdef int32_t other = -<int32_t>((<uint32_t>(bits & 0xFFFFF) << 12) >= thresholds[column])
    return column ^ ((column ^ aliases[column]) & other)


cdef int check_spans(const int64_t[::1] requests, const int64_t[::1] starts, const int64_t[::1] lengths,
                     Py_ssize_t rows) except -1:
    cdef Py_ssize_t s, total = 0
    if starts.shape[0] != requests.shape[0] or lengths.shape[0] != requests.shape[0]:
        raise ValueError("requests, starts and lengths differ in length")
    for s in range(requests.shape[0]):
        if lengths[s] < 0 or starts[s] < 0:
            raise ValueError(f"span {s}: start {starts[s]} and length {lengths[s]} must not be negative")
        total += lengths[s]
    if total != rows:
        raise ValueError(f"the spans hold {total} tokens, out has {rows} rows")
    return 0


def draw_joint(const int64_t[::1] requests, const int64_t[::1] starts, const int64_t[::1] lengths,
               uint64_t key, const uint32_t[:, ::1] thresholds, const int32_t[:, ::1] aliases,
               const int16_t[:, ::1] tuples, int16_t[:, :, ::1] out):
    """Draw all k slots of a token and layer at once from an alias table over ordered tuples."""
    cdef Py_ssize_t n_layers = out.shape[1], k = out.shape[2], columns = tuples.shape[0]
    cdef Py_ssize_t s, layer, j
    cdef int64_t position
    cdef uint64_t span, counter
    cdef int32_t pick
    cdef int16_t* write
    check_spans(requests, starts, lengths, out.shape[0])
    if out.shape[0] == 0 or n_layers == 0:
        return
    write = &out[0, 0, 0]
    with nogil:
        for s in range(requests.shape[0]):
            span = mix(key + REQUEST * <uint64_t>(requests[s] + 1))
            for position in range(starts[s], starts[s] + lengths[s]):
                counter = mix(span + GOLDEN * <uint64_t>(position + 1)) + GOLDEN
                if k == 2:
                    for layer in range(n_layers):
                        pick = alias_pick(mix(counter), columns, &thresholds[layer, 0], &aliases[layer, 0])
                        write[0] = tuples[pick, 0]
                        write[1] = tuples[pick, 1]
                        write += 2
                        counter += GOLDEN * 4096
                else:
                    for layer in range(n_layers):
                        pick = alias_pick(mix(counter), columns, &thresholds[layer, 0], &aliases[layer, 0])
                        for j in range(k):
                            write[j] = tuples[pick, j]
                        write += k
                        counter += GOLDEN * 4096


cdef int32_t scan(uint64_t bits, const double* weights, const uint32_t* taken, uint32_t stamp,
                  Py_ssize_t n) noexcept nogil:
    cdef double total = 0.0, running = 0.0, target
    cdef int32_t last = -1
    cdef Py_ssize_t e
    for e in range(n):
        if taken[e] != stamp:
            total += weights[e]
    target = <double>(bits >> 11) * 1.1102230246251565e-16 * total
    for e in range(n):
        if taken[e] != stamp and weights[e] > 0.0:
            last = <int32_t>e
            running += weights[e]
            if running > target:
                break
    return last


def draw_sequential(const int64_t[::1] requests, const int64_t[::1] starts, const int64_t[::1] lengths,
                    uint64_t key, const uint32_t[:, ::1] thresholds, const int32_t[:, ::1] aliases,
                    const double[:, ::1] weights, int16_t[:, :, ::1] out):
    """Draw k different experts in turn by alias table and rejection."""
    cdef Py_ssize_t n_layers = weights.shape[0], n_experts = weights.shape[1], k = out.shape[2]
    cdef Py_ssize_t s, layer, j, tries
    cdef int64_t position
    cdef uint64_t span, token, counter
    cdef uint32_t stamp = 0
    cdef int32_t pick
    cdef int16_t* write
    check_spans(requests, starts, lengths, out.shape[0])
    if out.shape[0] == 0 or n_layers == 0:
        return
    cdef uint32_t* taken = <uint32_t*>calloc(n_experts, sizeof(uint32_t))
    if taken == NULL:
        raise MemoryError
    write = &out[0, 0, 0]
    with nogil:
        for s in range(requests.shape[0]):
            span = mix(key + REQUEST * <uint64_t>(requests[s] + 1))
            for position in range(starts[s], starts[s] + lengths[s]):
                token = mix(span + GOLDEN * <uint64_t>(position + 1)) + GOLDEN
                for layer in range(n_layers):
                    counter = token + GOLDEN * <uint64_t>(layer * 4096)
                    stamp += 1
                    for j in range(k):
                        pick = -1
                        for tries in range(TRIES):
                            pick = alias_pick(mix(counter), n_experts, &thresholds[layer, 0],
                                              &aliases[layer, 0])
                            counter += GOLDEN
                            if taken[pick] != stamp:
                                break
                            pick = -1
                        if pick < 0:
                            pick = scan(mix(counter), &weights[layer, 0], taken, stamp, n_experts)
                            counter += GOLDEN
                        taken[pick] = stamp
                        write[j] = <int16_t>pick
                    write += k
    free(taken)


cdef struct Groups:
    int32_t chosen[64]
    double edges[64]


cdef uint64_t choose_groups(uint64_t counter, const uint32_t* thresholds, const int32_t* aliases,
                            const double* weights, Py_ssize_t n_groups, Py_ssize_t topk_group,
                            Groups* groups) noexcept nogil:
    cdef Py_ssize_t j, tries
    cdef int32_t pick
    cdef double running = 0.0
    cdef uint32_t taken[64]
    for j in range(n_groups):
        taken[j] = 0
    for j in range(topk_group):
        pick = -1
        for tries in range(TRIES):
            pick = alias_pick(mix(counter), n_groups, thresholds, aliases)
            counter += GOLDEN
            if taken[pick] == 0:
                break
            pick = -1
        if pick < 0:
            pick = scan(mix(counter), weights, taken, 1, n_groups)
            counter += GOLDEN
        taken[pick] = 1
        running += weights[pick]
        groups.chosen[j] = pick
        groups.edges[j] = running
    return counter


def draw_grouped(const int64_t[::1] requests, const int64_t[::1] starts, const int64_t[::1] lengths,
                 uint64_t key, const uint32_t[:, ::1] thresholds, const int32_t[:, ::1] aliases,
                 const double[:, ::1] weights, const uint32_t[:, ::1] group_thresholds,
                 const int32_t[:, ::1] group_aliases, const double[:, ::1] group_weights,
                 Py_ssize_t topk_group, int16_t[:, :, ::1] out):
    """Draw `topk_group` groups, then k different experts of theirs, in turn and without replacement."""
    cdef Py_ssize_t n_layers = weights.shape[0], n_experts = weights.shape[1], k = out.shape[2]
    cdef Py_ssize_t n_groups = group_weights.shape[1], size = n_experts // n_groups
    cdef Py_ssize_t s, layer, i, j, tries
    cdef int64_t position
    cdef uint64_t span, token, counter
    cdef uint32_t stamp = 0
    cdef int32_t pick, e
    cdef Groups groups
    cdef int16_t* write
    check_spans(requests, starts, lengths, out.shape[0])
    if not 1 <= topk_group <= n_groups <= 64 or n_experts % n_groups:
        raise ValueError(f"{topk_group} of {n_groups} groups of {n_experts} experts")
    if out.shape[0] == 0 or n_layers == 0:
        return
    cdef uint32_t* taken = <uint32_t*>calloc(n_experts, sizeof(uint32_t))
    cdef double* left = <double*>calloc(n_experts, sizeof(double))
    if taken == NULL or left == NULL:
        free(taken)
        free(left)
        raise MemoryError
    write = &out[0, 0, 0]
    with nogil:
        for s in range(requests.shape[0]):
            span = mix(key + REQUEST * <uint64_t>(requests[s] + 1))
            for position in range(starts[s], starts[s] + lengths[s]):
                token = mix(span + GOLDEN * <uint64_t>(position + 1)) + GOLDEN
                for layer in range(n_layers):
                    counter = choose_groups(token + GOLDEN * <uint64_t>(layer * 4096), &group_thresholds[layer, 0],
                                            &group_aliases[layer, 0], &group_weights[layer, 0], n_groups,
                                            topk_group, &groups)
                    stamp += 1
                    for j in range(k):
                        pick = -1
                        for tries in range(TRIES):
                            pick = group_pick(mix(counter), groups.edges, groups.chosen, topk_group, size,
                                              &thresholds[layer, 0], &aliases[layer, 0])
                            counter += GOLDEN
                            if taken[pick] != stamp:
                                break
                            pick = -1
                        if pick < 0:
                            for i in range(n_experts):
                                left[i] = 0.0
                            for i in range(topk_group):
                                for e in range(groups.chosen[i] * <int32_t>size,
                                               (groups.chosen[i] + 1) * <int32_t>size):
                                    left[e] = weights[layer, e]
                            pick = scan(mix(counter), left, taken, stamp, n_experts)
                            counter += GOLDEN
                        taken[pick] = stamp
                        write[j] = <int16_t>pick
                    write += k
    free(taken)
    free(left)


def counts(const int16_t[:, :, ::1] ids, Py_ssize_t n_experts, out=None):
    """Count the tokens that each expert of each layer receives: int32, shape (L, E)."""
    result = np.zeros((ids.shape[1], n_experts), np.int32) if out is None else out
    cdef int32_t[:, ::1] table = result
    cdef Py_ssize_t t, layer, j, n_layers = ids.shape[1], k = ids.shape[2]
    cdef const int16_t* read
    cdef int32_t* row
    cdef int16_t e, bad = -1
    if table.shape[0] != n_layers or table.shape[1] != n_experts:
        raise ValueError(f"out has shape {result.shape}, expected {(n_layers, n_experts)}")
    if out is not None:
        table[:, :] = 0
    if ids.shape[0] == 0 or n_layers == 0 or k == 0:
        return result
    read = &ids[0, 0, 0]
    with nogil:
        for t in range(ids.shape[0]):
            row = &table[0, 0]
            for layer in range(n_layers):
                for j in range(k):
                    e = read[j]
                    if <uint16_t>e < n_experts:
                        row[e] += 1
                    elif e != -1:
                        bad = e
                read += k
                row += n_experts
    if bad != -1:
        raise ValueError(f"expert {bad} is not one of {n_experts}")
    return result
