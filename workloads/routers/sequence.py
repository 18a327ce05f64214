"""Routers that do not look at the layer's own input alone: decided before, carried on, random or fixed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np
import numpy.typing as npt
from pydantic import Field

from codesign.base.random import stream, stream_key
from workloads.routers.base import (
    NO_COST,
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
    softmax,
)
from workloads.routers.token_choice import Count
from workloads.routing.replay import hash_ids


@ROUTERS.register("pre_gated")
@dataclass(frozen=True)
class PreGated:
    """Decides once, before the first layer, for all layers (Read-ME, Cai et al., NeurIPS 2024).

    Law: the choice depends on the scores alone, not on the layer, so that every fetch is known beforehand.
    """

    k: Count = 1
    layers: Count = 32
    blocks: Count = 1  # transformer blocks of the router itself (Read-ME: one)

    def route(self, scores: Scores, context: Context = NOTHING) -> Choice:
        """Choose the k best of the one set of scores."""
        return chosen(softmax(scores), best(scores, self.k), renormalise=True)

    def cost(self, shape: GateShape) -> RouterCost:
        """Return the router's cost per layer: its blocks (12 h^2 weights each) and gate, over the layers."""
        gate, weights = gate_cost(shape), 12.0 * shape.hidden**2 * self.blocks
        return RouterCost(
            (gate.flop + 2.0 * shape.tokens * weights) / self.layers,
            (gate.weight_bytes + weights * shape.value_bytes) / self.layers,
            gate.activation_bytes * (1 + self.blocks) / self.layers,
        )


@ROUTERS.register("recurrent")
@dataclass(frozen=True)
class Recurrent:
    """Carries a state from layer to layer with a GRU and gates on it (RMoE, Qiu et al., 2024).

    Here the carried scores of the layer before are mixed in with the share `memory`.
    """

    k: Count = 2
    memory: Annotated[float, Field(ge=0, le=1)] = 0.5
    state: Count = 128  # width of the recurrent state

    def route(self, scores: Scores, context: Context = NOTHING) -> Choice:
        """Choose the k best of the mixed scores."""
        total = (
            scores if context.before is None else (1 - self.memory) * scores + self.memory * context.before
        )
        return chosen(softmax(total), best(total, self.k), renormalise=True)

    def cost(self, shape: GateShape) -> RouterCost:
        """Return the cost of the projection, the GRU (6 state^2 weights) and the gate on its state."""
        weights = shape.hidden * self.state + 6 * self.state**2 + self.state * shape.n_experts
        moved = shape.hidden + 2 * self.state
        return RouterCost(
            2.0 * shape.tokens * weights,
            weights * shape.value_bytes,
            shape.tokens * (moved * shape.value_bytes + shape.n_experts * shape.score_bytes),
        )


def token_numbers(scores: Scores, context: Context) -> npt.NDArray[np.int64]:
    """Return a number per token: as given, or its row."""
    rows = np.arange(len(scores)) if context.tokens is None else context.tokens
    return rows.astype(np.int64)


@ROUTERS.register("random")
@dataclass(frozen=True)
class Random:
    """Sends each token to k random experts, whatever its scores (THOR, Zuo et al., ICLR 2022).

    Law: a pure function of seed, layer and the token's number.
    """

    k: Count = 1
    seed: int = 0

    def route(self, scores: Scores, context: Context = NOTHING) -> Choice:
        """Choose by hash."""
        tokens, n_experts = scores.shape
        key = stream_key(self.seed, "router", "random", context.layer)
        numbers = token_numbers(scores, context)[:, None] * n_experts + np.arange(n_experts)
        ranks = hash_ids(numbers, key).astype(np.float64)
        return chosen(np.ones((tokens, n_experts)), best(ranks, self.k), renormalise=True)

    def cost(self, shape: GateShape) -> RouterCost:
        """Return no cost: nothing is computed from the token."""
        return NO_COST


@ROUTERS.register("fixed_projection")
@dataclass(frozen=True)
class FixedProjection:
    """Gates by a random projection that is never trained (SMoE-Dropout, Chen et al., ICLR 2023).

    `route` takes hidden states, shape (T, h); k may grow with training (all experts at the end).
    """

    k: Count = 2
    n_experts: Count = 8
    seed: int = 0

    def projection(self, hidden: int, layer: int) -> Scores:
        """Return the fixed matrix of one layer, shape (h, E), unit columns on average."""
        draw = stream(self.seed, "router", "fixed_projection", layer)
        return np.asarray(draw.standard_normal((hidden, self.n_experts)) / np.sqrt(hidden))

    def route(self, scores: Scores, context: Context = NOTHING) -> Choice:
        """Project hidden states and choose the k best."""
        projected = scores @ self.projection(scores.shape[1], context.layer)
        return chosen(softmax(projected), best(projected, self.k), renormalise=True)

    def cost(self, shape: GateShape) -> RouterCost:
        """Return the cost of one linear gate: fixed weights are read as any others."""
        return gate_cost(shape)
