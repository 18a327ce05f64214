"""How a benchmark's router spreads tokens over experts: evenly, or by a power law; the busiest rank."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from codesign.base.errors import ConfigError

from .experts import TILES

FloatArray = npt.NDArray[np.float64]
DRAWS = 4  # of a power law; the statistics of the busiest rank are their mean
_FIELDS = 2 + len(TILES)


def exponent_of(distribution: str) -> float | None:
    """Return the exponent of ``power_law_A``; None for an even spread (``balanced``, ``uniform``).

    Raises
    ------
    ConfigError   neither
    """
    if distribution in ("balanced", "uniform"):
        return None
    try:
        return float(distribution.removeprefix("power_law_"))
    except ValueError:
        raise ConfigError(f"distribution = {distribution!r}: write balanced or power_law_A") from None


@lru_cache(maxsize=65536)
def rank_statistics(
    tokens: int, top_k: int, n_experts: int, ranks: int, exponent: float | None, remote: bool = False
) -> FloatArray:
    """Return (assignments, active experts, rows padded to each of TILES) of the busiest rank.

    With `remote`, the rank computes all k assignments of each token that reaches it, those of other
    ranks' experts on its own first.

    Notes
    -----
    Even: the assignments cycle through the experts.  Power law: loads are drawn from the density
    ``x**-exponent`` between 1 and 0.8 T (0.01 and 2 if there are fewer assignments than experts) and
    scaled to tokens x k; consecutive experts form a rank.  The stream of draws is fixed by the arguments.
    """
    if exponent is None:
        return _even(tokens, top_k, n_experts, ranks, remote)
    rng = np.random.default_rng([tokens, top_k, n_experts, ranks, round(exponent * 1000)])
    counts = power_law_counts(rng, tokens, top_k, n_experts, exponent)
    local = max(n_experts // ranks, 1)
    rows = counts[:, : n_experts // local * local].reshape(DRAWS, -1, local)
    busiest = rows[np.arange(DRAWS), rows.sum(axis=2).argmax(axis=1)]
    if remote:
        busiest[:, 0] += _remote(busiest.sum(axis=1), tokens, top_k)
    return _summary(busiest.reshape(-1), np.full(DRAWS * local, 1.0 / DRAWS))


def power_law_counts(
    rng: np.random.Generator, tokens: int, top_k: int, n_experts: int, exponent: float
) -> FloatArray:
    """Draw how many assignments each expert gets, shape (DRAWS, E); each draw sums to tokens x k."""
    total = tokens * top_k
    low, high = (1.0, max(0.8 * tokens, 1.0001)) if total > n_experts else (0.01, 2.0)
    power = 1.0 - exponent if exponent != 1.0 else -1e-9
    edges = low**power, high**power
    loads = ((edges[1] - edges[0]) * rng.random((DRAWS, n_experts)) + edges[0]) ** (1.0 / power)
    counts = np.asarray(np.round(loads / loads.sum(axis=1, keepdims=True) * total))
    for draw in counts:
        _settle(draw, int(total - draw.sum()))
    return counts


def _settle(counts: FloatArray, missing: int) -> None:
    """Spread what rounding lost (or take what it added) one by one, largest experts first, in place."""
    order = np.argsort(-counts, kind="stable")
    while missing:
        chosen = order[: abs(missing)] if missing > 0 else order[counts[order] > 0][: abs(missing)]
        step = 1 if missing > 0 else -1
        counts[chosen] += step
        missing -= step * len(chosen)


def _even(tokens: int, top_k: int, n_experts: int, ranks: int, remote: bool) -> FloatArray:
    local = max(n_experts / ranks, 1.0)
    base, more = divmod(tokens * top_k, n_experts)
    richer = more / ranks
    counts, weights = np.array([base, base + 1.0]), np.array([local - richer, richer])
    if remote:
        mine = counts @ weights
        counts = np.append(counts, mine / local + _remote(mine, tokens, top_k))
        weights = np.append(weights * (1.0 - 1.0 / local), 1.0)
    return _summary(counts, weights)


def _remote(local: Any, tokens: int, top_k: int) -> Any:
    """Return the other assignments of the tokens that a rank's `local` ones belong to: as many as can be."""
    return np.maximum(np.minimum(local, tokens) * top_k - local, 0.0)


_STEPS = np.array(TILES)[:, None]


def _summary(counts: FloatArray, weights: FloatArray) -> FloatArray:
    padded = (np.ceil(counts / _STEPS) * _STEPS) @ weights
    return np.array([counts @ weights, (counts > 0) @ weights, *padded])
