"""Compiled twin of the latent-logit generator (see `latent_reference` for the laws)."""

import numpy as np

from libc.stdint cimport int16_t, int32_t, int64_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc

cdef extern from *:
    """
    #include <stdint.h>
    #if defined(__GNUC__) && !defined(__clang__) && defined(__x86_64__) && defined(__linux__)
    #define WIDE __attribute__((target_clones("avx512f", "avx2", "default")))
    #else
    #define WIDE
    #endif
    #define LATENT_END (1 << 30)
    #if defined(__GNUC__)
    #define INLINE static inline __attribute__((always_inline))
    #else
    #define INLINE static inline
    #endif

    INLINE uint32_t noise_bits(uint32_t e, uint32_t a, uint32_t b) {
        uint32_t h = e * 0x9E3779B1u + a;
        h = (h ^ (h >> 16)) * 0x85EBCA6Bu;
        h ^= b;
        h = (h ^ (h >> 13)) * 0xC2B2AE35u;
        return h ^ (h >> 16);
    }

    /* one token in one layer: advance both states */
    WIDE static void latent_advance(int n, uint64_t key, const float *restrict law, float *restrict slow,
                                    float *restrict fast) {
        uint32_t a = (uint32_t)key, b = (uint32_t)(key >> 32);
        float rs = law[0], cs = law[1], rf = law[2], cf = law[3];
        for (int e = 0; e < n; e++) {
            uint32_t h = noise_bits((uint32_t)e, a, b);
            slow[e] = rs * slow[e] + cs * (float)((int32_t)((h & 1023u) << 1) - 1023);
            fast[e] = rf * fast[e] + cf * (float)((int32_t)(((h >> 10) & 1023u) << 1) - 1023);
        }
    }

    /* one token in one layer: both states at the start of a segment, nearly normal */
    WIDE static void latent_start(int n, uint64_t key, const float *restrict law, float *restrict slow,
                                  float *restrict fast) {
        uint32_t a = (uint32_t)key, b = (uint32_t)(key >> 32);
        float ss = law[4], sf = law[5];
        for (int e = 0; e < n; e++) {
            uint32_t h = noise_bits((uint32_t)e, a, b), g = noise_bits((uint32_t)e, b, ~a);
            slow[e] = ss * (float)((int32_t)(((h & 1023u) + ((h >> 10) & 1023u) + ((h >> 20) & 1023u)) << 1) - 3069);
            fast[e] = sf * (float)((int32_t)(((g & 1023u) + ((g >> 10) & 1023u) + ((g >> 20) & 1023u)) << 1) - 3069);
        }
    }

    /* one token in one layer: logits as sortable integers, value above, expert below */
    WIDE static void latent_keys(int n, uint64_t key, const float *restrict base, const float *restrict slow,
                                 const float *restrict fast, const float *restrict gumbel,
                                 const float *restrict pull, float scale, int32_t shift, int32_t *restrict out) {
        uint32_t a = (uint32_t)key, b = (uint32_t)(key >> 32);
        for (int e = 0; e < n; e++) {
            float x = base[e] + slow[e];
            x = x + fast[e];
            x = x + gumbel[noise_bits((uint32_t)e, a, b) >> 20];
            x = x + pull[e];
            x = x < -120.0f ? -120.0f : (x > 120.0f ? 120.0f : x);
            out[e] = ((int32_t)(x * scale)) * (1 << shift) + ((1 << shift) - 1 - e);
        }
    }

    /* latent_advance and latent_keys in one pass */
    WIDE static void latent_step(int n, uint64_t key, const float *restrict law, const float *restrict base,
                                 float *restrict slow, float *restrict fast, const float *restrict gumbel,
                                 const float *restrict pull, float scale, int32_t shift, int32_t *restrict out) {
        uint32_t a = (uint32_t)key, b = (uint32_t)(key >> 32);
        float rs = law[0], cs = law[1], rf = law[2], cf = law[3];
        for (int e = 0; e < n; e++) {
            uint32_t h = noise_bits((uint32_t)e, a, b);
            float u = rs * slow[e] + cs * (float)((int32_t)((h & 1023u) << 1) - 1023);
            float v = rf * fast[e] + cf * (float)((int32_t)(((h >> 10) & 1023u) << 1) - 1023);
            slow[e] = u;
            fast[e] = v;
            float x = base[e] + u;
            x = x + v;
            x = x + gumbel[h >> 20];
            x = x + pull[e];
            x = x < -120.0f ? -120.0f : (x > 120.0f ? 120.0f : x);
            out[e] = ((int32_t)(x * scale)) * (1 << shift) + ((1 << shift) - 1 - e);
        }
    }

    /* what the k experts of the layer before pull by: rows of a matrix, weighted by slot and summed */
    WIDE static void latent_pull(int n, int k, const int16_t *restrict before, const float *restrict weights,
                                 const float *restrict rows, float *restrict pull) {
        int e = 0;
        for (; e + 16 <= n; e += 16) {
            float sum[16] = {0};
            for (int j = 0; j < k; j++) {
                const float *row = rows + (int64_t)before[j] * n + e, weight = weights[j];
                for (int i = 0; i < 16; i++) sum[i] += weight * row[i];
            }
            for (int i = 0; i < 16; i++) pull[e + i] = sum[i];
        }
        for (; e < n; e++) {
            float sum = 0;
            for (int j = 0; j < k; j++) sum += weights[j] * rows[(int64_t)before[j] * n + e];
            pull[e] = sum;
        }
    }

    /* the largest key below a limit; keys lie within +-2**30, so that unsigned differences order them */
    INLINE int32_t latent_below(int n, const int32_t *restrict keys, int32_t limit) {
        uint32_t top = (uint32_t)limit - 1u, least = UINT32_MAX;
        for (int e = 0; e < n; e++) {
            uint32_t below = top - (uint32_t)keys[e];
            least = below < least ? below : least;
        }
        return (int32_t)(top - least);
    }

    /* the k largest keys (all differ), largest first: k passes without a branch */
    WIDE static void latent_top(int n, int k, int32_t mask, const int32_t *restrict keys, int16_t *restrict out) {
        int32_t limit = LATENT_END;
        for (int j = 0; j < k; j++) {
            limit = latent_below(n, keys, limit);
            out[j] = (int16_t)(mask - (limit & mask));
        }
    }

    /* bar all but the best groups: their keys become the smallest number */
    WIDE static void latent_groups(int n, int n_group, int topk_group, int members, int32_t shift,
                                   int32_t *restrict keys) {
        int size = n / n_group;
        int64_t score[64];
        for (int g = 0; g < n_group; g++) {
            int32_t first = latent_below(size, keys + g * size, LATENT_END);
            score[g] = first >> shift;
            if (members > 1 && size > 1) score[g] += latent_below(size, keys + g * size, first) >> shift;
        }
        for (int barred = n_group; barred > topk_group; barred--) {
            int worst = -1;
            for (int g = 0; g < n_group; g++)
                if (score[g] != INT64_MAX && (worst < 0 || score[g] <= score[worst])) worst = g;
            score[worst] = INT64_MAX;
            for (int i = 0; i < size; i++) keys[worst * size + i] = -LATENT_END;
        }
    }
    """
    void latent_advance(int n, uint64_t key, const float* law, float* slow, float* fast) noexcept nogil
    void latent_start(int n, uint64_t key, const float* law, float* slow, float* fast) noexcept nogil
    void latent_keys(int n, uint64_t key, const float* base, const float* slow, const float* fast,
                     const float* gumbel, const float* pull, float scale, int32_t shift,
                     int32_t* out) noexcept nogil
    void latent_step(int n, uint64_t key, const float* law, const float* base, float* slow, float* fast,
                     const float* gumbel, const float* pull, float scale, int32_t shift,
                     int32_t* out) noexcept nogil
    void latent_pull(int n, int k, const int16_t* before, const float* weights, const float* rows,
                     float* pull) noexcept nogil
    void latent_top(int n, int k, int32_t mask, const int32_t* keys, int16_t* out) noexcept nogil
    void latent_groups(int n, int n_group, int topk_group, int members, int32_t shift,
                       int32_t* keys) noexcept nogil

cdef uint64_t GOLDEN = 0x9E3779B97F4A7C15ULL
cdef uint64_t REQUEST = 0xD1B54A32D192ED03ULL
cdef int64_t SEGMENT_TOKENS = 4096
SEGMENT = 4096


cdef inline uint64_t mix(uint64_t x) noexcept nogil:
    x = (x ^ (x >> 30)) * <uint64_t>0xBF58476D1CE4E5B9ULL
    x = (x ^ (x >> 27)) * <uint64_t>0x94D049BB133111EBULL
    return x ^ (x >> 31)


cdef inline uint64_t layer_key(uint64_t span, int64_t position, Py_ssize_t layer) noexcept nogil:
    return mix(mix(span + GOLDEN * <uint64_t>(position + 1)) + GOLDEN * <uint64_t>(layer * 4096 + 1))


def draw(const int64_t[::1] requests, const int64_t[::1] starts, const int64_t[::1] lengths,
         const int64_t[::1] slots, uint64_t key, const float[:, ::1] law, const float[::1] gumbel,
         const float[:, :, ::1] coupling, const float[:, ::1] weights, float[:, :, :, ::1] states, int64_t[::1] positions, float scale,
         int shift, int n_group, int topk_group, int members, int16_t[:, :, ::1] out):
    """Draw the experts of some spans and leave each request's state after its last token."""
    cdef Py_ssize_t n_layers = out.shape[1], k = out.shape[2], n = states.shape[3]
    cdef Py_ssize_t s, layer, t, j, row = 0
    cdef int64_t position, first, last, begin, slot
    cdef uint64_t span, token
    cdef float* slow
    cdef float* fast
    cdef float* base
    cdef bint coupled = coupling.shape[0] > 0
    if gumbel.shape[0] != 4096 or states.shape[2] != n_layers or law.shape[0] != n_layers or law.shape[1] != 6:
        raise ValueError("law, states or gumbel have the wrong shape")
    if weights.shape[0] != n_layers or weights.shape[1] != k:
        raise ValueError("weights have the wrong shape")
    if coupled and (coupling.shape[0] != n_layers or coupling.shape[1] != n or coupling.shape[2] != n):
        raise ValueError("coupling has the wrong shape")
    if not 1 <= topk_group <= n_group <= 64 or n % n_group or k > n // n_group * topk_group or states.shape[1] != 3:
        raise ValueError("impossible groups or top-k")
    for s in range(requests.shape[0]):
        if lengths[s] < 0 or starts[s] < 0 or not 0 <= slots[s] < states.shape[0]:
            raise ValueError(f"span {s}: start, length or slot out of range")
        row += lengths[s]
    if row != out.shape[0]:
        raise ValueError(f"the spans hold {row} tokens, out has {out.shape[0]} rows")
    if row == 0 or n_layers == 0:
        return
    cdef int32_t* keys = <int32_t*>malloc(n * sizeof(int32_t))
    cdef float* pull = <float*>malloc(2 * n * sizeof(float))
    if keys == NULL or pull == NULL:
        free(keys)
        free(pull)
        raise MemoryError
    cdef float* nothing = pull + n
    cdef float* used
    row = 0
    with nogil:
        for j in range(n):
            nothing[j] = 0.0
        for s in range(requests.shape[0]):
            span = mix(key + REQUEST * <uint64_t>(requests[s] + 1))
            slot, first, last = slots[s], starts[s], starts[s] + lengths[s]
            if first == last:
                continue
            # go on from the state if it is earlier in the same segment, else from the segment's start
            begin = first - first % SEGMENT_TOKENS
            if begin < positions[slot] <= first:
                begin = positions[slot]
            for layer in range(n_layers):
                base, slow, fast = &states[slot, 0, layer, 0], &states[slot, 1, layer, 0], &states[slot, 2, layer, 0]
                for position in range(begin, last):
                    token = layer_key(span, position, layer)
                    if position < first:
                        if position % SEGMENT_TOKENS == 0:
                            latent_start(n, token, &law[layer, 0], slow, fast)
                        else:
                            latent_advance(n, token, &law[layer, 0], slow, fast)
                        continue
                    t = row + position - first
                    used = nothing
                    if coupled and layer > 0:
                        latent_pull(n, k, &out[t, layer - 1, 0], &weights[layer, 0], &coupling[layer, 0, 0], pull)
                        used = pull
                    if position % SEGMENT_TOKENS == 0:
                        latent_start(n, token, &law[layer, 0], slow, fast)
                        latent_keys(n, token, base, slow, fast, &gumbel[0], used, scale, shift, keys)
                    else:
                        latent_step(n, token, &law[layer, 0], base, slow, fast, &gumbel[0], used, scale, shift,
                                    keys)
                    if n_group > 1:
                        latent_groups(n, n_group, topk_group, members, shift, keys)
                    latent_top(n, k, (1 << shift) - 1, keys, &out[t, layer, 0])
            positions[slot] = last
            row += lengths[s]
    free(keys)
    free(pull)
