"""The slot `router`: from the gate's scores of some tokens to the experts that they use, with its cost."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

from codesign.base.registry import Registry

Scores = npt.NDArray[np.float64]
Ids = npt.NDArray[np.int32]
Weights = npt.NDArray[np.float32]

ZERO, COPY, CONSTANT = 1, 2, 3  # kinds of experts that compute nothing, or one scaled vector


@dataclass(frozen=True)
class Choice:
    """Which experts some tokens use in one layer.

    experts : int32, shape (T, k)      -1 where a slot is unused, or went to an expert without computation
    weights : float32, shape (T, k)    what each slot's output is multiplied by; 0 where unused
    free : int8, shape (T, k)          kind of the expert without computation (ZERO, COPY, CONSTANT), else 0
    """

    experts: Ids
    weights: Weights
    free: npt.NDArray[np.int8]

    @property
    def load(self) -> float:
        """Mean number of computing experts per token."""
        return float((self.experts >= 0).sum() / max(len(self.experts), 1))


@dataclass(frozen=True)
class Context:
    """What some routers look at besides the scores; each may be absent."""

    layer: int = 0
    labels: npt.NDArray[np.int64] | None = None  # task, modality, language or timestep of each token, (T,)
    before: Scores | None = None  # scores of the layer before, (T, E)
    tokens: npt.NDArray[np.int64] | None = None  # a number that names each token, (T,)
    confidence: npt.NDArray[np.float64] | None = None  # of a cascade's first model, (T,)


NOTHING = Context()


@dataclass(frozen=True)
class RouterCost:
    """What routing some tokens in one layer costs.

    weight_bytes are read once for all tokens, activation_bytes are read and written.
    """

    flop: float
    weight_bytes: float
    activation_bytes: float


@dataclass(frozen=True)
class GateShape:
    """Sizes that a router's cost depends on."""

    tokens: int
    hidden: int
    n_experts: int
    value_bytes: float = 2.0
    score_bytes: float = 4.0
    extra: dict[str, int] = field(default_factory=dict)


class Router(Protocol):
    """One way to choose experts.

    Laws: no token uses an expert twice; unused slots have weight 0; equal arguments give equal choices.
    """

    def route(self, scores: Scores, context: Context = ...) -> Choice:
        """Choose experts from raw scores (logits), float64, shape (T, E)."""
        ...

    def cost(self, shape: GateShape) -> RouterCost:
        """Return FLOP and bytes of routing in one layer."""
        ...


ROUTERS: Registry[Router] = Registry("router")


def gate_cost(shape: GateShape, outputs: int | None = None, passes: float = 1.0) -> RouterCost:
    """Return the cost of one linear gate with some outputs (by default one per expert), and of its scores."""
    width = shape.n_experts if outputs is None else outputs
    return RouterCost(
        2.0 * shape.tokens * shape.hidden * width * passes,
        shape.hidden * width * shape.value_bytes * passes,
        shape.tokens * (shape.hidden * shape.value_bytes + width * shape.score_bytes) * passes,
    )


NO_COST = RouterCost(0.0, 0.0, 0.0)


def softmax(scores: Scores) -> Scores:
    """Return the softmax over the last axis; rows of -inf give zeros."""
    top = scores.max(axis=-1, keepdims=True)
    powers = np.exp(scores - np.where(np.isfinite(top), top, 0.0))
    total = powers.sum(axis=-1, keepdims=True)
    return np.asarray(powers / np.where(total > 0, total, 1.0))


def sigmoid(scores: Scores) -> Scores:
    """Return 1 / (1 + exp(-x)), without overflow."""
    return np.asarray(0.5 * (1 + np.tanh(0.5 * scores)))


def best(scores: Scores, k: int) -> Ids:
    """Return the k highest of each row, highest first, ties to the lower id; int32, shape (T, k)."""
    return np.argsort(-scores, axis=1, kind="stable")[:, :k].astype(np.int32)


def chosen(values: Scores, experts: Ids, renormalise: bool, scale: float = 1.0) -> Choice:
    """Return the choice of some experts with their values as weights, -1 unused; renormalised to sum to 1."""
    used = experts >= 0
    weights = np.where(used, np.take_along_axis(values, np.maximum(experts, 0).astype(np.int64), axis=1), 0.0)
    if renormalise:
        total = weights.sum(axis=1, keepdims=True)
        weights = np.divide(weights, total, out=np.zeros_like(weights), where=total > 0)
    return Choice(experts, (weights * scale).astype(np.float32), np.zeros(experts.shape, np.int8))


def executed_flop(choice: Choice, expert_flop: npt.ArrayLike) -> float:
    """Count the FLOP of the experts that a choice executes.

    Parameters
    ----------
    expert_flop : float or floats, shape (E,)    FLOP of one token in an expert
    """
    used = choice.experts[choice.experts >= 0]
    costs = np.asarray(expert_flop, np.float64)
    return float(costs[used].sum()) if costs.ndim else float(costs) * len(used)
