# cython: language_level=3
# Sums over the experts of a group: inlined into the iteration.

cdef inline void survey(const int* counts, int n_experts, int* active, int* tokens, int* most) noexcept nogil:
    """Count the active experts and the tokens of experts that stand side by side, and find the most."""
    cdef int i, n, some = 0, total = 0, largest = 0
    for i in range(n_experts):
        n = counts[i]
        some += n > 0
        total += n
        largest = n if n > largest else largest
    active[0] = some
    tokens[0] = total
    most[0] = largest


cdef inline void sum_four(
    const double* work, const double* moved, const int* counts, const int* order, int n_experts, double* sums
) noexcept nogil:
    """Add up work and bytes of a group's experts, in four sums that do not wait for each other."""
    cdef double w0 = 0.0, w1 = 0.0, w2 = 0.0, w3 = 0.0, b0 = 0.0, b1 = 0.0, b2 = 0.0, b3 = 0.0
    cdef int i = 0, n
    while i + 4 <= n_experts:
        n = counts[order[i]]
        w0 += work[n]
        b0 += moved[n]
        n = counts[order[i + 1]]
        w1 += work[n]
        b1 += moved[n]
        n = counts[order[i + 2]]
        w2 += work[n]
        b2 += moved[n]
        n = counts[order[i + 3]]
        w3 += work[n]
        b3 += moved[n]
        i += 4
    if i < n_experts:
        n = counts[order[i]]
        w0 += work[n]
        b0 += moved[n]
    if i + 1 < n_experts:
        n = counts[order[i + 1]]
        w1 += work[n]
        b1 += moved[n]
    if i + 2 < n_experts:
        n = counts[order[i + 2]]
        w2 += work[n]
        b2 += moved[n]
    sums[0] = (w0 + w1) + (w2 + w3)
    sums[1] = (b0 + b1) + (b2 + b3)


cdef inline void sum_beyond(
    const double* work, const double* moved, int last, const int* counts, const int* order, int n_experts,
    double* sums,
) noexcept nogil:
    """The same where an expert has more tokens than the tables: the last slope goes on."""
    cdef double[4] w, b
    cdef int i, n
    for i in range(4):
        w[i] = 0.0
        b[i] = 0.0
    for i in range(n_experts):
        n = counts[order[i]]
        if n > last:
            w[i & 3] += (n - last) * (work[last] - work[last - 1])
            b[i & 3] += (n - last) * (moved[last] - moved[last - 1])
            n = last
        w[i & 3] += work[n]
        b[i & 3] += moved[n]
    sums[0] = (w[0] + w[1]) + (w[2] + w[3])
    sums[1] = (b[0] + b[1]) + (b[2] + b[3])
