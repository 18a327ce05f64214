"""Routers of whole requests: to one of several models, or up a cascade."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np
import numpy.typing as npt
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
    softmax,
)
from workloads.routers.token_choice import Count


@ROUTERS.register("model_router")
@dataclass(frozen=True)
class ModelRouter:
    """Sends each request to one of several expert models by a classifier (Composition of Experts, 2024).

    Rows of the scores are requests, columns models.
    """

    classifier_layers: Count = 1
    prompt_tokens: Count = 256

    def route(self, scores: Scores, context: Context = NOTHING) -> Choice:
        """Choose the best model of each request."""
        return chosen(softmax(scores), best(scores, 1), renormalise=True)

    def mean_parameters(self, choice: Choice, parameters: npt.ArrayLike) -> float:
        """Return the mean parameters of the models that were chosen: the active size of the composition."""
        return float(np.asarray(parameters, np.float64)[choice.experts[:, 0]].mean())

    def cost(self, shape: GateShape) -> RouterCost:
        """Return the cost of the classifier (12 h^2 weights a layer, over the prompt) and its last gate."""
        gate, weights = gate_cost(shape), 12.0 * shape.hidden**2 * self.classifier_layers
        tokens = shape.tokens * self.prompt_tokens
        return RouterCost(
            gate.flop + 2.0 * tokens * weights,
            gate.weight_bytes + weights * shape.value_bytes,
            gate.activation_bytes + 2.0 * tokens * shape.hidden * shape.value_bytes * self.classifier_layers,
        )


@ROUTERS.register("cascade")
@dataclass(frozen=True)
class Cascade:
    """Asks the weak model (0) first, and the strong one (1) too if it is unsure (Mowst, Zeng, ICLR 2024).

    Confidence comes with the context, or is the largest softmax value of the scores.
    Law: the weak model runs for all; the strong for exactly those of confidence below the threshold.
    """

    threshold: Annotated[float, Field(ge=0, le=1)] = 0.5

    def route(self, scores: Scores, context: Context = NOTHING) -> Choice:
        """Choose the weak model, and the strong where confidence is below the threshold."""
        sure = softmax(scores).max(axis=1) if context.confidence is None else context.confidence
        unsure = sure < self.threshold
        experts = np.stack([np.zeros(len(sure)), np.where(unsure, 1, -1)], axis=1).astype(np.int32)
        weights = np.stack([~unsure, unsure], axis=1).astype(np.float32)
        return Choice(experts, weights, np.zeros(experts.shape, np.int8))

    def cost(self, shape: GateShape) -> RouterCost:
        """Return the cost of one comparison per token: the confidence comes with the weak model's output."""
        return RouterCost(float(shape.tokens), 0.0, shape.tokens * shape.score_bytes)
