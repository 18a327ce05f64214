"""The fused expert layer of one rank: grouped matrix multiplications of whoever the tokens chose."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ext.tiling import DEPTH

from .cost import COMPUTE, LAUNCH, MEMORY, N_PARTS, Cost, CostArrays, FloatArray, Terms
from .gemm import residency
from .machine import Machine, value_bytes
from .namespace import blend

IntArray = npt.NDArray[np.int64]
TILES = (16.0, 32.0, 64.0, 128.0)
_RESIDENCY_POWER = 8.0


@dataclass(frozen=True, slots=True)
class ExpertTables:
    """Time of one rank's fused expert layer as a function of the drawn counts n_e.

    With ``work = sum work_of_n[n_e]``, ``moved = sum bytes_of_n[n_e]``, ``active`` = experts with n_e > 0::

        compute_s = work * seconds_per_work + head_s     (0 if active == 0)
        memory_s  = moved * seconds_per_byte
        time_s    = launch_s + active * active_s + (compute_s**power + memory_s**power)**(1/power)

    A rank without tokens costs 0.  ``power == inf`` is the maximum.  `work_of_n` holds FLOPs with the
    padding of tiles; `bytes_of_n` the expert's weights (once, if n > 0) and its tokens' activations.
    Counts above ``max_tokens`` are extrapolated with the last slope.
    """

    work_of_n: FloatArray  # shape (max_tokens + 1,); work_of_n[0] == 0
    bytes_of_n: FloatArray  # shape (max_tokens + 1,); bytes_of_n[0] == 0
    flop_per_token: float
    seconds_per_work: float
    head_s: float
    seconds_per_byte: float
    launch_s: float
    active_s: float
    power: float

    def parts(self, work: FloatArray, moved: FloatArray, active: FloatArray) -> FloatArray:
        """Return seconds by PARTS, shape (len(PARTS), N), from the three sums of each layer."""
        compute = work * self.seconds_per_work + self.head_s
        memory = moved * self.seconds_per_byte
        if np.isinf(self.power):
            bound = compute >= memory
            split: tuple[Any, ...] = (np.where(bound, compute, 0.0), np.where(bound, 0.0, memory))
        else:
            split = blend(self.power, compute, memory)
        out = np.zeros((N_PARTS, len(work)))
        out[COMPUTE], out[MEMORY] = split
        out[LAUNCH] = self.launch_s + active * self.active_s
        return np.asarray(out * (active > 0))

    def costs(self, counts: IntArray, main: str = "hbm") -> CostArrays:
        """Return the costs of N layers from counts of shape (N, experts): the reference twin."""
        work, moved = _look_up(self.work_of_n, counts), _look_up(self.bytes_of_n, counts)
        active = (counts > 0).sum(axis=1).astype(np.float64)
        flop = counts.sum(axis=1) * self.flop_per_token
        return CostArrays(self.parts(work, moved, active), flop, {main: moved})


def evaluate(table: ExpertTables, counts: IntArray, main: str) -> Cost:
    """Return the cost of one layer from counts of shape (experts,)."""
    return table.costs(np.asarray(counts, dtype=np.int64).reshape(1, -1), main).at(0)


def _look_up(table: FloatArray, counts: IntArray) -> FloatArray:
    last = len(table) - 1
    inside = np.minimum(counts, last)
    slope = table[last] - table[last - 1] if last else 0.0
    total: FloatArray = (table[inside] + (counts - inside) * slope).sum(axis=1)
    return total


def tables(machine: Machine, hidden: int, inter: int, gated: bool, weights: str, activations: str,
           max_tokens: int, section: str = "moe") -> ExpertTables:  # fmt: skip
    """Build the tables of one expert shape; `inter` is the width on this rank (after tensor parallelism).

    The layer of `layer`, with operands from main memory, the tile chosen for each expert, and the
    tokens' traffic overlapped with the weights'.
    """
    c = machine.section(section)
    n = np.arange(max_tokens + 1, dtype=np.float64)
    matrices = 3.0 if gated else 2.0
    flop = 2.0 * hidden * inter * matrices
    padded = np.min([np.ceil(n / tile) * tile * (1.0 + c["tile_overhead"] / tile) for tile in TILES], axis=0)
    rate = machine.bandwidth * c["memory_efficiency"]
    token = 2.0 * hidden * (c["token_hidden"] + c["assigned_hidden"])
    token += 2.0 * inter * (c["token_inter"] + c["assigned_inter"])
    weight_bytes = hidden * inter * matrices * value_bytes(weights)
    moved = np.where(n > 0, weight_bytes + n * token * c["memory_efficiency"], 0.0)
    return ExpertTables(
        padded * flop, moved, flop,
        _seconds_per_flop(machine, activations, c), _head_s(machine, hidden, inter, c),
        1.0 / rate, machine.launch_s * c["launch_factor"] + c["host_s"] / machine.speed["launch"],
        machine.cycles_s(c["active_cycles"]), c["overlap_power"],
    )  # fmt: skip


def _seconds_per_flop(machine: Machine, activations: str, c: Mapping[str, float]) -> float:
    """Return the seconds of a FLOP, with those on the padding of tiles: at peak, or within the power."""
    seconds: float = 1.0 / (machine.peak(activations) * c["compute_efficiency"])
    powered_s: float = machine.powered_s(machine.section("gemm")["power_share"], activations)
    return max(seconds, powered_s)


def _head_s(machine: Machine, hidden: Any, inter: Any, c: Mapping[str, float]) -> Any:
    """Return the seconds of one tile's steps in k, up and down, each of which waits for its operands."""
    steps = (hidden + inter) / DEPTH
    return steps * c["step_cycles"] / machine.clock_hz / machine.speed["compute"]


@dataclass(frozen=True, slots=True)
class Load:
    """What one rank's layer is asked to do: sums over its experts (floats or arrays)."""

    tokens: Any  # assignments to this rank's experts
    active: Any  # experts with at least one
    padded: tuple[Any, ...]  # sum of n_e rounded up to each of TILES
    assigned: Any  # assignments (tokens x k) of all ranks that the kernel's bookkeeping walks through
    untuned: Any  # whether there are more tokens than experts here: small tiles are given up


def layer(xp: Any, machine: Machine, load: Load, hidden: Any, inter: Any, matrices: Any, weights: str,
          activations: str, section: str = "moe") -> Terms:  # fmt: skip
    """Cost the layer in the conditions of a benchmark; `tables` is its simpler twin for drawn counts.

    Tensor cores (padded rows) overlap the reading of the weights of the experts in use; the kernels
    that sort, gather and combine tokens add their traffic; each expert and the launch add a latency.
    """
    c = machine.section(section)
    rows: Any = None
    for tile, padded in zip(TILES, load.padded, strict=True):
        work = padded * (1.0 + c["tile_overhead"] / tile)
        rows = work if rows is None else xp.minimum(rows, work)
    compute_s = rows * 2.0 * hidden * inter * matrices * _seconds_per_flop(machine, activations, c)
    compute_s = compute_s + _head_s(machine, hidden, inter, c)
    weight_bytes = load.active * hidden * inter * matrices * value_bytes(weights)
    resident = residency(xp, machine, weight_bytes / c["cache_share"], _RESIDENCY_POWER)
    blocks = load.active * xp.ceil(inter / 64.0) + 1e-9
    reach = xp.minimum(c["memory_efficiency"], blocks / machine.units * c["unit_memory"])
    slow = xp.where(load.untuned, c["untuned"], 1.0)
    memory_s = slow * weight_bytes * (1.0 - resident) / (machine.bandwidth * reach)
    cache_s = slow * weight_bytes * resident / (machine.l2_bandwidth * c["cache_efficiency"])
    weights_s = memory_s + cache_s + 1e-15
    parts = blend(c["overlap_power"], compute_s, weights_s)
    share = parts[1] / weights_s
    extra = load.tokens * 2.0 * (hidden * c["token_hidden"] + inter * c["token_inter"])
    extra = extra + load.assigned * 2.0 * (hidden * c["assigned_hidden"] + inter * c["assigned_inter"])
    fixed = c["host_s"] / machine.speed["launch"] + machine.cycles_s(load.active * c["active_cycles"])
    return Terms(
        compute=parts[0], memory=memory_s * share + extra / machine.bandwidth, cache=cache_s * share,
        launch=machine.launch_s * c["launch_factor"] + fixed,
        flop=load.tokens * 2.0 * hidden * inter * matrices,
        bytes_main=weight_bytes + load.tokens * hidden * 4.0,
    )  # fmt: skip
