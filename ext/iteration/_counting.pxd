# cython: language_level=3
from libc.stdint cimport int16_t, uint8_t, uint64_t

cdef long plain_by_k(
    const int16_t* token, long n_tokens, int n_layers, int k, int n_experts, int* counts
) noexcept nogil

cdef long count_pairs(
    const int16_t[:, :, ::1] ids, const int[::1] group_ptr, const int16_t[:, ::1] expert_group,
    const uint8_t[::1] bits, int n_groups, int[:, ::1] counts, int[:, :, ::1] pair, uint64_t* lanes,
) noexcept nogil
