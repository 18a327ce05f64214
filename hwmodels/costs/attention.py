"""Attention: prefill (tiled, causal, sliding window), decode (split over the cache), and MLA."""

from __future__ import annotations

from typing import Any

from .cost import Terms
from .machine import Machine, value_bytes
from .namespace import blend


def attended_pairs(xp: Any, q_len: Any, kv_len: Any, window: Any, causal: bool, pad: float = 0.0) -> Any:
    """Count the (query, key) pairs of one sequence and head; `pad` keys more for each query (tiling).

    The last `q_len` of `kv_len` positions ask; query at position p sees min(window, p + 1) keys.
    """
    if not causal:
        return q_len * (xp.where(window > 0, xp.minimum(window, kv_len), kv_len) + pad)
    first = kv_len - q_len
    full = q_len * first + q_len * (q_len + 1.0) / 2.0
    w = xp.where(window > 0, window, kv_len)
    beyond = xp.maximum(kv_len - xp.maximum(w, first), 0.0)  # queries whose past exceeds the window
    over = xp.maximum(first - w, 0.0)
    cut = beyond * over + beyond * (beyond + 1.0) / 2.0
    return full - cut + pad * q_len


def prefill(
    xp: Any,
    machine: Machine,
    batch: Any,
    q_len: Any,
    kv_len: Any,
    heads: Any,
    kv_heads: Any,
    head_dim: Any,
    v_head_dim: Any,
    window: Any,
    kv_dtype: str,
    dtype: str,
    causal: bool,
    section: str = "attention",
) -> Terms:
    """Cost prefill attention of `batch` equal sequences."""
    c = machine.constants
    pairs = attended_pairs(xp, q_len, kv_len, window, causal)
    padded = attended_pairs(xp, q_len, kv_len, window, causal, 64.0) / q_len * xp.ceil(q_len / 64.0) * 64.0
    per_head = 2.0 * (head_dim + v_head_dim)
    rate = machine.peak(dtype) * c[f"{section}.prefill_efficiency"]
    blocks = batch * heads * xp.ceil(q_len / 128.0)
    fill = xp.maximum(1.0, machine.units / blocks)
    compute_s = batch * heads * padded * per_head / rate * fill
    vector_s = batch * heads * padded * 8.0 / machine.vector_rate * c["attention.prefill_vector"] * fill
    kv_bytes = batch * kv_len * kv_heads * (head_dim + v_head_dim) * value_bytes(kv_dtype)
    moved = kv_bytes + batch * q_len * heads * (head_dim + v_head_dim) * 2.0
    memory_s = moved / (machine.bandwidth * machine.memory_efficiency)
    parts = blend(c["attention.overlap_power"], compute_s, vector_s, memory_s)
    launch = machine.launch_s * c["attention.prefill_launch"] + machine.memory_latency_s
    return Terms(
        compute=parts[0],
        vector=parts[1],
        memory=parts[2],
        launch=launch,
        flop=batch * heads * pairs * per_head,
        bytes_main=moved,
    )


def decode(
    xp: Any,
    machine: Machine,
    batch: Any,
    kv_len: Any,
    heads: Any,
    kv_heads: Any,
    head_dim: Any,
    v_head_dim: Any,
    window: Any,
    kv_dtype: str,
) -> Terms:
    """Cost one decode step of `batch` sequences of `kv_len` (mean) cached tokens."""
    c = machine.constants
    seen = xp.where(window > 0, xp.minimum(window, kv_len), kv_len)
    both = head_dim + v_head_dim
    kv_bytes = batch * seen * kv_heads * both * value_bytes(kv_dtype)
    moved = kv_bytes + batch * heads * both * 2.0
    group = heads / kv_heads
    rows = xp.ceil(group / 16.0) * 16.0
    compute_s = 2.0 * batch * kv_heads * rows * seen * both / (machine.peak("bf16") * 0.5)
    blocks = batch * kv_heads * xp.ceil(seen / c["attention.decode_block"])
    share = xp.minimum(1.0, blocks * c["attention.decode_unit_bandwidth"] / machine.units)
    memory_s = moved / (machine.bandwidth * c["attention.decode_efficiency"] * share)
    parts = blend(c["attention.overlap_power"], compute_s, memory_s)
    launch = machine.launch_s * c["attention.decode_launch"] + machine.memory_latency_s
    return Terms(
        compute=parts[0],
        memory=parts[1],
        launch=launch,
        flop=2.0 * batch * heads * seen * both,
        bytes_main=moved,
    )


def mla_decode(
    xp: Any, machine: Machine, batch: Any, kv_len: Any, heads: Any, latent: Any, rope: Any, kv_dtype: str
) -> Terms:
    """Cost absorbed MLA decode: all heads share one latent vector of `latent` + `rope` values a token."""
    c = machine.constants
    width = latent + rope
    kv_bytes = batch * kv_len * width * value_bytes(kv_dtype)
    moved = kv_bytes + batch * heads * (width + latent) * 2.0
    rows = xp.ceil(heads / c["mla.head_tile"]) * c["mla.head_tile"]
    flop = 2.0 * batch * heads * kv_len * (width + latent)
    compute_s = flop / heads * rows / (machine.peak("bf16") * c["mla.decode_efficiency"])
    share = xp.minimum(1.0, batch * xp.ceil(kv_len / 64.0) / machine.units)
    memory_s = moved / (machine.bandwidth * c["mla.decode_memory"] * share)
    parts = blend(c["attention.overlap_power"], compute_s / share, memory_s)
    launch = machine.launch_s * c["mla.decode_launch"] + machine.memory_latency_s
    return Terms(compute=parts[0], memory=parts[1], launch=launch, flop=flop, bytes_main=moved)
