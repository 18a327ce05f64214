"""The slot "cost model": what any of them offers, and how one is built for a device."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from codesign.base.document import Document
from codesign.base.registry import Registry

from .cost import Cost

if TYPE_CHECKING:
    from hwmodels.spec import Device, Link

    from .experts import ExpertTables

COLLECTIVES: tuple[str, ...] = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all", "send")


@runtime_checkable
class CostModel(Protocol):
    """Operator costs of one device.

    Types are named as in `hwmodels.spec.PRECISION_BYTES`; counts are ints; bytes are floats.
    Laws of every model: no shape has a negative cost, an empty one (no token, no byte) costs nothing,
    ``Cost.parts`` sum to the duration, and part p is ``-d duration / d ln speed[p]``.
    """

    def gemm(self, m: int, n: int, k: int, weights: str = "bf16", activations: str = "bf16") -> Cost:
        """Cost ``y[m, n] = x[m, k] @ w[k, n]``; if `weights` are narrower they are widened on the way."""
        ...

    def experts(self, counts: Any, hidden: int, inter: int, gated: bool = True, weights: str = "bf16",
                activations: str = "bf16") -> Cost:  # fmt: skip
        """Cost one rank's fused expert layer; `counts[e]` tokens go to its expert e, `inter` is the
        width of an expert on this rank."""
        ...

    def expert_tables(self, hidden: int, inter: int, gated: bool = True, weights: str = "bf16",
                      activations: str = "bf16", max_tokens: int = 4096) -> ExpertTables:  # fmt: skip
        """Return the same as `experts` in a form that a compiled loop evaluates for drawn counts."""
        ...

    def attention_prefill(self, query_tokens: int, context_tokens: int, n_heads: int, n_kv_heads: int,
                          qk_dim: int, v_dim: int, kv: str = "bf16", window: int | None = None,
                          batch: int = 1) -> Cost:  # fmt: skip
        """Cost causal attention of the last `query_tokens` of `context_tokens` positions.

        `context_tokens` counts every key that the last query sees, the chunk's own included; it is at
        least `query_tokens`.  `batch` such sequences run in one kernel.
        """
        ...

    def attention_decode(self, batch: int, context_tokens_total: float, n_heads: int, n_kv_heads: int,
                         qk_dim: int, v_dim: int, kv: str = "bf16") -> Cost:  # fmt: skip
        """Cost one new token for each of `batch` sequences.

        `context_tokens_total` is the sum over the batch of the cached tokens that are read (with a
        sliding window: of the tokens inside it), so that mixed lengths need no average.
        """
        ...

    def mla_prefill(self, query_tokens: int, context_tokens: int, n_heads: int, n_kv_heads: int,
                    qk_dim: int, v_dim: int, kv: str = "bf16", latent_rank: int = 512,
                    rope_dim: int = 64, batch: int = 1) -> Cost:  # fmt: skip
        """Cost the attention kernel of an MLA prefill (keys and values expanded from the latent)."""
        ...

    def mla_decode(self, batch: int, context_tokens_total: float, n_heads: int, n_kv_heads: int,
                   qk_dim: int, v_dim: int, kv: str = "bf16", latent_rank: int = 512,
                   rope_dim: int = 64) -> Cost:  # fmt: skip
        """Cost the attention kernel of an absorbed MLA decode: all heads read one latent per token."""
        ...

    def elementwise(self, bytes: float, flop: float = 0.0) -> Cost:
        """Cost a kernel that moves `bytes` (read and written) and computes `flop` on the vector units."""
        ...

    def collective(self, op: str, bytes: float, ranks: int, intra: Link | None, inter: Link | None = None,
                   ranks_per_node: int | None = None) -> Cost:  # fmt: skip
        """Cost one of COLLECTIVES among `ranks` devices.

        `bytes`: of the whole logical buffer (all_reduce: what each rank holds; all_gather: gathered;
        reduce_scatter: before reduction), for all_to_all what one rank sends, its own share included,
        for send the message.  With `inter` and `ranks_per_node` the ranks span several nodes.
        """
        ...

    def alltoall_coefficients(self, link: Link, ranks: int, ranks_per_node: int | None = None) -> tuple[
        float, float
    ]:  # fmt: skip
        """Return (latency_s, seconds_per_byte) of a drawn exchange among `ranks` devices.

        The time of a rank is ``latency_s + max(sent, received) * seconds_per_byte``: the parts
        ``link_latency`` and ``link_bandwidth``.
        """
        ...


COST_MODELS: Registry[Any] = Registry("cost_model")


def build_cost_model(
    spec: str | Mapping[str, object], device: Device, speed: Mapping[str, float] | None = None
) -> CostModel:
    """Build the operator costs of a device.

    Parameters
    ----------
    spec : str or mapping   a name ("analytical", "roofline", ...), or ``{name: ..., setting: value}``
    device : Device
    speed : mapping         factors on the speed of the parts, by name in PARTS (1 where not given)

    Raises
    ------
    ConfigError   unknown model, setting, part or calibration constant
    """
    document = Document(spec if isinstance(spec, str) else dict(spec), "cost_model")
    model: CostModel = COST_MODELS.build(document).on(device, speed)
    return model
