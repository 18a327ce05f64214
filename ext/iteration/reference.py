"""The plain twin of `_iteration.pyx`: what one iteration does, to be checked by eye."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ext.graph import reference as graph
from ext.iteration.layout import (
    ACTIVE_S,
    BYTES_PER_EXPERT,
    BYTES_PER_TOKEN,
    COMBINE,
    DECODE_FLOP_PER_EXPERT,
    DECODE_FLOP_PER_TOKEN,
    DECODE_S,
    DISPATCH,
    EXPERTS,
    FETCH,
    FETCH_BANDWIDTH,
    FLOP_PER_TOKEN,
    HEAD_S,
    KINDS,
    LAUNCH,
    LAUNCH_S,
    LINK_BANDWIDTH,
    LINK_SENT,
    NORM_STEPS,
    PARTS,
    POWER,
    QUEUED_S,
    SECONDS_PER_BYTE,
    SECONDS_PER_WORK,
    TALLY,
    VECTOR,
    Layout,
)  # fmt: skip

F64 = NDArray[np.float64]
I32 = NDArray[np.int32]


def count(
    ids: NDArray[np.int16],
    group_ptr: I32,
    expert_group: NDArray[np.int16],
    n_groups: int,
    counts: I32,
    pair: I32,
    pairs: bool,
) -> int:
    """Count the tokens of each expert, and the token copies that go from data groups to expert groups.

    Parameters
    ----------
    ids : int16[T, L, k]           experts of each token, -1 where unused; tokens sorted by data group
    group_ptr : int32[D + 1]       tokens of data group d are group_ptr[d]:group_ptr[d + 1]
    expert_group : int16[L, E]     group that holds each expert
    counts : int32[L, E], out      tokens of each expert
    pair : int32[L, D, G], out     tokens of d that have an expert in g (each counted once); if `pairs`

    Returns
    -------
    int    used slots; equals ``counts.sum()``
    """
    counts[:] = 0
    pair[:] = 0
    n_layers = ids.shape[1]
    for m in range(n_layers):
        used = ids[:, m, :][ids[:, m, :] >= 0]
        counts[m] += np.bincount(used, minlength=counts.shape[1]).astype(np.int32)
        for d in range(len(group_ptr) - 1) if pairs else ():
            for token in ids[group_ptr[d] : group_ptr[d + 1], m]:
                for g in {int(expert_group[m, e]) for e in token if e >= 0}:
                    pair[m, d, g] += 1
    return int((ids >= 0).sum())


def norm(a: float, b: float, power: float, of_ratio: F64) -> float:
    """Return (a**p + b**p) ** (1/p) from a table of norm(1, ratio); the maximum if p is infinite.

    Powers are slow: the usual ones go by roots, and others by linear interpolation in the ratio.
    """
    if math.isinf(power):
        return max(a, b)
    if power == 1.0:
        return a + b
    if power == 2.0:
        return math.sqrt(a * a + b * b)
    high, low = (a, b) if a > b else (b, a)
    if high == 0.0:
        return 0.0
    place = low / high * NORM_STEPS
    i = min(int(place), NORM_STEPS - 1)
    return high * float(of_ratio[i] + (place - i) * (of_ratio[i + 1] - of_ratio[i]))


class Iteration:
    """The state of one engine, and how it runs an iteration.

    Attributes
    ----------
    free_s, busy_s : float64[R]             when each resource is free; how long it was held in all
    row_s : float64[rows]                   durations of the last iteration
    counts : int32[L, E], pair : [L, D, G]  routing of the last iteration
    finish_s, cause, path, path_length      tasks of the last iteration, and its critical path, last first
    path_parts : float64[kinds, PARTS]      seconds on the critical paths of all iterations
    straggle_s : float64[kinds]             of which waiting for the slowest rank (above the mean rank)
    tally : float64[len(TALLY)]             counters of all iterations
    portion_tally : float64[U, 3]           FLOPs and bytes of the experts of each portion, FLOPs of decoding
    portion : int8[L, E]                    portion of each expert: what `assign` fills
    fetch_s : float64[L, G, F, 2]           seconds of each fetch by bandwidth and latency: likewise
    assign                                  called with the iteration after counting, if there are portions
    """

    def __init__(
        self, layout: Layout, execute: Callable[..., float] = graph.events,
        assign: Callable[[Any], None] | None = None,
    ) -> None:  # fmt: skip
        self.layout, self.execute, self.assign = layout, execute, assign
        n, n_resources = len(layout.row), len(layout.discipline)
        self.free_s, self.busy_s = np.zeros(n_resources), np.zeros(n_resources)
        self.row_s = np.zeros(layout.n_rows)
        self.counts = np.zeros((layout.n_layers, layout.n_experts), np.int32)
        self.pair = np.zeros((layout.n_layers, layout.n_data, layout.n_groups), np.int32)
        self.sums = np.zeros((layout.n_layers, layout.n_groups, layout.n_portions, 4))
        self.portion = np.zeros((layout.n_layers, layout.n_experts), np.int8)
        self.fetch_s = np.zeros((layout.n_layers, layout.n_groups, layout.n_fetches, 2))
        self.portion_tally = np.zeros((layout.n_portions, 3))
        self.volume = np.zeros((layout.n_layers, layout.n_ranks, 2))
        self.finish_s, self.cause = np.zeros(n), np.zeros(n, np.int32)
        self.path, self.path_length = np.zeros(n, np.int32), 0
        self.path_parts, self.straggle_s = np.zeros((len(KINDS), len(PARTS))), np.zeros(len(KINDS))
        self.tally = np.zeros(len(TALLY))

    def run(self, ids: Any, group_ptr: I32, static_parts: F64, start_s: float) -> float:
        """Run one iteration that starts at `start_s`; return the time of its end.

        Parameters
        ----------
        ids : int16[T, L, k] or None          routing; None if the model has no experts
        group_ptr : int32[D + 1]              tokens by data group
        static_parts : float64[D * C, PARTS]  seconds of each static row by resource
        """
        lay = self.layout
        self.row_s[: lay.n_static] = [_total(parts) for parts in static_parts]
        if ids is not None and lay.n_layers:
            self.tally[0] += count(
                ids, group_ptr, lay.expert_group, lay.n_groups, self.counts, self.pair, lay.exchanged
            )
            if self.assign is not None:
                self.assign(self)
                fetch_s = (self.fetch_s[..., 0] + self.fetch_s[..., 1]).ravel()
                self.row_s[lay.fetch_row : lay.dispatch_row] = fetch_s
            self.cost_experts()
            if lay.exchanged:
                self.cost_exchanges()
        end_s = self.execute(
            lay.row,
            lay.resource,
            lay.discipline,
            lay.pred_ptr,
            lay.pred,
            self.row_s,
            start_s,
            self.free_s,
            self.busy_s,
            self.finish_s,
            self.cause,
        )
        self.path_length = graph.critical_path(self.finish_s, self.cause, self.path)
        self.attribute(static_parts, start_s)
        return end_s

    def cost_experts(self) -> None:
        """Fill the experts' rows from the counts, portion by portion."""
        lay = self.layout
        for m in range(lay.n_layers):
            for g in range(lay.n_groups):
                experts = lay.order[m, lay.order_ptr[m, g] : lay.order_ptr[m, g + 1]]
                for u in range(lay.n_portions):
                    self.cost_portion(m, g, u, [int(e) for e in experts if self.portion[m, e] == u])

    def cost_portion(self, m: int, g: int, u: int, experts: list[int]) -> None:
        """Cost some experts of a group as one fused layer."""
        lay = self.layout
        last = lay.work.shape[1] - 1
        total_work, total_moved = [0.0] * 4, [0.0] * 4  # four sums, as the compiled twin keeps them
        tokens, active = [0] * lay.n_variants, [0] * lay.n_variants
        for i, e in enumerate(experts):
            n, variant = int(self.counts[m, e]), int(lay.variant[m, e])
            work, moved = lay.work[lay.table_of[m, u] + variant], lay.moved[lay.table_of[m, u] + variant]
            active[variant] += n > 0
            tokens[variant] += n
            if n > last:
                total_work[i % 4] += (n - last) * float(work[last] - work[last - 1])
                total_moved[i % 4] += (n - last) * float(moved[last] - moved[last - 1])
                n = last
            total_work[i % 4] += float(work[n])
            total_moved[i % 4] += float(moved[n])
        decode_s = self.note_portion(m, u, tokens, active)
        self.sums[m, g, u] = _of_four(total_work), _of_four(total_moved), sum(active), decode_s
        at = (m * lay.n_groups + g) * lay.n_portions + u
        self.row_s[lay.expert_row + at] = self.expert_s(m, g, u)

    def note_portion(self, m: int, u: int, tokens: list[int], active: list[int]) -> float:
        """Tally the experts of a portion, by variant; return the seconds of decoding before the product."""
        lay, decode_s = self.layout, 0.0
        for variant, (n, used) in enumerate(zip(tokens, active, strict=True)):
            c = lay.coefficients[lay.table_of[m, u] + variant]
            self.tally[1] += n
            self.portion_tally[u, 0] += n * c[FLOP_PER_TOKEN]
            self.portion_tally[u, 1] += n * c[BYTES_PER_TOKEN] + used * c[BYTES_PER_EXPERT]
            self.portion_tally[u, 2] += n * c[DECODE_FLOP_PER_TOKEN] + used * c[DECODE_FLOP_PER_EXPERT]
            decode_s += float(used * c[DECODE_S])
        return decode_s

    def expert_s(self, m: int, g: int, u: int) -> float:
        """Return the seconds of one portion of a group's fused expert layer."""
        table = self.layout.table_of[m, u]
        c = self.layout.coefficients[table]
        work, moved, active, decode_s = self.sums[m, g, u]
        if active == 0:
            return 0.0
        compute_s = float(work * c[SECONDS_PER_WORK] + c[HEAD_S])
        memory_s = float(moved * c[SECONDS_PER_BYTE])
        launch_s = float(c[LAUNCH_S] + active * c[ACTIVE_S])
        both_s = norm(compute_s, memory_s, float(c[POWER]), self.layout.norm_of_ratio[table])
        return launch_s + both_s + float(decode_s)

    def cost_exchanges(self) -> None:
        """Fill the rows of dispatch and combine from the token copies between groups."""
        lay = self.layout
        both = float(lay.token_bytes[0] + lay.token_bytes[1])
        for link in range(2):
            for m in range(lay.n_layers):
                for r in range(lay.n_ranks):
                    sent = received = 0.0
                    for g in range(lay.n_groups):
                        sent += lay.send[link, r, g] * self.pair[m, lay.data_group[r], g]
                    for d in range(lay.n_data):
                        received += lay.recv[link, r, d] * self.pair[m, d, lay.rank_group[r]]
                    self.volume[m, r, link] = max(sent, received)
                    self.tally[LINK_SENT + 2 * link] += sent * both
                    self.tally[LINK_SENT + 2 * link + 1] += received * both
        for at in range(lay.n_layers * lay.n_ranks):
            m, r = divmod(at, lay.n_ranks)
            self.row_s[lay.dispatch_row + at] = max(self.port_s(m, r, 0))
            self.row_s[lay.combine_row + at] = max(self.port_s(m, r, 1))

    def port_s(self, m: int, r: int, way: int) -> tuple[float, float]:
        """Return the seconds at a rank's link and at its network port."""
        lay = self.layout
        seconds = [0.0, 0.0]
        for link in range(2):
            moved = self.volume[m, r, link] * lay.token_bytes[way]
            if moved > 0.0:
                seconds[link] = float(lay.latency_s[link] + moved * lay.seconds_per_byte[link])
        return seconds[0], seconds[1]

    def attribute(self, static_parts: F64, start_s: float) -> None:
        """Add the critical path's seconds to their kinds and resources."""
        lay = self.layout
        for i in self.path[: self.path_length]:
            row = lay.row[i]
            kind = lay.row_kind[row]
            if row < lay.expert_row:
                self.path_parts[kind] += static_parts[row]
            elif row < lay.fetch_row:
                self.attribute_experts(int(row) - lay.expert_row)
            elif row < lay.dispatch_row:
                fetch = self.fetch_s.reshape(-1, 2)[row - lay.fetch_row]
                self.path_parts[FETCH, FETCH_BANDWIDTH : FETCH_BANDWIDTH + 2] += fetch
            elif row < lay.barrier_row:
                way = int(row >= lay.combine_row)
                at = int(row) - (lay.combine_row if way else lay.dispatch_row)
                self.attribute_exchange(way, *divmod(at, lay.n_ranks))
        root = self.path[self.path_length - 1] if self.path_length else 0
        if self.path_length and self.cause[root] == graph.FROM_EARLIER:
            self.tally[QUEUED_S] += self.finish_s[root] - self.row_s[lay.row[root]] - start_s

    def attribute_experts(self, at: int) -> None:
        lay = self.layout
        group, u = divmod(at, lay.n_portions)
        m, g = divmod(group, lay.n_groups)
        c = lay.coefficients[lay.table_of[m, u]]
        work, moved, active, decode_s = self.sums[m, g, u]
        if active:
            compute_s, memory_s = work * c[SECONDS_PER_WORK] + c[HEAD_S], moved * c[SECONDS_PER_BYTE]
            table = lay.norm_of_ratio[lay.table_of[m, u]]
            both = norm(float(compute_s), float(memory_s), float(c[POWER]), table)
            share = _share(float(compute_s), float(memory_s), float(c[POWER]))
            self.path_parts[EXPERTS, lay.portion_parts[u, 0]] += share * both
            self.path_parts[EXPERTS, lay.portion_parts[u, 1]] += (1.0 - share) * both
            self.path_parts[EXPERTS, LAUNCH] += c[LAUNCH_S] + active * c[ACTIVE_S]
            self.path_parts[EXPERTS, VECTOR] += decode_s
        first = lay.expert_row + m * lay.n_groups * lay.n_portions + u
        rows = self.row_s[first : first + lay.n_groups * lay.n_portions : lay.n_portions]
        self.straggle_s[EXPERTS] += rows[g] - _mean(rows)

    def attribute_exchange(self, way: int, m: int, r: int) -> None:
        lay = self.layout
        kind = COMBINE if way else DISPATCH
        first = (lay.combine_row if way else lay.dispatch_row) + m * lay.n_ranks
        rows = self.row_s[first : first + lay.n_ranks]
        seconds = self.port_s(m, r, way)
        link = int(seconds[1] > seconds[0])
        if seconds[link] > 0.0:
            at = LINK_BANDWIDTH + 2 * link
            self.path_parts[kind, at] += seconds[link] - lay.latency_s[link]
            self.path_parts[kind, at + 1] += lay.latency_s[link]
        self.straggle_s[kind] += rows[r] - _mean(rows)


def _share(a: float, b: float, power: float) -> float:
    """Return a**p / (a**p + b**p): what the first of two has of their norm."""
    if math.isinf(power):
        return 1.0 if a >= b else 0.0
    ratio = (b / a) ** power if a > 0.0 else math.inf
    return 1.0 / (1.0 + ratio)


def _of_four(sums: list[float]) -> float:
    return (sums[0] + sums[1]) + (sums[2] + sums[3])


def _total(parts: F64) -> float:
    total = 0.0
    for part in parts:
        total += float(part)
    return total


def _mean(rows: F64) -> float:
    return _total(rows) / len(rows)
