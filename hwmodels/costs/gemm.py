"""Dense matrix multiplication y[m,n] = x[m,k] w[k,n] on a device of tiles, waves and two memories."""

from __future__ import annotations

from typing import Any

from .cost import Terms
from .machine import Machine, value_bytes
from .namespace import blend


def gemm(
    xp: Any, machine: Machine, m: Any, n: Any, k: Any, weights: str, activations: str, quantise: bool = False
) -> Terms:
    """Cost one GEMM; `quantise` adds the pass that turns bf16 activations into `activations`.

    The best tile is the one with the least compute time.  Tiles fill the units in waves; a short grid
    splits k.  Operands that fit the cache together with the collector's copies come at its bandwidth.
    """
    c = machine.constants
    compute_s = tensor_time(xp, machine, m, n, k, activations, "gemm")
    weight_bytes = k * n * value_bytes(weights)
    moved = weight_bytes + m * k * value_bytes(activations) + m * n * 2.0
    resident = residency(xp, machine, moved * c["gemm.copies"])
    memory_s = moved * (1.0 - resident) / (machine.bandwidth * machine.memory_efficiency)
    cache_s = moved / machine.l2_bandwidth
    parts = blend(c["gemm.overlap_power"], compute_s, memory_s, cache_s)
    out = Terms(compute=parts[0], memory=parts[1], cache=parts[2])
    out.launch = machine.launch_s * c["gemm.launch_factor"] + machine.memory_latency_s
    out.flop, out.bytes_main = 2.0 * m * n * k, moved
    if quantise:
        extra = m * k * (2.0 + value_bytes(activations))
        out.launch = out.launch + c["gemm.quant_launch_s"] / machine.speed["launch"]
        out.memory = out.memory + extra / machine.bandwidth * c["gemm.quant_bandwidth"]
    return out


def tensor_time(xp: Any, machine: Machine, m: Any, n: Any, k: Any, precision: str, section: str) -> Any:
    """Return the seconds of the tensor cores for the best tile of the device."""
    c = machine.constants
    rate = machine.peak(precision) * c[f"{section}.compute_efficiency"] / machine.units
    best: Any = None
    for tile_m, tile_n in machine.tiles:
        blocks = xp.ceil(m / tile_m) * xp.ceil(n / tile_n)
        splits = xp.maximum(1.0, xp.minimum(machine.units / blocks, k / c["gemm.split_k_min"]))
        whole = blocks / machine.units
        waves = whole + c["gemm.wave_share"] * (xp.ceil(whole) - whole)
        waves = xp.where(whole < 1.0, 1.0 / splits, waves)
        overhead = 1.0 + c[f"{section}.tile_overhead"] * (1.0 / tile_m + 1.0 / tile_n) * 0.5
        seconds = waves * (2.0 * tile_m * tile_n * overhead / rate) * k
        best = seconds if best is None else xp.minimum(best, seconds)
    return best


def residency(xp: Any, machine: Machine, working_set: Any) -> Any:
    """Return the share (0..1) of a working set of bytes that is found in the cache."""
    if not machine.l2_bytes:
        return working_set * 0.0
    return 1.0 / (1.0 + (working_set / machine.l2_bytes) ** 4)
