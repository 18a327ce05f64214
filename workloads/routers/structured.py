"""Routers over experts of unusual number or shape: per layer, adapters, product keys, unequal, merged."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
import numpy.typing as npt
from pydantic import Field

from workloads.routers.base import (
    NOTHING,
    ROUTERS,
    Choice,
    Context,
    GateShape,
    Ids,
    RouterCost,
    Scores,
    best,
    chosen,
    gate_cost,
    softmax,
)
from workloads.routers.token_choice import Count


@ROUTERS.register("per_layer")
@dataclass(frozen=True)
class PerLayer:
    """Gives each layer its own number of experts (MoLA, Gao et al., 2024: 2, 4, 6, 8 adapters by depth).

    counts : experts of each layer; the last holds for all further layers
    rank : of a low-rank adapter expert (MixLoRA, Li et al., 2024); 0: full experts
    """

    counts: tuple[Annotated[int, Field(ge=1)], ...] = (2, 4, 6, 8)
    k: Count = 2
    rank: Annotated[int, Field(ge=0)] = 0

    def count(self, layer: int) -> int:
        """Return the number of experts of a layer."""
        return self.counts[min(layer, len(self.counts) - 1)]

    def route(self, scores: Scores, context: Context = NOTHING) -> Choice:
        """Choose the k best of the layer's own experts."""
        own = scores[:, : self.count(context.layer)]
        return chosen(softmax(own), best(own, min(self.k, own.shape[1])), renormalise=True)

    def adapter_flop(self, rows: int, columns: int) -> float:
        """Return the FLOP of one token in one adapter of a matrix: two products of its rank."""
        return 2.0 * self.rank * (rows + columns)

    def cost(self, shape: GateShape) -> RouterCost:
        """Return the cost of one linear gate; ``extra["layer"]`` says which layer."""
        return gate_cost(shape, self.count(shape.extra.get("layer", 0)))


@ROUTERS.register("product_key")
@dataclass(frozen=True)
class ProductKey:
    """Finds the k best of n^2 experts from two scores of n keys (Monet, Park et al., 2024: 512^2 = 262,144).

    Scores have 2n columns.  Expert i n + j has the score ``first[i] + second[j]``; the k best pairs lie among
    the k best of each half (Lample et al., "Large memory layers with product keys", 2019).
    """

    k: Count = 8
    heads: Count = 1

    def columns(self, n_experts: int) -> int:
        """Return the columns of the scores for some experts."""
        return 2 * int(np.ceil(np.sqrt(n_experts)))

    def route(self, scores: Scores, context: Context = NOTHING) -> Choice:
        """Choose the k best pairs."""
        tokens, n = len(scores), scores.shape[1] // 2
        halves = scores[:, :n], scores[:, n:]
        top = [best(half, min(self.k, n)).astype(np.int64) for half in halves]
        value = [np.take_along_axis(half, rows, axis=1) for half, rows in zip(halves, top, strict=True)]
        width = top[0].shape[1] ** 2
        pairs = (value[0][:, :, None] + value[1][:, None, :]).reshape(tokens, width)
        ids = (top[0][:, :, None] * n + top[1][:, None, :]).reshape(tokens, width)
        picked = best(pairs, min(self.k, pairs.shape[1])).astype(np.int64)
        weights = softmax(np.take_along_axis(pairs, picked, axis=1)).astype(np.float32)
        experts = np.take_along_axis(ids, picked, axis=1).astype(np.int32)
        return Choice(experts, weights, np.zeros(experts.shape, np.int8))

    def cost(self, shape: GateShape) -> RouterCost:
        """Return the cost of two gates of sqrt(E) keys per head: 2 sqrt(E) h, not E h."""
        keys = int(np.ceil(np.sqrt(shape.n_experts)))
        return gate_cost(shape, 2 * keys * self.heads)


@ROUTERS.register("latency_aware")
@dataclass(frozen=True)
class LatencyAware:
    """Gives experts of unequal cost tokens in inverse proportion to their latency (ShiftAddViT, You et al.,
    NeurIPS 2023: multiplication and shift experts).

    The offsets of the scores are found so that expert e gets the share (1 / latency_e) / sum of the tokens.
    Law: tokens_e latency_e are equal, to within one token each.
    """

    latency_s: tuple[Annotated[float, Field(gt=0)], ...] = (2.0, 1.0)
    batchwise: ClassVar[bool] = True  # tokens of a batch compete

    def shares(self) -> npt.NDArray[np.float64]:
        """Return the share of the tokens that each expert gets."""
        speed = 1.0 / np.array(self.latency_s)
        return np.asarray(speed / speed.sum())

    def route(self, scores: Scores, context: Context = NOTHING) -> Choice:
        """Choose the best expert that has room, the surest tokens first."""
        tokens = len(scores)
        room = np.floor(self.shares() * tokens).astype(np.int64)
        for e in np.argsort(room - self.shares() * tokens, kind="stable")[: tokens - int(room.sum())]:
            room[e] += 1
        experts = np.empty((tokens, 1), np.int32)
        ranked = np.sort(scores, axis=1)
        margin = ranked[:, -1] - ranked[:, -2] if scores.shape[1] > 1 else ranked[:, -1]
        order = best(scores, scores.shape[1])
        for token in np.argsort(-margin, kind="stable"):
            pick = next(e for e in order[token] if room[e] > 0)
            experts[token, 0], room[pick] = pick, room[pick] - 1
        return chosen(softmax(scores), experts, renormalise=False)

    def cost(self, shape: GateShape) -> RouterCost:
        """Return the cost of one linear gate."""
        return gate_cost(shape)


@ROUTERS.register("merged")
@dataclass(frozen=True)
class Merged:
    """Routes as the full model does, then maps experts many to one: merged (MC-SMoE, Li et al., ICLR 2024),
    pruned (UNCURL, Sarkar et al., 2024) or masked by task (MoTE).

    groups : what each original expert became; -1: pruned (its tokens lose it)
    Law: a token that met two members of one group uses it once, with both weights.
    """

    groups: tuple[Annotated[int, Field(ge=-1)], ...]
    k: Count = 2

    def route(self, scores: Scores, context: Context = NOTHING) -> Choice:
        """Choose the k best originals; map, join, renormalise."""
        groups = np.array(self.groups, np.int32)
        total = np.where(groups >= 0, scores, -np.inf) if (groups >= 0).any() else scores
        first = chosen(
            softmax(total), best(total, min(self.k, int((groups >= 0).sum()) or 1)), renormalise=True
        )
        experts, weights = groups[first.experts], first.weights.copy()
        for j in range(1, experts.shape[1]):
            for i in range(j):
                same = (experts[:, i] == experts[:, j]) & (experts[:, j] >= 0)
                weights[same, i] += weights[same, j]
                experts[same, j], weights[same, j] = -1, 0.0
        weights[experts < 0] = 0.0
        return Choice(experts, weights, np.zeros(experts.shape, np.int8))

    def cost(self, shape: GateShape) -> RouterCost:
        """Return the cost of the original gate: it keeps all its outputs."""
        return gate_cost(shape, len(self.groups))


def merge_by_use(counts: npt.NDArray[np.int64], kept: int) -> tuple[int, ...]:
    """Return the groups that merge the least used experts into the `kept` most used, in turn."""
    order = np.argsort(-counts, kind="stable")
    groups: Ids = np.empty(len(counts), np.int32)
    groups[order[:kept]] = np.arange(kept)
    groups[order[kept:]] = np.arange(len(counts) - kept) % kept
    return tuple(int(g) for g in groups)
