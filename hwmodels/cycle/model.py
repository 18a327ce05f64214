"""Operator costs with simulated DRAM: the analytical model, its memory at the pattern's own bandwidth.

The analytical model's efficiencies were measured on long reads.  So what is taken from the simulation is
a ratio: the bandwidth of the operator's access pattern over that of long reads from the same DRAM (for
attention: over the pages of the measured kernels).  A long read costs the same at both levels; short
blocks and many streams cost more, by as much as rows, banks and refresh make them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ext.dram import Refresh
from hwmodels.costs import Cost
from hwmodels.costs.analytical import Analytical, AnalyticalModel
from hwmodels.costs.machine import value_bytes

from .memory import SEQUENTIAL, Pattern, dram_of, explain
from .slot import Cycle

if TYPE_CHECKING:
    from hwmodels.costs import ExpertTables
    from hwmodels.spec import Device, Link

_REFRESH = {"all_bank": Refresh.ALL_BANK, "per_bank": Refresh.PER_BANK, "none": Refresh.NONE}
_PAGE_TOKENS = 16  # tokens of a page of the key-value cache
_LATENT_PAGE_TOKENS = 64  # of a page of latents
# bytes of the pages in the kernels that were measured: 8 heads of 128 and latents of 576 values, bf16
_MEASURED_PAGE = _PAGE_TOKENS * 8 * 128 * 2.0
_MEASURED_LATENT_PAGE = _LATENT_PAGE_TOKENS * 576 * 2.0
_TILE = 128  # columns of weights that one unit reads
_MOST_READERS = 32


class CycleModel:
    """Operator costs of one device; see `hwmodels.costs.CostModel` for the arguments."""

    def __init__(
        self, device: Device, speed: Mapping[str, float] | None = None, settings: Cycle | None = None
    ) -> None:
        settings = settings or Cycle()
        self._device, self._speed, self._settings = device, dict(speed or {}), settings
        self.dram = dram_of(device, queue=settings.queue, refresh=_REFRESH[settings.refresh])
        self._models: dict[float, AnalyticalModel] = {}
        self._used: dict[tuple[str, Pattern, Pattern], float] = {}
        self.base = self._at(1.0)
        self.machine = self.base.machine

    def _at(self, ratio: float) -> AnalyticalModel:
        """Return the analytical model with the memory at `ratio` times its speed."""
        if ratio not in self._models:
            speed = {**self._speed, "memory": self._speed.get("memory", 1.0) * ratio}
            settings = Analytical(self._settings.constants, kernels=self._settings.kernels)
            self._models[ratio] = settings.on(self._device, speed)
        return self._models[ratio]

    def _for(self, operator: str, pattern: Pattern, measured: Pattern = SEQUENTIAL) -> AnalyticalModel:
        key = (operator, pattern, measured)
        if key not in self._used:
            got, usual = self.dram.bandwidth(pattern), self.dram.bandwidth(measured)
            self._used[key] = round(got.efficiency / usual.efficiency, 3)
        return self._at(self._used[key])

    def report(self, least: float = 0.10) -> list[dict[str, Any]]:
        """Return the patterns whose bandwidth is off by more than `least` from what `event` has, and why.

        Rows: operator, block_bytes, streams, ratio, efficiency, row hits, misses and conflicts as shares of
        bursts, refresh_loss, cause.
        """
        rows = []
        for (operator, pattern, measured), ratio in self._used.items():
            if abs(1.0 - ratio) <= least:
                continue
            got = self.dram.bandwidth(pattern)
            rows.append({
                "operator": operator, "block_bytes": pattern.block_bytes, "streams": pattern.streams,
                "ratio": ratio, "efficiency": got.efficiency, "hits": got.hits, "misses": got.misses,
                "conflicts": got.conflicts, "refresh_loss": got.refresh_loss,
                "cause": explain(got, self.dram.bandwidth(measured)),
            })  # fmt: skip
        return rows

    def gemm(self, m: int, n: int, k: int, weights: str = "bf16", activations: str = "bf16") -> Cost:
        """Cost one dense product: one long block of weights."""
        size = max(float(n) * k * value_bytes(weights), 1.0)
        return self._for("gemm", Pattern(size)).gemm(m, n, k, weights, activations)

    def experts(self, counts: Any, hidden: int, inter: int, gated: bool = True, weights: str = "bf16",
                activations: str = "bf16") -> Cost:  # fmt: skip
        """Cost one rank's fused expert layer: blocks of an expert's matrices, of several experts in turn."""
        model = self._for("experts", self._expert_pattern(hidden, inter, weights))
        return model.experts(counts, hidden, inter, gated, weights, activations)

    def expert_tables(self, hidden: int, inter: int, gated: bool = True, weights: str = "bf16",
                      activations: str = "bf16", max_tokens: int = 4096) -> ExpertTables:  # fmt: skip
        """Return the tables that give `experts` for drawn counts."""
        model = self._for("experts", self._expert_pattern(hidden, inter, weights))
        return model.expert_tables(hidden, inter, gated, weights, activations, max_tokens)

    def _expert_pattern(self, hidden: int, inter: int, weights: str) -> Pattern:
        """Blocks of one matrix; as many experts at once as fill the units with tiles of its columns."""
        tiles = max(1, inter // _TILE)
        readers = min(max(1, round(self.machine.units / tiles)), _MOST_READERS)
        return Pattern(max(float(hidden) * inter * value_bytes(weights), 1.0), readers)

    def attention_prefill(self, *shape: Any, **options: Any) -> Cost:
        """Cost causal prefill attention: bound by arithmetic, as the analytical model has it."""
        return self.base.attention_prefill(*shape, **options)

    def attention_decode(self, batch: int, context_tokens_total: float, n_heads: int, n_kv_heads: int,
                         qk_dim: int, v_dim: int, kv: str = "bf16") -> Cost:  # fmt: skip
        """Cost decode attention: pages of the cache, of several sequences in turn."""
        page = _PAGE_TOKENS * n_kv_heads * qk_dim * value_bytes(kv)
        model = self._decode(batch, page, _MEASURED_PAGE)
        shape = (batch, context_tokens_total, n_heads, n_kv_heads, qk_dim, v_dim)
        return model.attention_decode(*shape, kv)

    def mla_prefill(self, *shape: Any, **options: Any) -> Cost:
        """Cost MLA prefill attention: bound by arithmetic, as the analytical model has it."""
        return self.base.mla_prefill(*shape, **options)

    def mla_decode(self, batch: int, context_tokens_total: float, n_heads: int, n_kv_heads: int,
                   qk_dim: int, v_dim: int, kv: str = "bf16", latent_rank: int = 512,
                   rope_dim: int = 64) -> Cost:  # fmt: skip
        """Cost absorbed MLA decode: pages of latents, of several sequences in turn."""
        page = _LATENT_PAGE_TOKENS * (latent_rank + rope_dim) * value_bytes(kv)
        model = self._decode(batch, page, _MEASURED_LATENT_PAGE)
        shape = (batch, context_tokens_total, n_heads, n_kv_heads, qk_dim, v_dim)
        return model.mla_decode(*shape, kv, latent_rank, rope_dim)

    def _decode(self, batch: int, page_bytes: float, measured_bytes: float) -> AnalyticalModel:
        readers = min(max(int(batch), 1), _MOST_READERS)
        return self._for("attention", Pattern(page_bytes, readers), Pattern(measured_bytes, readers))

    def elementwise(self, bytes: float, flop: float = 0.0) -> Cost:
        """Cost a kernel that only moves data: long streams, as measured."""
        return self.base.elementwise(bytes, flop)

    def collective(self, op: str, bytes: float, ranks: int, intra: Link | None, inter: Link | None = None,
                   ranks_per_node: int | None = None) -> Cost:  # fmt: skip
        """Cost one collective."""
        return self.base.collective(op, bytes, ranks, intra, inter, ranks_per_node)

    def alltoall_coefficients(self, link: Link, ranks: int, ranks_per_node: int | None = None) -> tuple[
        float, float
    ]:  # fmt: skip
        """Return (latency_s, seconds_per_byte) of a drawn exchange."""
        return self.base.alltoall_coefficients(link, ranks, ranks_per_node)
