"""Statistics of a stream: lengths, arrivals and their bursts, shared prefixes, who asks."""

from __future__ import annotations

from typing import Any

import numpy as np

from workloads.requests.spec import FloatArray, Int32Array, IntArray, Requests

WINDOWS_S = (1, 10, 60, 300)


def describe(requests: Requests) -> dict[str, Any]:
    """Return the statistics of a stream as plain data (JSON).

    Parameters
    ----------
    requests : Requests   at least one

    Returns
    -------
    dict   `requests`, `duration_s`, `rate_per_s`, `gaps` (None without times), `prompt_tokens`,
           `output_tokens`, `rank_correlation`, `prefix`, `conversations`, `tenants`, `domains` (None where
           the stream has none), `dropped`, `notes`
    """
    span_s = requests.duration_s - float(requests.arrival_s[0])
    return {
        "name": requests.name,
        "source": requests.source,
        "requests": len(requests),
        "duration_s": requests.duration_s,
        "rate_per_s": (len(requests) - 1) / span_s if span_s > 0 else None,
        "gaps": gap_stats(requests.arrival_s) if span_s > 0 else None,
        "prompt_tokens": length_stats(requests.prompt_tokens),
        "output_tokens": length_stats(requests.output_tokens),
        "rank_correlation": rank_correlation(requests.prompt_tokens, requests.output_tokens),
        "prefix": None if requests.prefix_ptr is None else prefix_stats(requests),
        "conversations": _group_stats(requests.conversation),
        "tenants": _shares(requests.tenant, requests.tenant_names),
        "domains": _shares(requests.domain, requests.domain_names),
        "dropped": dict(requests.dropped),
        "notes": list(requests.notes),
    }


def length_stats(tokens: IntArray) -> dict[str, float]:
    """Return mean, extremes and percentiles of token counts."""
    p50, p90, p99 = np.quantile(tokens, (0.5, 0.9, 0.99))
    return {
        "total": int(tokens.sum()), "mean": float(tokens.mean()), "min": int(tokens.min()),
        "p50": float(p50), "p90": float(p90), "p99": float(p99), "max": int(tokens.max()),
    }  # fmt: skip


def gap_stats(arrival_s: FloatArray) -> dict[str, Any]:
    """Return coefficient of variation of the gaps, and Fano factors of the counts over windows.

    A Poisson process has 1 everywhere.  A Fano factor needs at least four windows; else it is None.
    """
    gaps, start = np.diff(arrival_s), float(arrival_s[0])
    span_s = float(arrival_s[-1]) - start
    return {
        "mean_s": float(gaps.mean()),
        "cv": float(gaps.std() / gaps.mean()),
        "max_s": float(gaps.max()),
        "fano": {str(w): fano_factor(arrival_s - start, span_s, w) for w in WINDOWS_S},
    }


def fano_factor(times_s: FloatArray, span_s: float, window_s: float) -> float | None:
    """Return variance over mean of the counts in whole windows; None with fewer than four windows."""
    windows = int(span_s / window_s)
    if windows < 4:
        return None
    place = np.minimum(times_s / window_s, windows).astype(np.int64)
    occupied, counts = np.unique(place[place < windows], return_counts=True)  # a sparse stream has no array
    mean = counts.sum() / windows
    square = float((counts.astype(np.float64) ** 2).sum()) / windows
    return float((square - mean**2) / mean) if len(occupied) else None


def rank_correlation(a: IntArray, b: IntArray) -> float | None:
    """Return Spearman's rank correlation (ties share their mean rank); None where one is constant."""
    ranks = [_mean_ranks(values) for values in (a, b)]
    if any(np.ptp(rank) == 0 for rank in ranks):
        return None
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1])


def _mean_ranks(values: IntArray) -> FloatArray:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return np.asarray((last - (counts - 1) / 2)[inverse], dtype=np.float64)


def reused_blocks(requests: Requests) -> IntArray:
    """Count, for each request, the leading blocks that an earlier request had (an infinite prefix cache)."""
    seen: set[int] = set()
    found = np.zeros(len(requests), dtype=np.int64)
    for i in range(len(requests)):
        ids = requests.blocks(i).tolist()
        fresh = next((k for k, block in enumerate(ids) if block not in seen), len(ids))
        found[i] = fresh
        seen.update(ids[fresh:])
    return found


def prefix_stats(requests: Requests) -> dict[str, Any]:
    """Return how much of the prompts an infinite prefix cache would hold."""
    reused = reused_blocks(requests)
    blocks = 0 if requests.prefix_ids is None else len(requests.prefix_ids)
    return {
        "block_tokens": requests.block_tokens,
        "blocks": blocks,
        "block_hit_rate": float(reused.sum() / blocks) if blocks else 0.0,
        "requests_with_reuse": float((reused > 0).mean()),
    }


def _group_stats(codes: Int32Array | None) -> dict[str, Any] | None:
    if codes is None:
        return None
    counts = np.bincount(codes[codes >= 0]) if (codes >= 0).any() else np.zeros(1)
    counts = counts[counts > 0]
    if not len(counts):
        return {"count": 0, "mean_turns": None, "max_turns": None}
    return {"count": len(counts), "mean_turns": float(counts.mean()), "max_turns": int(counts.max())}


def _shares(codes: Int32Array | None, names: tuple[str, ...]) -> dict[str, float] | None:
    if codes is None:
        return None
    found, counts = np.unique(codes[codes >= 0], return_counts=True)
    label = [names[c] if c < len(names) else str(c) for c in found.tolist()]
    return {name: float(count / len(codes)) for name, count in zip(label, counts.tolist(), strict=True)}
