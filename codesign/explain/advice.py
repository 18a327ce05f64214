"""What to change: read from a result's elasticities and breakdown, largest effect first."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_WHAT = {
    "compute": "more FLOP/s, or fewer bits where the device multiplies them faster (precision)",
    "vector": "faster vector units, or fused elementwise kernels",
    "memory": "more memory bandwidth, fewer bits (precision.weights, precision.kv), larger batches that reuse"
    " weights, or experts spread over more devices",
    "cache": "a larger or faster on-chip cache",
    "launch": "fewer, larger kernels: fusion, graphs, larger batches",
    "link_bandwidth": "a faster link inside the node, fewer bits on the way (precision.dispatch), or"
    " less tensor parallelism",
    "link_latency": "fewer messages: less tensor parallelism, fused exchanges, larger batches",
    "network_bandwidth": "a faster network, experts placed so that tokens stay in their node, or fewer bits"
    " on the way",
    "network_latency": "fewer exchanges between nodes: another parallel plan, larger batches",
    "pim_compute": "more arithmetic beside the memory, or fewer tokens of an expert on PIM (policies.units)",
    "pim_memory": "more bandwidth inside the memory",
    "fetch_bandwidth": "a faster way from the tier where they live, more of them held (memory.ring.pinned,"
    " policies.expert_cache.slots), fewer bits, larger batches, or prefetching",
    "fetch_latency": "larger transfers, or prefetching",
    "engine": "a faster scheduler, or scheduling while the devices compute",
}


@dataclass(frozen=True)
class Advice:
    """One lever: what 1 % of speed saves, the most that it can save, and how to get it."""

    resource: str
    elasticity: float
    limit: float  # share of busy time that would go if the resource were free
    how: str


def advise(result: Mapping[str, Any], least: float = 0.01) -> list[Advice]:
    """Return the levers whose elasticity is at least `least`, strongest first."""
    ordered = sorted(result["elasticities"].items(), key=lambda item: item[1])
    return [Advice(part, value, -value, _WHAT[part]) for part, value in ordered if -value >= least]


def imbalance(result: Mapping[str, Any]) -> float:
    """Return the share of the simulated time that ranks waited for the slowest of them."""
    total = sum(result["breakdown_s"].values())
    return result["breakdown_s"].get("waiting", 0.0) / total if total else 0.0
