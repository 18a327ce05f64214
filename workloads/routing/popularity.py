"""Popularity of the experts of each layer: uniform, Zipf, or of a wanted Gini coefficient."""

from __future__ import annotations

from typing import Annotated

import numpy as np
import numpy.typing as npt
from pydantic import BeforeValidator, Field, model_validator

from codesign.base.document import Strict
from codesign.base.random import stream
from workloads.routing.stream import FloatArray, IntArray, RoutingShape


class Skew(Strict):
    """How uneven the experts of a layer are: one of a Zipf exponent and a Gini coefficient of the loads."""

    zipf: Annotated[float, Field(ge=0, le=10)] | None = None
    gini: Annotated[float, Field(ge=0, lt=1)] | None = None

    @model_validator(mode="after")
    def _one(self) -> Skew:
        if (self.zipf is None) == (self.gini is None):
            raise ValueError("a popularity is 'uniform', {zipf: EXPONENT} or {gini: COEFFICIENT}")
        return self


def _readable(value: object) -> object:
    if isinstance(value, str) and value == "uniform":
        return Skew(zipf=0.0)
    if not isinstance(value, dict | Skew):
        raise ValueError("a popularity is 'uniform', {zipf: EXPONENT} or {gini: COEFFICIENT}")
    return value


Popularity = Annotated[Skew, BeforeValidator(_readable)]


def ranked(popularity: Skew, n_experts: int, top_k: int) -> FloatArray:
    """Return the share of each rank, most popular first; shape (E,), sums to 1.

    Raises
    ------
    ValueError   a Gini coefficient that top-k of E experts cannot have
    """
    exponent = popularity.zipf
    if exponent is None:
        exponent = zipf_of_gini(popularity.gini or 0.0, n_experts, top_k)
    shares = np.arange(1, n_experts + 1, dtype=np.float64) ** -exponent
    return np.asarray(shares / shares.sum())


def loads(shares: FloatArray, top_k: int) -> FloatArray:
    """Return the chance of each expert to be among k drawn in turn without replacement; sums to k.

    Notes
    -----
    Each expert rings at the rate of its share; those that rang before a common time are drawn.  The time is
    set so that k are expected: within .03 of the exact chance (8 to 256 experts, exponents up to 2).
    """
    from scipy.optimize import brentq

    if top_k >= len(shares):
        return np.ones(len(shares))
    if top_k == 1:
        return shares

    def excess(log_time: float) -> float:
        return float((1 - np.exp(-np.exp(log_time) * shares)).sum() - top_k)

    return np.asarray(1 - np.exp(-np.exp(brentq(excess, -20, 200, xtol=1e-10)) * shares))


def gini(values: FloatArray) -> float:
    """Return the Gini coefficient of not negative numbers: 0 all equal, 1 - 1/n one has all."""
    ordered = np.sort(np.asarray(values, np.float64))
    n, total = len(ordered), ordered.sum()
    if n == 0 or total <= 0:
        return 0.0
    return float(((2 * np.arange(1, n + 1) - n - 1) * ordered).sum() / (n * total))


def log_shares(counts: npt.NDArray[np.integer]) -> FloatArray:
    """Return centred log shares of the last axis, with half a count added."""
    logs = np.log(counts + 0.5)
    return np.asarray(logs - logs.mean(axis=-1, keepdims=True))


def zipf_of_gini(wanted: float, n_experts: int, top_k: int) -> float:
    """Return the Zipf exponent at which the loads of top-k of E experts have the wanted Gini coefficient."""
    from scipy.optimize import brentq

    rank = np.arange(1, n_experts + 1, dtype=np.float64)

    def off(exponent: float) -> float:
        shares = rank**-exponent
        return gini(loads(shares / shares.sum(), top_k)) - wanted

    if off(10.0) <= 0:
        most = off(10.0) + wanted
        raise ValueError(f"gini = {wanted}: top-{top_k} of {n_experts} experts reaches at most {most:.3f}")
    return float(brentq(off, 0.0, 10.0, xtol=1e-6)) if wanted > 0 else 0.0


def arrangements(shape: RoutingShape, seed: int) -> IntArray:
    """Return which expert has which rank in each layer, anew in each; int64, shape (L, E).

    Law: ranks that share a group in one layer share one in every layer, so that a map from rank to rank keeps
    groups; a layer's arrangement depends on the seed and its index alone.
    """
    size = shape.n_experts // shape.n_group
    dealt = stream(seed, "routing", "popularity", "groups").permutation(shape.n_experts).reshape(-1, size)
    out = np.empty((shape.n_layers, shape.n_experts), np.int64)
    for i, layer in enumerate(shape.moe_layers):
        draw = stream(seed, "routing", "popularity", layer)
        if shape.n_group == 1:
            out[i] = draw.permutation(shape.n_experts)
            continue
        for group, place in enumerate(draw.permutation(shape.n_group)):
            out[i, dealt[group]] = place * size + draw.permutation(size)
    return out
