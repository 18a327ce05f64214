"""Statistics of routing streams, gathered block by block in bounded memory."""

from __future__ import annotations

from typing import Any

import numpy as np

from ext.cache import StackDistances, hit_counts
from ext.routing import iid_kernels
from workloads.routing.measures import (
    BATCHES,
    LAGS,
    WINDOWS,
    active_counts,
    affinity,
    expected_active,
    masks_of,
    overlap_counts,
)
from workloads.routing.popularity import gini
from workloads.routing.stream import Int16Array, IntArray
from workloads.routing.trace import RoutingTrace

CACHE_SHARES = (0.25, 0.5, 0.75)
_KEPT_IDS = 24 * 2**20  # ids (2 bytes each) kept for what needs the whole stream: Belady and affinity
_BLOCK_IDS = 2 * 2**20  # ids per block


class RoutingStats:
    """Gathers the statistics of a stream that comes in blocks.

    Law: how the stream is cut into blocks changes nothing.  Belady hit rates and affinity need the future or
    two passes: they are of the first tokens, as many as `kept` ids hold.
    """

    def __init__(self, n_layers: int, n_experts: int, top_k: int, kept: int = _KEPT_IDS) -> None:
        self.n_layers, self.n_experts, self.top_k = n_layers, n_experts, top_k
        self.tokens = 0
        self._counts = np.zeros((n_layers, n_experts), np.int64)
        self._shared = {lag: np.zeros((2, n_layers), np.int64) for lag in LAGS}
        self._active = {window: np.zeros(n_layers, np.int64) for window in WINDOWS}
        self._windows = dict.fromkeys(WINDOWS, 0)
        self._depths = StackDistances(n_layers, n_experts)
        self._tail = np.zeros((0, n_layers, top_k), np.int16), np.zeros(0, np.int64)
        self._open = np.zeros((0, n_layers, top_k), np.int16), np.zeros(0, np.int64)
        self._kept: list[tuple[Int16Array, IntArray]] = []
        self._room = max(kept // max(1, n_layers * top_k), 1)

    def add(self, ids: Int16Array, sequence: IntArray) -> None:
        """Add the next tokens: experts int16 (T, L, k), the sequence of each token int64 (T,)."""
        step = max(_BLOCK_IDS // max(1, self.n_layers * self.top_k), 1)
        for first in range(0, len(ids), step):
            self._add(np.ascontiguousarray(ids[first : first + step]), sequence[first : first + step])

    def _add(self, ids: Int16Array, sequence: IntArray) -> None:
        self.tokens += len(ids)
        self._counts += iid_kernels().counts(ids, self.n_experts)
        self._depths.add(ids)
        self._add_overlaps(ids, sequence)
        self._add_active(ids, sequence)
        if self._room > 0:
            self._kept.append((ids[: self._room].copy(), sequence[: self._room].copy()))
            self._room -= len(self._kept[-1][0])

    def _add_overlaps(self, ids: Int16Array, sequence: IntArray) -> None:
        before, order = self._tail
        whole, numbers = np.concatenate([before, ids]), np.concatenate([order, sequence])
        masks = masks_of(whole, self.n_experts)
        for lag in LAGS:
            self._shared[lag] += overlap_counts(masks, numbers, lag, len(before))
        self._tail = whole[-LAGS[-1] :].copy(), numbers[-LAGS[-1] :].copy()

    def _add_active(self, ids: Int16Array, sequence: IntArray) -> None:
        """Count windows; the last sequence waits, cut to whole windows of the largest size."""
        before, order = self._open
        whole, numbers = np.concatenate([before, ids]), np.concatenate([order, sequence])
        last = int(np.flatnonzero(np.diff(numbers, prepend=numbers[0] - 1))[-1]) if len(numbers) else 0
        ready = last + (len(whole) - last) // WINDOWS[-1] * WINDOWS[-1]
        self._count_active(whole[:ready], numbers[:ready])
        self._open = whole[ready:].copy(), numbers[ready:].copy()

    def _count_active(self, ids: Int16Array, sequence: IntArray) -> None:
        if len(ids) == 0:
            return
        masks = masks_of(ids, self.n_experts)
        for window in WINDOWS:
            active, n = active_counts(masks, sequence, window)
            self._active[window] += active
            self._windows[window] += n

    def summary(self) -> dict[str, Any]:
        """Return all statistics as plain numbers; the means are over layers."""
        self._count_active(*self._open)
        self._open = self._open[0][:0], self._open[1][:0]
        ids = np.concatenate([ids for ids, _ in self._kept]) if self._kept else self._tail[0]
        sequence = np.concatenate([s for _, s in self._kept]) if self._kept else self._tail[1]
        per_layer = [gini(row) for row in self._counts.astype(np.float64)]
        return {
            "gini": {"mean": float(np.mean(per_layer)) if per_layer else 0.0, "per_layer": per_layer},
            "overlap": {str(lag): _share(*pair) for lag, pair in self._shared.items()},
            "lru_hit": self._lru(),
            "belady_hit": self._belady(ids),
            "active_experts": self._active_summary(),
            "affinity": affinity(ids, sequence, self.n_experts),
            "tokens": self.tokens,
            "layers": self.n_layers,
            "experts": self.n_experts,
            "top_k": self.top_k,
        }

    @property
    def capacities(self) -> list[int]:
        """Experts that caches of `CACHE_SHARES` of the experts hold."""
        return [max(1, round(share * self.n_experts)) for share in CACHE_SHARES]

    def _lru(self) -> dict[str, float]:
        hits = self._depths.hits(self.capacities)
        accesses = self._depths.histogram.sum(axis=1)
        return {str(s): _mean_ratio(row, accesses) for s, row in zip(CACHE_SHARES, hits, strict=True)}

    def _belady(self, ids: Int16Array) -> dict[str, float]:
        hits, accesses = hit_counts(np.ascontiguousarray(ids), self.n_experts, self.capacities, "belady")
        return {str(s): _mean_ratio(row, accesses) for s, row in zip(CACHE_SHARES, hits, strict=True)}

    def _active_summary(self) -> dict[str, dict[str, float | None]]:
        contiguous = {
            str(window): float(np.mean(self._active[window] / n)) if n else None
            for window, n in self._windows.items()
        }
        random = {
            str(batch): float(np.mean(expected_active(self._counts, self.tokens, batch)))
            if self.tokens else None
            for batch in BATCHES
        }  # fmt: skip
        return {"contiguous": contiguous, "random": random}


def _share(shared: IntArray, possible: IntArray) -> float | None:
    return float(np.mean(shared / np.maximum(possible, 1))) if possible.any() else None


def _mean_ratio(hits: IntArray, accesses: IntArray) -> float:
    return float(np.mean(hits / np.maximum(accesses, 1))) if len(accesses) else 0.0


def routing_stats(trace: RoutingTrace) -> dict[str, Any]:
    """Return the statistics of a recorded or generated trace (see `RoutingStats`)."""
    stats = RoutingStats(trace.experts.shape[1], trace.n_experts, trace.experts.shape[2])
    for block in trace.blocks():
        stats.add(block.experts, block.sequence)
    return stats.summary()
