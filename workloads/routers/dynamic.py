"""Routers that spend less on some tokens: fewer experts, null experts, experts without computation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np
import numpy.typing as npt
from pydantic import Field

from workloads.routers.base import (
    CONSTANT,
    COPY,
    NOTHING,
    ROUTERS,
    ZERO,
    Choice,
    Context,
    GateShape,
    RouterCost,
    Scores,
    best,
    chosen,
    gate_cost,
    softmax,
)
from workloads.routers.token_choice import Count


@ROUTERS.register("top_p")
@dataclass(frozen=True)
class TopP:
    """Uses as few experts as reach a probability p together (Huang et al., "Harder Tasks Need More
    Experts", ACL 2024; threshold .4 there).

    Law: the used experts' probabilities sum to p or more, without the last to less.
    """

    p: Annotated[float, Field(gt=0, le=1)] = 0.4
    most: Annotated[int, Field(ge=0)] = 0  # at most so many; 0: no limit

    def route(self, scores: Scores, context: Context = NOTHING) -> Choice:
        """Choose until p is reached."""
        values = softmax(scores)
        order = best(values, scores.shape[1])
        ranked = np.take_along_axis(values, order.astype(np.int64), axis=1)
        before = np.cumsum(ranked, axis=1) - ranked
        used = before < self.p
        if self.most:
            used[:, self.most :] = False
        width = max(int(used.sum(axis=1).max(initial=0)), 1)
        return chosen(values, np.where(used, order, np.int32(-1))[:, :width], renormalise=True)

    def cost(self, shape: GateShape) -> RouterCost:
        """Return the cost of one linear gate."""
        return gate_cost(shape)


def top_p_temperature(scores: Scores, p: float, wanted: float) -> float:
    """Return the factor on the scores at which top-p uses `wanted` experts on average (entropy control)."""
    low, high = 1e-3, 1e3
    for _ in range(60):
        middle = float(np.sqrt(low * high))
        load = TopP(p).route(scores * middle).load
        low, high = (middle, high) if load > wanted else (low, middle)
    return float(np.sqrt(low * high))


@ROUTERS.register("null_experts")
@dataclass(frozen=True)
class NullExperts:
    """Takes the k best of true and null experts; a null one costs nothing (AdaMoE, Zeng et al., 2024).

    The last `null` columns of the scores are the null experts; weights are renormalised over true experts.
    true_bias : added to the scores of true experts (balanced: load k n / (n + m))
    """

    k: Count = 3
    null: Count = 8
    true_bias: float = 0.0

    def columns(self, n_experts: int) -> int:
        """Return the columns of the scores for some true experts."""
        return n_experts + self.null

    def route(self, scores: Scores, context: Context = NOTHING) -> Choice:
        """Choose k, and let those that are null go."""
        true = scores.shape[1] - self.null
        biased = scores + np.where(np.arange(scores.shape[1]) < true, self.true_bias, 0.0)
        picked = best(biased, self.k)
        choice = chosen(softmax(biased), np.where(picked < true, picked, np.int32(-1)), renormalise=True)
        return Choice(choice.experts, choice.weights, np.where(picked < true, 0, ZERO).astype(np.int8))

    def cost(self, shape: GateShape) -> RouterCost:
        """Return the cost of a gate over true and null experts."""
        return gate_cost(shape, shape.n_experts + self.null)


@ROUTERS.register("zero_computation")
@dataclass(frozen=True)
class ZeroComputation:
    """Adds zero, copy and constant experts, with a gating residual (MoE++, Jin et al., ICLR 2025).

    The last columns of the scores are the zero, then copy, then constant experts.  The scores of the layer
    before, times `residual`, are added.  tau weights the balance between FFN experts and the others: with
    balanced scores the FFN share is tau N / (tau N + Z), reached by adding log(tau) to the FFN scores.
    """

    k: Count = 2
    zero: Annotated[int, Field(ge=0)] = 1
    copy: Annotated[int, Field(ge=0)] = 1
    constant: Annotated[int, Field(ge=0)] = 2
    tau: Annotated[float, Field(gt=0)] = 1.0
    residual: float = 0.0

    def columns(self, n_experts: int) -> int:
        """Return the columns of the scores for some FFN experts."""
        return n_experts + self.zero + self.copy + self.constant

    def kinds(self, n_scores: int) -> npt.NDArray[np.int8]:
        """Return the kind of each column: 0 for FFN experts, then ZERO, COPY, CONSTANT."""
        kinds = [0] * (n_scores - self.zero - self.copy - self.constant)
        return np.array(kinds + [ZERO] * self.zero + [COPY] * self.copy + [CONSTANT] * self.constant, np.int8)

    def route(self, scores: Scores, context: Context = NOTHING) -> Choice:
        """Choose the k best of all experts."""
        kinds = self.kinds(scores.shape[1])
        total = scores + np.where(kinds == 0, np.log(self.tau), 0.0)
        if context.before is not None and self.residual:
            total = total + self.residual * context.before
        picked = best(total, self.k)
        kind = kinds[picked]
        weights = chosen(softmax(total), picked, renormalise=False).weights
        return Choice(np.where(kind == 0, picked, np.int32(-1)), weights, kind)

    def cost(self, shape: GateShape) -> RouterCost:
        """Return the cost of a gate over all experts, and of the gating residual (an E x E map)."""
        width = shape.n_experts + self.zero + self.copy + self.constant
        gate = gate_cost(shape, width)
        if not self.residual:
            return gate
        return RouterCost(
            gate.flop + 2.0 * shape.tokens * width * width,
            gate.weight_bytes + width * width * shape.value_bytes,
            gate.activation_bytes + shape.tokens * width * shape.score_bytes,
        )


@ROUTERS.register("big_small_skip")
@dataclass(frozen=True)
class BigSmallSkip:
    """Sends each token to a big expert (0), a small one (1) or past the layer (Duo-LLM, Alizadeh, 2024).

    Scores have three columns: big, small, skip.  `small_share` is the small expert's cost beside the big one.
    """

    small_share: Annotated[float, Field(gt=0, le=1)] = 0.125

    def route(self, scores: Scores, context: Context = NOTHING) -> Choice:
        """Choose the best of the three."""
        picked = best(scores, 1)
        choice = chosen(softmax(scores), np.where(picked < 2, picked, np.int32(-1)), renormalise=False)
        return Choice(choice.experts, choice.weights, np.where(picked < 2, 0, COPY).astype(np.int8))

    def expert_shares(self) -> npt.NDArray[np.float64]:
        """Return the cost of each expert beside the big one."""
        return np.array([1.0, self.small_share])

    def cost(self, shape: GateShape) -> RouterCost:
        """Return the cost of a gate of three outputs."""
        return gate_cost(shape, 3)
