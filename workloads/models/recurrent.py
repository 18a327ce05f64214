"""Build mixers that keep a state of fixed size: gated delta rule, KDA, lightning, Mamba, convolution."""

from __future__ import annotations

from workloads.models import names as n
from workloads.models.attention import Attention
from workloads.models.fields import Fields


def linear(fields: Fields, family: str, hidden: int) -> Attention:
    """Build a linear attention layer by the fields that describe it."""
    if fields.find("linear_num_value_heads"):
        return _gated_delta(fields)
    if fields.find("linear_attn_config.num_heads"):
        return _kimi_delta(fields)
    return _lightning(fields, hidden)


def _gated_delta(fields: Fields) -> Attention:
    """Gated DeltaNet (Qwen3-Next): projections q, k, v, z and two scalars per value head."""
    keys, values = fields.integer("linear_num_key_heads"), fields.integer("linear_num_value_heads")
    key_dim, value_dim = fields.integer("linear_key_head_dim"), fields.integer("linear_value_head_dim")
    kernel = fields.integer("linear_conv_kernel_dim", default=4)
    if values % keys:
        raise fields.error("linear_num_value_heads", f"must be a multiple of the {keys} key heads")
    key, value = keys * key_dim, values * value_dim
    channels = 2 * key + value
    return Attention(
        kind="linear", heads=values, kv_heads=keys, head_dim=key_dim, v_head_dim=value_dim,
        in_width=2 * key + 2 * value + 2 * values, out_width=value,
        state_values=values * key_dim * value_dim + channels * (kernel - 1),
        other_parameters=channels * kernel + 2 * values + value_dim,
    )  # fmt: skip


def _kimi_delta(fields: Fields) -> Attention:
    """Kimi Delta Attention (Kimi Linear): per-channel decay by a low-rank projection, an output gate."""
    block = "linear_attn_config"
    heads, size = fields.integer(f"{block}.num_heads"), fields.integer(f"{block}.head_dim")
    kernel = fields.integer(f"{block}.short_conv_kernel_size", default=4)
    width = heads * size
    full = fields.flag(f"{block}.use_full_rank_gate")
    gate_in = width if full else size
    return Attention(
        kind="linear", heads=heads, kv_heads=heads, head_dim=size, v_head_dim=size,
        in_width=3 * width + size + heads + gate_in, out_width=width,
        state_values=heads * size * size + 3 * width * (kernel - 1),
        other_parameters=3 * width * kernel + size * width * (1 if full else 2) + width + heads + size,
    )  # fmt: skip


def _lightning(fields: Fields, hidden: int) -> Attention:
    """Lightning attention (MiniMax-Text-01): q, k, v and an output gate for each head."""
    heads = fields.integer(*n.HEADS)
    size = fields.integer(*n.HEAD_DIM, default=max(1, hidden // heads))
    width = heads * size
    return Attention(
        kind="linear", heads=heads, kv_heads=heads, head_dim=size, v_head_dim=size,
        in_width=4 * width, out_width=width, state_values=heads * size * size, other_parameters=width,
    )  # fmt: skip


def mamba(fields: Fields, family: str, hidden: int) -> Attention:
    """Build a Mamba layer: of the second kind if a field gives its heads, else of the first."""
    if fields.find("mamba_n_heads", "mamba_num_heads") or family == "mamba2":
        return _mamba2(fields, hidden)
    return _mamba1(fields, hidden)


def _mamba1(fields: Fields, hidden: int) -> Attention:
    """Mamba (Gu and Dao 2023), as in Jamba: every channel has a state of its own."""
    state = fields.integer("mamba_d_state", "state_size")
    kernel = fields.integer("mamba_d_conv", "conv_kernel", default=4)
    inner = hidden * fields.integer("mamba_expand", "expand", default=2)
    name = fields.find("mamba_dt_rank", "time_step_rank")
    automatic = name is None or fields.value(name) == "auto"
    rank = -(-hidden // 16) if automatic or name is None else fields.integer(name)
    steps = inner * (rank + 2 * state) + rank * inner + inner
    return Attention(
        kind="mamba", heads=inner, kv_heads=inner, head_dim=1, v_head_dim=1,
        in_width=2 * inner, out_width=inner, state_values=inner * (state + kernel - 1),
        other_parameters=steps + inner * (kernel + 1) + inner * state + inner + rank + 2 * state,
    )  # fmt: skip


def _mamba2(fields: Fields, hidden: int) -> Attention:
    """Mamba-2 (Dao and Gu 2024): heads with a matrix state, keys shared in groups."""
    heads = fields.integer("mamba_n_heads", "mamba_num_heads", "num_heads")
    size = fields.integer("mamba_d_head", "mamba_head_dim", "head_dim")
    state = fields.integer("mamba_d_state", "ssm_state_size", "state_size")
    groups = fields.integer("mamba_n_groups", "n_groups", default=1)
    kernel = fields.integer("mamba_d_conv", "conv_kernel", default=4)
    inner = heads * size
    channels = inner + 2 * groups * state
    return Attention(
        kind="mamba", heads=heads, kv_heads=groups, head_dim=state, v_head_dim=size,
        in_width=inner + channels + heads, out_width=inner,
        state_values=heads * size * state + channels * (kernel - 1),
        other_parameters=channels * (kernel + 1) + 3 * heads + inner,
    )  # fmt: skip


def convolution(fields: Fields, family: str, hidden: int) -> Attention:
    """Build a gated short convolution (LFM2): three projections, a depthwise kernel, one back."""
    kernel = fields.integer("conv_L_cache", default=3)
    return Attention(
        kind="linear", heads=hidden, kv_heads=hidden, head_dim=1, v_head_dim=1, in_width=3 * hidden,
        out_width=hidden, state_values=hidden * (kernel - 1), other_parameters=hidden * kernel,
    )  # fmt: skip
