"""Compiled twins of the cache kernels (see `reference` for the laws)."""

import numpy as np

from ext.cache.reference import POLICIES, capacities_of, worth_of

from libc.stdint cimport int8_t, int16_t, int32_t, int64_t, uint8_t, uint64_t

cdef extern from *:
    """
    #include <stdint.h>
    #if defined(__SSE2__) && defined(__GNUC__)
    #include <emmintrin.h>
    /* Move e to the front of a stack of bytes and return where it stood: sixteen places at a time, each block
       shifted by one byte with the last byte of the block before carried in. */
    static inline int move_to_front(uint8_t *stack, int n, int e) {
        const __m128i wanted = _mm_set1_epi8((char)e);
        const __m128i places = _mm_set_epi8(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
        int carry = e, base = 0;
        for (; base + 16 <= n; base += 16) {
            __m128i block = _mm_loadu_si128((const __m128i *)(stack + base));
            __m128i shifted = _mm_or_si128(_mm_slli_si128(block, 1), _mm_cvtsi32_si128(carry & 255));
            int found = _mm_movemask_epi8(_mm_cmpeq_epi8(block, wanted));
            if (found) {
                int depth = __builtin_ctz((unsigned)found);
                __m128i behind = _mm_cmpgt_epi8(places, _mm_set1_epi8((char)depth));
                block = _mm_or_si128(_mm_and_si128(behind, block), _mm_andnot_si128(behind, shifted));
                _mm_storeu_si128((__m128i *)(stack + base), block);
                return base + depth;
            }
            carry = _mm_extract_epi16(block, 7) >> 8;
            _mm_storeu_si128((__m128i *)(stack + base), shifted);
        }
        for (; base < n; base++) {
            int old = stack[base];
            stack[base] = (uint8_t)carry;
            if (old == e) return base;
            carry = old;
        }
        return n;
    }
    #else
    static inline int move_to_front(uint8_t *stack, int n, int e) {
        int carry = e;
        for (int base = 0; base < n; base++) {
            int old = stack[base];
            stack[base] = (uint8_t)carry;
            if (old == e) return base;
            carry = old;
        }
        return n;
    }
    #endif
    static inline int move_to_front_wide(int16_t *stack, int n, int e) {
        int carry = e;
        for (int base = 0; base < n; base++) {
            int old = stack[base];
            stack[base] = (int16_t)carry;
            if (old == e) return base;
            carry = old;
        }
        return n;
    }

    /* Place of the smallest of n different keys, all in 2**62 .. 2**63 - 2**53: read as doubles these are
       positive, finite and not denormal, in the same order, and have a minimum instruction. */
    static inline int smallest(const int64_t *keys, int n) {
        int64_t least = INT64_MAX;
        int base = 0, block = 0, place = 0;
    #if defined(__SSE2__) && defined(__GNUC__)
        double best = 0x1.fffffffffffffp1023;
        const double *values = (const double *)keys;
        for (; base + 16 <= n; base += 16) {
            __m128d a = _mm_loadu_pd(values + base), b = _mm_loadu_pd(values + base + 2);
            for (int i = 4; i < 16; i += 4) {
                a = _mm_min_pd(a, _mm_loadu_pd(values + base + i));
                b = _mm_min_pd(b, _mm_loadu_pd(values + base + i + 2));
            }
            a = _mm_min_pd(a, b);
            a = _mm_min_sd(a, _mm_unpackhi_pd(a, a));
            double low = _mm_cvtsd_f64(a);
            block = low < best ? base : block;
            best = low < best ? low : best;
        }
        if (base) least = keys[block];
        for (int i = 1; base && i < 16; i++) {
            place = keys[block + i] < least ? i : place;
            least = keys[block + i] < least ? keys[block + i] : least;
        }
        place += block;
    #endif
        for (; base < n; base++) {
            place = keys[base] < least ? base : place;
            least = keys[base] < least ? keys[base] : least;
        }
        return place;
    }
    """
    int move_to_front(uint8_t* stack, int n, int e) noexcept nogil
    int move_to_front_wide(int16_t* stack, int n, int e) noexcept nogil
    int smallest(const int64_t* keys, int n) noexcept nogil

DEF LRU = 0
DEF LFU = 1
DEF FIFO = 2
DEF RANDOM = 3
DEF BELADY = 4
DEF FREQUENCY_DISTANCE = 5
DEF SCORE = 6
NEVER = 2147483647
cdef int64_t FLOOR = <int64_t>1 << 62


cdef inline uint64_t mix(uint64_t x) noexcept nogil:
    x = (x ^ (x >> 30)) * <uint64_t>0xBF58476D1CE4E5B9ULL
    x = (x ^ (x >> 27)) * <uint64_t>0x94D049BB133111EBULL
    return x ^ (x >> 31)


cdef class ExpertCache:
    """A cache of experts, one per layer or one shared by all layers (see `reference.ExpertCache`).

    LRU and FIFO keep a linked list per pool (constant time); LFU and Belady scan a pool's keys at a miss.
    """

    cdef readonly object capacities, hits, misses, evictions, policy
    cdef readonly int n_layers, n_experts
    cdef readonly bint shared
    cdef int code
    cdef int64_t clock
    cdef uint64_t seed
    cdef int64_t[::1] _capacities, _hits, _misses, _evictions, keys, first, worth
    cdef int32_t[::1] used, who, where, before, after

    def __init__(self, int n_layers, int n_experts, capacity, *, policy="lru", bint shared=False, seed=0,
                 scores=None):
        self.capacities = capacities_of(n_layers, capacity, policy, shared)
        self.n_layers, self.n_experts, self.policy, self.shared = n_layers, n_experts, policy, shared
        self.code, self.clock, self.seed = POLICIES.index(policy), 0, seed & ((1 << 64) - 1)
        self.hits, self.misses, self.evictions = (np.zeros(n_layers, np.int64) for _ in range(3))
        self._capacities, self._hits, self._misses = self.capacities, self.hits, self.misses
        self._evictions = self.evictions
        cdef int nodes = n_layers * n_experts, pools = len(self.capacities)
        bound = nodes if shared else n_experts
        held = np.minimum(self.capacities, bound)
        self._capacities = held
        self.first = np.concatenate([[0], np.cumsum(held)]).astype(np.int64)
        total = int(held.sum())
        self.worth = worth_of(n_layers, n_experts, scores)
        self.used = np.zeros(max(pools, 1), np.int32)
        self.keys = np.zeros(max(total, 1), np.int64)
        self.who = np.zeros(max(total, 1), np.int32)
        self.where = np.full(max(nodes, 1), -1, np.int32)
        # a ring per pool; its sentinel is node `nodes + pool`: after it the newest, before it the oldest
        self.before = np.arange(nodes + pools + 1, dtype=np.int32)
        self.after = np.arange(nodes + pools + 1, dtype=np.int32)

    cdef inline void unlink(self, int node) noexcept nogil:
        cdef int a = self.before[node], b = self.after[node]
        self.after[a] = b
        self.before[b] = a

    cdef inline void push(self, int node, int pool) noexcept nogil:
        cdef int head = self.n_layers * self.n_experts + pool
        cdef int next_node = self.after[head]
        self.after[head] = node
        self.before[node] = head
        self.after[node] = next_node
        self.before[next_node] = node

    cdef inline int64_t key_of(self, int64_t old, int64_t next_use) noexcept nogil:
        # above 2**62, see `smallest`.  lfu: uses above (2**26), clock below (2**35 accesses);
        # belady: how soon it is used above, ties to the older; by worth: the clock of the last use
        if self.code >= FREQUENCY_DISTANCE:
            return self.clock
        if self.code == LFU:
            return FLOOR | ((((old & (FLOOR - 1)) >> 35) + 1) << 35) | (self.clock & <int64_t>0x7FFFFFFFF)
        return FLOOR | ((NEVER_USED - min(next_use, NEVER_USED)) << 30) | (self.clock & 0x3FFFFFFF)

    cdef inline int least_worth(self, int64_t first, int n, int layer) noexcept nogil:
        cdef int64_t value, least = 0
        cdef int i, node, ahead, place = 0
        for i in range(n):
            node = self.who[first + i]
            value = self.worth[node]
            if self.code == FREQUENCY_DISTANCE:
                ahead = node // self.n_experts - layer - 1
                ahead = ahead + self.n_layers if ahead < 0 else ahead
                ahead = ahead - self.n_layers if ahead >= self.n_layers else ahead
                value = value * (self.n_layers - ahead)
            if i == 0 or value < least or (value == least and self.keys[first + i] < self.keys[first + place]):
                least = value
                place = i
        return place

    cdef inline int victim(self, int pool, int64_t first, int layer) noexcept nogil:
        cdef int n = self.used[pool]
        if self.code >= FREQUENCY_DISTANCE:
            return self.least_worth(first, n, layer)
        if self.code == LRU or self.code == FIFO:
            return self.where[self.before[self.n_layers * self.n_experts + pool]] - <int>first
        if self.code == RANDOM:
            return <int>(((mix(self.seed + <uint64_t>0x9E3779B97F4A7C15ULL * <uint64_t>self.clock) >> 32)
                          * <uint64_t>n) >> 32)
        return smallest(&self.keys[first], n)

    cdef inline int touch(self, int layer, int node, int64_t next_use, int* left, int now) noexcept nogil:
        cdef int pool = 0 if self.shared else layer
        cdef int64_t first = self.first[pool], place = self.where[node]
        left[0] = -1
        self.clock += 1
        if self.code == FREQUENCY_DISTANCE:
            self.worth[node] += 1
        if place >= 0:
            if self.code == LRU:
                self.unlink(node)
                self.push(node, pool)
            elif self.code == LFU or self.code >= BELADY:
                self.keys[place] = self.key_of(self.keys[place], next_use)
            return 1
        if self._capacities[pool] == 0:
            return 0
        if self.used[pool] < self._capacities[pool]:
            place = first + self.used[pool]
            self.used[pool] += 1
        else:
            place = first + self.victim(pool, first, now)
            left[0] = self.who[place]
            self.where[left[0]] = -1
            if self.code == LRU or self.code == FIFO:
                self.unlink(left[0])
        self.who[place] = node
        self.where[node] = <int32_t>place
        if self.code == LRU or self.code == FIFO:
            self.push(node, pool)
        else:
            self.keys[place] = self.key_of(0, next_use)
        return 0

    cdef int node(self, int64_t layer, int64_t expert) except -1:
        if not 0 <= layer < self.n_layers or not 0 <= expert < self.n_experts:
            raise ValueError(f"layer {layer}, expert {expert}: there are {self.n_layers} x {self.n_experts}")
        return <int>(layer * self.n_experts + expert)

    def access_many(self, const int64_t[::1] layers, const int64_t[::1] experts, next_use=None):
        """Use some experts in order; return hit, bool (N,), and what left for each, int64 (N,), -1 if none."""
        cdef Py_ssize_t i, n = layers.shape[0]
        cdef const int64_t[::1] uses = next_use if next_use is not None else layers
        cdef bint known = next_use is not None
        if experts.shape[0] != n or uses.shape[0] != n:
            raise ValueError("layers, experts and next_use differ in length")
        for i in range(n):
            self.node(layers[i], experts[i])
        hit, left = np.empty(n, np.bool_), np.empty(n, np.int64)
        cdef uint8_t[::1] hits = hit.view(np.uint8)
        cdef int64_t[::1] gone = left
        cdef int out, layer
        with nogil:
            for i in range(n):
                layer = <int>layers[i]
                hits[i] = self.touch(layer, layer * self.n_experts + <int>experts[i],
                                     uses[i] if known else NEVER_USED, &out, layer)
                gone[i] = out
                self._hits[layer] += hits[i]
                self._misses[layer] += 1 - hits[i]
                if out >= 0:
                    self._evictions[out // self.n_experts] += 1
        return hit, left

    def access(self, int64_t layer, experts):
        """Use experts of one layer: hits (count), missed experts, what left (``layer * E + expert``)."""
        ids = np.ascontiguousarray(experts, np.int64)
        hit, left = self.access_many(np.full(len(ids), layer, np.int64), ids)
        return int(np.count_nonzero(hit)), ids[~hit], left[left >= 0]

    def access_tokens(self, const int16_t[:, :, ::1] ids, next_use=None):
        """Use all experts of a block of tokens, token by token and layer by layer; int16, shape (T, L, k)."""
        cdef Py_ssize_t t, j, tokens = ids.shape[0], k = ids.shape[2]
        cdef int layer, e, out, hit, n_layers = ids.shape[1], n_experts = self.n_experts
        cdef const int32_t[:, :, ::1] uses = next_use if next_use is not None else np.zeros((0, 0, 0), np.int32)
        cdef bint known = next_use is not None
        if n_layers != self.n_layers or (known and (uses.shape[0] != tokens or uses.shape[1] != n_layers
                                                    or uses.shape[2] != k)):
            raise ValueError("ids or next_use have the wrong shape")
        check_ids(ids, n_experts)
        with nogil:
            for t in range(tokens):
                for layer in range(n_layers):
                    for j in range(k):
                        e = ids[t, layer, j]
                        if e < 0:
                            continue
                        hit = self.touch(layer, layer * n_experts + e, uses[t, layer, j] if known else NEVER_USED,
                                         &out, layer)
                        self._hits[layer] += hit
                        self._misses[layer] += 1 - hit
                        if out >= 0:
                            self._evictions[out // n_experts] += 1

    def contains(self, int64_t layer, experts):
        """Return which experts of a layer are held, without using them."""
        return np.array([self.where[self.node(layer, e)] >= 0 for e in experts], np.bool_)

    def resident(self, int64_t layer):
        """Return the experts of a layer that are held, in ascending order."""
        places = np.asarray(self.where)[layer * self.n_experts : (layer + 1) * self.n_experts]
        return np.flatnonzero(places >= 0).astype(np.int64)

    def load(self, int64_t layer, experts):
        """Bring experts in before their layer, without counting a use; return what left for them."""
        cdef int out
        gone = []
        if self.code == FREQUENCY_DISTANCE:
            for e in experts:
                self.worth[self.node(layer, e)] -= 1
        for e in experts:
            self.touch(<int>layer, self.node(layer, e), NEVER_USED, &out, <int>layer - 1)
            if out >= 0:
                gone.append(out)
                self._evictions[out // self.n_experts] += 1
        return np.array(gone, np.int64)

    def drop(self, int64_t layer, experts):
        """Take experts out, if held."""
        cdef int node, pool = 0 if self.shared else <int>layer
        cdef int64_t place, last
        for e in experts:
            node = self.node(layer, e)
            place = self.where[node]
            if place < 0:
                continue
            self.used[pool] -= 1
            last = self.first[pool] + self.used[pool]
            self.who[place], self.keys[place] = self.who[last], self.keys[last]
            self.where[self.who[place]] = <int32_t>place
            self.where[node] = -1
            if self.code == LRU or self.code == FIFO:
                self.unlink(node)


cdef int64_t NEVER_USED = 2147483647


cdef int check_ids(const int16_t[:, :, ::1] ids, int n_experts) except -1:
    cdef Py_ssize_t i, n = ids.shape[0] * ids.shape[1] * ids.shape[2]
    cdef const int16_t* read
    cdef int16_t low = 0, high = -1
    if n == 0:
        return 0
    read = &ids[0, 0, 0]
    for i in range(n):
        low = read[i] if read[i] < low else low
        high = read[i] if read[i] > high else high
    if low < -1 or high >= n_experts:
        raise ValueError(f"expert {high if high >= n_experts else low} is not one of {n_experts}")
    return 0


def lru_depths(const int16_t[:, :, ::1] ids, stacks, int32_t[::1] seen, int64_t[:, ::1] histogram):
    """Count LRU stack distances of a block, and keep the stacks for the next."""
    if stacks.dtype == np.uint8:
        _depths_bytes(ids, stacks, seen, histogram)
    else:
        _depths_wide(ids, stacks, seen, histogram)


cdef int check_stacks(const int16_t[:, :, ::1] ids, Py_ssize_t layers, Py_ssize_t n, int32_t[::1] seen,
                      int64_t[:, ::1] histogram) except -1:
    if ids.shape[1] != layers or seen.shape[0] != layers or histogram.shape[0] != layers or (
            histogram.shape[1] != n + 1):
        raise ValueError("stacks, seen or histogram have the wrong shape")
    check_ids(ids, <int>n)
    return 0


cdef _depths_bytes(const int16_t[:, :, ::1] ids, uint8_t[:, ::1] stacks, int32_t[::1] seen,
                   int64_t[:, ::1] histogram):
    cdef Py_ssize_t t, layer, j, k = ids.shape[2], layers = ids.shape[1]
    cdef int e, depth, n = stacks.shape[1]
    check_stacks(ids, stacks.shape[0], n, seen, histogram)
    with nogil:
        for t in range(ids.shape[0]):
            for layer in range(layers):
                for j in range(k):
                    e = ids[t, layer, j]
                    if e < 0:
                        continue
                    depth = move_to_front(&stacks[layer, 0], n, e)
                    if depth >= seen[layer]:
                        seen[layer] += 1
                        depth = n
                    histogram[layer, depth] += 1


cdef _depths_wide(const int16_t[:, :, ::1] ids, int16_t[:, ::1] stacks, int32_t[::1] seen,
                  int64_t[:, ::1] histogram):
    cdef Py_ssize_t t, layer, j, k = ids.shape[2], layers = ids.shape[1]
    cdef int e, depth, n = stacks.shape[1]
    check_stacks(ids, stacks.shape[0], n, seen, histogram)
    with nogil:
        for t in range(ids.shape[0]):
            for layer in range(layers):
                for j in range(k):
                    e = ids[t, layer, j]
                    if e < 0:
                        continue
                    depth = move_to_front_wide(&stacks[layer, 0], n, e)
                    if depth >= seen[layer]:
                        seen[layer] += 1
                        depth = n
                    histogram[layer, depth] += 1


def next_uses(const int16_t[:, :, ::1] ids, int n_experts):
    """Return when each used expert is used next in its layer: token * k + slot, or NEVER; int32, (T, L, k)."""
    cdef Py_ssize_t t, layer, j, tokens = ids.shape[0], layers = ids.shape[1], k = ids.shape[2]
    check_ids(ids, n_experts)
    if tokens * k >= NEVER:
        raise ValueError("too many accesses for 32-bit times")
    result = np.full((tokens, layers, k), NEVER, np.int32)
    cdef int32_t[:, :, ::1] out = result
    cdef int32_t[:, ::1] later = np.full((layers, max(n_experts, 1)), NEVER, np.int32)
    cdef int e
    with nogil:
        for t in range(tokens - 1, -1, -1):
            for layer in range(layers):
                for j in range(k - 1, -1, -1):
                    e = ids[t, layer, j]
                    if e >= 0:
                        out[t, layer, j] = later[layer, e]
                        later[layer, e] = <int32_t>(t * k + j)
    return result
