"""The slot `routing_generator`: streams of expert choices, as pure functions of token and seed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from codesign.base.registry import Registry

Int16Array = npt.NDArray[np.int16]
Int32Array = npt.NDArray[np.int32]
IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]


class RoutingStream(Protocol):
    """Where the tokens of any requests go, in every MoE layer of one model.

    Law: the routing of (request, position, layer) is a pure function of the seed and of the three: batching,
    order of calls and hardware change nothing.
    """

    n_layers: int  # L, MoE layers only
    n_experts: int  # E
    top_k: int  # k

    def draw(
        self, requests: IntArray, starts: IntArray, lengths: IntArray, out: Int16Array | None = None
    ) -> Int16Array:
        """Return the experts of the tokens of some spans.

        Parameters
        ----------
        requests : int64, shape (S,)    request of each span
        starts : int64, shape (S,)      first token position of each span, >= 0
        lengths : int64, shape (S,)     tokens of each span; T = lengths.sum()
        out : int16, shape (T, L, k)    written and returned, if given

        Returns
        -------
        int16, shape (T, L, k)          rows in span order; -1 in an unused slot

        Raises
        ------
        ValueError   arrays of another type, shape or sign
        """
        ...

    def forget(self, request: int) -> None:
        """Free what is kept for a request; drawing it again gives the same experts."""
        ...


@dataclass(frozen=True)
class RoutingShape:
    """What a model tells its routing: layers, experts, slots, groups and the gate's scoring."""

    moe_layers: tuple[int, ...]  # indices of the MoE layers in the model
    n_experts: int
    top_k: int
    n_group: int = 1
    topk_group: int = 1
    scoring: str = "softmax"

    @property
    def n_layers(self) -> int:
        """Number of MoE layers, L."""
        return len(self.moe_layers)


class RoutingGenerator(Protocol):
    """The settings of one generator, as written under ``workload.routing`` of an experiment."""

    def open(self, shape: RoutingShape, seed: int) -> RoutingStream:
        """Return the stream for one model; raise ConfigError if the settings do not suit it."""
        ...


GENERATORS: Registry[RoutingGenerator] = Registry("routing_generator")


def span_rows(requests: IntArray, starts: IntArray, lengths: IntArray) -> tuple[IntArray, IntArray]:
    """Return the request and the position of every token of some spans, shape (T,) each."""
    if not (requests.shape == starts.shape == lengths.shape) or requests.ndim != 1:
        raise ValueError("requests, starts and lengths differ in shape")
    if len(lengths) and (int(lengths.min()) < 0 or int(starts.min()) < 0):
        raise ValueError("starts and lengths must not be negative")
    ends = np.cumsum(lengths)
    total = int(ends[-1]) if len(ends) else 0
    first = np.repeat(starts - (ends - lengths), lengths)
    return np.repeat(requests, lengths), first + np.arange(total, dtype=np.int64)


def prepare_out(out: Int16Array | None, tokens: int, n_layers: int, top_k: int) -> Int16Array:
    """Return `out` if it suits, or a new array of shape (T, L, k)."""
    shape = (tokens, n_layers, top_k)
    if out is None:
        return np.empty(shape, np.int16)
    if out.shape != shape or out.dtype != np.int16:
        raise ValueError(f"out is {out.dtype} {out.shape}, expected int16 {shape}")
    return out


def set_domain(stream: RoutingStream, request: int, domain: int) -> None:
    """Say which domain (or tenant) a request is of, before its first token, if the stream knows domains."""
    told = getattr(stream, "set_domain", None)
    if told is not None:
        told(request, domain)
