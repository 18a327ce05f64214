"""Kernels of expert caches: a stateful cache of any policy, LRU stack distances, next uses (for Belady).

``cache_kernels()`` returns the fastest module that is built; ``reference`` is its plain twin.  Both have
`ExpertCache`, `lru_depths` and `next_uses`; `hit_counts` below serves hit rates over many capacities.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType

import numpy as np
import numpy.typing as npt

from ext.backend import kernels

POLICIES = ("lru", "lfu", "fifo", "random", "belady", "frequency_distance", "score")


def cache_kernels() -> ModuleType:
    """Return the twin in use of `ExpertCache`, `lru_depths` and `next_uses`."""
    return kernels("ext.cache", cython="compiled")


def hit_counts(
    ids: npt.NDArray[np.int16], n_experts: int, capacities: Sequence[int], policy: str = "lru", seed: int = 0
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Count the hits of one cache per layer, for several capacities, over a whole stream.

    Parameters
    ----------
    ids : int16, shape (T, L, k)      experts in the order of their use; -1 where unused
    n_experts : int                   E
    capacities : ints, shape (C,)     experts that a layer's cache holds
    policy : str                      one of `POLICIES`

    Returns
    -------
    hits : int64, shape (C, L);  accesses : int64, shape (L,)

    Raises
    ------
    ValueError   an unknown policy, an expert out of range

    Notes
    -----
    Law: LRU hits do not fall with capacity, and no policy has more hits than Belady (1966).
    """
    accesses = (ids >= 0).sum(axis=(0, 2), dtype=np.int64)
    if policy == "lru":
        depths = StackDistances(ids.shape[1], n_experts)
        depths.add(ids)
        return depths.hits(capacities), accesses
    uses = cache_kernels().next_uses(ids, n_experts) if policy == "belady" else None
    hits = []
    for capacity in capacities:
        cache = cache_kernels().ExpertCache(ids.shape[1], n_experts, capacity, policy=policy, seed=seed)
        cache.access_tokens(ids, uses)
        hits.append(cache.hits)
    return np.array(hits, np.int64).reshape(len(capacities), -1), accesses


def hit_rates(
    ids: npt.NDArray[np.int16], n_experts: int, capacities: Sequence[int], policy: str = "lru", seed: int = 0
) -> npt.NDArray[np.float64]:
    """Return the hit rate of one cache per layer at several capacities; float64, shape (C, L)."""
    hits, accesses = hit_counts(ids, n_experts, capacities, policy, seed)
    return np.asarray(hits / np.maximum(accesses, 1))


class StackDistances:
    """Histograms of LRU stack distances of a stream that comes in blocks (Mattson et al., 1970).

    Law: an LRU cache of capacity C hits exactly the accesses of distance below C.
    """

    def __init__(self, n_layers: int, n_experts: int) -> None:
        kind = np.uint8 if n_experts <= 256 else np.int16
        self._stacks = np.tile(np.arange(n_experts, dtype=kind), (n_layers, 1))
        self._seen = np.zeros(n_layers, np.int32)
        self.histogram = np.zeros((n_layers, n_experts + 1), np.int64)  # the last column: first uses

    def add(self, ids: npt.NDArray[np.int16]) -> None:
        """Count the accesses of the next block, int16, shape (T, L, k)."""
        cache_kernels().lru_depths(ids, self._stacks, self._seen, self.histogram)

    def hits(self, capacities: Sequence[int]) -> npt.NDArray[np.int64]:
        """Return the hits per capacity and layer; int64, shape (C, L)."""
        n_experts = self.histogram.shape[1] - 1
        rows = [self.histogram[:, : min(max(c, 0), n_experts)].sum(axis=1) for c in capacities]
        return np.array(rows, np.int64).reshape(len(capacities), -1)


def expert_cache(
    n_layers: int,
    n_experts: int,
    capacity: int | npt.NDArray[np.int64],
    *,
    policy: str = "lru",
    shared: bool = False,
    seed: int = 0,
    scores: npt.NDArray[np.int64] | None = None,
) -> object:
    """Return an `ExpertCache` of the twin in use (see `reference.ExpertCache`)."""
    return cache_kernels().ExpertCache(
        n_layers, n_experts, capacity, policy=policy, shared=shared, seed=seed, scores=scores
    )
