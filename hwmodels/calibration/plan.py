"""What is fitted: for each operator its free constants with their bounds, and choices to try one by one."""

from __future__ import annotations

from dataclasses import dataclass, field

Bounds = dict[str, tuple[float, float]]

_GEMM: Bounds = {
    "compute_efficiency": (0.3, 0.95), "memory_efficiency": (0.5, 0.95), "unit_memory": (1.0, 20.0),
    "cache_efficiency": (0.2, 1.0), "launch_factor": (0.8, 3.0), "copies": (1.0, 20.0),
    "residency_power": (2.0, 8.0), "unit_feed": (0.7, 4.0), "tile_overhead": (1.0, 60.0),
    "wave_share": (0.01, 1.0), "overlap_power": (2.0, 10.0), "reduction_traffic": (0.05, 5.0),
    "split_cycles": (100.0, 2e4), "feed_bytes_per_flop": (0.002, 0.05), "epilogue_flop": (0.1, 300.0),
}  # fmt: skip
_ATTENTION: Bounds = {
    "compute_efficiency": (0.05, 1.0), "memory_efficiency": (0.3, 0.97), "cache_efficiency": (0.1, 1.0),
    "overlap_power": (1.0, 10.0), "launch_factor": (0.5, 8.0), "block_cycles": (1.0, 6e4),
    "wave_share": (0.01, 1.0),
}  # fmt: skip
_PREFILL: Bounds = {
    **_ATTENTION, "masked_keys": (1.0, 200.0), "window_keys": (1.0, 300.0), "softmax_flop": (0.1, 100.0),
    "unit_share": (0.2, 1.6), "max_splits": (1.0, 8.0), "extra_query": (1e-3, 20.0),
    "extra_kv": (1e-3, 40.0), "dim_64": (0.3, 3.0), "dim_192": (0.3, 3.0), "dim_256": (0.3, 4.0),
}  # fmt: skip
_DECODE: Bounds = {
    **_ATTENTION, "blocks_per_unit": (1.0, 4.0), "chunk_tokens": (32.0, 2048.0), "max_splits": (2.0, 256.0),
    "unit_memory": (1.0, 50.0), "row_cycles": (1.0, 2000.0), "cache_share": (0.3, 3.0),
    "join_cycles": (1.0, 3e4), "dim_64": (0.5, 2.0),
    "dim_192": (0.5, 2.0), "dim_256": (0.5, 2.0),
}  # fmt: skip


@dataclass(frozen=True)
class Plan:
    """How one operator is fitted."""

    free: Bounds
    choices: dict[str, tuple[float, ...]] = field(default_factory=dict)
    by_architecture: tuple[str, ...] = ()  # constants of the operator's own section that may differ


PLANS: dict[str, Plan] = {
    "gemm": Plan(
        _GEMM, {}, ("compute_efficiency", "memory_efficiency", "launch_factor", "feed_bytes_per_flop")
    ),
    "gemm/": Plan({  # implementations of narrow types: another kernel, and the one that quantises
        **_GEMM, "host_s": (1e-9, 4e-4), "quantise_launch": (0.05, 10.0),
        "quantise_bandwidth": (0.02, 2.0),
    }),
    "moe": Plan({
        "compute_efficiency": (0.1, 1.0), "memory_efficiency": (0.3, 0.97), "cache_efficiency": (0.1, 1.0),
        "cache_share": (0.3, 2.0), "overlap_power": (1.0, 10.0), "launch_factor": (1.0, 100.0),
        "active_s": (1e-10, 5e-6), "tile_overhead": (1.0, 100.0), "token_hidden": (1e-3, 30.0),
        "token_inter": (1e-3, 30.0), "assigned_hidden": (1e-3, 15.0), "assigned_inter": (1e-3, 25.0),
        "untuned": (0.8, 2.5), "unit_memory": (0.3, 20.0),
    }),
    "attention_prefill": Plan(_PREFILL, {"query_tile": (64.0, 128.0)}),
    "attention_decode": Plan(_DECODE, {"row_tile": (1.0, 16.0), "split_from": (1.0, 128.0)}),
    "mla_prefill": Plan(_PREFILL, {"absorbed": (0.0, 1.0), "query_tile": (64.0, 128.0)}),
    "mla_decode": Plan({**_DECODE, "max_rows": (16.0, 128.0)}, {"row_tile": (1.0, 16.0, 64.0)}),
    "module": Plan({"host_s": (1e-9, 2e-4)}),
    "collectives": Plan({
        "efficiency_all_reduce": (0.3, 1.5), "efficiency_all_gather": (0.3, 1.5),
        "efficiency_reduce_scatter": (0.3, 1.5), "efficiency_all_to_all": (0.3, 1.5),
        "efficiency_send": (0.3, 1.5), "efficiency_in_network": (0.3, 1.2), "pair_loss": (0.01, 1.2),
        "bus_sharing": (0.01, 3.0), "half_size_bytes": (1e4, 1e8), "base_latency": (0.1, 5.0),
        "step_latency": (0.01, 3.0), "host_s": (1e-9, 2e-4),
    }),
}  # fmt: skip


def plan_of(section: str) -> Plan:
    """Return the plan of a section; a module of projections adds what runs between its kernels."""
    operator, _, own = section.partition("/")
    if operator == "gemm" and own:
        return PLANS["gemm/"]
    plan = PLANS[operator]
    if "-module" in own:
        return Plan({**plan.free, **PLANS["module"].free}, plan.choices)
    return plan
