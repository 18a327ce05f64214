"""Pass: attention and its cache on devices of another type, and batches that take turns.

The devices of a plan keep the weights; those of ``system.attention`` keep the KV cache and compute attention
over it.  Each layer sends queries, keys and values there and gets the result back, over `Pool.link`.  With
``parallel.batches`` an iteration's batch is cut into parts whose layers take turns: one part computes while
another one's attention, or its collectives, are under way.
"""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass
from math import ceil
from typing import Any

from codesign.lower.batch import Batch
from codesign.lower.operators import Operators
from codesign.lower.parallel import Parallel
from hwmodels.costs import PARTS as DEVICE_PARTS
from hwmodels.costs import Cost, build_cost_model
from hwmodels.spec import Pool
from workloads.models import Attention


@dataclass(frozen=True)
class PoolCost:
    """One layer's attention of one rank: out to the pool, attention there, back; link seconds, bytes."""

    send: tuple[float, float]  # seconds of bandwidth, of latency
    attend: tuple[float, ...]  # by hwmodels.costs.PARTS
    back: tuple[float, float]
    counted: tuple[float, float, float]  # FLOPs, bytes of the pool's memory, bytes sent


class AttentionPool:
    """What attention costs on the pool, for one rank of the devices that hold the weights.

    A rank's heads are served by ``devices / ranks`` of the pool's devices, to which its sequences are dealt.
    Law: with twice the devices a large batch's attention takes half the time.
    """

    def __init__(self, pool: Pool, operators: Operators, parallel: Parallel, cost_model: Any) -> None:
        machine = operators.machine
        self.pool, self.operators = pool, copy(operators)
        device = {part: factor for part, factor in machine.speed.items() if part in DEVICE_PARTS}
        self.operators.costs = build_cost_model(cost_model, pool.device, device)
        self.share = pool.devices / parallel.devices  # devices of the pool that serve one rank
        rate = pool.link.bandwidth * pool.link.efficiency * min(1.0, self.share)
        self.bytes_per_s = rate * machine.speed.get("network_bandwidth", 1.0)
        self.latency_s = pool.link.latency / machine.speed.get("network_latency", 1.0)
        self.value_bytes = operators.precision.activation_bytes
        self.tensor = parallel.tensor

    @staticmethod
    def memory_per_rank(pool: Pool, parallel: Parallel) -> float:
        """Return the bytes of the pool for each rank."""
        device = pool.device
        return pool.devices / parallel.devices * device.memory[device.main_memory].capacity

    def cost(self, attention: Attention, batch: Batch, entries: int) -> PoolCost:
        """Cost one layer's attention of a batch; `entries` are read by its decoding sequences."""
        total = self.operators.costs.elementwise(0.0).times(0.0)
        for tokens, context in batch.chunks:  # heads dealt, as far as there are devices
            total += self.operators.prefill(attention, tokens, context).times(1.0 / self.share)
        if readers := batch.decodes + batch.singles:
            sequences = ceil(readers / self.share)
            total += self.operators.decode(attention, sequences, ceil(entries / self.share))
        return self._with_transfers(attention, batch, total)

    def _with_transfers(self, attention: Attention, batch: Batch, cost: Cost) -> PoolCost:
        tokens = batch.decodes + batch.singles + sum(tokens for tokens, _ in batch.chunks)
        t, size = self.tensor, self.value_bytes
        kv = attention.kv_values_per_token / min(t, max(1, attention.kv_heads))
        out = tokens * size * (attention.heads * attention.qk_head_dim / t + kv)
        back = tokens * size * attention.heads * attention.v_head_dim / t
        wait = self.latency_s if tokens else 0.0
        read = cost.bytes_of(self.pool.device.main_memory)
        return PoolCost(
            (out / self.bytes_per_s, wait), cost.parts, (back / self.bytes_per_s, wait),
            (cost.flop * self.share, read * self.share, out + back),
        )  # fmt: skip


def part_of(count: int, index: int, parts: int) -> int:
    """Return the size of one of some parts, dealt as evenly as can be.  Law: they sum to `count`."""
    return (count + parts - 1 - index) // parts


def part_of_batch(batch: Batch, index: int, parts: int) -> Batch:
    """Return one part of a batch; cached entries and chunks of prompts are dealt like its tokens."""
    if parts == 1:
        return batch
    chunks = [(n, context) for tokens, context in batch.chunks if (n := part_of(tokens, index, parts))]
    return Batch(
        tokens=part_of(batch.tokens, index, parts), outputs=part_of(batch.outputs, index, parts),
        sequences=part_of(batch.sequences, index, parts), decodes=part_of(batch.decodes, index, parts),
        singles=part_of(batch.singles, index, parts),
        entries=[part_of(int(count), index, parts) for count in batch.entries], chunks=chunks,
    )  # fmt: skip
