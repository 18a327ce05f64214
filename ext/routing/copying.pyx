"""Compiled twin of the copying draws (see `copying_reference` for the laws)."""

from libc.stdint cimport int16_t, int32_t, int64_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy

cdef uint64_t GOLDEN = 0x9E3779B97F4A7C15ULL
cdef uint64_t REQUEST = 0xD1B54A32D192ED03ULL
cdef int64_t SEGMENT_TOKENS = 1024
DEF TRIES = 64
DEF FRESH = 64
DEF SLOTS = 256
SEGMENT = 1024


cdef inline uint64_t mix(uint64_t x) noexcept nogil:
    x = (x ^ (x >> 30)) * <uint64_t>0xBF58476D1CE4E5B9ULL
    x = (x ^ (x >> 27)) * <uint64_t>0x94D049BB133111EBULL
    return x ^ (x >> 31)


cdef inline int32_t alias_pick(uint64_t bits, uint64_t columns, const uint32_t* thresholds,
                               const int32_t* aliases) noexcept nogil:
    cdef int32_t column = <int32_t>(((bits >> 32) * columns) >> 32)
    cdef int32_t other = -<int32_t>(<uint32_t>bits >= thresholds[column])
    return column ^ ((column ^ aliases[column]) & other)


cdef struct Token:
    # what one token knows in one layer
    uint64_t counter
    uint32_t stamp
    uint32_t group_stamp
    uint32_t* taken
    uint32_t* met
    double* left
    int32_t n_chosen
    int32_t chosen[64]
    double edges[64]


cdef struct Layer:
    const uint32_t* thresholds
    const int32_t* aliases
    const double* weights
    const uint32_t* group_thresholds
    const int32_t* group_aliases
    const double* group_weights
    const int16_t* route
    Py_ssize_t n
    Py_ssize_t size
    Py_ssize_t groups
    int32_t topk_group


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


cdef inline uint64_t next_bits(Token* t) noexcept nogil:
    cdef uint64_t bits = mix(t.counter)
    t.counter += GOLDEN
    return bits


cdef inline void meet(Token* t, int32_t group) noexcept nogil:
    if t.met[group] != t.group_stamp:
        t.met[group] = t.group_stamp
        t.chosen[t.n_chosen] = group
        t.n_chosen += 1


cdef void fill_groups(Token* t, const Layer* layer) noexcept nogil:
    cdef int32_t pick
    cdef Py_ssize_t tries, j
    cdef double running = 0.0
    while t.n_chosen < layer.topk_group:
        pick = -1
        for tries in range(TRIES):
            pick = alias_pick(next_bits(t), layer.groups, layer.group_thresholds, layer.group_aliases)
            if t.met[pick] != t.group_stamp:
                break
            pick = -1
        if pick < 0:
            pick = scan(next_bits(t), layer.group_weights, t.met, t.group_stamp, layer.groups)
        meet(t, pick)
    for j in range(t.n_chosen):
        running += layer.group_weights[t.chosen[j]]
        t.edges[j] = running


cdef inline int32_t group_pick(uint64_t bits, const Token* t, const Layer* layer) noexcept nogil:
    cdef double target = <double>(bits >> 40) * 5.9604644775390625e-08 * t.edges[t.n_chosen - 1]
    cdef Py_ssize_t g = 0, j
    for j in range(t.n_chosen - 1):
        g += target >= t.edges[j]
    cdef int32_t first = t.chosen[g] * <int32_t>layer.size
    cdef int32_t column = first + <int32_t>((((bits >> 20) & 0xFFFFF) * <uint64_t>layer.size) >> 20)
    cdef int32_t other = -<int32_t>((<uint32_t>(bits & 0xFFFFF) << 12) >= layer.thresholds[column])
    return column ^ ((column ^ layer.aliases[column]) & other)


cdef int32_t new_expert(Token* t, const Layer* layer) noexcept nogil:
    cdef int32_t pick
    cdef Py_ssize_t tries, e
    for tries in range(TRIES):
        if layer.groups == 1:
            pick = alias_pick(next_bits(t), layer.n, layer.thresholds, layer.aliases)
        else:
            pick = group_pick(next_bits(t), t, layer)
        if t.taken[pick] != t.stamp:
            return pick
    for e in range(layer.n):
        t.left[e] = layer.weights[e] if t.met[e // layer.size] == t.group_stamp else 0.0
    return scan(next_bits(t), t.left, t.taken, t.stamp, layer.n)


cdef void step(Token* t, uint64_t key, const Layer* layer, int32_t keep, int32_t follow, const int16_t* above,
               int16_t* now, Py_ssize_t k) noexcept nogil:
    cdef uint64_t bits = 0
    cdef int32_t decided, pick, group
    cdef Py_ssize_t j, n_open = 0
    cdef int16_t open_slots[SLOTS]
    cdef bint grouped = layer.groups > 1
    t.stamp += 1
    t.group_stamp = t.stamp
    t.n_chosen = 0
    for j in range(k):
        if j & 3 == 0:
            bits = mix(key + GOLDEN * <uint64_t>(j >> 2))
        decided = <int32_t>(bits & 0xFFFF)
        bits >>= 16
        if decided < keep:
            t.taken[now[j]] = t.stamp
            if grouped:
                meet(t, now[j] // <int32_t>layer.size)
        else:
            # open or following: both are written, one is kept
            open_slots[n_open] = <int16_t>(j if decided >= follow else j + SLOTS)
            n_open += 1
    cdef Py_ssize_t i, left = 0
    for i in range(n_open):
        j = open_slots[i]
        if j >= SLOTS:
            j -= SLOTS
            pick = layer.route[above[j]]
            group = pick // <int32_t>layer.size if grouped else 0
            if t.taken[pick] != t.stamp and (
                    not grouped or t.met[group] == t.group_stamp or t.n_chosen < layer.topk_group):
                t.taken[pick] = t.stamp
                if grouped:
                    meet(t, group)
                now[j] = <int16_t>pick
                continue
        open_slots[left] = <int16_t>j
        left += 1
    if left == 0:
        return
    t.counter = key + GOLDEN * <uint64_t>FRESH
    if grouped:
        fill_groups(t, layer)
    else:
        t.met[0] = t.group_stamp
    for i in range(left):
        pick = new_expert(t, layer)
        t.taken[pick] = t.stamp
        now[open_slots[i]] = <int16_t>pick


def draw(const int64_t[::1] requests, const int64_t[::1] starts, const int64_t[::1] lengths,
         const int64_t[::1] slots, uint64_t key, const int32_t[:, :, ::1] edges, const int16_t[:, ::1] maps,
         const uint32_t[:, ::1] thresholds, const int32_t[:, ::1] aliases, const double[:, ::1] weights,
         const uint32_t[:, ::1] group_thresholds, const int32_t[:, ::1] group_aliases,
         const double[:, ::1] group_weights, int32_t topk_group, int16_t[:, :, ::1] previous,
         int64_t[::1] positions, int16_t[:, :, ::1] out):
    """Draw the experts of some spans and leave each request's last token in `previous`."""
    cdef Py_ssize_t n_layers = weights.shape[0], n = weights.shape[1], k = out.shape[2]
    cdef Py_ssize_t groups = group_weights.shape[1], s, l, row = 0
    cdef int64_t position, first, last, begin, slot
    cdef uint64_t span, token
    cdef int kind
    cdef int16_t* now
    cdef Token t
    cdef Layer layer
    if out.shape[1] != n_layers or previous.shape[1] != n_layers or previous.shape[2] != k or k > SLOTS:
        raise ValueError("out or previous has the wrong shape")
    if edges.shape[0] != 2 or edges.shape[1] != n_layers or edges.shape[2] != 2 or maps.shape[0] != n_layers:
        raise ValueError("edges or maps have the wrong shape")
    if not 1 <= topk_group <= groups <= 64 or n % groups or k > n // groups * topk_group:
        raise ValueError("impossible groups or top-k")
    for s in range(requests.shape[0]):
        if lengths[s] < 0 or starts[s] < 0 or not 0 <= slots[s] < previous.shape[0]:
            raise ValueError(f"span {s}: start, length or slot out of range")
        row += lengths[s]
    if row != out.shape[0]:
        raise ValueError(f"the spans hold {row} tokens, out has {out.shape[0]} rows")
    if row == 0 or n_layers == 0:
        return
    t.taken = <uint32_t*>calloc(n, sizeof(uint32_t))
    t.met = <uint32_t*>calloc(groups, sizeof(uint32_t))
    t.left = <double*>calloc(n, sizeof(double))
    t.stamp = 0
    if t.taken == NULL or t.met == NULL or t.left == NULL:
        free(t.taken)
        free(t.met)
        free(t.left)
        raise MemoryError
    layer.n, layer.size, layer.groups, layer.topk_group = n, n // groups, groups, topk_group
    row = 0
    with nogil:
        for s in range(requests.shape[0]):
            span = mix(key + REQUEST * <uint64_t>(requests[s] + 1))
            slot, first, last = slots[s], starts[s], starts[s] + lengths[s]
            if first == last:
                continue
            begin = first - first % SEGMENT_TOKENS
            if begin < positions[slot] <= first:
                begin = positions[slot]
            now = &previous[slot, 0, 0]
            for position in range(begin, last):
                token = mix(span + GOLDEN * <uint64_t>(position + 1)) + GOLDEN
                kind = position % SEGMENT_TOKENS > 0
                for l in range(n_layers):
                    layer.thresholds, layer.aliases = &thresholds[l, 0], &aliases[l, 0]
                    layer.weights, layer.route = &weights[l, 0], &maps[l, 0]
                    layer.group_thresholds, layer.group_aliases = &group_thresholds[l, 0], &group_aliases[l, 0]
                    layer.group_weights = &group_weights[l, 0]
                    step(&t, token + GOLDEN * <uint64_t>(l * 4096), &layer, edges[kind, l, 0], edges[kind, l, 1],
                         now + (l - 1 if l else 0) * k, now + l * k, k)
                if position >= first:
                    memcpy(&out[row + position - first, 0, 0], now, n_layers * k * sizeof(int16_t))
            positions[slot] = last
            row += last - first
    free(t.taken)
    free(t.met)
    free(t.left)
