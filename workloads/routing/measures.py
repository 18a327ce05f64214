"""What hardware sees of routing: skew, reuse, active experts, affinity between layers; on blocks of tokens.

Sets of experts are bit masks, uint64 [tokens, layers, words of 64 experts]: an overlap is a count of bits.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from workloads.routing.stream import FloatArray, Int16Array, IntArray

Masks = npt.NDArray[np.uint64]

LAGS = (1, 2, 4, 8, 16, 32, 64)
WINDOWS = (8, 16, 32)
BATCHES = (8, 32, 128)
SMOOTHING = 0.1  # pseudo-count of the predictor's table: rare pairs are not impossible


def masks_of(ids: Int16Array, n_experts: int) -> Masks:
    """Return the set of experts of each token and layer as bit masks; -1 sets no bit; (T, L, W)."""
    words = (n_experts + 63) // 64
    out = np.zeros((*ids.shape[:2], words), np.uint64)
    for j in range(ids.shape[2]):
        used = ids[:, :, j] >= 0
        e = np.where(used, ids[:, :, j], 0).astype(np.uint64)
        bit = np.where(used, np.uint64(1) << (e & np.uint64(63)), np.uint64(0))
        if words == 1:
            out[:, :, 0] |= bit
            continue
        for word in range(words):
            out[:, :, word] |= np.where((e >> np.uint64(6)) == word, bit, np.uint64(0))
    return out


def sizes_of(masks: Masks) -> npt.NDArray[np.int64]:
    """Return the number of experts in each set."""
    return np.asarray(np.bitwise_count(masks).sum(axis=-1, dtype=np.int64))


def overlap_counts(masks: Masks, sequence: IntArray, lag: int, first: int = 0) -> tuple[IntArray, IntArray]:
    """Count experts that tokens `lag` apart in one sequence share, and those that could be.

    Parameters
    ----------
    masks : uint64, shape (T, L, W);  sequence : int64, shape (T,)
    first : int       rows before it are context: the later token of a pair is at `first` or after

    Returns
    -------
    shared, possible : int64, shape (L,)     possible: used slots of the earlier token
    """
    start = max(first, lag)
    later, earlier = masks[start:], masks[max(start - lag, 0) : max(len(masks) - lag, 0)]
    same = sequence[start:] == sequence[max(start - lag, 0) : max(len(masks) - lag, 0)]
    later, earlier = later[same], earlier[same]
    return sizes_of(later & earlier).sum(axis=0), sizes_of(earlier).sum(axis=0)


def active_counts(masks: Masks, sequence: IntArray, window: int) -> tuple[IntArray, int]:
    """Sum the experts that windows of consecutive tokens of one sequence touch; int64 (L,), and windows."""
    ends = np.flatnonzero(np.diff(sequence, append=sequence[-1:] - 1)) + 1
    starts = np.concatenate([[0], ends[:-1]])
    parts = [np.arange(a, b - window + 1, window) for a, b in zip(starts, ends, strict=True)]
    first = np.concatenate(parts) if parts else np.zeros(0, np.int64)
    union = np.zeros((len(first), *masks.shape[1:]), np.uint64)
    for i in range(window):
        union |= masks[first + i]
    return sizes_of(union).sum(axis=0), len(first)


def expected_active(counts: IntArray, tokens: int, batch: int) -> FloatArray:
    """Return the experts that a batch of random tokens of the stream touches per layer; float64 (L,).

    Notes
    -----
    Exact for draws without replacement: an expert of n tokens is missed with C(T - n, B) / C(T, B).
    """
    from scipy.special import gammaln

    batch = min(batch, tokens)
    left = np.maximum(tokens - counts, 0).astype(np.float64)
    possible = left >= batch
    logs = (
        gammaln(left + 1)
        - gammaln(np.where(possible, left - batch, 0) + 1)
        - gammaln(tokens + 1.0)
        + gammaln(tokens - batch + 1.0)
    )
    return np.asarray((1 - np.where(possible, np.exp(logs), 0.0)).sum(axis=1))


def indicator(ids: npt.NDArray[np.int16], n_experts: int) -> npt.NDArray[np.float32]:
    """Return 1 where a token uses an expert; float32, shape (T, E) of ids (T, k)."""
    out = np.zeros((len(ids), n_experts + 1), np.float32)
    np.put_along_axis(out, ids.astype(np.int64) % (n_experts + 1), 1.0, axis=1)  # -1 falls on the last column
    return out[:, :n_experts]


def information_ratio(before: Int16Array, here: Int16Array, n_experts: int) -> float:
    """Return I(first expert before; first expert here) / H(first expert here), less its chance level.

    Notes
    -----
    The chance level of the information of finite samples is (a - 1)(b - 1) / 2N nats for a and b experts
    that occur (Miller, 1955).
    """
    joint = np.zeros((n_experts, n_experts))
    used = (before >= 0) & (here >= 0)
    np.add.at(joint, (before[used], here[used]), 1.0)
    total = joint.sum()
    if total == 0:
        return 0.0
    rows, columns = joint.sum(axis=1), joint.sum(axis=0)
    chance = (np.count_nonzero(rows) - 1) * (np.count_nonzero(columns) - 1) / (2 * total)
    entropy = _entropy(columns / total)
    information = _entropy(rows / total) + entropy - _entropy(joint / total)
    return float(max(information - chance, 0.0) / entropy) if entropy > 0 else 0.0


def _entropy(p: FloatArray) -> float:
    positive = p[p > 0]
    return float(-(positive * np.log(positive)).sum())


def halves(sequence: IntArray) -> npt.NDArray[np.bool_]:
    """Return which tokens are of the fitting half: every other sequence; of one sequence, its first half."""
    number = np.cumsum(np.diff(sequence, prepend=sequence[:1]) != 0)
    if len(number) and number[-1] == 0:
        return np.arange(len(number)) < len(number) // 2
    return np.asarray(number % 2 == 0)


def pair_scores(
    fit_before: npt.NDArray[np.float32], fit_here: npt.NDArray[np.float32]
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Return log popularity (E,) and the log-odds of each pair of experts (E, E), from 0/1 rows."""
    joint = fit_before.T @ fit_here + np.float32(SMOOTHING)
    chance = joint / joint.sum(axis=1, keepdims=True)
    popularity = fit_here.mean(axis=0) / max(float(fit_here.sum(axis=1).mean()), 1.0) + np.float32(1e-6)
    return np.log(popularity), np.log(chance / popularity)


def set_hits(ids: Int16Array, fit: npt.NDArray[np.bool_], n_experts: int, layer: int) -> tuple[float, float]:
    """Return the share of a layer's experts foretold by the layer before, and by popularity alone.

    Notes
    -----
    The k experts of highest ``log p(e) + sum over experts b of the layer before of log p(e | b) / p(e)`` are
    foretold; tables from the fitting half, shares from the other.
    """
    before, here = indicator(ids[:, layer - 1], n_experts), indicator(ids[:, layer], n_experts)
    log_popularity, pairs = pair_scores(before[fit], here[fit])
    score = before[~fit] @ pairs + log_popularity
    k, test = ids.shape[2], here[~fit]
    used = max(float(test.sum()), 1.0)
    best = np.argpartition(-score, k - 1, axis=1)[:, :k]
    static = np.argsort(-log_popularity, kind="stable")[:k]
    return float(np.take_along_axis(test, best, axis=1).sum() / used), float(test[:, static].sum() / used)


def affinity(ids: Int16Array, sequence: IntArray, n_experts: int) -> dict[str, float]:
    """Return the three measures of affinity between neighbouring layers, each the mean over layers."""
    fit = halves(sequence)
    layers = range(1, ids.shape[1])
    if not layers or len(ids) < 2:
        return {"mutual_information_ratio": 0.0, "set_hit": 0.0, "static_hit": 0.0}
    information = [information_ratio(ids[:, i - 1, 0], ids[:, i, 0], n_experts) for i in layers]
    hits = [set_hits(ids, fit, n_experts, i) for i in layers]
    return {
        "mutual_information_ratio": _mean(information),
        "set_hit": _mean([hit for hit, _ in hits]),
        "static_hit": _mean([static for _, static in hits]),
    }


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values))
