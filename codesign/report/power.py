"""Energy and money of a run, from its counters and its duration."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from codesign.lower.machine import COUNTERS
from codesign.lower.operators import Transfer
from ext.iteration import TALLY
from hwmodels.energy import active_power_w, facility_energy_j, idle_power_w, unit_energy_j
from hwmodels.money import usd_per_million_tokens, usd_per_s, with_pool

if TYPE_CHECKING:
    from codesign.experiment import Experiment
    from codesign.explain.attribution import Attribution
    from codesign.serve.cluster import Cluster
    from codesign.serve.part import Part

# counters of the experts that a unit computes: operations, bytes, operations of decoding
_COUNTERS_OF_UNIT = {
    "compute": ("flop", "memory_bytes", "decode_flop"),
    "pim": ("pim_flop", "pim_bytes", "pim_flop"),
    "near": ("near_flop", "near_bytes", "near_flop"),
}


def counters(cluster: Cluster) -> dict[str, float]:
    """Return what all devices did, by COUNTERS: operators, then experts by portion, exchanges, fetches."""
    total = dict.fromkeys(COUNTERS, 0.0)
    for part in cluster.parts:
        for name, count in _counters_of(part).items():
            total[name] += count
    total["fetched_bytes"] += sum(store.fetched_bytes for store in cluster.stores)
    return total


def _counters_of(part: Part) -> dict[str, float]:
    """Return COUNTERS of one model's iterations on all engines."""
    plan = part.plan
    total = dict(zip(COUNTERS, part.costs.counters.tolist(), strict=True))
    ranks_per_group = plan.parallel.expert_tensor
    for engine in part.engines:
        tally = dict(zip(TALLY, engine.tally.tolist(), strict=True))
        total["link_bytes"] += tally["link_sent"]
        total["network_bytes"] += tally["network_sent"]
        for portion, numbers in zip(plan.portions.parts, engine.portion_tally.tolist(), strict=True):
            flop, count, decode = numbers
            work, read, decoding = _COUNTERS_OF_UNIT[portion.unit]
            total[work] += flop * ranks_per_group
            total[read] += count * ranks_per_group
            total[decoding] += decode * ranks_per_group
    total["fetched_bytes"] += sum(a.fetched_bytes for a in part.assigners) * ranks_per_group
    return total


def moved_bytes(part: Part) -> dict[Transfer, float]:
    """Return the bytes that all devices moved between tiers."""
    found = dict(part.costs.moved_bytes)
    if part.plan.portions.way:
        moved = sum(a.fetched_bytes for a in part.assigners) * part.plan.parallel.expert_tensor
        found[Transfer(part.plan.portions.way[0].source, "experts")] = moved
    return found


def _fetch_j(cluster: Cluster) -> float:
    """Return the joules of all transfers between tiers, each by its own way."""
    joules = sum(store.fetch_j for store in cluster.stores)
    for part in cluster.parts:
        paths = part.plan.streams.paths
        joules += sum(
            count * paths[moved.tier].energy_j_per_byte for moved, count in moved_bytes(part).items()
        )
    return joules


def energy_and_cost(
    experiment: Experiment,
    cluster: Cluster,
    attribution: Attribution,
    simulated_s: float,
    summary: dict[str, Any],
) -> tuple[dict[str, float], dict[str, Any]]:
    """Return joules by what drew them, and money; and add both per token to the summary.

    Law: energy = idle power x time + active power x busy time + sum of counters x energy per unit.
    """
    plan, system = cluster.plan, experiment.system
    devices = plan.parallel.devices * plan.parallel.replicas
    counted = counters(cluster)
    joules = plan.machine.dynamic_j(counted, plan.precision.activations)
    if plan.streams.paths or cluster.stores:
        joules["fetch"] = _fetch_j(cluster)
    if plan.portions.beside:
        unit = plan.portions.beside.unit
        joules["near"] = unit_energy_j(unit, counted["near_flop"], counted["near_bytes"])
    busy_s = attribution.busy_s / len(cluster.lanes)
    joules["active"] = active_power_w(system.device) * devices * busy_s
    joules["idle"] = idle_power_w(system, devices) * simulated_s
    pooled = system.attention.devices * plan.parallel.replicas if system.attention else 0
    if system.attention:
        joules["pool_idle"] = system.attention.device.power.idle * pooled * simulated_s
    total_j = sum(joules.values())
    average_w = total_j / simulated_s if simulated_s > 0 else 0.0
    rate = with_pool(usd_per_s(system, devices, average_w), system, plan.parallel.replicas)
    tokens = summary["output_tokens"]
    summary["energy_j_per_token"] = total_j / tokens if tokens else None
    summary["usd_per_million_tokens"] = usd_per_million_tokens(rate, summary["output_tokens_per_s"] or 0.0)
    summary["average_power_w"] = average_w
    cost = {
        "devices": devices + pooled,
        "usd_per_hour": None if rate is None else rate * 3600.0,
        "usd": None if rate is None else rate * simulated_s,
        "facility_energy_j": facility_energy_j(system, total_j),
        "counters": counted,
    }
    return {**joules, "total": total_j}, cost
