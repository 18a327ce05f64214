"""When requests arrive: one small class per process, registered by name.

A process turns a generator into times.  Its shape and its mean rate are separate: any process can be run
at any `rate`.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import gamma as gamma_function
from math import lgamma
from typing import Annotated, Any, ClassVar, Protocol, cast

import numpy as np
from pydantic import Field

from codesign.base.registry import Registry
from codesign.base.units import Time
from workloads.requests.lengths import normal_cdf
from workloads.requests.spec import FloatArray

Rng = np.random.Generator
Positive = Annotated[float, Field(gt=0)]


class Arrivals(Protocol):
    """A process: `needs_rate` is False where times do not depend on a rate."""

    needs_rate: ClassVar[bool]

    def times(self, n: int, rate_per_s: float, rng: Rng) -> FloatArray:
        """Return n ascending times in s, the first at 0 or later, with mean rate `rate_per_s`."""
        ...


ARRIVALS: Registry[Arrivals] = Registry("arrival process")


def apart(rng: Rng, n: int) -> list[Rng]:
    """Return n generators that draw from stretches of `rng` far apart from each other."""
    jumped = cast(Any, rng.bit_generator).jumped
    return [np.random.Generator(jumped(i + 1)) for i in range(n)]


@ARRIVALS.register("batch")
@dataclass(frozen=True)
class Batch:
    """Every request is there at time 0 (offline inference)."""

    needs_rate: ClassVar[bool] = False

    def times(self, n: int, rate_per_s: float, rng: Rng) -> FloatArray:
        """Return zeros."""
        return np.zeros(n)


@ARRIVALS.register("constant")
@dataclass(frozen=True)
class Constant:
    """One request every 1/rate."""

    needs_rate: ClassVar[bool] = True

    def times(self, n: int, rate_per_s: float, rng: Rng) -> FloatArray:
        """Return 0, 1/rate, 2/rate, ..."""
        return np.arange(n) / rate_per_s


@ARRIVALS.register("poisson")
@dataclass(frozen=True)
class Poisson:
    """Independent exponential gaps: CV 1, Fano factor 1 at every window."""

    needs_rate: ClassVar[bool] = True

    def times(self, n: int, rate_per_s: float, rng: Rng) -> FloatArray:
        """Return cumulated gaps; the first request comes after one gap."""
        return np.cumsum(rng.standard_exponential(n)) / rate_per_s


@ARRIVALS.register("gamma")
@dataclass(frozen=True)
class Gamma:
    """Independent gamma gaps with coefficient of variation `cv` (1: Poisson; above 1: bursts)."""

    cv: Positive
    needs_rate: ClassVar[bool] = True

    def times(self, n: int, rate_per_s: float, rng: Rng) -> FloatArray:
        """Return cumulated gaps of shape 1/cv^2."""
        shape = 1.0 / self.cv**2
        return np.cumsum(rng.standard_gamma(shape, n)) / (shape * rate_per_s)


@ARRIVALS.register("weibull")
@dataclass(frozen=True)
class Weibull:
    """Independent Weibull gaps of the given `shape` (1: Poisson; below 1: bursts)."""

    shape: Annotated[float, Field(gt=0.05)]
    needs_rate: ClassVar[bool] = True

    def times(self, n: int, rate_per_s: float, rng: Rng) -> FloatArray:
        """Return cumulated gaps with mean 1/rate."""
        return np.cumsum(rng.weibull(self.shape, n)) / (gamma_function(1 + 1 / self.shape) * rate_per_s)


@ARRIVALS.register("mmpp")
@dataclass(frozen=True)
class Mmpp:
    """Poisson whose rate switches between a calm and a burst state (two-state MMPP).

    The burst state is `burst` times as fast, holds for `burst_time` on average and takes the share
    `burst_share` of the time.
    """

    burst: Annotated[float, Field(ge=1)]
    burst_time: Time
    burst_share: Annotated[float, Field(gt=0, lt=1)] = 0.1
    needs_rate: ClassVar[bool] = True

    def times(self, n: int, rate_per_s: float, rng: Rng) -> FloatArray:
        """Return the times at which the integrated rate passes the points of a unit Poisson process."""
        calm_rate = rate_per_s / (1 + (self.burst - 1) * self.burst_share)
        means = (self.burst_time * (1 / self.burst_share - 1), self.burst_time)
        points, states = apart(rng, 2)  # apart, so that the first requests do not depend on how many follow
        work = np.cumsum(points.standard_exponential(n))
        needed = work[-1] if n else 0.0
        per_cycle = calm_rate * (means[0] + self.burst * means[1])
        knots_s, knots_work = [np.zeros(1)], [np.zeros(1)]
        while knots_work[-1][-1] < needed:
            cycles = int(1.2 * (needed - knots_work[-1][-1]) / per_cycle) + 8
            stay = states.standard_exponential((cycles, 2)) * means
            gained = stay * (calm_rate, calm_rate * self.burst)
            knots_s.append(knots_s[-1][-1] + np.cumsum(stay.ravel()))
            knots_work.append(knots_work[-1][-1] + np.cumsum(gained.ravel()))
        return np.interp(work, np.concatenate(knots_work), np.concatenate(knots_s))


@dataclass(frozen=True)
class Component:
    """A slow part of the gaps: the `share` of their normal score that lasts for `memory` requests."""

    share: Annotated[float, Field(ge=0, le=1)]
    memory: Annotated[float, Field(gt=0, le=1e9)]

    def path(self, n: int, rng: Rng) -> FloatArray:
        """Return a stationary AR(1) path of unit variance with correlation exp(-1/memory)."""
        rho = float(np.exp(-1.0 / self.memory))
        white = rng.standard_normal(n)
        white[1:] *= np.sqrt(1 - rho**2)
        return autoregress(white, rho)


def autoregress(white: FloatArray, rho: float) -> FloatArray:
    """Return x with x[t] = rho x[t-1] + white[t], in blocks short enough that rho^-t stays small."""
    n = len(white)
    block = max(min(n, int(-20 / np.log(rho))), 1) if rho > 0 else 1
    rows = -(-n // block)
    padded = np.zeros(rows * block)
    padded[:n] = white
    decay = rho ** np.arange(block)
    within = np.cumsum(padded.reshape(rows, block) / decay, axis=1) * decay
    carried, last = np.zeros(rows), 0.0
    for row, end in enumerate(within[:, -1].tolist()):
        carried[row] = last
        last = end + last * rho**block
    within += carried[:, None] * (decay * rho)
    return np.asarray(within.ravel()[:n])


def correlated_ranks(n: int, components: tuple[Component, ...], rng: Rng) -> FloatArray:
    """Return n uniform ranks whose normal score is white noise plus the components."""
    streams = apart(rng, len(components) + 1)
    own = max(1.0 - sum(part.share for part in components), 0.0)
    score = np.sqrt(own) * streams[0].standard_normal(n)
    for part, child in zip(components, streams[1:], strict=True):
        score += np.sqrt(part.share) * part.path(n, child)
    return normal_cdf(score)


@ARRIVALS.register("bursty")
@dataclass(frozen=True)
class Bursty:
    """Weibull gaps of coefficient of variation `cv` that come in spells.

    `correlation` is the share of a gap's normal score that lasts, `memory` for how many requests: short gaps
    follow short ones, so that counts over long windows vary more than independent gaps would let them
    (a doubly stochastic process; Weibull gaps as in ServeGen, 2505.09999).
    """

    cv: Annotated[float, Field(gt=0, le=100)]
    correlation: Annotated[float, Field(ge=0, lt=1)] = 0.0
    memory: Annotated[float, Field(gt=0, le=1e9)] = 50.0
    needs_rate: ClassVar[bool] = True

    def times(self, n: int, rate_per_s: float, rng: Rng) -> FloatArray:
        """Return cumulated gaps with mean 1/rate."""
        shape = weibull_shape(self.cv)
        rank = correlated_ranks(n, (Component(self.correlation, self.memory),), rng)
        gaps = (-np.log1p(-np.minimum(rank, 1 - 1e-16))) ** (1 / shape)
        return np.cumsum(gaps) / (gamma_function(1 + 1 / shape) * rate_per_s)


def weibull_shape(cv: float) -> float:
    """Return the Weibull shape whose standard deviation is `cv` times its mean (bisection)."""
    low, high = 0.05, 200.0
    for _ in range(80):
        middle = np.sqrt(low * high)
        first, second = lgamma(1 + 1 / middle), lgamma(1 + 2 / middle)
        low, high = (middle, high) if second - 2 * first > np.log1p(cv**2) else (low, middle)
    return float(np.sqrt(low * high))


@dataclass(frozen=True)
class RecordedGaps:
    """Gaps by their quantiles, with the slow components of a recorded stream.

    Parameters
    ----------
    levels, gaps : float arrays, shape (Q,)   quantiles of the gaps, in any unit; linear between
    components : tuple of Component           how gaps follow each other
    """

    levels: FloatArray
    gaps: FloatArray
    components: tuple[Component, ...] = ()
    needs_rate: ClassVar[bool] = True

    def times(self, n: int, rate_per_s: float, rng: Rng) -> FloatArray:
        """Return cumulated gaps with mean 1/rate."""
        rank = correlated_ranks(n, self.components, rng)
        mean, _ = self.moments()
        return np.cumsum(np.interp(rank, self.levels, self.gaps)) / (mean * rate_per_s)

    def moments(self) -> tuple[float, float]:
        """Return mean and coefficient of variation of the table (exact for linear pieces)."""
        a, b, width = self.gaps[:-1], self.gaps[1:], np.diff(self.levels)
        mean, square = float(width @ (a + b)) / 2, float(width @ (a * a + a * b + b * b)) / 3
        return mean, float(np.sqrt(max(square - mean**2, 0.0)) / mean)
