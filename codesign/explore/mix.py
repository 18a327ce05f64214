"""The cheapest mix of machines that carries a load: throughputs into an integer programme.

Requests fall into classes (buckets of prompt and output length); a machine of one type serves so many
requests of a class a second, alone; what it serves of several classes takes shares of its time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from codesign.base.errors import ConfigError

F64 = NDArray[np.float64]


@dataclass(frozen=True)
class Mix:
    """A mix of machines.

    Attributes
    ----------
    machines : int64[G]     how many of each type
    shares : float64[B, G]  of each class's requests that each type serves; rows sum to 1
    usd_per_hour : float
    """

    machines: NDArray[np.int64]
    shares: F64
    usd_per_hour: float


def cheapest_mix(
    rates_per_s: Sequence[float] | F64, throughputs_per_s: Sequence[Sequence[float]] | F64,
    usd_per_hour: Sequence[float] | F64,
) -> Mix:  # fmt: skip
    """Return the mix of least price that serves all classes.

    Parameters
    ----------
    rates_per_s : float[B]             requests of each class a second
    throughputs_per_s : float[B, G]    requests of a class that one machine of a type serves a second within
        the SLO; 0: it cannot
    usd_per_hour : float[G]

    Raises
    ------
    ConfigError   a class that no type serves, or arrays that do not fit together

    Notes
    -----
    Minimise ``sum_g price_g n_g`` subject to ``sum_b rate_b x_bg / throughput_bg <= n_g``, whole n, shares x
    (Griggs et al., Melange, arXiv 2404.14527, section 5, with slices of any size).  Solved by HiGHS through
    `scipy.optimize.milp`.  Law: no single type is cheaper.
    """
    rates, price = np.asarray(rates_per_s, np.float64), np.asarray(usd_per_hour, np.float64)
    speeds = np.asarray(throughputs_per_s, np.float64).reshape(len(rates), -1)
    if speeds.shape[1] != len(price):
        raise ConfigError(f"{speeds.shape[1]} columns of throughputs and {len(price)} prices: need the same")
    if not (np.isfinite(speeds).all() and (speeds >= 0).all() and (rates >= 0).all() and (price > 0).all()):
        raise ConfigError("rates and throughputs are numbers of at least 0, prices above 0")
    lost = np.flatnonzero((rates > 0) & ~(speeds > 0).any(axis=1))
    if len(lost):
        raise ConfigError(
            f"no machine serves class {lost[0]} within the SLO: relax it, or offer another type"
        )
    return _solve(rates, speeds, price)


def _solve(rates: F64, speeds: F64, price: F64) -> Mix:
    from scipy.optimize import Bounds, LinearConstraint, milp

    classes, types = speeds.shape
    n = classes * types  # the shares come first, class by class; then the numbers of machines
    load = np.zeros((types, n + types))
    whole = np.zeros((classes, n + types))
    able = speeds > 0
    for b in range(classes):
        whole[b, b * types : (b + 1) * types] = 1.0
        for g in range(types):
            load[g, b * types + g] = rates[b] / speeds[b, g] if able[b, g] else 0.0
    load[:, n:] = -np.eye(types)
    served = np.where((rates > 0)[:, None], able, True).ravel().astype(float)
    found = milp(
        np.concatenate([np.zeros(n), price]),
        constraints=[LinearConstraint(load, -np.inf, 0.0), LinearConstraint(whole, 1.0, 1.0)],
        bounds=Bounds(0.0, np.concatenate([served, np.full(types, np.inf)])),
        integrality=np.concatenate([np.zeros(n), np.ones(types)]),
    )
    machines = np.round(found.x[n:]).astype(np.int64)
    return Mix(machines, found.x[:n].reshape(classes, types), float(machines @ price))


def single_type(
    rates_per_s: F64, throughputs_per_s: F64, usd_per_hour: Sequence[float] | F64
) -> list[float | None]:
    """Return the price of carrying the load with each type alone; None where it cannot."""
    out: list[float | None] = []
    for g, price in enumerate(usd_per_hour):
        speeds = throughputs_per_s[:, g]
        if (speeds[rates_per_s > 0] <= 0).any():
            out.append(None)
            continue
        busy = float(np.sum(rates_per_s[rates_per_s > 0] / speeds[rates_per_s > 0]))
        out.append(float(np.ceil(busy - 1e-9)) * float(price))
    return out
