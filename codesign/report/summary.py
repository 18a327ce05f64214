"""The summary of a run: latencies, throughput, service-level attainment."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from codesign.experiment import Experiment
    from codesign.serve.cluster import Cluster

Table = dict[str, NDArray[Any]]


def spread(values: NDArray[np.float64]) -> dict[str, float | None]:
    """Return mean, median, 90th and 99th percentile (linear between ranks) of what is a number."""
    known = values[~np.isnan(values)]
    if not len(known):
        return {"mean": None, "p50": None, "p90": None, "p99": None}
    p50, p90, p99 = np.percentile(known, [50, 90, 99])
    return {"mean": float(known.mean()), "p50": float(p50), "p90": float(p90), "p99": float(p99)}


def summarise(
    experiment: Experiment, cluster: Cluster, requests: Table, simulated_s: float
) -> dict[str, Any]:
    """Return the summary, energy and cost apart.

    Law: requests offered = completed + refused + unfinished; those that had not arrived at the horizon
    count as unfinished.
    """
    offered, completed = len(cluster.requests), cluster.finished
    tokens = cluster.shared.output_tokens
    return {
        "requests": {
            "offered": offered,
            "completed": completed,
            "refused": cluster.refused,
            "unfinished": offered - completed - cluster.refused,
        },
        **{name: spread(requests[name]) for name in ("ttft_s", "tpot_s", "e2e_s", "queue_s")},
        "tbt_s": cluster.gaps.summary(),
        "output_tokens": tokens,
        "output_tokens_per_s": tokens / simulated_s if simulated_s > 0 else None,
        "requests_per_s": completed / simulated_s if simulated_s > 0 else None,
        "slo_attainment": _attainment(experiment, requests),
        "iterations": cluster.shared.iterations,
        "simulated_s": simulated_s,
    }


def _attainment(experiment: Experiment, requests: Table) -> float | None:
    """Return the share of offered requests that met every given limit; None if none is given."""
    limits = {
        f"{name}_s": limit for name, limit in experiment.spec.slo.model_dump().items() if limit is not None
    }
    if not limits or not len(requests["arrival_s"]):
        return None
    met = ~np.isnan(requests["finished_s"])
    for name, limit in limits.items():
        values = requests[name]
        met &= np.isnan(values) | (values <= limit)
    return float(met.mean())
