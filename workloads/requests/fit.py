"""Fit a dataset file to a recorded stream: quantiles, joint ranks, and the memory of the gaps.

Nothing is assumed about the shape of a distribution: no recorded stream here fits one log-normal.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from codesign.base.errors import ConfigError
from workloads.requests.clients import ClientRecord
from workloads.requests.lengths import Lengths, normal_quantile, quantile_table, whole_tokens
from workloads.requests.sharing import fit_sharing
from workloads.requests.spec import FloatArray, IntArray, Requests

JOINT = 12  # rows and columns of the joint table of ranks
MEMORIES = (1.5, 5.0, 15.0, 50.0, 150.0, 500.0, 1500.0)  # of the gaps, in requests


def fit_dataset(requests: Requests, *, name: str, source: str, note: str = "") -> dict[str, Any]:
    """Describe a stream by tables that `load_dataset` reads.

    Parameters
    ----------
    requests : Requests   at least 20; without times (all at 0) no arrival process is fitted

    Raises
    ------
    ConfigError   too few requests to describe
    """
    n = len(requests)
    if n < 20:
        raise ConfigError(f"{requests.source}: {n} requests are too few to fit a dataset: 20 are needed")
    fitted: dict[str, Any] = {"name": name, "source": source}
    if note:
        fitted["note"] = note
    fitted["requests"] = n
    span_s = requests.duration_s - float(requests.arrival_s[0])
    if span_s > 0:
        fitted["rate"] = f"{(n - 1) / span_s:.6g} 1/s"
        fitted["gaps"] = fit_gaps(requests.arrival_s)
    fitted["prompt_tokens"] = quantile_table(requests.prompt_tokens)
    fitted["output_tokens"] = quantile_table(requests.output_tokens)
    fitted["joint"] = joint_ranks(requests.prompt_tokens, requests.output_tokens)
    sharing = fit_sharing(requests)
    return fitted if sharing is None else fitted | {"sharing": sharing}


def fit_clients(
    record: ClientRecord, lengths: tuple[Lengths, Lengths], *, name: str, source: str, note: str = ""
) -> dict[str, Any]:
    """Describe recorded clients by their shares and bursts, and frequencies of lengths by quantiles.

    Rates are those of the whole record (clients below 1e-5 of the requests are left out); how they drift is
    not kept, nor how prompt and output go together, which the record does not say.
    """
    sent = np.array([float(client.work[-1]) for client in record.clients])
    shares = sent / sent.sum()
    even = (np.arange(100_000) + 0.5) / 100_000
    fitted: dict[str, Any] = {"name": name, "source": source} | ({"note": note} if note else {})
    fitted |= {"requests": max(int(sent.sum()), 1), "rate": f"{record.mean_rate_per_s:.6g} 1/s"}
    fitted["clients"] = [
        {"share": float(f"{share:.4g}"), "family": client.renewal.family,
         "shape": float(f"{client.renewal.shape:.4g}")}
        for share, client in sorted(zip(shares, record.clients, strict=True), key=lambda pair: -pair[0])
        if share >= 1e-5
    ]  # fmt: skip
    for key, table in zip(("prompt_tokens", "output_tokens"), lengths, strict=True):
        fitted[key] = quantile_table(table.quantile(even))
    return fitted


def joint_ranks(a: IntArray, b: IntArray, cells: int = JOINT) -> list[list[int]]:
    """Return how often rank cells of `a` and `b` fall together (ties broken evenly, at random)."""
    n = len(a)
    tie = np.random.Generator(np.random.Philox(key=0)).permutation(n)
    rank_a, rank_b = np.empty(n, dtype=np.int64), np.empty(n, dtype=np.int64)
    rank_a[np.lexsort((tie, a))] = np.arange(n)
    rank_b[np.lexsort((tie[::-1], b))] = np.arange(n)
    flat = rank_a * cells // n * cells + rank_b * cells // n
    table = np.bincount(flat, minlength=cells * cells).reshape(cells, cells)
    return [[int(x) for x in row] for row in table]


def fit_gaps(arrival_s: FloatArray) -> dict[str, Any]:
    """Fit the gaps: their quantiles in units of the mean, and slow components to their autocorrelation."""
    gaps = np.diff(arrival_s)
    return quantile_table(gaps / gaps.mean()) | {"components": fit_memory(gaps)}


def fit_memory(gaps: FloatArray) -> list[dict[str, float]]:
    """Fit shares of slow components to the autocorrelation of the gaps' normal scores.

    Non-negative least squares over a fixed set of memories, on autocorrelations averaged over lags that
    grow geometrically; shares below 0.2 % are left out.
    """
    from scipy.optimize import nnls

    score = normal_scores(gaps)
    edges = np.unique(np.geomspace(1, max(len(gaps) // 4, 2), 25).astype(int))
    found = autocorrelation(score, edges[-1])
    lags = np.arange(1, edges[-1] + 1)
    design = np.exp(-lags[:, None] / np.array(MEMORIES))
    spans = list(zip(edges[:-1] - 1, edges[1:] - 1, strict=True))
    weight = np.sqrt([b - a for a, b in spans])
    left = np.array([design[a:b].mean(axis=0) for a, b in spans]) * weight[:, None]
    right = np.array([found[a:b].mean() for a, b in spans]) * weight
    shares, _ = nnls(left, right)
    shares *= min(1.0, 0.99 / max(float(shares.sum()), 1e-9))
    return [
        {"share": round(float(s), 4), "memory": m}
        for s, m in zip(shares, MEMORIES, strict=True)
        if s > 0.002
    ]  # fmt: skip


def normal_scores(values: FloatArray) -> FloatArray:
    """Return the standard normal scores of the ranks."""
    rank = np.empty(len(values))
    rank[np.argsort(values, kind="stable")] = np.arange(len(values))
    return normal_quantile((rank + 0.5) / len(values))


def autocorrelation(values: FloatArray, last: int) -> FloatArray:
    """Return the autocorrelation at lags 1 ... last (by Fourier transform)."""
    centred = values - values.mean()
    size = 1 << (2 * len(centred) - 1).bit_length()
    power = np.abs(np.fft.rfft(centred, size)) ** 2
    raw = np.fft.irfft(power, size)[: last + 1]
    return np.asarray(raw[1:] / raw[0], dtype=np.float64)


def write_dataset(fitted: dict[str, Any], path: str | Path) -> None:
    """Write a fitted dataset as YAML that `load_dataset` reads.

    Raises
    ------
    ConfigError   the file cannot be written
    """
    import yaml

    text = yaml.safe_dump(fitted, sort_keys=False, default_flow_style=None, width=110, allow_unicode=True)
    try:
        Path(path).write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written: {error.strerror}") from None


def fit_errors(requests: Requests, path: str | Path) -> dict[str, float]:
    """Return how far a fitted file is from its stream: distances of the distributions, CV of the gaps."""
    from workloads.requests.arrivals import RecordedGaps
    from workloads.requests.datasets.load import read_dataset

    table = read_dataset(path)
    errors = {
        "prompt_ks": _distance(requests.prompt_tokens, table.prompt.quantile),
        "output_ks": _distance(requests.output_tokens, table.output.quantile),
    }
    if isinstance(table.arrivals, RecordedGaps):
        gaps = np.diff(requests.arrival_s)
        errors |= {"gap_cv": float(gaps.std() / gaps.mean()), "gap_cv_fitted": table.arrivals.moments()[1]}
    return errors


def _distance(values: IntArray, quantile: Callable[[FloatArray], FloatArray]) -> float:
    """Return the Kolmogorov-Smirnov distance between a sample and a quantile function, rounded to tokens."""
    made = np.sort(whole_tokens(quantile((np.arange(20_000) + 0.5) / 20_000)))
    real, points = np.sort(values), np.unique(values)
    below = [np.searchsorted(x, points, "right") / len(x) for x in (made, real)]
    return float(np.abs(below[0] - below[1]).max())
