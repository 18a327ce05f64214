"""Independent routing: every (token, layer) is drawn anew from the layer's popularity (uniform, Zipf).

The simplest generators, and the wrong model of real routing whatever their skew (no reuse, no affinity):
a floor to compare with, and fast.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations
from math import perm
from typing import Annotated

import numpy as np
import numpy.typing as npt
from pydantic import Field

from codesign.base.random import stream, stream_key
from ext.routing import iid_kernels
from workloads.routing.stream import (
    GENERATORS,
    FloatArray,
    Int16Array,
    IntArray,
    RoutingShape,
    RoutingStream,
    prepare_out,
)

_JOINT_COLUMNS = 1024  # an alias table over ordered k-tuples up to this size stays in the first-level cache


def alias_table(weights: FloatArray) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.int32]]:
    """Build the alias table of one discrete distribution (Vose, 1991).

    Parameters
    ----------
    weights : float, shape (M,)     not negative, not all zero

    Returns
    -------
    thresholds : uint32, shape (M,)     keep column i if the low 32 bits are below
    aliases : int32, shape (M,)         else take this column
    """
    scaled = np.asarray(weights, np.float64) / np.sum(weights) * len(weights)
    thresholds = np.full(len(weights), 0xFFFFFFFF, np.uint32)
    aliases = np.arange(len(weights), dtype=np.int32)
    small = [i for i, share in enumerate(scaled) if share < 1.0]
    large = [i for i, share in enumerate(scaled) if share >= 1.0]
    while small and large:
        low, high = small.pop(), large[-1]
        thresholds[low] = min(int(scaled[low] * 2.0**32), 0xFFFFFFFF)
        aliases[low] = high
        scaled[high] -= 1.0 - scaled[low]
        if scaled[high] < 1.0:
            small.append(large.pop())
    return thresholds, aliases


def _tables(weights: FloatArray) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.int32]]:
    built = [alias_table(row) for row in weights]
    width = weights.shape[1]
    thresholds = np.array([t for t, _ in built], np.uint32).reshape(-1, width)
    return thresholds, np.array([a for _, a in built], np.int32).reshape(-1, width)


def _tuple_weights(row: FloatArray, tuples: Int16Array) -> FloatArray:
    """Return the Plackett-Luce probability of each ordered tuple of different experts."""
    shares = row / row.sum()
    probability, left = np.ones(len(tuples)), np.ones(len(tuples))
    for slot in tuples.T:
        probability *= np.minimum(shares[slot] / left, 1.0)
        left = np.maximum(left - shares[slot], 1e-15)  # below: rounding, not share
    return probability


class IndependentStream:
    """Draws k different experts per token and layer in proportion to fixed popularity.

    Law: slot by slot without replacement (Plackett-Luce); with groups, `topk_group` groups are drawn first in
    proportion to their popularity, and the experts inside them.
    """

    def __init__(
        self, popularity: FloatArray, top_k: int, key: int, *, n_group: int = 1, topk_group: int = 1
    ) -> None:
        self.n_layers, self.n_experts = popularity.shape
        self.top_k = top_k
        self.popularity = np.maximum(np.ascontiguousarray(popularity, np.float64), 1e-12)
        self._key = key
        self._tables: tuple[object, ...]
        if n_group > 1:
            self._tables, self._draw = self._grouped(n_group, topk_group), iid_kernels().draw_grouped
        elif perm(self.n_experts, top_k) <= _JOINT_COLUMNS:
            self._tables, self._draw = self._joint(), iid_kernels().draw_joint
        else:
            self._tables = (*_tables(self.popularity), self.popularity)
            self._draw = iid_kernels().draw_sequential

    def _joint(self) -> tuple[object, ...]:
        tuples = np.array(list(permutations(range(self.n_experts), self.top_k)), np.int16)
        weights = np.array([_tuple_weights(row, tuples) for row in self.popularity])
        return (*_tables(weights.reshape(-1, len(tuples))), tuples)

    def _grouped(self, n_group: int, topk_group: int) -> tuple[object, ...]:
        weights = self.popularity
        size = self.n_experts // n_group
        groups = np.ascontiguousarray(weights.reshape(self.n_layers, n_group, -1).sum(axis=2))
        thresholds, aliases = _tables(weights.reshape(-1, size))
        first = np.tile(np.arange(n_group, dtype=np.int32) * size, self.n_layers)
        aliases = (aliases + first[:, None]).astype(np.int32)
        inside = (thresholds.reshape(weights.shape), aliases.reshape(weights.shape), weights)
        return (*inside, *_tables(groups), groups, topk_group)

    def draw(
        self, requests: IntArray, starts: IntArray, lengths: IntArray, out: Int16Array | None = None
    ) -> Int16Array:
        """Return the experts of the tokens of some spans (see `RoutingStream.draw`)."""
        if out is None:
            out = np.empty((int(np.add.reduce(lengths)), self.n_layers, self.top_k), np.int16)
        else:
            prepare_out(out, out.shape[0], self.n_layers, self.top_k)
        self._draw(requests, starts, lengths, self._key, *self._tables, out)
        return out

    def forget(self, request: int) -> None:
        """Do nothing: no state is kept."""


def zipf_popularity(exponent: float, shape: RoutingShape, seed: int) -> FloatArray:
    """Return Zipf popularity ``rank**-exponent``, ranks permuted anew in each layer; shape (L, E)."""
    ranked = np.arange(1, shape.n_experts + 1, dtype=np.float64) ** -exponent
    ranked /= ranked.sum()
    rows = [
        ranked[stream(seed, "routing", "popularity", layer).permutation(shape.n_experts)]
        for layer in shape.moe_layers
    ]
    return np.array(rows).reshape(-1, shape.n_experts)


def _independent(popularity: FloatArray, shape: RoutingShape, seed: int) -> RoutingStream:
    return IndependentStream(
        popularity,
        shape.top_k,
        stream_key(seed, "routing", "draws"),
        n_group=shape.n_group,
        topk_group=shape.topk_group,
    )


@GENERATORS.register("uniform")
@dataclass(frozen=True)
class Uniform:
    """Sends every token to k different experts, all equally likely."""

    def open(self, shape: RoutingShape, seed: int) -> RoutingStream:
        """Return the stream for one model."""
        return _independent(np.ones((shape.n_layers, shape.n_experts)), shape, seed)


@GENERATORS.register("zipf")
@dataclass(frozen=True)
class Zipf:
    """Draws experts by Zipf popularity ``rank**-exponent``, ranks permuted anew in each layer."""

    exponent: Annotated[float, Field(ge=0, le=10)] = 1.0

    def open(self, shape: RoutingShape, seed: int) -> RoutingStream:
        """Return the stream for one model."""
        return _independent(zipf_popularity(self.exponent, shape, seed), shape, seed)
