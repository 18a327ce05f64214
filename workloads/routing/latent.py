"""The latent-logit generator: popularity, domain, request, slow and fast drift, noise, pull between layers.

A router's choice is top-k of logits.  Here the logit of an expert is its global popularity, plus a part of
the request's domain, of the request, of a slow and of a fast AR(1) process over the request's tokens, plus
Gumbel noise, plus what the experts chosen in the layer before pull it by; the router's own rule (top-k,
inside the best groups) picks.  The parameters of each layer are fitted on a recorded trace (see `fitting`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from codesign.base.random import stream, stream_key
from ext.routing import latent_kernels
from workloads.routing.replay import hash_ids
from workloads.routing.slots import SlotTable, grown, parts_of
from workloads.routing.stream import Int16Array, IntArray, RoutingShape, prepare_out

Float32 = npt.NDArray[np.float32]
_INNOVATION = float(np.sqrt((1024.0**2 - 1) / 3))  # deviation of 2 u - 1023, u uniform on 0..1023
_STATE_BYTES = 256 * 2**20  # memory for the states of requests; the least recently drawn are dropped


@dataclass(frozen=True)
class LayerLaw:
    """The parameters of one layer; deviations are in units of logits (the Gumbel noise has scale 1)."""

    domain: float = 0.0
    request: float = 0.0
    slow: float = 0.0
    slow_rho: float = 0.95
    fast: float = 0.0
    fast_rho: float = 0.5
    coupling: float = 0.0  # gain on the pull matrix of the layer before
    decay: float = 1.0  # weight of each next slot of the layer before in the pull


@dataclass(frozen=True)
class LatentModel:
    """All that a latent-logit stream draws from.

    popularity : float32, shape (L, E)     global logits
    coupling : float32, shape (L, E, E)    log-odds pull of expert p before on expert e here; or (0, E, E)
    """

    laws: tuple[LayerLaw, ...]
    popularity: Float32
    coupling: Float32
    top_k: int
    n_domains: int = 1
    n_group: int = 1
    topk_group: int = 1
    scoring: str = "softmax"
    provenance: dict[str, object] = field(default_factory=dict)

    @property
    def n_experts(self) -> int:
        """Number of experts, E."""
        return int(self.popularity.shape[1])


@lru_cache(maxsize=1)
def gumbel_table() -> Float32:
    """Return Gumbel quantiles at the middles of 4096 equal shares, centred; shape (4096,)."""
    middles = (np.arange(4096) + 0.5) / 4096
    return (-np.log(-np.log(middles))).astype(np.float32)


@lru_cache(maxsize=1)
def normal_table() -> Float32:
    """Return normal quantiles at the middles of 65536 equal shares; shape (65536,)."""
    from scipy.special import ndtri

    return np.asarray(ndtri((np.arange(65536) + 0.5) / 65536), np.float32)


def normals(key: int, n: int) -> Float32:
    """Return n standard normal numbers that belong to a 64-bit key."""
    bits = hash_ids(np.arange((n + 3) // 4, dtype=np.int64), key)
    return normal_table()[bits.view(np.uint16)[:n]]


def kernel_law(laws: tuple[LayerLaw, ...]) -> Float32:
    """Return the kernel's six numbers per layer: rho and step of slow, of fast, both starting deviations."""
    rows = []
    for law in laws:
        start = np.sqrt(3.0) * _INNOVATION
        rows.append(
            (
                law.slow_rho,
                law.slow * np.sqrt(1 - law.slow_rho**2) / _INNOVATION,
                law.fast_rho,
                law.fast * np.sqrt(1 - law.fast_rho**2) / _INNOVATION,
                law.slow / start,
                law.fast / start,
            )
        )
    return np.array(rows, np.float32).reshape(-1, 6)


class LatentStream:
    """Routing drawn from a `LatentModel`; keeps the drift of each request, and can recreate it.

    Law: pure in (seed, request, position, layer): states are counters' sums, started anew every 4096 tokens.
    """

    def __init__(self, model: LatentModel, seed: int) -> None:
        self.model = model
        self.n_layers, self.n_experts = model.popularity.shape
        self.top_k = model.top_k
        self._key = stream_key(seed, "routing", "latent", "noise")
        self._request_key = stream_key(seed, "routing", "latent", "request")
        self._law = kernel_law(model.laws)
        gains = np.array([law.coupling for law in model.laws], np.float32)
        coupled = len(model.coupling) and gains.any()
        pull = model.coupling * gains[:, None, None] if coupled else np.zeros((0, 1, 1), np.float32)
        self._coupling = np.ascontiguousarray(pull, np.float32)
        decays = np.array([[law.decay] for law in model.laws], np.float32)
        self._weights = decays ** np.arange(self.top_k, dtype=np.float32)
        self._request = np.array([[law.request] for law in model.laws], np.float32)
        self._domain_logits = self._domain_effects(seed)
        self._domains: dict[int, int] = {}
        self._shift = max(int(self.n_experts - 1).bit_length(), 1)
        self._scale = 2.0 ** (30 - self._shift) / 128.0
        self._members = 2 if model.scoring == "sigmoid" else 1
        self._limit = max(256, _STATE_BYTES // max(1, 12 * self.n_layers * self.n_experts))
        self._slots = SlotTable(self._limit)
        self._states = np.empty((0, 3, self.n_layers, self.n_experts), np.float32)
        self._positions = np.zeros(0, np.int64)

    def _domain_effects(self, seed: int) -> Float32:
        deviation = np.array([[law.domain] for law in self.model.laws], np.float32)
        shape = self.model.popularity.shape
        drawn = [
            normals(stream_key(seed, "routing", "latent", "domain", d), self.model.popularity.size).reshape(
                shape
            )
            for d in range(self.model.n_domains)
        ]
        return np.array([self.model.popularity + deviation * z for z in drawn], np.float32)

    def set_domain(self, request: int, domain: int) -> None:
        """Say which domain a request is of, before its first token (else it is drawn by the request's id)."""
        self._domains[request] = domain % self.model.n_domains

    def domain_of(self, request: int) -> int:
        """Return the domain of a request."""
        known = self._domains.get(request)
        if known is not None:
            return known
        return stream_key(self._request_key, "domain", request) % self.model.n_domains

    def draw(
        self, requests: IntArray, starts: IntArray, lengths: IntArray, out: Int16Array | None = None
    ) -> Int16Array:
        """Return the experts of the tokens of some spans (see `RoutingStream.draw`)."""
        if out is None:
            out = np.empty((int(np.add.reduce(lengths)), self.n_layers, self.top_k), np.int16)
        else:
            prepare_out(out, out.shape[0], self.n_layers, self.top_k)
        row = 0
        for part in parts_of(requests, self._limit):
            rows = int(np.add.reduce(lengths[part]))
            self._draw(requests[part], starts[part], lengths[part], out[row : row + rows])
            row += rows
        return out

    def _draw(self, requests: IntArray, starts: IntArray, lengths: IntArray, out: Int16Array) -> None:
        slots, fresh = self._slots.find(requests)
        if self._slots.size > len(self._positions):
            self._grow()
        for request, slot in fresh:
            self._start(request, slot)
        latent_kernels().draw(
            requests, starts, lengths, slots, self._key, self._law, gumbel_table(), self._coupling,
            self._weights, self._states, self._positions, self._scale, self._shift, self.model.n_group,
            self.model.topk_group, self._members, out,
        )  # fmt: skip

    def _start(self, request: int, slot: int) -> None:
        """Draw what stays the same over a request: its domain's part and its own."""
        shape = self.model.popularity.shape
        z = normals(stream_key(self._request_key, request), self.model.popularity.size).reshape(shape)
        self._states[slot, 0] = self._domain_logits[self.domain_of(request)] + self._request * z
        self._positions[slot] = 0

    def _grow(self) -> None:
        rows = grown(len(self._positions), self._slots.size, self._limit)
        states = np.zeros((rows, *self._states.shape[1:]), np.float32)
        states[: len(self._states)] = self._states
        self._positions = np.concatenate([self._positions, np.zeros(rows - len(self._positions), np.int64)])
        self._states = states

    def forget(self, request: int) -> None:
        """Free the state of a request; drawing it again recreates the same experts."""
        self._slots.drop(request)
        self._domains.pop(request, None)


def random_coupling(n_layers: int, n_experts: int, seed: int) -> Float32:
    """Return pull matrices of standard normal entries, for models without a recorded trace; (L, E, E)."""
    draw = stream(seed, "routing", "latent", "coupling")
    return draw.standard_normal((n_layers, n_experts, n_experts), dtype=np.float32)


def model_for(
    shape: RoutingShape,
    laws: tuple[LayerLaw, ...],
    popularity: npt.ArrayLike,
    coupling: Float32,
    n_domains: int = 1,
) -> LatentModel:
    """Return a model of one shape."""
    return LatentModel(
        laws,
        np.asarray(popularity, np.float32),
        coupling,
        shape.top_k,
        n_domains,
        shape.n_group,
        shape.topk_group,
        shape.scoring,
    )
