"""The moments of routing, layer by layer, that the fit of the latent-logit generator matches."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ext.cache import StackDistances
from ext.routing import iid_kernels
from workloads.routing.measures import (
    halves,
    indicator,
    information_ratio,
    masks_of,
    overlap_counts,
    pair_scores,
)
from workloads.routing.popularity import gini
from workloads.routing.stream import FloatArray, Int16Array, IntArray
from workloads.routing.trace import RoutingTrace

LAGS = (1, 2, 4, 8, 16, 32, 64, 128)
NAMES = (
    *(f"lag{lag}" for lag in LAGS), "same_domain", "other_domain", "gini", "lru25", "lru50", "lru75",
    "information", "set_hit",
)  # fmt: skip
_LEAST_PAIRS = 500  # a lag that fewer pairs of tokens have is not used
_AFFINITY_IDS = 150_000  # ids per layer that the affinity moments look at
_AFFINITY_WORK = 10**8  # and tokens x experts squared


@dataclass(frozen=True)
class Sample:
    """Routing of sequences with their domains: ids (T, L, k), offsets (S + 1,), domains (S,)."""

    ids: Int16Array
    offsets: IntArray
    domains: IntArray
    n_experts: int

    @property
    def sequence(self) -> IntArray:
        """Number of each token's sequence, shape (T,)."""
        return np.repeat(np.arange(len(self.offsets) - 1), np.diff(self.offsets))


def sample_of(trace: RoutingTrace) -> Sample:
    """Return the sample that a short trace holds, in memory."""
    return Sample(trace.experts.astype(np.int16), trace.offsets, trace.domains, trace.n_experts)


def moments(sample: Sample) -> FloatArray:
    """Return the moments of `NAMES` per layer, float64 (L, M); NaN where the sample has too little."""
    columns = [*_overlaps(sample), *_between(sample), _ginis(sample), *_lru(sample), *_affinity(sample)]
    return np.array(columns).T


def _overlaps(sample: Sample) -> list[FloatArray]:
    masks, sequence = masks_of(sample.ids, sample.n_experts), sample.sequence
    out = []
    for lag in LAGS:
        shared, possible = overlap_counts(masks, sequence, lag)
        enough = possible >= _LEAST_PAIRS * sample.ids.shape[2]
        out.append(np.where(enough, shared / np.maximum(possible, 1), np.nan))
    return out


def frequencies(sample: Sample) -> FloatArray:
    """Return how often each sequence uses each expert, sums to 1; float64 (S, L, E)."""
    bounds = zip(sample.offsets, sample.offsets[1:], strict=False)
    counts = [
        iid_kernels().counts(np.ascontiguousarray(sample.ids[a:b]), sample.n_experts) for a, b in bounds
    ]
    table = np.array(counts, np.float64)
    return np.asarray(table / np.maximum(table.sum(axis=2, keepdims=True), 1))


def _between(sample: Sample) -> list[FloatArray]:
    """Overlap of tokens of two sequences, of one domain and of two; without a sequence's own part."""
    shares = frequencies(sample) * sample.ids.shape[2]
    own = (shares**2).sum(axis=2)
    total = (shares.sum(axis=0) ** 2).sum(axis=1) - own.sum(axis=0)
    same, pairs = np.zeros(shares.shape[1]), 0
    for domain in np.unique(sample.domains):
        rows = sample.domains == domain
        n = int(rows.sum())
        same += (shares[rows].sum(axis=0) ** 2).sum(axis=1) - own[rows].sum(axis=0)
        pairs += n * (n - 1)
    all_pairs, k = len(shares) * (len(shares) - 1), sample.ids.shape[2]
    missing = np.full(shares.shape[1], np.nan)
    inside = same / (pairs * k) if pairs else missing
    outside = (total - same) / ((all_pairs - pairs) * k) if all_pairs > pairs else missing
    return [inside, outside]


def _ginis(sample: Sample) -> FloatArray:
    counts = iid_kernels().counts(np.ascontiguousarray(sample.ids), sample.n_experts)
    return np.array([gini(row) for row in counts.astype(np.float64)])


def _lru(sample: Sample) -> list[FloatArray]:
    depths = StackDistances(sample.ids.shape[1], sample.n_experts)
    depths.add(np.ascontiguousarray(sample.ids))
    capacities = [max(1, round(share * sample.n_experts)) for share in (0.25, 0.5, 0.75)]
    return list(depths.hits(capacities) / np.maximum(depths.histogram.sum(axis=1), 1))


def _affinity(sample: Sample) -> list[FloatArray]:
    """Information of first experts, and foretold share; cross-validated both ways, NaN in the first layer."""
    n_layers, k = sample.ids.shape[1:]
    out = np.full((2, n_layers), np.nan)
    step = max(
        1, len(sample.ids) * k // _AFFINITY_IDS, len(sample.ids) * sample.n_experts**2 // _AFFINITY_WORK
    )
    ids, fit = sample.ids[::step], halves(sample.sequence)[::step]
    if len(ids) < 200 or fit.all() or not fit.any():
        return list(out)
    here = indicator(ids[:, 0], sample.n_experts)
    for layer in range(1, n_layers):
        before, here = here, indicator(ids[:, layer], sample.n_experts)
        out[0, layer] = information_ratio(ids[:, layer - 1, 0], ids[:, layer, 0], sample.n_experts)
        log_popularity, pairs = pair_scores(before[fit], here[fit])
        best = np.argpartition(-(before[~fit] @ pairs + log_popularity), k - 1, axis=1)[:, :k]
        out[1, layer] = np.take_along_axis(here[~fit], best, axis=1).sum() / max(here[~fit].sum(), 1.0)
    return list(out)
