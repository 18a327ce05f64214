"""Replay of a recorded trace: each request follows one recorded sequence, its tokens wrap around."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from codesign.base.errors import ConfigError
from codesign.base.random import stream, stream_key
from workloads.routing.files import read_trace
from workloads.routing.stream import (
    GENERATORS,
    Int16Array,
    IntArray,
    RoutingShape,
    RoutingStream,
    prepare_out,
    span_rows,
)
from workloads.routing.tables import Rows
from workloads.routing.trace import RoutingTrace, gate_weights


def hash_ids(ids: IntArray, key: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint64]]:
    """Scramble request ids with a key (splitmix64), shape as given."""
    x = ids.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(key)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


@dataclass(frozen=True)
class Adaptation:
    """Bends recorded rows to another model: layers by relative depth, experts by a random map per layer.

    A model layer takes the recorded layer at the same relative depth, its experts renamed at random, so that
    layers that share a source are not copies.  With fewer model experts, several recorded ones share a name
    (a token that meets one twice takes the next free); with more, some experts are never used.

    layers : int64, shape (L,)       recorded layer of each of the model's
    names : int16, shape (L, E' + 1)   expert of each recorded one; the last, of an unused slot, is -1
    """

    layers: IntArray
    names: Int16Array
    shape: RoutingShape

    def apply(self, ids: npt.NDArray[Any]) -> Int16Array:
        """Return the experts of recorded rows (T, L', k') in the model; int16 (T, L, k)."""
        source = ids[:, self.layers, : self.shape.top_k].astype(np.int64)
        found = self.names[np.arange(self.shape.n_layers)[:, None], source]
        return _distinct(found.reshape(-1, self.shape.top_k), self.shape.n_experts).reshape(found.shape)


def adaptation(trace: RoutingTrace, shape: RoutingShape, seed: int) -> Adaptation:
    """Return what bends a trace to a model.

    Raises
    ------
    ConfigError   the trace has fewer slots per token than the model
    """
    _, recorded, slots = trace.experts.shape
    if slots < shape.top_k:
        raise ConfigError(f"the trace has top-{slots}, the model top-{shape.top_k}: it cannot be adapted")
    wide = max(trace.n_experts, shape.n_experts)
    names = np.full((shape.n_layers, wide + 1), -1, np.int16)
    for i, layer in enumerate(shape.moe_layers):
        names[i, :-1] = stream(seed, "routing", "adapt", layer).permutation(wide) % shape.n_experts
    return Adaptation(np.arange(shape.n_layers) * recorded // shape.n_layers, names, shape)


class ReplayStream:
    """Gives token p of request r row ``p mod length`` of the recorded sequence that r is hashed to."""

    def __init__(self, trace: RoutingTrace, key: int, adapted: Adaptation | None = None) -> None:
        self.n_experts = trace.n_experts if adapted is None else adapted.shape.n_experts
        _, self.n_layers, self.top_k = trace.experts.shape
        if adapted is not None:
            self.n_layers, self.top_k = adapted.shape.n_layers, adapted.shape.top_k
        self._rows, self._adapted = Rows(trace.experts), adapted
        self._gates = None if trace.gates is None else Rows(trace.gates)
        self._first, self._length, self._key = trace.offsets[:-1], trace.lengths, key

    def draw(
        self, requests: IntArray, starts: IntArray, lengths: IntArray, out: Int16Array | None = None
    ) -> Int16Array:
        """Return the experts of the tokens of some spans (see `RoutingStream.draw`)."""
        ids = self._rows.take(self._recorded(requests, starts, lengths))
        out = prepare_out(out, len(ids), self.n_layers, self.top_k)
        out[...] = ids if self._adapted is None else self._adapted.apply(ids)
        return out

    def gates(
        self, requests: IntArray, starts: IntArray, lengths: IntArray
    ) -> npt.NDArray[np.float32] | None:
        """Return the recorded weights of what `draw` gives, float32 (T, L, k); None if not recorded."""
        if self._gates is None:
            return None
        found = gate_weights(self._gates.take(self._recorded(requests, starts, lengths)))
        return found if self._adapted is None else found[:, self._adapted.layers, : self.top_k]

    def _recorded(self, requests: IntArray, starts: IntArray, lengths: IntArray) -> IntArray:
        """Return the recorded row of every token."""
        request, position = span_rows(requests, starts, lengths)
        sequence = (hash_ids(request, self._key) % np.uint64(len(self._length))).astype(np.int64)
        return np.asarray(self._first[sequence] + position % self._length[sequence])

    def forget(self, request: int) -> None:
        """Do nothing: no state is kept."""


def _distinct(ids: Int16Array, n_experts: int) -> Int16Array:
    """Move an id that stands earlier in its row to the next free one."""
    for j in range(1, ids.shape[1]):
        while True:
            clash = ((ids[:, :j] == ids[:, j : j + 1]) & (ids[:, j : j + 1] >= 0)).any(axis=1)
            if not clash.any():
                break
            ids[clash, j] = (ids[clash, j] + 1) % n_experts
    return ids


@GENERATORS.register("trace")
@dataclass(frozen=True)
class Replay:
    """Replays a recorded trace (``.npz`` or ``.parquet``); `adapt` bends it to a model of another shape."""

    path: str
    adapt: bool = False

    def open(self, shape: RoutingShape, seed: int) -> RoutingStream:
        """Return the stream for one model; refuse a trace of another shape unless `adapt`."""
        trace = read_trace(self.path)
        found = (trace.experts.shape[1], trace.n_experts, trace.experts.shape[2])
        wanted, adapted = (shape.n_layers, shape.n_experts, shape.top_k), None
        if found != wanted:
            if not self.adapt:
                raise ConfigError(
                    f"{self.path}: the trace has {found[0]} layers of {found[1]} experts, top-{found[2]}; the"
                    f" model has {wanted[0]} of {wanted[1]}, top-{wanted[2]}: use another trace, or"
                    " 'adapt: true'"
                )
            adapted = adaptation(trace, shape, seed)
        return ReplayStream(trace, stream_key(seed, "routing", "replay"), adapted)
