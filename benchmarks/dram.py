"""Speed of the DRAM channel: requests per second of one core, and against the plain twin."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from ext import dram
from ext.dram import Controller, addresses, reference
from hwmodels.cycle import build_cycle_model
from hwmodels.cycle.standards import Part, named_part
from hwmodels.cycle.streams import MAPPINGS, bursts
from hwmodels.load import load_device

# requests per CPU second of Ramulator 2.1 on the same streams: what the goals are a multiple of
RAMULATOR_SEQUENTIAL, RAMULATOR_RANDOM = 246_000, 84_000
_PART = "HBM3_6400_16Gb_8hi"


def prepared(part: Part, kind: str, n: int) -> Callable[[], object]:
    """Return a call that serves a saturating stream of `n` bursts; its arrays are made beforehand."""
    channel = part.channel()
    unit, write = bursts(kind, n, channel.units)
    bank, row = addresses(unit, channel, MAPPINGS["M1"])
    arrival = np.zeros(n, dtype=np.int64)
    return lambda: dram.run(channel, Controller(), bank, row, unit, write, arrival)


def best_cpu_s(call: Callable[[], object], repeats: int = 5) -> float:
    """Return the least CPU time of some calls (one core)."""
    least = float("inf")
    for _ in range(repeats):
        start = time.process_time()
        call()
        least = min(least, time.process_time() - start)
    return least


def _reference_cpu_s(part: Part, n: int) -> float:
    channel = part.channel()
    unit, write = bursts("seq", n, channel.units)
    arrays = [a.tolist() for a in (*addresses(unit, channel, MAPPINGS["M1"]), unit, write, write)]
    return best_cpu_s(lambda: reference.run(channel, Controller(), *arrays), 1)


def measured(name: str, kind: str, n: int, goal: float) -> dict[str, Any]:
    """Measure one stream."""
    seconds = best_cpu_s(prepared(named_part(_PART), kind, n))
    return {"name": name, "value": n / seconds, "unit": "requests/s", "goal": f">= {goal:g}"}


def _iteration_s() -> float:
    """Return the time of the operator costs of a Mixtral-8x7B decode iteration, cycle level, warm."""
    costs = build_cycle_model(load_device("h100"))
    loads = np.full(8, 8)

    def iteration() -> None:
        for _ in range(32):
            costs.gemm(32, 6144, 4096)
            costs.attention_decode(32, 32 * 2048, 32, 8, 128, 128)
            costs.gemm(32, 4096, 4096)
            costs.experts(loads, 4096, 14336)

    return best_cpu_s(iteration)


def run() -> list[dict[str, Any]]:
    sequential = measured("dram sequential reads", "seq", 2_000_000, 20e6)
    drawn = measured("dram random reads", "rand", 200_000, 2e6)
    plain = _reference_cpu_s(named_part(_PART), 4000) / 4000
    return [
        sequential,
        drawn,
        {"name": "dram sequential over Ramulator 2.1", "value": sequential["value"] / RAMULATOR_SEQUENTIAL,
         "unit": "x", "goal": ">= 25"},
        {"name": "dram random over Ramulator 2.1", "value": drawn["value"] / RAMULATOR_RANDOM, "unit": "x",
         "goal": ">= 25"},
        {"name": "dram compiled over plain twin", "value": sequential["value"] * plain, "unit": "x",
         "goal": ">= 100"},
        {"name": "cycle costs of a Mixtral decode iteration, warm", "value": _iteration_s() * 1e3,
         "unit": "ms", "goal": "<= 20"},
    ]  # fmt: skip
