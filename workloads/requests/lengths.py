"""How long prompts and outputs are: one small class per distribution, given by its quantile function.

Because every distribution is a quantile function, prompt and output can be drawn together with any rank
correlation (a Gaussian copula), and a change of one leaves the draws of the other alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from math import erfc, sqrt
from typing import Annotated, Protocol, TypeVar

import numpy as np
from pydantic import Field, model_validator

from codesign.base.registry import Registry
from workloads.requests.spec import MAX_TOKENS, FloatArray, IntArray

BODY = 200  # quantiles evenly spaced ...
BEND = 20  # ... more of them towards the tail ...
TAIL = 25  # ... and the largest values one by one: they carry the moments
Tokens = Annotated[int, Field(ge=1, le=MAX_TOKENS)]
TokensReal = Annotated[float, Field(ge=1, le=MAX_TOKENS)]


class Lengths(Protocol):
    """A distribution of token counts."""

    def quantile(self, u: FloatArray) -> FloatArray:
        """Return the length below which a share `u` (in (0, 1)) of the requests lies."""
        ...


T = TypeVar("T")


def _ordered(spec: T) -> T:
    low, high = getattr(spec, "min", 1), getattr(spec, "max", MAX_TOKENS)
    if low > high:
        raise ValueError(f"min = {low} is above max = {high}")
    return spec


LENGTHS: Registry[Lengths] = Registry("length distribution")


def whole_tokens(values: FloatArray) -> IntArray:
    """Round to whole tokens, at least one."""
    return np.clip(np.rint(values), 1, MAX_TOKENS).astype(np.int64)


def normal_quantile(u: FloatArray) -> FloatArray:
    """Return the standard normal quantile function."""
    from scipy.special import ndtri

    return np.asarray(ndtri(np.clip(u, 1e-16, 1 - 1e-16)), dtype=np.float64)


def normal_cdf(z: FloatArray) -> FloatArray:
    """Return the standard normal distribution function, to 1e-6 (a table: it spares the import of SciPy)."""
    return np.interp(z, *_cdf_table())


@lru_cache(maxsize=1)
def _cdf_table() -> tuple[FloatArray, FloatArray]:
    z = np.linspace(-8.5, 8.5, 4097)
    return z, np.array([0.5 * erfc(-x / sqrt(2)) for x in z])


@LENGTHS.register("fixed")
@dataclass(frozen=True)
class Fixed:
    """Every request has the same length."""

    value: Tokens

    def quantile(self, u: FloatArray) -> FloatArray:
        """Return the value everywhere."""
        return np.full(len(u), float(self.value))


@LENGTHS.register("uniform")
@dataclass(frozen=True)
class Uniform:
    """Every whole length from `min` to `max` is as likely."""

    min: Tokens
    max: Tokens

    @model_validator(mode="after")
    def _check(self) -> Uniform:
        return _ordered(self)

    def quantile(self, u: FloatArray) -> FloatArray:
        """Return floor(min + u (max - min + 1))."""
        return np.floor(self.min + u * (self.max - self.min + 1.0)).clip(self.min, self.max)


@LENGTHS.register("normal")
@dataclass(frozen=True)
class Normal:
    """Normal, clipped to `min` ... `max`."""

    mean: TokensReal
    std: Annotated[float, Field(ge=0)]
    min: Tokens = 1
    max: Tokens = MAX_TOKENS

    @model_validator(mode="after")
    def _check(self) -> Normal:
        return _ordered(self)

    def quantile(self, u: FloatArray) -> FloatArray:
        """Return mean + std z(u), clipped."""
        return (self.mean + self.std * normal_quantile(u)).clip(self.min, self.max)


@LENGTHS.register("lognormal")
@dataclass(frozen=True)
class Lognormal:
    """Log-normal by its median and the standard deviation `sigma` of its logarithm, clipped."""

    median: TokensReal
    sigma: Annotated[float, Field(ge=0, le=20)]
    min: Tokens = 1
    max: Tokens = MAX_TOKENS

    @model_validator(mode="after")
    def _check(self) -> Lognormal:
        return _ordered(self)

    def quantile(self, u: FloatArray) -> FloatArray:
        """Return median exp(sigma z(u)), clipped."""
        return (self.median * np.exp(self.sigma * normal_quantile(u))).clip(self.min, self.max)


@LENGTHS.register("zipf")
@dataclass(frozen=True)
class Zipf:
    """P(length = x) proportional to x^-theta on `min` ... `max`."""

    theta: Annotated[float, Field(ge=0, le=10)]
    min: Tokens
    max: Annotated[int, Field(ge=1, le=10_000_000)]

    @model_validator(mode="after")
    def _check(self) -> Zipf:
        return _ordered(self)

    def quantile(self, u: FloatArray) -> FloatArray:
        """Return the inverse of the cumulated probabilities."""
        lengths = np.arange(self.min, self.max + 1, dtype=np.float64)
        cumulated = np.cumsum((lengths / self.min) ** -self.theta)
        found = np.searchsorted(cumulated, u * cumulated[-1])
        return np.asarray(lengths[np.minimum(found, len(lengths) - 1)], dtype=np.float64)


@LENGTHS.register("quantiles")
@dataclass(frozen=True)
class Quantiles:
    """Any distribution by its quantiles: ``{0: 10, 0.5: 120, 0.99: 900, 1: 4000}``, linear between."""

    levels: dict[Annotated[float, Field(ge=0, le=1)], TokensReal]

    @model_validator(mode="after")
    def _check(self) -> Quantiles:
        if len(self.levels) < 2:
            raise ValueError("needs at least two quantiles")
        values = [self.levels[level] for level in sorted(self.levels)]
        if any(b < a for a, b in pairwise(values)):
            raise ValueError("quantiles must ascend with their levels")
        return self

    def quantile(self, u: FloatArray) -> FloatArray:
        """Interpolate linearly; flat outside the given levels."""
        levels = sorted(self.levels)
        return np.interp(u, levels, [self.levels[level] for level in levels])


def quantile_table(values: FloatArray | IntArray) -> dict[str, list[float]]:
    """Return quantiles at even levels, and the largest values at their own levels (i - 1/2)/n."""
    ordered = np.sort(np.asarray(values, dtype=np.float64))
    n, tail = len(ordered), min(TAIL, len(ordered) // 2)
    own = (np.arange(n) + 0.5) / n
    if n > BODY + tail:
        last = own[n - tail - 1]
        bend = 1 - np.geomspace(max(0.02, 1 - last), 1 - last, BEND)  # a long tail is no straight line
        body = np.concatenate((np.linspace(own[0], last, BODY), bend))
    else:
        body = own[: n - tail]
    levels = np.round(np.concatenate((body, own[n - tail :])), 7)
    levels = np.unique(levels)
    found = np.interp(levels, own, ordered)
    return {"levels": [float(x) for x in levels], "values": [float(f"{x:.5g}") for x in found]}
