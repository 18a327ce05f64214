"""Routers in which each token, or each expert, takes its best: the common ones."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field

from workloads.routers.base import (
    NOTHING,
    ROUTERS,
    Choice,
    Context,
    GateShape,
    RouterCost,
    Scores,
    best,
    chosen,
    gate_cost,
    sigmoid,
    softmax,
)

Count = Annotated[int, Field(ge=1)]


def gate_values(scores: Scores, scoring: str) -> Scores:
    """Return the gate's values of raw scores: softmax over all experts, or sigmoid of each."""
    return softmax(scores) if scoring == "softmax" else sigmoid(scores)


@ROUTERS.register("top_k")
@dataclass(frozen=True)
class TopK:
    """Sends each token to its k best experts (Shazeer et al., 2017; Mixtral: renormalised).

    bias : added to the values for choosing, not for weighting (DeepSeek-V3's balance without a loss)
    """

    k: Count = 2
    scoring: Literal["softmax", "sigmoid"] = "softmax"
    renormalise: bool = True
    bias: tuple[float, ...] = ()
    scale: float = 1.0

    def route(self, scores: Scores, context: Context = NOTHING) -> Choice:
        """Choose the k best."""
        values = gate_values(scores, self.scoring)
        by = values + np.array(self.bias) if self.bias else values
        return chosen(values, best(by, self.k), self.renormalise, self.scale)

    def cost(self, shape: GateShape) -> RouterCost:
        """Return the cost of one linear gate."""
        return gate_cost(shape)


@ROUTERS.register("switch")
@dataclass(frozen=True)
class Switch:
    """Sends each token to its best expert, weighted by the gate (Fedus, Zoph, Shazeer, 2021).

    capacity_factor : an expert takes at most ceil(factor T / E) tokens, the first that come; 0: no limit
    """

    capacity_factor: Annotated[float, Field(ge=0)] = 0.0
    batchwise: ClassVar[bool] = True  # tokens of a batch compete

    def route(self, scores: Scores, context: Context = NOTHING) -> Choice:
        """Choose the best; drop what overflows an expert."""
        choice = chosen(softmax(scores), best(scores, 1), renormalise=False)
        if not self.capacity_factor:
            return choice
        tokens, n_experts = scores.shape
        limit = int(np.ceil(self.capacity_factor * tokens / n_experts))
        ids = choice.experts[:, 0]
        order = np.argsort(ids, kind="stable")
        first = np.searchsorted(ids[order], np.arange(n_experts))
        place = np.empty(tokens, np.int64)
        place[order] = np.arange(tokens) - first[ids[order]]
        kept = (place < limit)[:, None]
        return replace(
            choice, experts=np.where(kept, choice.experts, np.int32(-1)),
            weights=np.where(kept, choice.weights, np.float32(0)),
        )  # fmt: skip

    def cost(self, shape: GateShape) -> RouterCost:
        """Return the cost of one linear gate."""
        return gate_cost(shape)


@ROUTERS.register("expert_choice")
@dataclass(frozen=True)
class ExpertChoice:
    """Lets each expert take its best tokens: perfect balance, a varying number per token (Zhou et al., 2022).

    Law: every expert takes exactly min(T, ceil(capacity T / E)) tokens.
    """

    capacity: Annotated[float, Field(gt=0)] = 2.0
    batchwise: ClassVar[bool] = True

    def route(self, scores: Scores, context: Context = NOTHING) -> Choice:
        """Choose tokens for each expert, then list each token's experts."""
        tokens, n_experts = scores.shape
        values = softmax(scores)
        take = min(tokens, int(np.ceil(self.capacity * tokens / n_experts)))
        rows = np.argsort(-values, axis=0, kind="stable")[:take]
        taken = np.zeros(scores.shape, bool)
        np.put_along_axis(taken, rows, True, axis=0)
        order = best(np.where(taken, values, -1.0), max(int(taken.sum(axis=1).max(initial=0)), 1))
        used = np.take_along_axis(taken, order.astype(np.int64), axis=1)
        return chosen(values, np.where(used, order, np.int32(-1)), renormalise=False)

    def cost(self, shape: GateShape) -> RouterCost:
        """Return the cost of one linear gate."""
        return gate_cost(shape)


@ROUTERS.register("group_limited")
@dataclass(frozen=True)
class GroupLimited:
    """Sends each token to its k best experts inside its best groups (DeepSeek-V2, 2024; V3, 2024).

    members : a group's score is the sum of its best so many values (V2: 1; V3: 2)
    """

    k: Count = 8
    n_group: Count = 8
    topk_group: Count = 4
    members: Count = 2
    scoring: Literal["softmax", "sigmoid"] = "sigmoid"
    renormalise: bool = True
    scale: float = 1.0

    def route(self, scores: Scores, context: Context = NOTHING) -> Choice:
        """Choose groups, then experts."""
        values = gate_values(scores, self.scoring)
        inside = values.reshape(len(values), self.n_group, values.shape[1] // self.n_group)
        group = -np.sort(-inside, axis=2)[:, :, : self.members].sum(axis=2)
        allowed = np.zeros(group.shape, bool)
        np.put_along_axis(allowed, best(group, self.topk_group).astype(np.int64), True, axis=1)
        barred = np.where(np.repeat(allowed, inside.shape[2], axis=1), values, -1.0)
        return chosen(values, best(barred, self.k), self.renormalise, self.scale)

    def cost(self, shape: GateShape) -> RouterCost:
        """Return the cost of one linear gate."""
        return gate_cost(shape)


@ROUTERS.register("shared_fine_grained")
@dataclass(frozen=True)
class SharedFineGrained:
    """Uses some shared experts always, and the k best of many narrow ones (DeepSeekMoE, Dai et al., 2024).

    The shared experts are ids E .. E + shared - 1, in the last slots, with weight 1.
    """

    k: Count = 6
    shared: Count = 2
    renormalise: bool = False

    def route(self, scores: Scores, context: Context = NOTHING) -> Choice:
        """Choose the k best and add the shared."""
        tokens, n_experts = scores.shape
        routed = chosen(softmax(scores), best(scores, self.k), self.renormalise)
        always = np.tile(np.arange(n_experts, n_experts + self.shared, dtype=np.int32), (tokens, 1))
        return Choice(
            np.concatenate([routed.experts, always], axis=1),
            np.concatenate([routed.weights, np.ones(always.shape, np.float32)], axis=1),
            np.zeros((tokens, self.k + self.shared), np.int8),
        )

    def cost(self, shape: GateShape) -> RouterCost:
        """Return the cost of one linear gate; shared experts need none."""
        return gate_cost(shape)
