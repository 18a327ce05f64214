"""The main job in Python: `load_experiment`, then `simulate`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from codesign.base.errors import ConfigError, choices_near
from codesign.experiment import Experiment, read_experiment

if TYPE_CHECKING:
    from codesign.lower.plan import Plan
    from codesign.report.result import Result
    from codesign.serve.cluster import Cluster


def load_experiment(
    source: str | Path | Mapping[str, Any],
    overrides: Mapping[str, Any] | Iterable[tuple[str, Any]] | None = None,
) -> Experiment:
    """Read and check an experiment whole; nothing runs.

    Parameters
    ----------
    source : path of a YAML file, or a mapping of the same form
    overrides : mapping or pairs, dotted path -> value    ``{"workload.requests.limit": 100}``

    Raises
    ------
    ConfigError     file:line, key, value, rule, nearest name
    CapacityError   the model does not fit its memory, with the numbers
    """
    experiment = read_experiment(source, overrides)
    check(experiment)
    return experiment


def check(experiment: Experiment) -> Plan:
    """Check all parts against each other, by building the plan that would run; see `load_experiment`."""
    from codesign.lower.plan import build_plan
    from codesign.policies import build_policies
    from ext.iteration import PARTS
    from hwmodels.costs.model import COST_MODELS
    from workloads.requests import read_settings
    from workloads.routing.build import read_generator

    document = experiment.document
    for part in experiment.spec.speed:
        if part not in PARTS:
            raise document.error(("speed", part), f"unknown part; choose from {choices_near(part, PARTS)}")
    if experiment.spec.cost_model is not None:
        COST_MODELS.build(experiment.part("cost_model"))
    read_settings(experiment.part("workload", "requests"))
    if experiment.model.moe_layers:
        read_generator(experiment.part("workload", "routing"))
    if experiment.model.encoder_layers:
        rule = "is an encoder-decoder; it can be shown (codesign models show) but not yet served"
        raise document.error(("model",), rule)
    build_policies(experiment)
    plan = build_plan(experiment)
    if experiment.spec.composition is not None:
        from codesign.lower.composition import compose

        compose(experiment, plan)
    return plan


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
    from codesign.report.result import collect
    from codesign.serve.laws import check_laws
    from codesign.serve.tasklog import TaskLog

    begun = perf_counter()
    if not isinstance(experiment, Experiment):
        experiment = read_experiment(experiment, overrides)
    elif overrides:
        experiment = experiment.replace(dict(overrides))
    plan = check(experiment)
    log = TaskLog(plan.graph, first_task_iteration, tasks)
    cluster = _cluster(experiment)(experiment, plan, experiment.requests(), log)
    simulated_s = cluster.run()
    laws = check_laws(cluster)
    return collect(experiment, cluster, simulated_s, laws, perf_counter() - begun)


def _cluster(experiment: Experiment) -> type[Cluster]:
    """Return what serves the requests: of one model, or of a composition of many."""
    if experiment.spec.composition is None:
        from codesign.serve.cluster import Cluster

        return Cluster
    from codesign.serve.composed import ComposedCluster

    return ComposedCluster


def load_tasks(folder: Path, first: int, count: int) -> dict[str, Any]:
    """Read the tasks of a result folder, or run its experiment again to record them.

    Raises
    ------
    ConfigError   the folder holds no result, or the run has no such iteration
    """
    from codesign.report.files import EXPERIMENT, read_summary, read_table

    read_summary(folder)
    recorded = folder / "tasks.parquet"
    if recorded.is_file():
        return read_table(recorded)
    tasks = simulate(folder / EXPERIMENT, tasks=count, first_task_iteration=first).tasks
    if not tasks:
        raise ConfigError(f"{folder}: the run has no iteration {first}; choose an earlier --first")
    return tasks
