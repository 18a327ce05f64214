"""The main job in Python: `simulate`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from codesign.experiment import Experiment, load_experiment

if TYPE_CHECKING:
    from codesign.report.result import Result


def simulate(
    experiment: Experiment | str | Path | Mapping[str, Any],
    overrides: Mapping[str, Any] | Iterable[tuple[str, Any]] | None = None,
    *,
    tasks: int = 0,
    first_task_iteration: int = 0,
) -> Result:
    """Run one experiment.

    Parameters
    ----------
    experiment : Experiment, path of its file, or a mapping of the same form
    overrides : mapping or pairs, dotted path -> value    laid over a file or mapping
    tasks : int                    record the tasks of so many iterations (`Result.tasks`)
    first_task_iteration : int     beginning with this one

    Returns
    -------
    Result    summary, tables, utilisation, energy, cost, breakdown, elasticities, laws, provenance

    Raises
    ------
    ConfigError      the experiment is wrong (place, value, rule, nearest name)
    CapacityError    the model or every request exceeds the memory
    InvariantError   a conservation law was violated

    Notes
    -----
    Law: the same experiment gives the same bytes, on any machine with the same libraries.
    """
    from codesign.lower.plan import build_plan
    from codesign.report.result import collect
    from codesign.serve.cluster import Cluster
    from codesign.serve.laws import check_laws
    from codesign.serve.tasklog import TaskLog

    begun = perf_counter()
    if not isinstance(experiment, Experiment):
        experiment = load_experiment(experiment, overrides)
    elif overrides:
        experiment = experiment.replace(dict(overrides))
    plan = build_plan(experiment)
    log = TaskLog(plan.graph, first_task_iteration, tasks)
    cluster = Cluster(experiment, plan, experiment.requests(), log)
    simulated_s = cluster.run()
    laws = check_laws(cluster)
    return collect(experiment, cluster, simulated_s, laws, perf_counter() - begun)
