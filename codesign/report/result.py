"""`Result`: everything that one run gave."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from codesign.explain.attribution import attribute
from codesign.report.power import energy_and_cost, moved_bytes
from codesign.report.provenance import provenance
from codesign.report.summary import summarise
from codesign.serve.cluster import REQUEST_COLUMNS
from codesign.serve.lane import ITERATION_COLUMNS

if TYPE_CHECKING:
    from codesign.experiment import Experiment
    from codesign.serve.cluster import Cluster

Table = dict[str, NDArray[Any]]
_JSON_FIELDS = (
    "summary", "utilization", "breakdown_s", "elasticities", "energy_j", "cost", "memory", "details",
    "conservation", "provenance",
)  # fmt: skip


@dataclass(frozen=True)
class Result:
    """One run.  Times in seconds, energies in joules, money in US dollars.

    Attributes
    ----------
    summary : dict         latencies, throughput, energy and cost per token, SLO attainment
    utilization : dict     resource -> share of the simulated time that it was held (mean over engines)
    breakdown_s : dict     kind -> seconds of the mean engine; sums to the simulated time
    elasticities : dict    resource -> relative change of busy time per relative change of its speed
    energy_j, cost : dict  by what drew it; USD
    memory : dict          bytes of the fullest device
    details : dict         seconds by kind and resource; times between tokens
    conservation : dict    law -> True
    provenance : dict      hash, versions, seed, fidelity, backends, model notes
    requests, iterations, tasks : dict of arrays    tables; tasks only if asked for
    experiment : dict      resolved: runs again from itself
    wall_s : float         of this run; not part of the JSON, which is the same for the same experiment
    """

    summary: dict[str, Any]
    utilization: dict[str, float]
    breakdown_s: dict[str, float]
    elasticities: dict[str, float]
    energy_j: dict[str, float]
    cost: dict[str, Any]
    memory: dict[str, float]
    details: dict[str, Any]
    conservation: dict[str, bool]
    provenance: dict[str, Any]
    requests: Table = field(repr=False)
    iterations: Table = field(repr=False)
    tasks: Table = field(repr=False)
    experiment: dict[str, Any] = field(repr=False)
    wall_s: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """Return what ``--json`` prints: plain data without the tables."""
        return {name: getattr(self, name) for name in _JSON_FIELDS}

    def save(self, folder: str | Path) -> Path:
        """Write ``summary.json``, ``experiment.yaml`` and Parquet tables; return the folder.

        Raises
        ------
        ConfigError   the folder cannot be made or written
        """
        from codesign.report.files import save

        return save(self, Path(folder))

    def replay(self, *, tasks: int = 0, first_task_iteration: int = 0) -> Result:
        """Run the resolved experiment again.  Law: ``replay().to_dict() == to_dict()``, to the byte."""
        from codesign.api import simulate

        return simulate(self.experiment, tasks=tasks, first_task_iteration=first_task_iteration)


def collect(
    experiment: Experiment, cluster: Cluster, simulated_s: float, laws: dict[str, bool], wall_s: float
) -> Result:
    """Gather a finished run into a `Result`."""
    attribution = attribute(cluster.engines, len(cluster.lanes))
    requests = _requests_table(cluster)
    summary = summarise(experiment, cluster, requests, simulated_s)
    energy_j, cost = energy_and_cost(experiment, cluster, attribution, simulated_s, summary)
    plan = cluster.plan
    return Result(
        summary=summary,
        utilization=_utilization(cluster, simulated_s),
        breakdown_s=attribution.breakdown_s(simulated_s),
        elasticities=attribution.elasticities(),
        energy_j=energy_j,
        cost=cost,
        memory={**vars(plan.residency), "kv_peak_bytes": _kv_peak(cluster)},
        details={
            "path_s": attribution.by_kind_and_part(),
            "preemptions": sum(group.preemptions for group in cluster.groups),
            "parallel": vars(plan.parallel),
            "precision": plan.precision.to_dict(),
            "experts": _experts(cluster),
            "expert_cache": _cache(cluster),
            "tiers": _tiers(cluster),
            "cycle_against_event": _fidelity_gaps(cluster),
            "prefix_cache": _prefixes(cluster),
            "composition": _composition(cluster),
            "dropped_rows": dict(cluster.requests.dropped),
        },
        conservation=laws,
        provenance=provenance(experiment, cluster.requests),
        requests=requests,
        iterations=_iterations_table(cluster),
        tasks=cluster.shared.tasks.table(),
        experiment=experiment.resolved,
        wall_s=wall_s,
    )


def _requests_table(cluster: Cluster) -> Table:
    columns = dict(zip(REQUEST_COLUMNS, cluster.table.T.copy(), strict=True))
    requests = cluster.requests
    table: Table = {
        "arrival_s": columns.pop("arrival_s"),
        "prompt_tokens": requests.prompt_tokens,
        "output_tokens": requests.output_tokens,
        **columns,
    }
    table["queue_s"] = table["admitted_s"] - table["arrival_s"]
    table["ttft_s"] = table["first_token_s"] - table["arrival_s"]
    decoding_s = table["finished_s"] - table["first_token_s"]
    more = requests.output_tokens > 1
    table["tpot_s"] = np.where(more, decoding_s / np.maximum(requests.output_tokens - 1, 1), np.nan)
    table["e2e_s"] = table["finished_s"] - table["arrival_s"]
    table["refused"] = table["refused"] > 0
    if cluster.composition is not None:
        table["model"] = cluster.composition.requests
    return table


def _iterations_table(cluster: Cluster) -> Table:
    log = np.array(cluster.shared.log).reshape(-1, len(ITERATION_COLUMNS))
    table: Table = {}
    for i, name in enumerate(ITERATION_COLUMNS):
        table[name] = log[:, i].copy() if name.endswith("_s") else log[:, i].astype(np.int64)
    return table


def _utilization(cluster: Cluster, simulated_s: float) -> dict[str, float]:
    if simulated_s <= 0:
        return {}
    found: dict[str, float] = {}
    for part in cluster.parts:
        busy = sum(engine.busy_s for engine in part.engines) / len(part.engines)
        for name, seconds in zip(part.plan.graph.resources, busy, strict=True):
            found[name] = found.get(name, 0.0) + float(seconds) / simulated_s
    if cluster.stores:
        busy_s = sum(store.busy_s for store in cluster.stores) / len(cluster.stores)
        found["model channel"] = min(1.0, busy_s / simulated_s)  # a fetch may outlast the run
    return found


def _experts(cluster: Cluster) -> dict[str, float] | None:
    """Return how the routed experts are stored, over all layers of one engine; None in a dense model."""
    plan = cluster.plan
    if not plan.expert_bytes.size:
        return None
    return {
        "average_bits": plan.formats.average_bits(),
        "stored_bytes": float(plan.expert_bytes.sum()) * plan.parallel.expert_tensor,
        "distinct": int((plan.expert_bytes > 0).sum()),
    }


def _cache(cluster: Cluster) -> dict[str, float] | None:
    """Return what the expert caches did, over all devices; None if all experts are resident."""
    if not any(assigner.caches for assigner in cluster.assigners):
        return None
    tallies = [assigner.caches.tally for assigner in cluster.assigners if assigner.caches]
    hits, foretold, corrections, wasted = (
        sum(getattr(tally, name) for tally in tallies)
        for name in ("hits", "foretold", "corrections", "wasted")
    )
    uses = max(1, hits + foretold + corrections)
    return {
        "hits": hits,
        "misses": foretold + corrections,
        "hit_rate": hits / uses,
        "foretold": foretold,
        "corrections": corrections,
        "wasted": wasted,
        "ready_rate": (hits + foretold) / uses,
        "fetched_bytes": sum(assigner.fetched_bytes for assigner in cluster.assigners),
        "wasted_bytes": sum(assigner.wasted_bytes for assigner in cluster.assigners),
    }


def _tiers(cluster: Cluster) -> dict[str, dict[str, float]] | None:
    """Return the bytes that all devices read from each other tier, and wrote there, by what they are of."""
    found: dict[str, dict[str, float]] = {}
    for part in cluster.parts:
        for moved, count in moved_bytes(part).items():
            tier = found.setdefault(moved.tier, {})
            key = f"{moved.content}_{'written' if moved.written else 'read'}_bytes"
            tier[key] = tier.get(key, 0.0) + count
    return found or None


def _fidelity_gaps(cluster: Cluster) -> list[dict[str, Any]] | None:
    """Return where the cycle models differ from `event` by more than 10 %, and why; None at other levels."""
    report = getattr(cluster.plan.machine.costs, "report", None)
    return None if report is None else sorted(report(), key=lambda row: row["ratio"])


def _prefixes(cluster: Cluster) -> dict[str, float] | None:
    """Return what the prefix caches saved; None if there are none."""
    caches = [group.memory.prefix for group in cluster.groups if group.memory.prefix]
    asked, hit = sum(cache.asked_tokens for cache in caches), sum(cache.hit_tokens for cache in caches)
    return {"asked_tokens": asked, "hit_tokens": hit, "hit_rate": hit / max(1, asked)} if caches else None


def _composition(cluster: Cluster) -> dict[str, float] | None:
    """Return what the stores of expert models did, over all engines; None if there is one model."""
    composition = cluster.composition
    if composition is None:
        return None
    rows = [store.summary() for store in cluster.stores]
    found = {key: sum(row[key] for row in rows) for key in rows[0]}
    return {
        "models": composition.n_models, "slots": composition.slots, **found,
        "hit_rate": found["hits"] / max(1, found["visits"]),
        "mean_fetch_s": found["fetch_s"] / found["fetches"] if found["fetches"] else 0.0,
    }  # fmt: skip


def _kv_peak(cluster: Cluster) -> float:
    held = np.array(cluster.shared.log).reshape(-1, len(ITERATION_COLUMNS))[:, -1]
    return float(held.max()) / cluster.plan.parallel.data if len(held) else 0.0
