"""Replay of a recorded trace: each request follows one recorded sequence, its tokens wrap around."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from codesign.base.errors import ConfigError
from codesign.base.random import stream, stream_key
from workloads.routing.files import RoutingTrace, read_trace
from workloads.routing.stream import (
    GENERATORS,
    Int16Array,
    IntArray,
    RoutingShape,
    RoutingStream,
    prepare_out,
    span_rows,
)


def hash_ids(ids: IntArray, key: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint64]]:
    """Scramble request ids with a key (splitmix64), shape as given."""
    x = ids.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(key)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


class ReplayStream:
    """Gives token p of request r row ``p mod length`` of the recorded sequence that r is hashed to."""

    def __init__(self, trace: RoutingTrace, key: int) -> None:
        self.experts, self.n_experts = trace.experts, trace.n_experts
        _, self.n_layers, self.top_k = trace.experts.shape
        self._first, self._length, self._key = trace.offsets[:-1], trace.lengths, key

    def draw(
        self, requests: IntArray, starts: IntArray, lengths: IntArray, out: Int16Array | None = None
    ) -> Int16Array:
        """Return the experts of the tokens of some spans (see `RoutingStream.draw`)."""
        request, position = span_rows(requests, starts, lengths)
        sequence = (hash_ids(request, self._key) % np.uint64(len(self._length))).astype(np.int64)
        rows = self._first[sequence] + position % self._length[sequence]
        out = prepare_out(out, len(rows), self.n_layers, self.top_k)
        np.take(self.experts, rows, axis=0, out=out, mode="clip")
        return out

    def forget(self, request: int) -> None:
        """Do nothing: no state is kept."""


def adapt_trace(trace: RoutingTrace, shape: RoutingShape, seed: int) -> RoutingTrace:
    """Bend a recorded trace to another model: layers by relative depth, experts by a random map per layer.

    A model layer takes the recorded layer at the same relative depth, its experts renamed at random, so that
    layers that share a source are not copies.  With fewer model experts, several recorded ones share a name
    (a token that meets one twice takes the next free); with more, some experts are never used.

    Raises
    ------
    ConfigError   the trace has fewer slots per token than the model
    """
    tokens, recorded, slots = trace.experts.shape
    if slots < shape.top_k:
        raise ConfigError(f"the trace has top-{slots}, the model top-{shape.top_k}: it cannot be adapted")
    out = np.empty((tokens, shape.n_layers, shape.top_k), np.int16)
    for i, layer in enumerate(shape.moe_layers):
        source = trace.experts[:, i * recorded // shape.n_layers, : shape.top_k]
        wide = max(trace.n_experts, shape.n_experts)
        names = stream(seed, "routing", "adapt", layer).permutation(wide) % shape.n_experts
        out[:, i] = _distinct(np.where(source >= 0, names[source], -1), shape.n_experts)
    return RoutingTrace(
        out,
        trace.offsets,
        shape.n_experts,
        trace.domains,
        trace.domain_names,
        shape.moe_layers,
        trace.model,
        trace.provenance,
        (*trace.notes, "adapted to another shape"),
    )


def _distinct(ids: IntArray, n_experts: int) -> IntArray:
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
        wanted = (shape.n_layers, shape.n_experts, shape.top_k)
        if found != wanted:
            if not self.adapt:
                raise ConfigError(
                    f"{self.path}: the trace has {found[0]} layers of {found[1]} experts, top-{found[2]}; the"
                    f" model has {wanted[0]} of {wanted[1]}, top-{wanted[2]}: use another trace, or"
                    " 'adapt: true'"
                )
            trace = adapt_trace(trace, shape, seed)
        return ReplayStream(trace, stream_key(seed, "routing", "replay"))
