"""Streams as the sum of clients, each with its own rate and bursts (ServeGen, 2505.09999).

A client is a stationary renewal process on its own clock: gaps of mean 1 and the client's own variation,
laid on the integral of its rate.  A few clients send most requests, so that the sum is bursty though each
may not be, and drifts as they come and go.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import gamma as gamma_function
from typing import ClassVar, Literal

import numpy as np

from codesign.base.errors import ConfigError
from workloads.requests.arrivals import Rng, apart
from workloads.requests.spec import FloatArray, Int32Array

Family = Literal["gamma", "weibull"]


@dataclass(frozen=True)
class Renewal:
    """Gaps of mean 1: gamma or Weibull of a given shape (1: exponential; below 1: bursts)."""

    family: Family
    shape: float

    def gaps(self, n: int, rng: Rng) -> FloatArray:
        """Return n independent gaps."""
        if self.family == "gamma":
            return rng.standard_gamma(self.shape, n) / self.shape
        return rng.weibull(self.shape, n) / gamma_function(1 + 1 / self.shape)

    def first(self, rng: Rng) -> float:
        """Return the wait for the first event of a process that has run for ever (no burst at the start).

        A uniform share of a gap drawn in proportion to its length: gamma of shape k + 1, and for Weibull the
        1/k-th power of a gamma of shape 1 + 1/k.
        """
        share = rng.random()
        if self.family == "gamma":
            return float(share * rng.standard_gamma(self.shape + 1) / self.shape)
        biased = rng.standard_gamma(1 + 1 / self.shape) ** (1 / self.shape)
        return float(share * biased / gamma_function(1 + 1 / self.shape))

    def events(self, work: float, rng: Rng) -> FloatArray:
        """Return the events up to `work` (in mean gaps), ascending."""
        start, waiting = apart(rng, 2)
        last, parts, step = self.first(start), [np.empty(0)], int(1.1 * work) + 32
        parts.append(np.array([last]))
        while last <= work:
            parts.append(last + np.cumsum(self.gaps(step, waiting)))
            last = float(parts[-1][-1])
        found = np.concatenate(parts)
        return np.asarray(found[found <= work], dtype=np.float64)


@dataclass(frozen=True)
class Clock:
    """How much work (expected requests) each client has done by a time, and when it has done so much."""

    reach: Callable[[int, float], float]  # client, time in s -> work
    times: Callable[[int, FloatArray], FloatArray]  # client, work -> times in s
    until: Callable[[float], float]  # work of all -> time in s at which it is expected to be done


def superpose(
    n: int, renewals: Sequence[Renewal], clock: Clock, rng: Rng, end_s: float = np.inf
) -> tuple[FloatArray, Int32Array]:
    """Return the first n events of all clients, and whose they are.

    Raises
    ------
    ConfigError   the record ends before

    Notes
    -----
    Law: the first events do not depend on n, nor one client's on the others.
    """
    wanted, streams = 1.2 * n + 20.0, apart(rng, len(renewals))
    while True:
        horizon_s = min(clock.until(wanted), end_s)
        found = [
            clock.times(i, renewal.events(clock.reach(i, horizon_s), apart(streams[i], 1)[0]))
            for i, renewal in enumerate(renewals)
        ]
        total = sum(map(len, found))
        if total >= n:
            break
        if horizon_s >= end_s:
            raise ConfigError(f"the clients send {total} requests until their record ends; {n} are asked for")
        wanted *= 2
    times = np.concatenate(found)
    who = np.repeat(np.arange(len(found), dtype=np.int32), list(map(len, found)))
    order = np.argsort(times, kind="stable")[:n]
    return times[order], who[order]


@dataclass(frozen=True)
class ClientMix:
    """Clients of constant rates: `shares` (summing to 1) of the whole.

    Parameters
    ----------
    shares : float array, shape (C,)   of the requests
    renewals : C of Renewal            how the gaps of each vary
    """

    shares: FloatArray
    renewals: tuple[Renewal, ...]
    needs_rate: ClassVar[bool] = True

    def times(self, n: int, rate_per_s: float, rng: Rng) -> FloatArray:
        """Return the times alone."""
        return self.draw(n, rate_per_s, rng)[0]

    def draw(self, n: int, rate_per_s: float, rng: Rng) -> tuple[FloatArray, Int32Array]:
        """Return n times in s and the client of each."""
        if n == 0:
            return np.empty(0), np.empty(0, dtype=np.int32)
        shares = self.shares
        clock = Clock(lambda i, t: float(shares[i] * t), lambda i, work: work / shares[i], lambda work: work)
        times, who = superpose(n, self.renewals, clock, rng)
        return times / rate_per_s, who


@dataclass(frozen=True)
class Client:
    """One recorded client: its rate over windows, and how its gaps vary."""

    id: int
    start_s: FloatArray  # shape (W,), ascending
    rate_per_s: FloatArray  # shape (W,)
    renewal: Renewal
    knots_s: FloatArray = field(repr=False)  # the integral of the rate, as a broken line
    work: FloatArray = field(repr=False)

    def expected(self, time_s: float) -> float:
        """Return the requests expected until a time of the record."""
        return float(np.interp(time_s, self.knots_s, self.work))


@dataclass(frozen=True)
class ClientRecord:
    """Recorded clients: their rates over windows of `window_s`."""

    clients: tuple[Client, ...]
    window_s: float
    source: str

    @property
    def end_s(self) -> float:
        """End of the last window."""
        return max(float(client.start_s[-1]) for client in self.clients) + self.window_s

    @property
    def mean_rate_per_s(self) -> float:
        """Requests per s of all clients, over the whole record."""
        return sum(float(client.work[-1]) for client in self.clients) / self.end_s

    def draw(
        self, n: int, rate_per_s: float | None, start_s: float, rng: Rng
    ) -> tuple[FloatArray, Int32Array]:
        """Draw n requests from `start_s` of the record on; `rate_per_s` sets the mean of the whole record.

        Returns
        -------
        times in s since `start_s`, shape (n,); index of each request's client
        """
        factor = 1.0 if rate_per_s is None else rate_per_s / self.mean_rate_per_s
        line = np.unique(np.concatenate([client.knots_s for client in self.clients]))
        total = factor * sum(np.interp(line, c.knots_s, c.work) for c in self.clients)
        total = total + np.arange(len(line)) * 1e-12  # ascending, so that it can be inverted
        done = float(np.interp(start_s, line, total))
        before = [factor * client.expected(start_s) for client in self.clients]
        clock = Clock(
            lambda i, t: factor * self.clients[i].expected(t) - before[i],
            lambda i, work: _invert(self.clients[i], (work + before[i]) / factor),
            lambda work: float(np.interp(done + work, total, line)),
        )
        times, who = superpose(n, [client.renewal for client in self.clients], clock, rng, self.end_s)
        return np.maximum(times - start_s, 0.0), who


def _invert(client: Client, work: FloatArray) -> FloatArray:
    """Return when a client's expected requests reach `work` (where its rate is 0, they do not)."""
    grows = np.concatenate(([True], np.diff(client.work) > 0))
    at = np.searchsorted(client.work, work, side="left").clip(1, len(client.work) - 1)
    while not grows[at].all():
        at = np.where(grows[at], at, at + 1).clip(1, len(client.work) - 1)
    low, high = client.work[at - 1], client.work[at]
    share = (work - low) / np.where(high > low, high - low, 1.0)
    return np.asarray(client.knots_s[at - 1] + share * (client.knots_s[at] - client.knots_s[at - 1]))
