"""Build the token mixer of each layer from a configuration's fields."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

from workloads.models import families
from workloads.models import names as n
from workloads.models.attention import Attention
from workloads.models.fields import Fields
from workloads.models.kinds import Kind, layer_kinds
from workloads.models.recurrent import convolution, linear, mamba


@dataclass(frozen=True)
class Setting:
    """What every layer's mixer is built from."""

    fields: Fields
    family: str
    count: int
    hidden: int


def mixers(setting: Setting) -> list[Attention | None]:
    """Build the mixer of each layer; None where a layer has none."""
    kinds = layer_kinds(setting.fields, setting.family, setting.count)
    shared = _shares_kv(setting)
    return [_mixer(setting, kind, i, shared[i]) for i, kind in enumerate(kinds)]


def _mixer(setting: Setting, kind: Kind, i: int, shares_kv: bool) -> Attention | None:
    fields, hidden = setting.fields, setting.hidden
    if kind == "none":
        return None
    if kind in ("linear", "mamba", "conv"):
        build = {"linear": linear, "mamba": mamba, "conv": convolution}[kind]
        return build(fields, setting.family, hidden)
    if fields.find("kv_lora_rank"):
        return _latent(setting, kind, i)
    if fields.find("o_lora_rank") and fields.find("compress_ratios"):
        return _compressed(setting, i)
    return _softmax(setting, kind, i, shares_kv)


def _shares_kv(setting: Setting) -> list[bool]:
    fields, count = setting.fields, setting.count
    if fields.flag("use_cla"):
        factor = fields.integer("cla_share_factor", default=1)
        return [i % factor != 0 for i in range(count)]
    last = fields.integer("num_kv_shared_layers", default=0, low=0)
    return [i >= count - last for i in range(count)]


def _window(fields: Fields, kind: Kind) -> int | None:
    names = {"sliding": n.WINDOW, "chunked": ("attention_chunk_size",)}.get(kind)
    window = fields.optional(*names) if names else None
    context = fields.optional(*n.CONTEXT)
    return None if window is None or (context is not None and window >= context) else window


def _named(fields: Fields, kind: Kind, *names: str) -> tuple[str, ...]:
    # some families give windowed or full layers heads of their own
    swa = tuple(f"swa_{name}" for name in names) if kind == "sliding" else ()
    return (*swa, *names)


def head_dim(fields: Fields, hidden: int, heads: int, *names: str) -> int:
    """Read the width of a head; without a field, the hidden size is shared among the heads."""
    given = fields.optional(*(names or n.HEAD_DIM))
    if given is not None:
        return given
    if fields.find("attention_projection_size"):
        return _divided(fields, "attention_projection_size", heads)
    if hidden % heads:
        name = fields.find(*n.HEADS) or n.HEADS[0]
        raise fields.error(name, f"must divide hidden_size {hidden}, as there is no head_dim")
    return hidden // heads


def _divided(fields: Fields, name: str, heads: int) -> int:
    width = fields.integer(name)
    if width % heads:
        raise fields.error(name, f"must be a multiple of the {heads} heads")
    return width // heads


def _kv_heads(fields: Fields, kind: Kind, heads: int, i: int) -> int:
    names = _named(fields, kind, *n.KV_HEADS)
    if kind == "full" and fields.find("num_global_key_value_heads"):
        names = ("num_global_key_value_heads",)
    name = fields.find(*names)
    if name is None:
        one = fields.flag("multi_query", "multi_query_attention")
        return 1 if one and not fields.flag("new_decoder_architecture") else heads
    kv_heads = fields.at(i, name, low=1)
    if heads % kv_heads:
        raise fields.error(name, f"must divide the {heads} query heads")
    return kv_heads


def _softmax(setting: Setting, kind: Kind, i: int, shares_kv: bool) -> Attention:
    fields, family, hidden = setting.fields, setting.family, setting.hidden
    heads = fields.integer(*_named(fields, kind, *n.HEADS))
    kv_heads = _kv_heads(fields, kind, heads, i)
    wide = kind == "full" and fields.find("global_head_dim") is not None
    names = ("global_head_dim",) if wide else _named(fields, kind, *n.HEAD_DIM)
    size = head_dim(fields, hidden, heads, *names)
    value = fields.integer(*_named(fields, kind, "v_head_dim"), default=size)
    return Attention(
        kind="gqa", heads=heads, kv_heads=kv_heads, head_dim=size, v_head_dim=value,
        window=_window(fields, kind), shares_kv=shares_kv,
        q_lora_rank=fields.optional("q_lora_rank", "share_q_dim"),
        value_is_key=kind == "full" and fields.flag("attention_k_eq_v"),
        gate_width=_gate(setting, heads, value), qk_norm=_qk_norm(fields, family),
        other_parameters=_other(setting, heads), **_biases(setting),
        **_mixture(setting, heads, kv_heads), **_indexer(fields, i),
    )  # fmt: skip


def _biases(setting: Setting) -> dict[str, Any]:
    fields = setting.fields
    qkv, out = families.attention_biases(setting.family)
    name = fields.find("attention_bias", "use_bias", "bias")
    if name is not None:
        both = fields.flag(name)
        qkv, out = both or (qkv and not out), both and not (qkv and not out)
    qkv = fields.flag("qkv_bias", "add_qkv_bias", default=qkv)
    return {"qkv_bias": qkv, "out_bias": out}


def _gate(setting: Setting, heads: int, value: int) -> int:
    fields = setting.fields
    if fields.flag(
        "attn_output_gate", "attention_output_gate", default=setting.family.startswith("qwen3_next")
    ):
        return heads * value
    if fields.flag("use_head_wise_attn_gate"):
        return heads
    return heads * value if setting.family == "afmoe" else 0


def _qk_norm(fields: Fields, family: str) -> bool:
    return fields.flag(
        "use_qk_norm", "qk_layernorm", default=family.startswith(("qwen3", "gemma3", "gemma4"))
    )


def _other(setting: Setting, heads: int) -> int:
    if setting.family == "yuan":  # localised filtering: two convolutions of width 2 through hidden / 2
        return 2 * setting.hidden**2
    return heads if setting.family == "gpt_oss" else 0  # one attention sink per head


def _mixture(setting: Setting, heads: int, kv_heads: int) -> dict[str, Any]:
    # JetMoE: each expert has kv_heads query heads; a token uses top-k of the experts
    if setting.family != "jetmoe":
        return {}
    fields = setting.fields
    top_k = fields.integer(*n.TOP_K)
    if heads != kv_heads * top_k:
        name = fields.find(*n.HEADS) or n.HEADS[0]
        raise fields.error(name, f"must be {kv_heads} key-value heads x {top_k} experts per token")
    experts = fields.integer(*n.EXPERTS)
    return {"experts": experts, "top_k": top_k}


def _indexer(fields: Fields, i: int) -> dict[str, Any]:
    """Read the light attention that chooses what a query attends to (DeepSeek sparse attention)."""
    block = "sparse_attention_config"
    if fields.flag(f"{block}.use_sparse_attention"):
        name = f"{block}.sparse_attention_freq"
        used = fields.find(name) is None or fields.flags(name, i + 1)[i]
        if not used:
            return {}
        blocks = fields.integer(f"{block}.sparse_topk_blocks")
        return {
            "index_heads": fields.integer(f"{block}.sparse_num_index_heads"),
            "index_head_dim": fields.integer(f"{block}.sparse_index_dim"),
            "sparse_top_k": blocks * fields.integer(f"{block}.sparse_block_size", default=1),
        }
    if not fields.find("index_topk"):
        return {}
    chosen = {"sparse_top_k": fields.integer("index_topk")}
    if fields.find("indexer_types") and fields.words("indexer_types", i + 1)[i] == "shared":
        return chosen  # uses the choice of an earlier layer
    heads, size = fields.integer("index_n_heads"), fields.integer("index_head_dim")
    return {**chosen, "index_heads": heads, "index_head_dim": size}


def _latent(setting: Setting, kind: Kind, i: int) -> Attention:
    fields = setting.fields
    heads = fields.integer(*n.HEADS)
    nope = fields.integer("qk_nope_head_dim", low=0)
    rope = fields.integer("qk_rope_head_dim", default=0, low=0)
    if nope + rope == 0:
        raise fields.error("qk_nope_head_dim", "a query head must have a width")
    gated = fields.flag("mla_use_output_gate")
    value = fields.integer("v_head_dim")
    return Attention(
        kind="mla", heads=heads, kv_heads=heads, head_dim=nope + rope, v_head_dim=value,
        window=_window(fields, kind), q_lora_rank=fields.optional("q_lora_rank"),
        kv_lora_rank=fields.integer("kv_lora_rank"), qk_nope_head_dim=nope, qk_rope_head_dim=rope,
        gate_width=heads * value if gated else 0, **_indexer(fields, i),
    )  # fmt: skip


def _compressed(setting: Setting, i: int) -> Attention:
    """Build DeepSeek-V4's attention: one shared latent per `compression` tokens, beside a window."""
    fields, hidden = setting.fields, setting.hidden
    heads, size = fields.integer(*n.HEADS), fields.integer(*n.HEAD_DIM)
    rope = fields.integer("qk_rope_head_dim", default=0, low=0)
    groups = fields.integer("o_groups", default=1)
    if size <= rope:
        raise fields.error("head_dim", f"must exceed qk_rope_head_dim {rope}")
    if heads * size % groups:
        raise fields.error("o_groups", f"must divide {heads} heads x {size}")
    ratio = fields.at(i, "compress_ratios")
    sparse = _indexer(fields, i) if ratio == 4 else {}
    make = partial(
        Attention, kind="mla", heads=heads, kv_heads=1, head_dim=size, v_head_dim=size,
        window=fields.optional(*n.WINDOW), q_lora_rank=fields.optional("q_lora_rank"),
        kv_lora_rank=size - rope, qk_nope_head_dim=size - rope, qk_rope_head_dim=rope, absorbed=True,
        o_lora_rank=fields.integer("o_lora_rank"), o_groups=groups, compression=max(1, ratio),
    )  # fmt: skip
    overlap = 2 if ratio == 4 else 1  # of neighbouring compression windows
    compressor = 2 * hidden * size * overlap if ratio else 0
    return make(other_parameters=heads + compressor, **sparse)
