"""The fused expert layer of one rank as sums over its experts: what a compiled loop can evaluate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .cost import COMPUTE, LAUNCH, MEMORY, N_PARTS, Cost, CostArrays, FloatArray
from .machine import Machine, value_bytes
from .namespace import VECTOR, blend

IntArray = npt.NDArray[np.int64]


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


def tables(
    machine: Machine, hidden: int, inter: int, gated: bool, weights: str, activations: str, max_tokens: int
) -> ExpertTables:
    """Build the tables of one expert shape; `inter` is the width on this rank (after tensor parallelism)."""
    c = machine.constants
    n = np.arange(max_tokens + 1, dtype=np.float64)
    work, moved = demand(VECTOR, machine, n, hidden, inter, gated, weights)
    return ExpertTables(
        work,
        moved,
        2.0 * hidden * inter * (3 if gated else 2),
        1.0 / (machine.peak(activations) * c["moe.compute_efficiency"]),
        0.0,
        1.0 / (machine.bandwidth * c["moe.memory_efficiency"]),
        c["moe.launch_s"] / machine.speed["launch"],
        c["moe.active_s"] / machine.speed["launch"],
        c["moe.overlap_power"],
    )


def demand(
    xp: Any, machine: Machine, n: Any, hidden: Any, inter: Any, gated: Any, weights: str
) -> tuple[Any, Any]:
    """Return padded FLOPs and bytes of one expert with n tokens (0 if n is 0)."""
    c = machine.constants
    matrices = 2.0 + gated
    tile = xp.minimum(128.0, xp.maximum(16.0, 2.0 ** xp.ceil(xp.log2(xp.maximum(n, 1.0)))))
    rows = xp.ceil(n / tile) * tile
    overhead = 1.0 + c["moe.tile_overhead"] * (1.0 / tile + 1.0 / 128.0) * 0.5
    work = rows * overhead * 2.0 * hidden * inter * matrices
    weight_bytes = hidden * inter * matrices * value_bytes(weights)
    tokens = n * 2.0 * (hidden * c["moe.token_traffic"] + inter * matrices)
    return work, xp.where(n > 0, weight_bytes + tokens, 0.0)
