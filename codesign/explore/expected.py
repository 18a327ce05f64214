"""What random routing makes of a batch, in expectation: experts in use, and the fullest group of experts.

All functions take numbers or arrays of tokens N alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from codesign.experiment import Experiment

F64 = NDArray[np.float64]
_SAMPLE_TOKENS = 2048


@dataclass(frozen=True)
class ExpectedLoads:
    """A layer whose router gives each token `top_k` of its experts.

    Attributes
    ----------
    chance : float64[E]   of each expert to be among a token's; sums to top_k
    """

    chance: F64

    @property
    def slots(self) -> float:
        """Experts that a token uses."""
        return float(self.chance.sum())

    @property
    def even(self) -> bool:
        """Tell whether all experts are equally popular."""
        return bool(np.ptp(self.chance) < 1e-12)

    def unused(self, tokens: Any) -> Any:
        """Return the chance of each expert to get none of N tokens, shape (..., E) or (..., 1) if even.

        Tokens choose independently: ``(1 - q)**N``.
        """
        chance = self.chance[:1] if self.even else self.chance
        with np.errstate(divide="ignore"):
            return np.exp(np.multiply.outer(np.asarray(tokens, np.float64), np.log1p(-chance)))

    def active(self, tokens: Any) -> Any:
        """Return the expected number of experts that get at least one of N tokens.

        Law: ``E - sum (1 - q_e)**N``; top_k for one token, E for infinitely many.
        """
        used = len(self.chance) * (1.0 - self.unused(tokens).mean(axis=-1))
        return np.minimum(used, np.asarray(tokens) * self.slots)  # of less than one token on average

    def largest(self, tokens: Any, groups: int) -> tuple[Any, Any]:
        """Return the expected slots, and experts in use, of the fullest of some groups of equal size.

        Notes
        -----
        Groups' sums as exchangeable normals: the mean plus `expected_maximum` standard deviations.  The
        variance has two parts: which experts tokens draw (hypergeometric), and which group got the popular
        ones (dealt at random).  Never below the mean nor, with a token, below one; never above what a group
        can get.
        """
        n, experts = np.asarray(tokens, np.float64), len(self.chance)
        unused = self.unused(n)
        active = experts * (1.0 - unused.mean(axis=-1))
        if groups == 1:
            return n * self.slots, np.minimum(active, n * self.slots)
        k, share, size = self.slots, 1.0 / groups, experts / groups
        reach = expected_maximum(groups) * np.sqrt(groups / (groups - 1.0))
        drawn = k * share * (1.0 - share) * (experts - k) / max(experts - 1, 1)
        dealt = size * float(self.chance.var()) * (experts - size) / max(experts - 1, 1)
        load = n * k * share + reach * np.sqrt(n * drawn + n * n * dealt)
        load = np.minimum(np.maximum(load, np.minimum(n, 1.0)), n * min(k, size))
        spread = np.sqrt(size * (unused * (1.0 - unused)).mean(axis=-1))
        used = np.minimum(np.maximum(active * share + reach * spread, np.minimum(n, 1.0)), size)
        return load, np.minimum(used, load)

    def reached(self, groups: int) -> float:
        """Return the expected number of groups that hold one of a token's experts (even popularity).

        Law: 1 for one group; at most top_k and at most the number of groups.
        """
        experts, k = len(self.chance), round(self.slots)
        size, missed = experts / groups, 1.0
        for i in range(k):
            missed *= max(experts - size - i, 0.0) / max(experts - i, 1)
        return groups * (1.0 - missed)


@lru_cache(maxsize=1024)
def expected_maximum(n: int) -> float:
    """Return the expected largest of n independent standard normals: 0 for 1, 0.5642 for 2, 1.4236 for 8."""
    from scipy.special import log_ndtr

    x = np.linspace(-12.0, 12.0, 48001)
    below = np.exp(n * log_ndtr(x))
    step = x[1] - x[0]
    positive = x >= 0
    return float((1.0 - below[positive]).sum() * step - below[~positive].sum() * step - step / 2)


def loads_of(experiment: Experiment, n_experts: int, top_k: int, zero_experts: int = 0) -> ExpectedLoads:
    """Return the expected loads of a layer under the experiment's routing generator.

    Zipf and Gini popularities by their law; a generator without one by what it draws.
    """
    used = top_k * n_experts / (n_experts + zero_experts)
    even = np.full(n_experts, used / n_experts)
    if n_experts == 1:
        return ExpectedLoads(even)
    routing = experiment.spec.workload.routing
    name = routing if isinstance(routing, str) else routing.get("generator")
    if name == "uniform" or (isinstance(routing, dict) and routing.get("popularity") == "uniform"):
        return ExpectedLoads(even)
    from workloads.routing import popularity

    if name == "zipf" and isinstance(routing, dict):
        skew = popularity.Skew(zipf=float(routing.get("exponent", 1.0)))
    elif name == "synthetic" and isinstance(routing, dict) and isinstance(routing.get("popularity"), dict):
        skew = popularity.Skew(**routing["popularity"])
    else:
        return ExpectedLoads(_drawn(experiment, n_experts, used))
    shares = popularity.ranked(skew, n_experts, top_k)
    return ExpectedLoads(popularity.loads(shares, top_k) * used / top_k)


def _drawn(experiment: Experiment, n_experts: int, used: float) -> F64:
    """Return the sorted mean loads of some drawn tokens."""
    stream = experiment.routing()
    if stream is None or stream.n_layers == 0:
        return np.full(n_experts, used / n_experts)
    out = np.empty((_SAMPLE_TOKENS, stream.n_layers, stream.top_k), np.int16)
    requests = np.arange(64, dtype=np.int64)
    lengths = np.full(64, _SAMPLE_TOKENS // 64, np.int64)
    ids = stream.draw(requests, np.zeros(64, np.int64), lengths, out)
    counts = [
        np.sort(np.bincount(layer[layer >= 0], minlength=n_experts)[:n_experts])
        for layer in np.moveaxis(ids, 1, 0)
    ]
    loads = np.mean(counts, axis=0)
    return np.asarray(np.minimum(loads * used / max(float(loads.sum()), 1e-12), 1.0))
