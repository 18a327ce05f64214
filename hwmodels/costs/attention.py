"""Attention: prefill (tiled, causal, sliding window) and decode (split over the cache), MLA included."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .cost import Terms
from .gemm import residency
from .machine import Machine
from .namespace import blend


def attended_pairs(xp: Any, q_len: Any, kv_len: Any, window: Any) -> Any:
    """Count the (query, key) pairs of one sequence and head under a causal mask.

    The last `q_len` of `kv_len` positions ask; query at position p sees min(window, p + 1) keys
    (all p + 1 if `window` is 0).
    """
    first = kv_len - q_len
    full = q_len * first + q_len * (q_len + 1.0) / 2.0
    w = xp.where(window > 0, window, kv_len)
    beyond = xp.maximum(kv_len - xp.maximum(w, first), 0.0)  # queries whose past exceeds the window
    over = xp.maximum(first - w, 0.0)
    return full - (beyond * over + beyond * (beyond + 1.0) / 2.0)


def prefill(xp: Any, machine: Machine, batch: Any, q_len: Any, kv_len: Any, heads: Any, kv_heads: Any,
            qk_dim: Any, v_dim: Any, window: Any, kv_bytes: Any, precision: str,
            section: str = "attention_prefill") -> Terms:  # fmt: skip
    """Cost prefill attention of `batch` equal sequences.

    A thread block takes a tile of queries of one head through all keys that it sees, plus part of a
    tile of masked ones.  The kernel lasts as long as all blocks take on all units, but not less than
    the longest block; main memory is read meanwhile.  Kernels beside it append to the cache.  The softmax
    runs beside the tensor cores: kernels reach the same share of their peak on devices whose vector units
    are four and sixteen times slower than these.
    """
    c = machine.section(section)
    both = qk_dim + v_dim
    pairs = attended_pairs(xp, q_len, kv_len, window)
    masked = xp.where(window > 0, c["window_keys"], c["masked_keys"])
    blocks = batch * heads * xp.ceil(q_len / c["query_tile"])
    whole = blocks / machine.units
    waves = xp.maximum(1.0, whole + c["wave_share"] * (xp.ceil(whole) - whole))
    mean = (pairs / q_len + masked) * c["query_tile"]  # pairs of a block
    seen = xp.where(window > 0, xp.minimum(kv_len, window + c["query_tile"]), kv_len) + masked
    split = xp.maximum(1.0, xp.minimum(machine.units / blocks, c["max_splits"]))
    longest = seen * c["query_tile"] / (c["unit_share"] * split)
    work = xp.maximum(waves * mean * (whole >= 1.0), longest)  # pairs on the busiest unit
    unit_rate = machine.peak(precision) * c["compute_efficiency"] / machine.units
    compute_s = work * 2.0 * both * _dim_factor(xp, c, both * 0.5) / unit_rate
    start_s = waves * machine.cycles_s(c["block_cycles"])
    moved = batch * (kv_len * kv_heads * kv_bytes + q_len * heads * 2.0) * both
    extra = batch * q_len * both * (heads * c["extra_query"] + kv_heads * c["extra_kv"])
    missed = 1.0 - residency(xp, machine, moved / c["cache_share"], c["residency_power"])
    rate = machine.bandwidth * c["memory_efficiency"]
    stream_s = compute_s + start_s
    parts = blend(c["overlap_power"], stream_s, moved * missed / rate)
    share = parts[0] / stream_s
    launch = machine.launch_s * c["launch_factor"] + c["host_s"] / machine.speed["launch"]
    return Terms(
        compute=compute_s * share, memory=parts[1] + extra * missed / rate,
        cache=(moved + extra) / (machine.l2_bandwidth * c["cache_efficiency"]),
        launch=launch + start_s * share, flop=2.0 * batch * heads * pairs * both, bytes_main=moved,
    )  # fmt: skip


def _dim_factor(xp: Any, c: Mapping[str, float], dim: Any) -> Any:
    """Return the time of heads of `dim` values, relative to 128: kernels are tuned to it."""
    small = xp.where(dim < 96.0, c["dim_64"], 1.0)
    large = xp.where(dim > 224.0, c["dim_256"], xp.where(dim > 144.0, c["dim_192"], 1.0))
    return small * large


def decode(xp: Any, machine: Machine, batch: Any, tokens: Any, heads: Any, kv_heads: Any, token_flop: Any,
           token_bytes: Any, io_bytes: Any, packed: Any, splits: Any,
           section: str = "attention_decode") -> Terms:  # fmt: skip
    """Cost one decode step of `batch` sequences that together read `tokens` cached tokens.

    Parameters
    ----------
    token_flop, token_bytes   per cached token: of one query head, of one key/value head
    io_bytes                  of queries and results, of one query head and sequence
    packed                    whether the query heads of a group share one thread block
    splits                    whether a sequence's cache may be split among blocks (flash decoding)

    Notes
    -----
    A block reads its tokens at a unit's own pace, in bytes a clock; blocks fill the units in waves; all of
    them together cannot be faster than main memory, or than the cache where the keys and values stay in it.
    """
    c = machine.section(section)
    units = machine.units * c["blocks_per_unit"]
    length = tokens / batch
    group = heads / kv_heads
    pack = xp.where(packed, xp.minimum(group, c["max_rows"]), 1.0)
    rows = xp.ceil(pack / c["row_tile"]) * c["row_tile"]
    blocks = batch * kv_heads * xp.ceil(group / pack)
    long = splits & (length > c["split_from"])
    most = xp.where(long, xp.minimum(length / c["chunk_tokens"], c["max_splits"]), 1.0)
    split = xp.maximum(1.0, xp.minimum(units / blocks, most))
    whole = blocks * split / units
    waves = xp.maximum(1.0, whole + c["wave_share"] * (xp.ceil(whole) - whole))
    per_block = waves * length / split
    tuned = _dim_factor(xp, c, io_bytes / 4.0)
    compute_s = per_block * token_flop * rows * units / (machine.peak("bf16") * c["compute_efficiency"])
    read_s = per_block * token_bytes / machine.bytes_per_s(c["unit_bytes"], "cache")
    block_cycles = c["block_cycles"] * tuned + c["row_cycles"] * pack * io_bytes / 512.0
    start_s = waves * machine.cycles_s(block_cycles)
    moved = tokens * kv_heads * token_bytes + batch * heads * io_bytes
    resident = residency(xp, machine, moved / c["cache_share"], c["residency_power"])
    memory_s = moved * (1.0 - resident) / (machine.bandwidth * c["memory_efficiency"])
    traffic = blocks * length * token_bytes + batch * heads * io_bytes
    cache_s = traffic / (machine.l2_bandwidth * c["cache_efficiency"])
    stream_s = compute_s + read_s + start_s
    parts = blend(c["overlap_power"], stream_s, memory_s, cache_s)
    share = parts[0] / stream_s
    join_s = xp.minimum(1.0, (split - 1.0) * 4.0) * machine.cycles_s(c["join_cycles"])
    launch = machine.launch_s * c["launch_factor"] * tuned + c["host_s"] / machine.speed["launch"]
    launch = launch + machine.cycles_s(c["ramp_cycles"]) * (1.0 - resident)
    return Terms(
        compute=compute_s * share, memory=parts[1], cache=parts[2] + read_s * share,
        launch=launch + join_s + start_s * share,
        flop=tokens * heads * token_flop, bytes_main=moved,
    )  # fmt: skip
