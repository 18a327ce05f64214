"""Operator times as methods of a device: ``hwmodels.load("h200").gemm_time(m, n, k, dtype="fp8")``."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from hwmodels.costs import CostModel
    from hwmodels.spec import Device, Link


class Timing:
    """Adds operator times to a device; the cost model is imported and built on first use."""

    def cost_model(self, spec: str = "analytical") -> CostModel:
        """Return the device's cost model of that name (built once); the analytical one with a warm cache."""
        device = cast("Device", self)
        return _built(spec, _Identity(device))

    def gemm_time(self, m: int, n: int, k: int, *, dtype: str = "bf16", weights: str | None = None,
                  model: str = "analytical") -> float:  # fmt: skip
        """Return the seconds of ``y[m, n] = x[m, k] @ w[k, n]``; `weights` is their type if narrower."""
        return self.cost_model(model).gemm(m, n, k, weights or dtype, dtype).duration_s

    def experts_time(self, counts: Any, hidden: int, inter: int, *, gated: bool = True,
                     dtype: str = "bf16", weights: str | None = None,
                     model: str = "analytical") -> float:  # fmt: skip
        """Return the seconds of one rank's fused expert layer, `counts[e]` tokens at its expert e."""
        built = self.cost_model(model)
        return built.experts(counts, hidden, inter, gated, weights or dtype, dtype).duration_s

    def attention_prefill_time(self, query_tokens: int, context_tokens: int, n_heads: int, n_kv_heads: int,
                               head_dim: int, *, kv: str = "bf16", window: int | None = None,
                               batch: int = 1, model: str = "analytical") -> float:  # fmt: skip
        """Return the seconds of causal attention of the last `query_tokens` of `context_tokens`."""
        built, shape = self.cost_model(model), (n_heads, n_kv_heads, head_dim, head_dim)
        return built.attention_prefill(query_tokens, context_tokens, *shape, kv, window, batch).duration_s

    def attention_decode_time(self, batch: int, context_tokens_total: float, n_heads: int, n_kv_heads: int,
                              head_dim: int, *, kv: str = "bf16",
                              model: str = "analytical") -> float:  # fmt: skip
        """Return the seconds of one decode step of `batch` sequences, `context_tokens_total` tokens read."""
        built, shape = self.cost_model(model), (n_heads, n_kv_heads, head_dim, head_dim)
        return built.attention_decode(batch, context_tokens_total, *shape, kv).duration_s

    def collective_time(self, op: str, bytes: float, ranks: int, intra: Link, inter: Link | None = None, *,
                        ranks_per_node: int | None = None, model: str = "analytical") -> float:  # fmt: skip
        """Return the seconds of a collective among `ranks` devices like this one."""
        built = self.cost_model(model)
        return built.collective(op, bytes, ranks, intra, inter, ranks_per_node).duration_s


class _Identity:
    """A device as a key: equal only to itself."""

    def __init__(self, device: Device) -> None:
        self.device = device

    def __hash__(self) -> int:
        return id(self.device)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Identity) and other.device is self.device


@lru_cache(maxsize=32)
def _built(spec: str, key: _Identity) -> CostModel:
    from hwmodels.costs import build_cost_model

    return build_cost_model({"name": spec, "warm": True} if spec == "analytical" else spec, key.device)
