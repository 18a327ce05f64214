"""The naive roofline: the larger of FLOPs over peak and bytes over bandwidth, nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from codesign.base.errors import ConfigError

from .attention import attended_pairs
from .collectives import bytes_per_port, ring_hops, slowest_port
from .cost import COMPUTE, LINK_BANDWIDTH, LINK_LATENCY, MEMORY, N_PARTS, VECTOR, Cost
from .experts import ExpertTables, evaluate
from .machine import Machine, machine_of, value_bytes
from .model import COST_MODELS
from .namespace import SCALAR

if TYPE_CHECKING:
    from hwmodels.spec import Device, Link


class RooflineModel:
    """Peak rates of the device file; no launch, no latency, no efficiency: exact by hand."""

    def __init__(self, machine: Machine, link_latency: bool = False) -> None:
        self.machine, self.link_latency = machine, link_latency

    def _bound(self, flop: float, moved: float, precision: str) -> Cost:
        return self._larger(flop / self.machine.peak(precision), flop, moved, COMPUTE)

    def _larger(self, compute_s: float, flop: float, moved: float, unit: int) -> Cost:
        parts = [0.0] * N_PARTS
        memory_s = moved / self.machine.bandwidth
        if compute_s >= memory_s:
            parts[unit] = compute_s
        else:
            parts[MEMORY] = memory_s
        return Cost(tuple(parts), flop, ((self.machine.main, moved),))

    def gemm(self, m: int, n: int, k: int, weights: str = "bf16", activations: str = "bf16") -> Cost:
        """Cost ``2 m n k`` FLOPs against each operand once and the result in two bytes a value."""
        moved = k * n * value_bytes(weights) + m * k * value_bytes(activations) + m * n * 2.0
        return self._bound(2.0 * m * n * k, moved if m else 0.0, activations)

    def experts(self, counts: Any, hidden: int, inter: int, gated: bool = True, weights: str = "bf16",
                activations: str = "bf16") -> Cost:  # fmt: skip
        """Cost the tokens' FLOPs against the weights of the experts in use and the tokens' rows."""
        counts = np.asarray(counts)
        tables = self.expert_tables(hidden, inter, gated, weights, activations, 1)
        return evaluate(tables, counts, self.machine.main)

    def expert_tables(self, hidden: int, inter: int, gated: bool = True, weights: str = "bf16",
                      activations: str = "bf16", max_tokens: int = 1) -> ExpertTables:  # fmt: skip
        """Return tables that are linear in the tokens (extrapolation is exact)."""
        matrices = 3 if gated else 2
        n = np.arange(max(max_tokens, 2) + 1, dtype=np.float64)
        weight_bytes = float(hidden * inter * matrices) * value_bytes(weights)
        token_bytes = hidden * (value_bytes(activations) + 2.0)
        flop = 2.0 * hidden * inter * matrices
        return ExpertTables(
            n * flop, np.where(n > 0, weight_bytes + n * token_bytes, 0.0), flop,
            1.0 / self.machine.peak(activations), 0.0, 1.0 / self.machine.bandwidth, 0.0, 0.0, np.inf,
        )  # fmt: skip

    def attention_prefill(self, query_tokens: int, context_tokens: int, n_heads: int, n_kv_heads: int,
                          qk_dim: int, v_dim: int, kv: str = "bf16", window: int | None = None,
                          batch: int = 1) -> Cost:  # fmt: skip
        """Cost the attended pairs against queries, keys, values and results once."""
        pairs = attended_pairs(SCALAR, query_tokens, context_tokens, window or 0)
        both = qk_dim + v_dim
        seen = min(context_tokens, query_tokens + window) if window else context_tokens
        moved = seen * n_kv_heads * both * value_bytes(kv) + query_tokens * n_heads * both * 2.0
        return self._bound(2.0 * batch * n_heads * pairs * both, batch * moved, "bf16")

    def attention_decode(self, batch: int, context_tokens_total: float, n_heads: int, n_kv_heads: int,
                         qk_dim: int, v_dim: int, kv: str = "bf16") -> Cost:  # fmt: skip
        """Cost one query per sequence and head against the cache read once."""
        both = qk_dim + v_dim
        moved = context_tokens_total * n_kv_heads * both * value_bytes(kv) + batch * n_heads * both * 2.0
        return self._bound(2.0 * context_tokens_total * n_heads * both, moved, "bf16")

    def mla_prefill(self, query_tokens: int, context_tokens: int, n_heads: int, n_kv_heads: int,
                    qk_dim: int, v_dim: int, kv: str = "bf16", latent_rank: int = 512,
                    rope_dim: int = 64, batch: int = 1) -> Cost:  # fmt: skip
        """Cost the attended pairs; the cache is read as latents."""
        pairs = attended_pairs(SCALAR, query_tokens, context_tokens, 0)
        both = qk_dim + v_dim
        moved = context_tokens * (latent_rank + rope_dim) * value_bytes(kv)
        moved += query_tokens * n_heads * both * 2.0
        return self._bound(2.0 * batch * n_heads * pairs * both, batch * moved, "bf16")

    def mla_decode(self, batch: int, context_tokens_total: float, n_heads: int, n_kv_heads: int,
                   qk_dim: int, v_dim: int, kv: str = "bf16", latent_rank: int = 512,
                   rope_dim: int = 64) -> Cost:  # fmt: skip
        """Cost the absorbed form: each head multiplies with the latent of each cached token."""
        width = latent_rank + rope_dim
        moved = context_tokens_total * width * value_bytes(kv) + batch * n_heads * (width + latent_rank) * 2.0
        return self._bound(2.0 * context_tokens_total * n_heads * (width + latent_rank), moved, "bf16")

    def elementwise(self, bytes: float, flop: float = 0.0) -> Cost:
        """Cost bytes against bandwidth and FLOPs against the vector units."""
        return self._larger(flop / self.machine.vector_rate, flop, bytes, VECTOR)

    def collective(self, op: str, bytes: float, ranks: int, intra: Link | None, inter: Link | None = None,
                   ranks_per_node: int | None = None) -> Cost:  # fmt: skip
        """Cost the bytes that the busiest port must carry, at its peak."""
        bytes_per_port(op, 2)  # refuses an unknown name
        if ranks <= 1 or not bytes:
            return Cost((0.0,) * N_PARTS)
        share, link, ranks_on = slowest_port(op, ranks, intra, inter, ranks_per_node)
        parts = [0.0] * N_PARTS
        parts[LINK_BANDWIDTH] = bytes * share / (link.bandwidth * self.machine.speed["link_bandwidth"])
        if self.link_latency:
            direct = 2 if op == "all_reduce" else 1  # every peer is one hop away
            steps = ring_hops(op, ranks_on, link) or direct
            parts[LINK_LATENCY] = steps * link.latency / self.machine.speed["link_latency"]
        return Cost(tuple(parts), 0.0, (("link", bytes * share),))

    def alltoall_coefficients(self, link: Link, ranks: int, ranks_per_node: int | None = None) -> tuple[
        float, float
    ]:  # fmt: skip
        """Return no latency (or the link's) and the link's peak."""
        latency_s = link.latency / self.machine.speed["link_latency"] if self.link_latency else 0.0
        return latency_s, 1.0 / (link.bandwidth * self.machine.speed["link_bandwidth"])


@COST_MODELS.register("roofline")
@dataclass(frozen=True)
class Roofline:
    """Closed form by hand: max(FLOPs / peak, bytes / bandwidth), no floor, no efficiency.

    link_latency : collectives also wait for the link's latency, twice in an all-reduce, or for every hop of
    a ring.
    """

    link_latency: bool = False

    def on(self, device: Device, speed: Mapping[str, float] | None = None) -> RooflineModel:
        """Build the model of a device."""
        if not device.compute.peak_flop_rate:
            raise ConfigError(f"{device.name}: compute.peak_flop_rate: needs at least one precision")
        return RooflineModel(machine_of(device, speed), self.link_latency)
