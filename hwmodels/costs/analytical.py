"""The default cost model: tiles and waves, two memories, launch floors, links; constants are fitted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from . import attention, collectives
from .cost import Cost
from .elementwise import elementwise
from .experts import ExpertTables, evaluate, tables
from .gemm import gemm
from .machine import Framework, Machine, machine_of, value_bytes
from .model import COST_MODELS
from .namespace import SCALAR

if TYPE_CHECKING:
    from hwmodels.spec import Device, Link

_REMEMBERED = 65536


class AnalyticalModel:
    """Operator costs from the device description; see `CostModel` for the arguments."""

    def __init__(self, machine: Machine, kernels: Framework | None = None) -> None:
        self.machine, self.kernels = machine, kernels
        remember = lru_cache(maxsize=_REMEMBERED)
        self._gemm = remember(self._gemm_cost)
        self._prefill = remember(self._prefill_cost)
        self._decode = remember(self._decode_cost)
        self._mla_decode = remember(self._mla_decode_cost)
        self._tables = lru_cache(maxsize=256)(self._build_tables)

    def _section(self, usual: str) -> str:
        """Return the section of the chosen framework's own kernel, or the usual one where none is known."""
        operator, _, types = usual.partition("/")
        own = f"{operator}/{self.kernels}-{types}"
        return own if own in self.machine.sections else usual

    def gemm(self, m: int, n: int, k: int, weights: str = "bf16", activations: str = "bf16") -> Cost:
        """Cost one dense matrix multiplication (`hwmodels.costs.gemm`)."""
        return self._gemm(m, n, k, weights, activations)

    def _gemm_cost(self, m: int, n: int, k: int, weights: str, activations: str) -> Cost:
        if min(m, n, k) <= 0:
            return Cost(_NOTHING)
        narrow = value_bytes(activations) < 2.0
        section = self._section("gemm/fp8") if narrow else "gemm"
        terms = gemm(SCALAR, self.machine, m, n, k, weights, activations, section, narrow)
        return terms.cost(self.machine.main)

    def experts(self, counts: Any, hidden: int, inter: int, gated: bool = True, weights: str = "bf16",
                activations: str = "bf16") -> Cost:  # fmt: skip
        """Cost one rank's fused expert layer (`hwmodels.costs.experts`)."""
        counts = np.asarray(counts)
        most = int(counts.max(initial=0))
        table = self.expert_tables(hidden, inter, gated, weights, activations, max(4096, most))
        return evaluate(table, counts, self.machine.main)

    def expert_tables(self, hidden: int, inter: int, gated: bool = True, weights: str = "bf16",
                      activations: str = "bf16", max_tokens: int = 4096) -> ExpertTables:  # fmt: skip
        """Return the tables that give `experts` for drawn counts."""
        return self._tables(hidden, inter, gated, weights, activations, max_tokens)

    def _build_tables(self, hidden: int, inter: int, gated: bool, weights: str, activations: str,
                      max_tokens: int) -> ExpertTables:  # fmt: skip
        section = self._section(_EXPERTS[value_bytes(activations) < 2.0, value_bytes(weights) < 2.0])
        return tables(self.machine, hidden, inter, gated, weights, activations, max_tokens, section)

    def attention_prefill(self, query_tokens: int, context_tokens: int, n_heads: int, n_kv_heads: int,
                          qk_dim: int, v_dim: int, kv: str = "bf16", window: int | None = None,
                          batch: int = 1) -> Cost:  # fmt: skip
        """Cost causal prefill attention (`hwmodels.costs.attention`)."""
        shape = (query_tokens, context_tokens, n_heads, n_kv_heads, qk_dim, v_dim)
        return self._prefill(*shape, kv, window or 0, batch, self._section(_PREFILL))

    def _prefill_cost(self, query_tokens: int, context_tokens: int, n_heads: int, n_kv_heads: int,
                      qk_dim: int, v_dim: int, kv: str, window: int, batch: int, section: str,
                      ) -> Cost:  # fmt: skip
        if min(query_tokens, batch) <= 0:
            return Cost(_NOTHING)
        return attention.prefill(
            SCALAR, self.machine, batch, query_tokens, context_tokens, n_heads, n_kv_heads, qk_dim, v_dim,
            window, value_bytes(kv), "bf16", section,
        ).cost(self.machine.main)  # fmt: skip

    def attention_decode(self, batch: int, context_tokens_total: float, n_heads: int, n_kv_heads: int,
                         qk_dim: int, v_dim: int, kv: str = "bf16") -> Cost:  # fmt: skip
        """Cost decode attention (`hwmodels.costs.attention`)."""
        return self._decode(batch, context_tokens_total, n_heads, n_kv_heads, qk_dim, v_dim, kv)

    def _decode_cost(self, batch: int, total: float, n_heads: int, n_kv_heads: int, qk_dim: int, v_dim: int,
                     kv: str) -> Cost:  # fmt: skip
        if batch <= 0:
            return Cost(_NOTHING)
        token_bytes, io_bytes = (qk_dim + v_dim) * value_bytes(kv), (qk_dim + v_dim) * 2.0
        return attention.decode(
            SCALAR, self.machine, batch, max(total, 1.0), n_heads, n_kv_heads, 2.0 * (qk_dim + v_dim),
            token_bytes, io_bytes, True, True, self._section(_DECODE[value_bytes(kv) < 2.0]),
        ).cost(self.machine.main)  # fmt: skip

    def mla_prefill(self, query_tokens: int, context_tokens: int, n_heads: int, n_kv_heads: int,
                    qk_dim: int, v_dim: int, kv: str = "bf16", latent_rank: int = 512,
                    rope_dim: int = 64, batch: int = 1) -> Cost:  # fmt: skip
        """Cost MLA prefill attention: as attention with expanded keys and values."""
        shape = (query_tokens, context_tokens, n_heads, n_heads, qk_dim, v_dim)
        return self._prefill(*shape, "bf16", 0, batch, self._section(_MLA_PREFILL))

    def mla_decode(self, batch: int, context_tokens_total: float, n_heads: int, n_kv_heads: int,
                   qk_dim: int, v_dim: int, kv: str = "bf16", latent_rank: int = 512,
                   rope_dim: int = 64) -> Cost:  # fmt: skip
        """Cost absorbed MLA decode (`hwmodels.costs.attention`)."""
        return self._mla_decode(batch, context_tokens_total, n_heads, latent_rank, rope_dim, kv)

    def _mla_decode_cost(self, batch: int, total: float, n_heads: int, latent: int, rope: int,
                         kv: str) -> Cost:  # fmt: skip
        if batch <= 0:
            return Cost(_NOTHING)
        width = latent + rope
        terms = attention.decode(
            SCALAR, self.machine, batch, max(total, 1.0), n_heads, 1, 2.0 * (width + latent),
            width * value_bytes(kv), 2.0 * (width + latent), True, True,
            self._section(_MLA_DECODE[value_bytes(kv) < 2.0]),
        )  # fmt: skip
        return terms.cost(self.machine.main)

    def elementwise(self, bytes: float, flop: float = 0.0) -> Cost:
        """Cost a kernel that only moves data and computes on the vector units."""
        if bytes <= 0 and flop <= 0:
            return Cost(_NOTHING)
        return elementwise(SCALAR, self.machine, bytes, flop).cost(self.machine.main)

    def collective(self, op: str, bytes: float, ranks: int, intra: Link | None, inter: Link | None = None,
                   ranks_per_node: int | None = None) -> Cost:  # fmt: skip
        """Cost one collective (`hwmodels.costs.collectives`)."""
        return collectives.collective(self.machine, op, bytes, ranks, intra, inter, ranks_per_node)

    def alltoall_coefficients(self, link: Link, ranks: int, ranks_per_node: int | None = None) -> tuple[
        float, float
    ]:  # fmt: skip
        """Return (latency_s, seconds_per_byte) of a drawn exchange."""
        return collectives.alltoall(self.machine, link, ranks)


_NOTHING = (0.0,) * 7
_PREFILL = "attention_prefill/bf16-bf16"
_EXPERTS = {  # by whether activations, and weights, are narrow; a kernel widens weights as it reads them
    (False, False): "moe/bfloat16", (False, True): "moe/weight_only",
    (True, False): "moe/fp8", (True, True): "moe/fp8",
}  # fmt: skip
_DECODE = ("attention_decode/bf16", "attention_decode/fp8")  # by whether the cache is narrow
_MLA_PREFILL = "mla_prefill/bf16"
_MLA_DECODE = ("mla_decode/bf16", "mla_decode/fp8")


@COST_MODELS.register("analytical")
@dataclass(frozen=True)
class Analytical:
    """Physics with few fitted constants.

    `constants` override them by name (``gemm.split_cycles: 2000``).  With `warm`, operands that fit the
    on-chip cache stay in it, as in a benchmark that repeats one operator; a model's layers evict them.
    `kernels` names whose implementations run, where theirs are known; None: the usual ones.
    """

    constants: dict[str, float] = field(default_factory=dict)
    warm: bool = False
    kernels: Framework | None = None

    def on(self, device: Device, speed: Mapping[str, float] | None = None) -> AnalyticalModel:
        """Build the model of a device."""
        return AnalyticalModel(machine_of(device, speed, self.constants, self.warm), self.kernels)
