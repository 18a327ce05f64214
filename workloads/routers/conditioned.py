"""Routers that depend on what a token belongs to: task, modality, language, timestep; and soft mixtures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np
from pydantic import Field

from codesign.base.random import stream
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
    softmax,
)
from workloads.routers.token_choice import Count


@ROUTERS.register("conditioned")
@dataclass(frozen=True)
class Conditioned:
    """Gates each label by its own gate: task (M3ViT, Liang et al., NeurIPS 2022), modality (Uni-MoE, Li et
    al., 2024), language, or denoising timestep (Switch-DiT, Park et al., 2024).

    `strength` says how far the labels' gates lie apart: their offsets of the scores are normal draws of that
    deviation, per label and layer.  With `own` > 0 each label has so many experts of its own, and no others.
    """

    k: Count = 2
    labels: Count = 2
    strength: Annotated[float, Field(ge=0)] = 2.0
    own: Annotated[int, Field(ge=0)] = 0
    seed: int = 0

    def route(self, scores: Scores, context: Context = NOTHING) -> Choice:
        """Choose the k best for each token's label (0 without labels)."""
        label = np.zeros(len(scores), np.int64) if context.labels is None else context.labels % self.labels
        draw = stream(self.seed, "router", "conditioned", context.layer)
        offsets = self.strength * draw.standard_normal((self.labels, scores.shape[1]))
        if self.own:
            owner = np.arange(scores.shape[1]) // self.own
            offsets = np.where(owner == np.arange(self.labels)[:, None], offsets, -np.inf)
        total = scores + offsets[label]
        picked = best(total, self.k)
        allowed = np.isfinite(np.take_along_axis(total, picked.astype(np.int64), axis=1))
        return chosen(softmax(total), np.where(allowed, picked, np.int32(-1)), renormalise=True)

    def cost(self, shape: GateShape) -> RouterCost:
        """Return the cost of one gate per token; the gates of all labels are held, one is read per label."""
        gate = gate_cost(shape)
        return RouterCost(gate.flop, gate.weight_bytes * self.labels, gate.activation_bytes)


@ROUTERS.register("dense")
@dataclass(frozen=True)
class Dense:
    """Uses every expert, mixed by the gate (X-LoRA, Buehler and Buehler, 2024; soft mixtures).

    Law: all E experts in every token, weights sum to 1.
    """

    depth: Count = 1  # linear layers of the gate

    def route(self, scores: Scores, context: Context = NOTHING) -> Choice:
        """Take all, best first."""
        return chosen(softmax(scores), best(scores, scores.shape[1]), renormalise=False)

    def cost(self, shape: GateShape) -> RouterCost:
        """Return the cost of the gate: depth - 1 square layers and one to the experts."""
        gate, square = gate_cost(shape), gate_cost(shape, shape.hidden, self.depth - 1)
        return RouterCost(
            gate.flop + square.flop,
            gate.weight_bytes + square.weight_bytes,
            gate.activation_bytes + square.activation_bytes,
        )
