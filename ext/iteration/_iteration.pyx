# cython: language_level=3
"""Compiled twins of `ext.iteration.reference`; see there for what each does."""

from libc.math cimport INFINITY, isinf, pow, sqrt
from libc.stdint cimport int16_t, uint8_t, uint64_t
from libc.string cimport memset
import numpy as np

from ext.graph import events
from ext.iteration import layout as names
from ext.iteration._counting import MAX_GROUPS, count, group_bits

from ext.iteration._counting cimport count_pairs, plain_by_k
from ext.iteration._summing cimport sum_beyond, sum_four, survey

cdef int EXPERTS = names.EXPERTS, DISPATCH = names.DISPATCH, COMBINE = names.COMBINE
cdef int FETCH = names.FETCH, FETCH_BANDWIDTH = names.FETCH_BANDWIDTH, LAUNCH = names.LAUNCH
cdef int VECTOR = names.VECTOR, DECODE_S = names.DECODE_S
cdef int DECODE_FLOP_PER_TOKEN = names.DECODE_FLOP_PER_TOKEN
cdef int DECODE_FLOP_PER_EXPERT = names.DECODE_FLOP_PER_EXPERT
cdef int NORM_STEPS = names.NORM_STEPS
cdef enum:
    MAX_VARIANTS = 64  # as in `names`
cdef int LINK_SENT = names.LINK_SENT, QUEUED_S = names.QUEUED_S
cdef int LINK_BANDWIDTH = names.LINK_BANDWIDTH
cdef int SECONDS_PER_WORK = names.SECONDS_PER_WORK, HEAD_S = names.HEAD_S
cdef int SECONDS_PER_BYTE = names.SECONDS_PER_BYTE, LAUNCH_S = names.LAUNCH_S
cdef int ACTIVE_S = names.ACTIVE_S, POWER = names.POWER, FLOP_PER_TOKEN = names.FLOP_PER_TOKEN
cdef int BYTES_PER_TOKEN = names.BYTES_PER_TOKEN, BYTES_PER_EXPERT = names.BYTES_PER_EXPERT

cdef inline double norm(double a, double b, double power, const double* of_ratio) noexcept nogil:
    cdef double high, low, place
    cdef int i
    if isinf(power):
        return a if a > b else b
    if power == 1.0:
        return a + b
    if power == 2.0:
        return sqrt(a * a + b * b)
    high = a if a > b else b
    low = b if a > b else a
    if high == 0.0:
        return 0.0
    place = low / high * NORM_STEPS
    i = <int>place
    if i > NORM_STEPS - 1:
        i = NORM_STEPS - 1
    return high * (of_ratio[i] + (place - i) * (of_ratio[i + 1] - of_ratio[i]))


cdef inline double share(double a, double b, double power) noexcept nogil:
    if isinf(power):
        return 1.0 if a >= b else 0.0
    return 1.0 / (1.0 + (pow(b / a, power) if a > 0.0 else INFINITY))


cdef inline double mean(const double* rows, int n) noexcept nogil:
    cdef double total = 0.0
    cdef int i
    for i in range(n):
        total += rows[i]
    return total / n


cdef class Iteration:
    cdef readonly object layout
    cdef object execute, assign
    cdef readonly object portion, fetch_s, portion_tally
    cdef readonly object free_s, busy_s, row_s, counts, pair, sums, volume, finish_s, cause, path
    cdef readonly object path_parts, straggle_s, tally
    cdef readonly int path_length
    cdef int n_layers, n_groups, n_ranks, n_data, n_parts, n_portions, n_variants
    cdef int expert_row, fetch_row, dispatch_row, combine_row, barrier_row
    cdef bint exchanged, in_order, varied
    cdef int latest
    cdef bint contiguous
    cdef uint64_t[::1] lanes
    cdef const uint8_t[::1] bits
    cdef const int[::1] row, resource, discipline, pred_ptr, pred, row_kind
    cdef const int[::1] data_group, rank_group
    cdef const int[:, ::1] order, order_ptr, table_of, variant, portion_parts
    cdef const int16_t[:, ::1] expert_group
    cdef const double[:, ::1] work, moved, coefficients, norm_of_ratio
    cdef const double[:, :, ::1] send, recv
    cdef const double[::1] latency_s, seconds_per_byte, token_bytes
    cdef double[::1] v_free, v_busy, v_row, v_finish, v_straggle, v_tally
    cdef int[::1] v_cause, v_path, last
    cdef int[:, ::1] v_counts
    cdef int[:, :, ::1] v_pair
    cdef double[:, :, :, ::1] v_sums, v_fetch
    cdef double[:, :, ::1] v_volume
    cdef double[:, ::1] v_parts, v_portion_tally
    cdef signed char[:, ::1] v_portion

    def __init__(self, layout, execute=None, assign=None):
        cdef int n = len(layout.row), n_resources = len(layout.discipline)
        self.layout, self.execute, self.assign = layout, execute, assign
        self.n_portions, self.portion_parts = layout.n_portions, layout.portion_parts
        self.fetch_row = layout.fetch_row
        self.in_order = execute is None and not np.any(layout.discipline)
        self.n_layers, self.n_groups = layout.n_layers, layout.n_groups
        self.n_ranks, self.n_data, self.exchanged = layout.n_ranks, layout.n_data, layout.exchanged
        self.expert_row, self.dispatch_row = layout.expert_row, layout.dispatch_row
        self.combine_row, self.barrier_row = layout.combine_row, layout.barrier_row
        self.n_parts = len(names.PARTS)
        self.row, self.resource, self.discipline = layout.row, layout.resource, layout.discipline
        self.pred_ptr, self.pred, self.row_kind = layout.pred_ptr, layout.pred, layout.row_kind
        self.variant, self.n_variants = layout.variant, layout.n_variants
        self.table_of, self.data_group, self.rank_group = layout.table_of, layout.data_group, layout.rank_group
        self.order, self.order_ptr, self.expert_group = layout.order, layout.order_ptr, layout.expert_group
        self.norm_of_ratio = layout.norm_of_ratio
        self.work, self.moved, self.coefficients = layout.work, layout.moved, layout.coefficients
        self.send, self.recv, self.latency_s = layout.send, layout.recv, layout.latency_s
        self.seconds_per_byte, self.token_bytes = layout.seconds_per_byte, layout.token_bytes
        if self.n_groups > MAX_GROUPS:
            raise ValueError(f"{self.n_groups} expert groups: at most {MAX_GROUPS}")
        self.varied = self.n_variants > 1 or np.any(layout.coefficients[:, DECODE_S:])
        if self.n_variants > MAX_VARIANTS:
            raise ValueError(f"{self.n_variants} variants of experts: at most {MAX_VARIANTS}")
        self.contiguous = np.array_equal(layout.order, np.broadcast_to(np.arange(layout.n_experts), layout.order.shape))
        self.bits = group_bits(layout.expert_group)
        self.lanes = np.zeros(max(1, self.n_layers * ((self.n_groups + 7) >> 3)), dtype=np.uint64)
        self.free_s, self.busy_s = np.zeros(n_resources), np.zeros(n_resources)
        self.row_s = np.zeros(layout.n_rows)
        self.counts = np.zeros((layout.n_layers, layout.n_experts), np.int32)
        self.pair = np.zeros((layout.n_layers, layout.n_data, layout.n_groups), np.int32)
        self.sums = np.zeros((layout.n_layers, layout.n_groups, layout.n_portions, 4))
        self.portion = np.zeros((layout.n_layers, layout.n_experts), np.int8)
        self.fetch_s = np.zeros((layout.n_layers, layout.n_groups, layout.n_fetches, 2))
        self.portion_tally = np.zeros((layout.n_portions, 3))
        self.v_portion, self.v_fetch, self.v_portion_tally = self.portion, self.fetch_s, self.portion_tally
        self.volume = np.zeros((layout.n_layers, layout.n_ranks, 2))
        self.finish_s, self.cause = np.zeros(n), np.zeros(n, np.int32)
        self.path, self.path_length = np.zeros(n, np.int32), 0
        self.path_parts = np.zeros((len(names.KINDS), self.n_parts))
        self.straggle_s, self.tally = np.zeros(len(names.KINDS)), np.zeros(len(names.TALLY))
        self.last = np.zeros(n_resources, np.int32)
        self.v_free, self.v_busy, self.v_row, self.v_finish = self.free_s, self.busy_s, self.row_s, self.finish_s
        self.v_straggle, self.v_tally, self.v_cause, self.v_path = (
            self.straggle_s, self.tally, self.cause, self.path
        )
        self.v_counts, self.v_pair, self.v_sums, self.v_volume = self.counts, self.pair, self.sums, self.volume
        self.v_parts = self.path_parts

    def run(self, ids, const int[::1] group_ptr, const double[:, ::1] static_parts, double start_s):
        cdef const int16_t[:, :, ::1] tokens
        cdef double end_s
        self.total_static(static_parts)
        if ids is not None and self.n_layers:
            tokens = ids
            memset(&self.v_counts[0, 0], 0, self.v_counts.size * sizeof(int))
            memset(&self.v_pair[0, 0, 0], 0, self.v_pair.size * sizeof(int))
            if tokens.shape[0] and tokens.shape[2]:
                with nogil:
                    if self.exchanged:
                        self.v_tally[0] += count_pairs(
                            tokens, group_ptr, self.expert_group, self.bits, self.n_groups, self.v_counts,
                            self.v_pair, &self.lanes[0],
                        )
                    else:
                        self.v_tally[0] += plain_by_k(
                            &tokens[0, 0, 0], tokens.shape[0], self.n_layers, tokens.shape[2],
                            self.v_counts.shape[1], &self.v_counts[0, 0],
                        )
            if self.assign is not None:
                self.assign(self)
                self.cost_fetches()
            if self.n_portions == 1 and not self.varied:
                self.cost_experts()
            else:
                self.cost_portions()
            if self.exchanged:
                self.cost_exchanges()
        if self.in_order:
            end_s = self.sweep(start_s)
            self.follow_path(self.latest)
        else:
            end_s = (self.execute or events)(
                self.layout.row, self.layout.resource, self.layout.discipline, self.layout.pred_ptr,
                self.layout.pred, self.row_s, start_s, self.free_s, self.busy_s, self.finish_s, self.cause,
            )
            self.follow_path(self.find_latest())
        self.attribute(static_parts, start_s)
        return end_s

    cdef void total_static(self, const double[:, ::1] parts) noexcept:
        cdef int i, p
        cdef double total
        for i in range(self.expert_row):
            total = 0.0
            for p in range(self.n_parts):
                total += parts[i, p]
            self.v_row[i] = total

    cdef void cost_experts(self) noexcept:
        cdef int m, g, i, n, last = self.work.shape[1] - 1, active, table, begin, end, most
        cdef int tokens
        cdef bint contiguous = self.contiguous
        cdef double* sums
        cdef const double* work
        cdef const double* moved
        cdef const int* counts
        cdef const int* order
        for m in range(self.n_layers):
            table = self.table_of[m, 0]
            work = &self.work[table, 0]
            moved = &self.moved[table, 0]
            counts = &self.v_counts[m, 0]
            order = &self.order[m, 0]
            for g in range(self.n_groups):
                sums = &self.v_sums[m, g, 0, 0]
                begin = self.order_ptr[m, g]
                end = self.order_ptr[m, g + 1]
                active = 0
                tokens = 0
                most = 0
                if contiguous:
                    survey(counts + begin, end - begin, &active, &tokens, &most)
                else:
                    for i in range(begin, end):
                        n = counts[order[i]]
                        active += n > 0
                        tokens += n
                        most = n if n > most else most
                if most <= last:
                    sum_four(work, moved, counts, order + begin, end - begin, sums)
                else:
                    sum_beyond(work, moved, last, counts, order + begin, end - begin, sums)
                self.note_portion(m, g, 0, tokens, active)

    cdef void cost_portions(self) noexcept:
        """The same for several portions: an expert's sums go where `portion` says."""
        cdef int m, g, u
        cdef int[::1] held = np.zeros(self.v_counts.shape[1], np.int32)
        for m in range(self.n_layers):
            for g in range(self.n_groups):
                for u in range(self.n_portions):
                    if not self.varied:
                        self.cost_portion(m, g, u, held)
                    else:
                        self.cost_variants(m, g, u)

    cdef void cost_portion(self, int m, int g, int u, int[::1] held) noexcept:
        cdef int i, e, n, table = self.table_of[m, u], found = 0, active = 0, tokens = 0
        for i in range(self.order_ptr[m, g], self.order_ptr[m, g + 1]):
            e = self.order[m, i]
            if self.v_portion[m, e] == u:
                held[found] = e
                found += 1
                n = self.v_counts[m, e]
                active += n > 0
                tokens += n
        sum_beyond(
            &self.work[table, 0], &self.moved[table, 0], self.work.shape[1] - 1, &self.v_counts[m, 0], &held[0],
            found, &self.v_sums[m, g, u, 0],
        )
        self.note_portion(m, g, u, tokens, active)

    cdef inline void note_portion(self, int m, int g, int u, int tokens, int active) noexcept:
        cdef const double* c = &self.coefficients[self.table_of[m, u], 0]
        self.v_sums[m, g, u, 2] = active
        self.v_row[self.expert_row + (m * self.n_groups + g) * self.n_portions + u] = self.expert_s(m, g, u)
        self.v_tally[1] += tokens
        self.v_portion_tally[u, 0] += tokens * c[FLOP_PER_TOKEN]
        self.v_portion_tally[u, 1] += tokens * c[BYTES_PER_TOKEN] + active * c[BYTES_PER_EXPERT]

    cdef void cost_variants(self, int m, int g, int u) noexcept:
        """The same where experts have tables of their own variant, or are decoded."""
        cdef double[4] w, b
        cdef int[MAX_VARIANTS] tokens, active
        cdef int i, e, n, v, table, found = 0, used = 0, last = self.work.shape[1] - 1
        cdef double decode_s = 0.0
        cdef const double* c
        for i in range(4):
            w[i] = 0.0
            b[i] = 0.0
        for v in range(self.n_variants):
            tokens[v] = 0
            active[v] = 0
        for i in range(self.order_ptr[m, g], self.order_ptr[m, g + 1]):
            e = self.order[m, i]
            if self.v_portion[m, e] != u:
                continue
            n = self.v_counts[m, e]
            v = self.variant[m, e]
            table = self.table_of[m, u] + v
            active[v] += n > 0
            tokens[v] += n
            if n > last:
                w[found & 3] += (n - last) * (self.work[table, last] - self.work[table, last - 1])
                b[found & 3] += (n - last) * (self.moved[table, last] - self.moved[table, last - 1])
                n = last
            w[found & 3] += self.work[table, n]
            b[found & 3] += self.moved[table, n]
            found += 1
        for v in range(self.n_variants):
            c = &self.coefficients[self.table_of[m, u] + v, 0]
            used += active[v]
            self.v_tally[1] += tokens[v]
            self.v_portion_tally[u, 0] += tokens[v] * c[FLOP_PER_TOKEN]
            self.v_portion_tally[u, 1] += tokens[v] * c[BYTES_PER_TOKEN] + active[v] * c[BYTES_PER_EXPERT]
            self.v_portion_tally[u, 2] += (
                tokens[v] * c[DECODE_FLOP_PER_TOKEN] + active[v] * c[DECODE_FLOP_PER_EXPERT]
            )
            decode_s += active[v] * c[DECODE_S]
        self.v_sums[m, g, u, 0] = (w[0] + w[1]) + (w[2] + w[3])
        self.v_sums[m, g, u, 1] = (b[0] + b[1]) + (b[2] + b[3])
        self.v_sums[m, g, u, 2] = used
        self.v_sums[m, g, u, 3] = decode_s
        self.v_row[self.expert_row + (m * self.n_groups + g) * self.n_portions + u] = (
            self.expert_s(m, g, u) + decode_s
        )

    cdef void cost_fetches(self) noexcept:
        cdef int m, g, f, at = self.fetch_row
        for m in range(self.n_layers):
            for g in range(self.n_groups):
                for f in range(self.v_fetch.shape[2]):
                    self.v_row[at] = self.v_fetch[m, g, f, 0] + self.v_fetch[m, g, f, 1]
                    at += 1

    cdef inline double expert_s(self, int m, int g, int u) noexcept:
        cdef const double* c = &self.coefficients[self.table_of[m, u], 0]
        cdef double active = self.v_sums[m, g, u, 2], compute_s, memory_s, launch_s
        if active == 0.0:
            return 0.0
        compute_s = self.v_sums[m, g, u, 0] * c[SECONDS_PER_WORK] + c[HEAD_S]
        memory_s = self.v_sums[m, g, u, 1] * c[SECONDS_PER_BYTE]
        launch_s = c[LAUNCH_S] + active * c[ACTIVE_S]
        return launch_s + norm(
            compute_s, memory_s, c[POWER], &self.norm_of_ratio[self.table_of[m, u], 0]
        )

    cdef void cost_exchanges(self) noexcept:
        cdef int m, r, g, d, link, at
        cdef double sent, received, both = self.token_bytes[0] + self.token_bytes[1]
        cdef const double* weight
        cdef const int* pair
        for link in range(2):
            if self.seconds_per_byte[link] == 0.0:
                continue  # no such link, or no rank behind it: volumes stay 0
            for m in range(self.n_layers):
                for r in range(self.n_ranks):
                    sent = 0.0
                    received = 0.0
                    weight = &self.send[link, r, 0]
                    pair = &self.v_pair[m, self.data_group[r], 0]
                    for g in range(self.n_groups):
                        sent += weight[g] * pair[g]
                    weight = &self.recv[link, r, 0]
                    pair = &self.v_pair[m, 0, self.rank_group[r]]
                    for d in range(self.n_data):
                        received += weight[d] * pair[d * self.n_groups]
                    self.v_volume[m, r, link] = sent if sent > received else received
                    self.v_tally[LINK_SENT + 2 * link] += sent * both
                    self.v_tally[LINK_SENT + 2 * link + 1] += received * both
        for at in range(self.n_layers * self.n_ranks):
            m = at // self.n_ranks
            r = at - m * self.n_ranks
            self.v_row[self.dispatch_row + at] = self.slowest_port_s(m, r, 0)
            self.v_row[self.combine_row + at] = self.slowest_port_s(m, r, 1)

    cdef inline double slowest_port_s(self, int m, int r, int way) noexcept:
        cdef double inside = self.port_s(m, r, way, 0), outside = self.port_s(m, r, way, 1)
        return inside if inside > outside else outside

    cdef inline double port_s(self, int m, int r, int way, int link) noexcept:
        cdef double moved = self.v_volume[m, r, link] * self.token_bytes[way]
        if moved > 0.0:
            return self.latency_s[link] + moved * self.seconds_per_byte[link]
        return 0.0

    cdef double sweep(self, double start_s) noexcept:
        """The kernel of `ext.graph.sweep`, on views that are already open."""
        cdef int n = self.row.shape[0], i, j, p, held, why
        cdef double begin, finish, duration, end = -INFINITY
        self.latest = 0
        for i in range(self.last.shape[0]):
            self.last[i] = -2
        for i in range(n):
            begin = start_s
            why = -1
            held = self.resource[i]
            if held >= 0 and self.v_free[held] > begin:
                begin = self.v_free[held]
                why = self.last[held]
            for j in range(self.pred_ptr[i], self.pred_ptr[i + 1]):
                p = self.pred[j]
                if self.v_finish[p] > begin:
                    begin = self.v_finish[p]
                    why = p
            duration = self.v_row[self.row[i]]
            finish = begin + duration
            self.v_finish[i] = finish
            self.v_cause[i] = why
            if held >= 0:
                self.v_free[held] = finish
                self.v_busy[held] += duration
                self.last[held] = i
            if finish > end:
                end = finish
                self.latest = i
        return end if end > start_s else start_s

    cdef int find_latest(self) noexcept:
        """Return the task that finishes last, the first among equals."""
        cdef int i, task = 0
        for i in range(1, self.v_finish.shape[0]):
            if self.v_finish[i] > self.v_finish[task]:
                task = i
        return task

    cdef void follow_path(self, int task) noexcept:
        """The kernel of `ext.graph.critical_path`, on views that are already open."""
        cdef int length = 0
        while task >= 0 and self.v_finish.shape[0]:
            self.v_path[length] = task
            length += 1
            task = self.v_cause[task]
        self.path_length = length

    cdef void attribute(self, const double[:, ::1] static_parts, double start_s) noexcept:
        cdef int i, p, row, kind, at, task = 0
        for i in range(self.path_length):
            task = self.v_path[i]
            row = self.row[task]
            if row < self.expert_row:
                kind = self.row_kind[row]
                for p in range(self.n_parts):
                    self.v_parts[kind, p] += static_parts[row, p]
            elif row < self.fetch_row:
                at = row - self.expert_row
                self.attribute_experts(at // self.n_portions, at % self.n_portions)
            elif row < self.dispatch_row:
                self.attribute_fetch(row - self.fetch_row)
            elif row < self.combine_row:
                at = row - self.dispatch_row
                self.attribute_exchange(0, at // self.n_ranks, at % self.n_ranks)
            elif row < self.barrier_row:
                at = row - self.combine_row
                self.attribute_exchange(1, at // self.n_ranks, at % self.n_ranks)
        if self.path_length and self.v_cause[task] == -2:
            self.v_tally[QUEUED_S] += self.v_finish[task] - self.v_row[self.row[task]] - start_s

    cdef void attribute_experts(self, int group, int u) noexcept:
        cdef int m = group // self.n_groups, g = group % self.n_groups, i, first
        cdef const double* c = &self.coefficients[self.table_of[m, u], 0]
        cdef double active = self.v_sums[m, g, u, 2], compute_s, memory_s, both, part, total = 0.0
        if active > 0.0:
            compute_s = self.v_sums[m, g, u, 0] * c[SECONDS_PER_WORK] + c[HEAD_S]
            memory_s = self.v_sums[m, g, u, 1] * c[SECONDS_PER_BYTE]
            both = norm(
            compute_s, memory_s, c[POWER], &self.norm_of_ratio[self.table_of[m, u], 0]
        )
            part = share(compute_s, memory_s, c[POWER])
            self.v_parts[EXPERTS, self.portion_parts[u, 0]] += part * both
            self.v_parts[EXPERTS, self.portion_parts[u, 1]] += (1.0 - part) * both
            self.v_parts[EXPERTS, LAUNCH] += c[LAUNCH_S] + active * c[ACTIVE_S]
            self.v_parts[EXPERTS, VECTOR] += self.v_sums[m, g, u, 3]
        first = self.expert_row + m * self.n_groups * self.n_portions + u
        for i in range(self.n_groups):
            total += self.v_row[first + i * self.n_portions]
        self.v_straggle[EXPERTS] += self.v_row[first + g * self.n_portions] - total / self.n_groups

    cdef void attribute_fetch(self, int at) noexcept:
        cdef int n_fetches = self.v_fetch.shape[2], group = at // n_fetches, f = at % n_fetches
        cdef int m = group // self.n_groups, g = group % self.n_groups
        self.v_parts[FETCH, FETCH_BANDWIDTH] += self.v_fetch[m, g, f, 0]
        self.v_parts[FETCH, FETCH_BANDWIDTH + 1] += self.v_fetch[m, g, f, 1]

    cdef void attribute_exchange(self, int way, int m, int r) noexcept:
        cdef int kind = COMBINE if way else DISPATCH, link, at
        cdef int first = (self.combine_row if way else self.dispatch_row) + m * self.n_ranks
        cdef double inside = self.port_s(m, r, way, 0), outside = self.port_s(m, r, way, 1)
        link = 1 if outside > inside else 0
        if (outside if link else inside) > 0.0:
            at = LINK_BANDWIDTH + 2 * link
            self.v_parts[kind, at] += (outside if link else inside) - self.latency_s[link]
            self.v_parts[kind, at + 1] += self.latency_s[link]
        self.v_straggle[kind] += self.v_row[first + r] - mean(&self.v_row[first], self.n_ranks)
