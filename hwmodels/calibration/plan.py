"""What is fitted: for each operator its free constants with their bounds, and choices to try one by one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

Bounds = dict[str, tuple[float, float]]

_GEMM: Bounds = {
    "compute_efficiency": (0.3, 0.97), "memory_efficiency": (0.5, 0.95), "unit_bytes": (20.0, 2000.0),
    "cache_efficiency": (0.2, 1.0), "start_cycles": (10.0, 2e4), "copies": (1.0, 20.0),
    "tile_overhead": (1.0, 200.0), "step_cycles": (20.0, 2000.0), "split_cycles": (100.0, 2e4),
    "feed_bytes_per_flop": (0.002, 0.05), "epilogue_flop": (0.1, 300.0), "power_share": (0.3, 1.5),
    "throttle_s": (1e-5, 1e-2),
}  # fmt: skip
_ATTENTION: Bounds = {
    "compute_efficiency": (0.05, 1.0), "memory_efficiency": (0.74, 0.97), "cache_efficiency": (0.1, 1.0),
    "overlap_power": (1.0, 10.0), "launch_factor": (0.5, 8.0), "block_cycles": (1.0, 6e4),
    "wave_share": (0.01, 1.0),
}  # fmt: skip
_PREFILL: Bounds = {
    **_ATTENTION, "masked_keys": (1.0, 200.0), "window_keys": (1.0, 300.0),
    "unit_share": (0.2, 1.6), "max_splits": (1.0, 8.0), "extra_query": (1e-3, 20.0),
    "extra_kv": (1e-3, 40.0), "dim_64": (0.3, 3.0), "dim_192": (0.3, 3.0), "dim_256": (0.3, 4.0),
}  # fmt: skip
_DECODE: Bounds = {
    **_ATTENTION, "overlap_power": (4.0, 10.0), "blocks_per_unit": (1.0, 4.0),
    "chunk_tokens": (32.0, 2048.0), "max_splits": (1.0, 256.0), "unit_bytes": (0.5, 200.0),
    "row_cycles": (1.0, 2000.0), "cache_share": (0.3, 3.0), "join_cycles": (1.0, 3e4),
    "ramp_cycles": (10.0, 1e5), "dim_64": (0.5, 2.0), "dim_192": (0.5, 2.0), "dim_256": (0.5, 2.0),
}  # fmt: skip
# what comes from main memory passes the cache too, and streams at nine tenths of the fastest memory
_CACHE_DECODE: Bounds = _DECODE | {"cache_efficiency": (0.6, 1.0)}

_GEMM_START = {
    "compute_efficiency": 0.9, "memory_efficiency": 0.85, "unit_bytes": 80.0, "cache_efficiency": 0.5,
    "start_cycles": 700.0, "copies": 5.0, "tile_overhead": 3.0, "step_cycles": 300.0, "split_cycles": 4000.0,
    "feed_bytes_per_flop": 0.01, "epilogue_flop": 16.0, "power_share": 1.0, "throttle_s": 2e-4,
    "host_s": 1e-8, "quantise_launch": 1.0, "quantise_bandwidth": 0.5, "quantise_flop": 1e4,
}  # fmt: skip
_MOE_START = {
    "compute_efficiency": 0.4, "memory_efficiency": 0.85, "cache_efficiency": 0.9, "cache_share": 1.0,
    "overlap_power": 2.0, "launch_factor": 15.0, "host_s": 1e-8, "active_cycles": 350.0,
    "step_cycles": 200.0, "tile_overhead": 15.0,
    "token_hidden": 1.5, "token_inter": 0.2, "assigned_hidden": 1.5, "assigned_inter": 0.2, "untuned": 1.1,
    "unit_memory": 2.0,
}  # fmt: skip
_PREFILL_START = {
    "query_tile": 64.0, "masked_keys": 10.0, "window_keys": 60.0, "compute_efficiency": 0.6, "dim_64": 1.0,
    "dim_192": 1.0, "dim_256": 1.0, "block_cycles": 2000.0, "wave_share": 0.5,
    "unit_share": 1.0, "max_splits": 2.0, "cache_share": 1.0, "residency_power": 8.0,
    "memory_efficiency": 0.9, "cache_efficiency": 0.5, "extra_query": 0.5, "extra_kv": 2.0,
    "overlap_power": 5.0, "launch_factor": 4.0, "host_s": 1e-8,
}  # fmt: skip
_DECODE_START = {
    "blocks_per_unit": 1.2, "max_rows": 64.0, "row_tile": 16.0, "chunk_tokens": 64.0, "max_splits": 16.0,
    "wave_share": 0.5, "compute_efficiency": 0.3, "unit_bytes": 50.0, "block_cycles": 6000.0,
    "row_cycles": 40.0, "cache_share": 0.8, "residency_power": 6.0, "memory_efficiency": 0.85,
    "cache_efficiency": 0.8, "overlap_power": 5.0, "join_cycles": 5000.0, "launch_factor": 2.0,
    "host_s": 1e-8, "dim_64": 1.0, "dim_192": 1.0, "dim_256": 1.0, "split_from": 128.0,
    "ramp_cycles": 1e4,
}  # fmt: skip
# TensorRT-LLM's kernel for Ampere and Ada leaves each sequence to one block; those of newer devices split it
_MLA_DECODE_START = _DECODE_START | {
    "max_splits": 64.0, "max_splits@ampere": 1.0, "max_splits@ada": 1.0, "max_splits@blackwell-rtx": 64.0,
}  # fmt: skip
_COLLECTIVES_START = {
    "base_cycles": 1e4, "step_latency": 0.15, "efficiency": 1.05, "own_share": 0.35, "piece_latency": 0.45,
    "bus_sharing": 1.5, "network_efficiency": 0.7, "direct": 0.0, "copies": 1e-3, "host_s": 1e-8,
}  # fmt: skip


@dataclass(frozen=True)
class Plan:
    """How one operator is fitted."""

    free: Bounds
    start: dict[str, float] = field(default_factory=dict)  # of an operator: all constants, before any fit
    choices: dict[str, tuple[float, ...]] = field(default_factory=dict)
    gain: float = 0.02  # the share of the error that is left which one more constant must take away


PLANS: dict[str, Plan] = {
    "gemm": Plan(_GEMM, _GEMM_START),
    "gemm/": Plan({  # implementations of narrow types: another kernel, and the one that quantises
        **_GEMM, "host_s": (1e-9, 4e-4), "quantise_launch": (0.05, 10.0),
        "quantise_bandwidth": (0.02, 2.0), "quantise_flop": (10.0, 1e6),
    }, gain=0.03),
    "moe": Plan({
        "compute_efficiency": (0.1, 1.0), "memory_efficiency": (0.3, 0.97), "cache_efficiency": (0.1, 1.0),
        "cache_share": (0.3, 2.0), "overlap_power": (1.0, 10.0), "launch_factor": (1.0, 100.0),
        "active_cycles": (0.1, 1e4), "step_cycles": (1.0, 2000.0), "tile_overhead": (1.0, 100.0),
        "token_hidden": (1e-3, 30.0), "token_inter": (1e-3, 30.0),
        "assigned_hidden": (1e-3, 15.0), "assigned_inter": (1e-3, 25.0),
        "untuned": (0.8, 2.5), "unit_memory": (0.3, 20.0),
    }, _MOE_START),
    "attention_prefill": Plan(_PREFILL, _PREFILL_START, {"query_tile": (64.0, 128.0)}, gain=0.025),
    "attention_prefill/trtllm": Plan(_PREFILL, {}, {"query_tile": (64.0, 128.0)}, gain=0.015),
    "attention_decode": Plan(_CACHE_DECODE, _DECODE_START,
                             {"row_tile": (1.0, 16.0), "split_from": (1.0, 128.0)}, gain=0.03),
    "attention_decode/trtllm/grouped": Plan(
        _CACHE_DECODE, {}, {"row_tile": (1.0, 16.0), "split_from": (1.0, 128.0, 512.0)}, gain=0.015
    ),
    "mla_prefill": Plan(_PREFILL, _PREFILL_START | {"absorbed": 1.0},
                        {"absorbed": (0.0, 1.0), "query_tile": (64.0, 128.0)}, gain=0.03),
    "mla_decode": Plan(_DECODE, _MLA_DECODE_START, {"row_tile": (1.0, 16.0, 64.0)}),
    "module": Plan({"host_s": (1e-9, 2e-4)}),
    "collectives": Plan({
        "base_cycles": (1e3, 1e5), "step_latency": (0.01, 2.0), "efficiency": (0.3, 1.5),
        "own_share": (0.01, 2.0), "piece_latency": (0.01, 5.0), "bus_sharing": (0.01, 3.0),
        "network_efficiency": (0.3, 1.2),
    }, _COLLECTIVES_START),
    "collectives/direct": Plan({
        "base_cycles": (1e3, 1e5), "step_latency": (0.01, 2.0), "efficiency": (0.3, 1.5),
        "piece_latency": (0.01, 5.0), "bus_sharing": (0.01, 3.0),
    }, {}, {"direct": (1.0,)}),
    "collectives/direct/eager": Plan({"copies": (0.1, 5.0), "host_s": (1e-6, 4e-4)}, {},
                                     {"host_s": (3e-5,), "copies": (1.0,)}),
    "moe_alltoall": Plan({
        "efficiency_dispatch": (0.05, 1.0), "efficiency_combine": (0.05, 1.0), "far_gain": (0.5, 5.0),
        "unit_bytes": (1.0, 60.0), "latency_dispatch": (0.5, 200.0), "latency_combine": (0.5, 200.0),
        "far_latency": (0.1, 20.0),
    }, {"tokens_once": 1.0, "efficiency_dispatch": 0.5, "efficiency_combine": 0.6, "far_gain": 1.5,
        "unit_bytes": 7.0, "latency_dispatch": 5.0, "latency_combine": 8.0, "far_latency": 1.0},
        {"tokens_once": (0.0, 1.0)}, gain=0.04),
}  # fmt: skip


def plan_of(section: str) -> Plan:
    """Return the plan of a section, or of the nearest above it that has one.

    A module of projections adds what runs between its kernels.
    """
    operator, _, own = section.partition("/")
    if operator == "gemm" and own:
        return PLANS["gemm/"]
    nearest = section
    while nearest not in PLANS:
        nearest = nearest.rpartition("/")[0]
    plan = PLANS[nearest]
    if own.endswith("/module"):
        return Plan({**plan.free, **PLANS["module"].free}, {}, plan.choices, plan.gain)
    return plan


ROOTS: dict[str, tuple[str, ...]] = {
    "mla": ("mla_decode", "mla_prefill", "gemm/bmm"),
}  # sections at the top of what a table's rows are fitted to, where it is not the operator


def bare(constants: Mapping[str, Any], operators: Iterable[str]) -> dict[str, Any]:
    """Return the constants with those of operators as they are before any fit, to no device at all."""
    tops = {operator: ROOTS.get(operator, (operator,)) for operator in operators}
    out = {name: values for name, values in constants.items() if owner(name) not in tops}
    starts = {top: PLANS[top].start for each in tops.values() for top in each if "/" not in top}
    return out | {top: layers(start) for top, start in starts.items()}


def layers(constants: Mapping[str, float]) -> dict[str, dict[str, float]]:
    """Return constants as they stand in the file: of all, then of each architecture (``name@line``)."""
    out: dict[str, dict[str, float]] = {"default": {}}
    for key, value in constants.items():
        name, _, line = key.partition("@")
        out.setdefault(line or "default", {})[name] = value
    return out


def owner(section: str) -> str:
    """Return the table whose rows a section is fitted to."""
    for operator, tops in ROOTS.items():
        if any(section == top or section.startswith(top + "/") for top in tops):
            return operator
    return section.partition("/")[0]
