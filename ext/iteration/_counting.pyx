# cython: language_level=3
"""Counting the routing of a batch: the compiled twin of `ext.iteration.reference.count`."""

from libc.stdint cimport int16_t, uint8_t, uint64_t
import numpy as np

cdef enum:
    MAX_WORDS = 32  # 256 expert groups
    LANE_MAX = 255  # tokens that a byte lane counts before it is emptied

MAX_GROUPS = 8 * MAX_WORDS

cdef uint64_t[256] SPREAD  # bit i of the index -> byte lane i


cdef void fill_spread() noexcept:
    cdef int mask, bit
    for mask in range(256):
        SPREAD[mask] = 0
        for bit in range(8):
            (<uint8_t*>&SPREAD[mask])[bit] = (mask >> bit) & 1


fill_spread()


cdef void empty_lanes(uint64_t* lanes, int* pair, int n_groups) noexcept nogil:
    """Add the byte lanes to one row of `pair`, and set them to zero."""
    cdef int g
    cdef const uint8_t* lane = <const uint8_t*>lanes
    if n_groups == 8:
        for g in range(8):
            pair[g] += lane[g]
    else:
        for g in range(n_groups):
            pair[g] += lane[g]
    for g in range((n_groups + 7) >> 3):
        lanes[g] = 0


cdef inline long count_plain(
    const int16_t* token, long n_tokens, int n_layers, int k, int n_experts, int* counts
) noexcept nogil:
    cdef long t, unused = 0
    cdef int m, j, e
    cdef int* layer
    for t in range(n_tokens):
        layer = counts
        for m in range(n_layers):
            for j in range(k):
                e = token[j]
                if e >= 0:
                    layer[e] += 1
                else:
                    unused += 1
            token += k
            layer += n_experts
    return n_tokens * n_layers * k - unused


cdef inline long count_byte(
    const int16_t* block, long n_tokens, int n_layers, int k, int n_experts, const uint8_t* bits, int* counts,
    uint64_t* lanes,
) noexcept nogil:
    """Count at most LANE_MAX tokens, for at most 8 groups: a token once for each bit of its mask.

    Layer by layer, so that a layer's counters and lanes stay at hand.
    """
    cdef long t, unused = 0, stride = n_layers * k
    cdef int m, j, e
    cdef uint8_t mask
    cdef int16_t signs
    cdef uint64_t lane
    cdef const int16_t* token
    for m in range(n_layers):
        token = block + m * k
        lane = 0
        for t in range(n_tokens):
            mask = 0
            signs = 0
            for j in range(k):
                signs |= token[j]
            if signs >= 0:  # the usual case: no slot is unused
                for j in range(k):
                    e = token[j]
                    counts[e] += 1
                    mask |= bits[e]
            else:
                for j in range(k):
                    e = token[j]
                    if e >= 0:
                        counts[e] += 1
                        mask |= bits[e]
                    else:
                        unused += 1
            lane += SPREAD[mask]
            token += stride
        lanes[m] = lane
        counts += n_experts
        bits += n_experts
    return n_tokens * n_layers * k - unused


cdef long count_bytes(
    const int16_t* token, long n_tokens, int n_layers, int k, int n_experts, const int16_t* groups, int words,
    int* counts, uint64_t* lanes,
) noexcept nogil:
    """The same for any number of groups: one mask byte and one word of lanes for 8 groups."""
    cdef long t, unused = 0
    cdef int m, j, e, g, w
    cdef uint8_t[MAX_WORDS] mask
    cdef int* layer
    cdef const int16_t* group
    for t in range(n_tokens):
        layer = counts
        group = groups
        for m in range(n_layers):
            for w in range(words):
                mask[w] = 0
            for j in range(k):
                e = token[j]
                if e >= 0:
                    layer[e] += 1
                    g = group[e]
                    mask[g >> 3] |= <uint8_t>(1 << (g & 7))
                else:
                    unused += 1
            for w in range(words):
                lanes[m * words + w] += SPREAD[mask[w]]
            token += k
            layer += n_experts
            group += n_experts
    return n_tokens * n_layers * k - unused


cdef long plain_by_k(
    const int16_t* token, long n_tokens, int n_layers, int k, int n_experts, int* counts
) noexcept nogil:
    """Let the compiler unroll the usual numbers of experts per token."""
    if k == 1:
        return count_plain(token, n_tokens, n_layers, 1, n_experts, counts)
    if k == 2:
        return count_plain(token, n_tokens, n_layers, 2, n_experts, counts)
    if k == 4:
        return count_plain(token, n_tokens, n_layers, 4, n_experts, counts)
    if k == 8:
        return count_plain(token, n_tokens, n_layers, 8, n_experts, counts)
    return count_plain(token, n_tokens, n_layers, k, n_experts, counts)


cdef long byte_by_k(
    const int16_t* token, long n_tokens, int n_layers, int k, int n_experts, const uint8_t* bits, int* counts,
    uint64_t* lanes,
) noexcept nogil:
    if k == 1:
        return count_byte(token, n_tokens, n_layers, 1, n_experts, bits, counts, lanes)
    if k == 2:
        return count_byte(token, n_tokens, n_layers, 2, n_experts, bits, counts, lanes)
    if k == 4:
        return count_byte(token, n_tokens, n_layers, 4, n_experts, bits, counts, lanes)
    if k == 8:
        return count_byte(token, n_tokens, n_layers, 8, n_experts, bits, counts, lanes)
    return count_byte(token, n_tokens, n_layers, k, n_experts, bits, counts, lanes)


cdef long count_pairs(
    const int16_t[:, :, ::1] ids, const int[::1] group_ptr, const int16_t[:, ::1] expert_group,
    const uint8_t[::1] bits, int n_groups, int[:, ::1] counts, int[:, :, ::1] pair, uint64_t* lanes,
) noexcept nogil:
    """Count tokens by expert, and by data group and expert group: blocks that no byte lane overflows in."""
    cdef int d, m, t, block, n_layers = ids.shape[1], k = ids.shape[2], n_experts = counts.shape[1]
    cdef int words = (n_groups + 7) >> 3
    cdef long used = 0
    for d in range(group_ptr.shape[0] - 1):
        t = group_ptr[d]
        while t < group_ptr[d + 1]:
            block = min(LANE_MAX, group_ptr[d + 1] - t)
            if words == 1:
                used += byte_by_k(
                    &ids[t, 0, 0], block, n_layers, k, n_experts, &bits[0], &counts[0, 0], lanes
                )
            else:
                used += count_bytes(
                    &ids[t, 0, 0], block, n_layers, k, n_experts, &expert_group[0, 0], words, &counts[0, 0], lanes
                )
            for m in range(n_layers):
                empty_lanes(lanes + m * words, &pair[m, d, 0], n_groups)
            t += block
    return used


def group_bits(expert_group):
    """Return uint8[L * E]: bit g % 8 of the group of each expert."""
    return np.left_shift(1, np.asarray(expert_group).astype(np.int64).ravel() & 7).astype(np.uint8)


def count(
    const int16_t[:, :, ::1] ids, const int[::1] group_ptr, const int16_t[:, ::1] expert_group, int n_groups,
    int[:, ::1] counts, int[:, :, ::1] pair, bint pairs,
):
    cdef uint64_t[::1] lanes
    if n_groups > 8 * MAX_WORDS:
        raise ValueError(f"{n_groups} expert groups: at most {8 * MAX_WORDS}")
    counts[:, :] = 0
    pair[:, :, :] = 0
    if ids.shape[0] == 0 or ids.shape[1] == 0 or ids.shape[2] == 0:
        return 0
    if not pairs:
        return plain_by_k(
            &ids[0, 0, 0], ids.shape[0], ids.shape[1], ids.shape[2], counts.shape[1], &counts[0, 0]
        )
    lanes = np.zeros(ids.shape[1] * ((n_groups + 7) >> 3), dtype=np.uint64)
    return count_pairs(
        ids, group_ptr, expert_group, group_bits(expert_group), n_groups, counts, pair, &lanes[0]
    )
