"""Routing by any registered router, from drawn scores: dynamic numbers of experts, null experts, conditions.

Scores are the log popularity of the layer's experts, plus a normal part of the request, plus normal noise of
the token; the router's own rule then chooses.  Experts without computation leave their slot unused (-1).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from codesign.base.document import Document
from codesign.base.errors import ConfigError
from codesign.base.random import stream_key
from workloads.routers import ROUTERS, Context, Router
from workloads.routing.latent import normal_table
from workloads.routing.popularity import Popularity, Skew, arrangements, ranked
from workloads.routing.replay import hash_ids
from workloads.routing.stream import (
    GENERATORS,
    FloatArray,
    Int16Array,
    IntArray,
    RoutingShape,
    RoutingStream,
    prepare_out,
    span_rows,
)


class RoutedStream:
    """Applies one router to drawn scores.

    Law: pure in (seed, request, position, layer).
    """

    def __init__(
        self, router: Router, logits: FloatArray, top_k: int, deviations: tuple[float, float], key: int
    ) -> None:
        self.n_layers, self.n_experts = logits.shape
        self.top_k = top_k
        self._router, self._logits, self._key = router, logits, key
        self._request, self._token = deviations
        columns = getattr(router, "columns", None)
        self._width = columns(self.n_experts) if columns else self.n_experts

    def draw(
        self, requests: IntArray, starts: IntArray, lengths: IntArray, out: Int16Array | None = None
    ) -> Int16Array:
        """Return the experts of the tokens of some spans (see `RoutingStream.draw`)."""
        request, position = span_rows(requests, starts, lengths)
        out = prepare_out(out, len(request), self.n_layers, self.top_k)
        before = None
        for layer in range(self.n_layers):
            scores = self._scores(request, position, layer)
            number = request * 1_000_003 + position
            choice = self._router.route(scores, Context(layer, labels=request, before=before, tokens=number))
            out[:, layer] = self._slots(choice.experts)
            before = scores
        return out

    def _slots(self, experts: Any) -> Int16Array:
        """Put used slots first, in order; drop shared experts (the model counts them itself)."""
        ids = np.where(experts < self.n_experts, experts, -1)
        order = np.argsort(ids < 0, axis=1, kind="stable")[:, : self.top_k]
        found = np.full((len(ids), self.top_k), -1, np.int16)
        found[:, : order.shape[1]] = np.take_along_axis(ids, order, axis=1)
        return found

    def _scores(self, request: IntArray, position: IntArray, layer: int) -> FloatArray:
        column = np.arange(self._width)
        key = self._key + layer * 0x9E3779B97F4A7C15 & (1 << 64) - 1
        own = hash_ids(request, key)
        token = hash_ids(position, key ^ 0xD1B54A32D192ED03) ^ own
        scores = np.zeros((len(request), self._width))
        known = min(self._width, self.n_experts)
        scores[:, :known] = self._logits[layer, :known]
        for deviation, number in ((self._request, own), (self._token, token)):
            bits = hash_ids(number.view(np.int64)[:, None] + column, key)
            scores += deviation * normal_table()[(bits >> np.uint64(48)).astype(np.int64)]
        return scores

    def forget(self, request: int) -> None:
        """Do nothing: no state is kept."""


@GENERATORS.register("router")
@dataclass(frozen=True)
class Routed:
    """Lets a router (see the slot `router`) choose from drawn scores.

    router : a router's name, or {name: ..., settings}; those that let a batch's tokens compete are refused
    popularity : uniform, {zipf: exponent} or {gini: of the loads of a plain top-k}
    request, token : deviations of the request's and of the token's part of the scores
    """

    router: dict[str, Any] | str = "top_k"
    popularity: Popularity = field(default_factory=lambda: Skew(zipf=0.8))
    request: Annotated[float, Field(ge=0)] = 0.7
    token: Annotated[float, Field(ge=0)] = 1.3

    def open(self, shape: RoutingShape, seed: int) -> RoutingStream:
        """Return the stream for one model; its `top_k` is the most experts that a token can use."""
        router = ROUTERS.build(Document(self.router, "router"))
        if getattr(router, "batchwise", False):
            raise ConfigError("router: lets the tokens of a batch compete; a stream needs one that does not")
        try:
            shares = ranked(self.popularity, shape.n_experts, shape.top_k)
        except ValueError as error:
            raise ConfigError(f"popularity: {error}") from None
        logits = np.empty((shape.n_layers, shape.n_experts))
        np.put_along_axis(logits, arrangements(shape, seed), np.log(shares)[None], axis=1)
        most = min(int(getattr(router, "most", 0) or getattr(router, "k", shape.n_experts)), shape.n_experts)
        key = stream_key(seed, "routing", "router")
        return RoutedStream(router, logits, most, (self.request, self.token), key)
