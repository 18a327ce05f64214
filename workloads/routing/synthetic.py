"""Synthetic routing with three knobs: popularity, locality (the next token), affinity (the next layer).

A slot of a token keeps the expert it had at the token before, or follows its expert of the layer before to
the expert of equal rank, or is drawn anew by popularity.  All three leave each layer's popularity as it is,
so that skew, reuse and affinity can be set apart from each other.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

import numpy as np
import numpy.typing as npt
from pydantic import Field

from codesign.base.errors import ConfigError
from codesign.base.random import stream_key
from ext.routing import copying_kernels
from workloads.routing.independent import _tables
from workloads.routing.popularity import Popularity, Skew, arrangements, ranked
from workloads.routing.slots import SlotTable, grown, parts_of
from workloads.routing.stream import (
    GENERATORS,
    FloatArray,
    Int16Array,
    IntArray,
    RoutingShape,
    RoutingStream,
    prepare_out,
)

_STATE_BYTES = 64 * 2**20


def copying_shares(affinity: float, locality: float) -> tuple[float, float]:
    """Return the shares of slots that keep and that follow, so that both correlations come out as set.

    Notes
    -----
    With keep = o (1 - a^2) / (1 - o^2 a^2) and follow = a (1 - o^2) / (1 - o^2 a^2), a slot is in the same
    relation to the token before with probability o, to the layer before with a, and the two neighbours to
    each other with o a: the stationary first-order field on a grid (Pickard, "Unilateral Markov fields",
    1980; Tory and Pickard, 1992).  keep + follow = (a + o) / (1 + a o) <= 1, so every pair is possible.
    """
    both = locality * locality * affinity * affinity
    if both >= 1:
        return 1.0, 0.0
    keep = locality * (1 - affinity * affinity) / (1 - both)
    return keep, affinity * (1 - locality * locality) / (1 - both)


def decision_edges(affinity: float, locality: float, n_layers: int) -> npt.NDArray[np.int32]:
    """Return the kernel's edges of 65536; (2, L, 2): first tokens only follow, the first layer only keeps."""
    keep, follow = copying_shares(affinity, locality)
    edges = np.empty((2, n_layers, 2))
    edges[0], edges[1] = (0, affinity), (keep, keep + follow)
    edges[0, :1], edges[1, :1] = 0, locality
    return np.rint(edges * 65536).astype(np.int32)


class SyntheticStream:
    """Draws slots that keep, follow or are new; holds the last token of each request.

    Law: pure in (seed, request, position, layer); a request starts anew every 1024 tokens.
    """

    def __init__(
        self,
        popularity: FloatArray,
        maps: Int16Array,
        shape: RoutingShape,
        shares: tuple[float, float],
        key: int,
    ) -> None:
        self.n_layers, self.n_experts = popularity.shape
        self.top_k = shape.top_k
        self.popularity, self.maps = np.maximum(popularity, 1e-12), maps
        self._edges, self._key = decision_edges(*shares, self.n_layers), key
        self._tables = (*self._alias_tables(shape.n_group), shape.topk_group)
        row = max(1, 2 * self.n_layers * self.top_k)
        self._slots = SlotTable(max(1024, _STATE_BYTES // row))
        self._previous = np.zeros((0, self.n_layers, self.top_k), np.int16)
        self._positions = np.zeros(0, np.int64)

    def _alias_tables(self, n_group: int) -> tuple[object, ...]:
        weights, size = np.ascontiguousarray(self.popularity), self.n_experts // n_group
        thresholds, aliases = _tables(weights.reshape(-1, size))
        first = np.tile(np.arange(n_group, dtype=np.int32) * size, self.n_layers)
        aliases = (aliases + first[:, None]).astype(np.int32)
        groups = np.ascontiguousarray(weights.reshape(self.n_layers, n_group, size).sum(axis=2))
        inside = (thresholds.reshape(weights.shape), aliases.reshape(weights.shape), weights)
        return (*inside, *_tables(groups), groups)

    def draw(
        self, requests: IntArray, starts: IntArray, lengths: IntArray, out: Int16Array | None = None
    ) -> Int16Array:
        """Return the experts of the tokens of some spans (see `RoutingStream.draw`)."""
        if out is None:
            out = np.empty((int(np.add.reduce(lengths)), self.n_layers, self.top_k), np.int16)
        else:
            prepare_out(out, out.shape[0], self.n_layers, self.top_k)
        row = 0
        for part in parts_of(requests, self._slots.limit):
            rows = int(np.add.reduce(lengths[part]))
            self._draw(requests[part], starts[part], lengths[part], out[row : row + rows])
            row += rows
        return out

    def _draw(self, requests: IntArray, starts: IntArray, lengths: IntArray, out: Int16Array) -> None:
        slots, fresh = self._slots.find(requests)
        if self._slots.size > len(self._positions):
            self._grow()
        for _, slot in fresh:
            self._positions[slot] = 0
        copying_kernels().draw(
            requests, starts, lengths, slots, self._key, self._edges, self.maps, *self._tables,
            self._previous, self._positions, out,
        )  # fmt: skip

    def _grow(self) -> None:
        rows = grown(len(self._positions), self._slots.size, self._slots.limit)
        previous = np.zeros((rows, self.n_layers, self.top_k), np.int16)
        previous[: len(self._previous)] = self._previous
        self._positions = np.concatenate([self._positions, np.zeros(rows - len(self._positions), np.int64)])
        self._previous = previous

    def forget(self, request: int) -> None:
        """Free the state of a request; drawing it again recreates the same experts."""
        self._slots.drop(request)


def rank_maps(places: IntArray) -> Int16Array:
    """Return the map from each expert of the layer before to the expert of equal rank here; int16, (L, E)."""
    maps = np.tile(np.arange(places.shape[1], dtype=np.int16), (len(places), 1))
    for layer in range(1, len(places)):
        maps[layer, places[layer - 1]] = places[layer]
    return maps


@GENERATORS.register("synthetic")
@dataclass(frozen=True)
class Synthetic:
    """Draws routing of a set popularity, affinity between layers and locality between tokens.

    popularity : uniform, {zipf: exponent} or {gini: of the loads}; ranks are dealt anew in each layer
    affinity : 0 .. 1, share of slots whose expert is the one that the layer before points to
    locality : 0 .. 1, share of slots that keep their expert at the next token; after n tokens locality^n
    """

    popularity: Popularity = field(default_factory=lambda: Skew(zipf=0.8))
    affinity: Annotated[float, Field(ge=0, le=1)] = 0.4
    locality: Annotated[float, Field(ge=0, le=1)] = 0.2

    def open(self, shape: RoutingShape, seed: int) -> RoutingStream:
        """Return the stream for one model."""
        try:
            shares = ranked(self.popularity, shape.n_experts, shape.top_k)
        except ValueError as error:
            raise ConfigError(f"popularity: {error}") from None
        places = arrangements(shape, seed)
        popularity = np.empty((shape.n_layers, shape.n_experts))
        np.put_along_axis(popularity, places, shares[None], axis=1)
        key = stream_key(seed, "routing", "draws")
        return SyntheticStream(popularity, rank_maps(places), shape, (self.affinity, self.locality), key)
