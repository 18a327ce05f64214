"""`search`: look for the best points of a design space, for several objectives, under constraints.

Optuna proposes (TPE, NSGA-II, NSGA-III or random), the executors of sweeps evaluate, the store keeps.  With
several levels of fidelity the search itself runs at the cheapest; its best points are run again at the next,
and the front of those at the next; how often the levels disagree about order is reported.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from codesign.base.errors import ConfigError, unknown_name
from codesign.base.hashing import canonical_json
from codesign.explore.api import executor_of, portable
from codesign.explore.evaluate import DEFAULT, OK, Outcome, Task
from codesign.explore.objective import Objective, read_objective
from codesign.explore.pareto import hypervolume, nondominated
from codesign.explore.plan import SweepPlan, plan_sweep
from codesign.explore.results import Sweep
from codesign.explore.space import Dimension, dimensions_of, relaxed, suggest
from codesign.explore.spec import read_sweep
from codesign.explore.store import Store, exists
from codesign.explore.watch import Progress, watched

F64 = NDArray[np.float64]
SAMPLERS = ("tpe", "nsga2", "nsga3", "random")
LEVELS = ("roofline", "event", "cycle")
BATCH = 8  # proposals between two looks at results; fixed, so that any number of workers gives the same
FAR = 1e12  # cost of a point that cannot run: worse than any other


@dataclass(repr=False)
class Search:
    """What a search found.

    Attributes
    ----------
    sweep : Sweep                points of the last level, in the order in which they were run
    levels : dict                level -> Sweep, cheapest first (one entry without a ladder)
    disagreement : dict          "low -> high" -> objective -> share of pairs that the levels order otherwise
    objectives : list
    """

    sweep: Sweep
    levels: dict[str, Sweep]
    objectives: list[Objective]
    disagreement: dict[str, dict[str, float]] = field(default_factory=dict)

    def pareto(self, *objectives: str) -> Any:
        """Return the front of the last level as an Arrow table (see `Sweep.pareto`)."""
        return self.sweep.pareto(*(objectives or [o.text for o in self.objectives]))

    def best(self, objective: str | None = None) -> dict[str, Any]:
        """Return the best point of the last level by one objective (the first one)."""
        return self.sweep.best(objective or self.objectives[0].text)

    def __repr__(self) -> str:
        counts = ", ".join(f"{level}: {sweep.counts}" for level, sweep in self.levels.items())
        return f"<Search for {', '.join(o.text for o in self.objectives)}; {counts}>"

    def _repr_html_(self) -> str:
        """Show the front in a notebook."""
        from codesign.explore.results import html

        feasible = any(row["feasible"] for row in self.sweep.rows)
        return html(repr(self), self.pareto() if feasible else self.sweep.table)

    @property
    def costs(self) -> F64:
        """Costs of the feasible points of the last level, shape (points, objectives); less is better."""
        found = [
            [objective.cost(metrics) for objective in self.objectives]
            for row, metrics in zip(self.sweep.rows, self.sweep.metrics, strict=True)
            if row["feasible"]
        ]
        return np.array(found).reshape(len(found), len(self.objectives))

    def hypervolume(self, reference: Sequence[float]) -> float:
        """Return the volume of costs that the front dominates below a reference point."""
        return hypervolume(self.costs, np.asarray(reference, np.float64))


def search(
    source: str | Path | Mapping[str, Any],
    output: str | Path | None = None,
    *,
    objectives: Sequence[str] = (),
    trials: int = 100,
    sampler: str = "tpe",
    fidelity: Sequence[str] = (),
    confirm: int | None = None,
    warm_start: Sequence[str | Path] = (),
    overrides: Mapping[str, Any] | None = None,
    seed: int = 1,
    resume: bool = False,
    workers: int | None = None,
    scheduler: str | None = None,
    progress: Progress | bool | None = None,
    evaluator: str = DEFAULT,
) -> Search:
    """Search a design space.

    Parameters
    ----------
    source : path of a sweep file, or a mapping; ranges need no `steps`
    objectives : ``max output_tokens_per_s``, ``energy_j_per_token``; none: those of the file
    trials : int         points that Optuna proposes, at the first level of fidelity
    sampler : str        tpe, nsga2, nsga3, random
    fidelity : levels    cheapest first, as ("roofline", "event"); none: the experiment's
    confirm : int        points run again at the second level; None: a tenth of the trials, at least 10
    warm_start : folders of sweeps or searches whose points Optuna learns from
    others               as `codesign.sweep`

    Raises
    ------
    ConfigError   the sweep, an objective, the sampler, a level or a folder is wrong

    Notes
    -----
    Law: the same arguments give the same points, on any number of workers.
    """
    read, plan = _prepare(source, overrides, objectives, sampler, fidelity, evaluator)
    folder = None if output is None else Path(output)
    if folder is not None and exists(folder) and not resume:
        raise ConfigError(
            f"{folder}: holds a sweep or search; go on with it (--resume), or give another folder"
        )
    with Store(folder) as store:
        store.set_meta("search", canonical_json({"objectives": [o.text for o in read], "trials": trials}))
        store.set_meta("sweep", canonical_json(portable(plan)))
        store.set_meta("order", "null")
        known = [point for place in warm_start for point in _points_of(Path(place))]
        with watched(progress, "trials") as told:
            runner = _Runner(plan, store, read, workers, scheduler, told, list(fidelity) or [None])
            tasks = _propose(plan, runner, sampler, trials, seed, known)
        found = runner.climb(tasks, confirm or max(10, trials // 10))
        store.set_meta("order", canonical_json([row["id"] for row in found.sweep.rows]))
        if folder is not None:
            found.sweep.export(folder)
    return found


def _prepare(
    source: str | Path | Mapping[str, Any], overrides: Mapping[str, Any] | None, objectives: Sequence[str],
    sampler: str, fidelity: Sequence[str], evaluator: str,
) -> tuple[list[Objective], SweepPlan]:  # fmt: skip
    if sampler not in SAMPLERS:
        raise unknown_name("sampler", sampler, SAMPLERS)
    for level in fidelity:
        if level not in LEVELS:
            raise unknown_name("fidelity", level, LEVELS)
    try:
        import optuna  # noqa: F401
    except ImportError:
        raise ConfigError("search needs Optuna: pip install 'codesign[explore]'") from None
    _, document, base = read_sweep(source)
    plan = plan_sweep(relaxed(document), overrides, evaluator=evaluator, base_dir=base)
    texts = list(objectives) or plan.spec.objectives
    if not texts:
        raise ConfigError(
            "a search needs objectives: in the file, or as --objective 'max output_tokens_per_s'"
        )
    if plan.spec.replicates > 1:
        raise ConfigError("a search runs each point once: leave replicates out, and sweep the front instead")
    return [read_objective(text) for text in texts], plan


class _Runner:
    """Evaluates points at a level of fidelity; what the store has is not run again."""

    def __init__(
        self, plan: SweepPlan, store: Store, objectives: list[Objective], workers: int | None,
        scheduler: str | None, progress: Progress | None, levels: list[Any],
    ) -> None:  # fmt: skip
        self.plan, self.store, self.objectives, self.levels = plan, store, objectives, levels
        self.workers, self.scheduler, self.progress = workers, scheduler, progress
        self.known: dict[str, Outcome] = store.outcomes()
        self.order: dict[Any, list[Task]] = {level: [] for level in levels}

    def task(self, changes: Mapping[str, Any], level: Any) -> Task:
        """Return the task of a point at a level."""
        plain = {path: value for path, value in changes.items() if path != "seed"}
        if level is not None:
            plain["fidelity"] = level
        seed = int(changes.get("seed", self.plan.seed))
        return Task(self.plan.name(plain, seed), plain, seed)

    def run(self, tasks: Sequence[Task], executor: Any) -> list[Outcome]:
        """Return the outcomes of tasks, in their order."""
        missing = {task.id: task for task in tasks if task.id not in self.known}
        for outcome in executor.run(list(missing.values())):
            self.store.add([(missing[outcome.id], outcome)])
            self.known[outcome.id] = outcome
            self.plan.check_metrics(outcome)
        return [self.known[task.id] for task in tasks]

    def costs(self, outcome: Outcome) -> list[float]:
        """Return finite costs: `FAR` for what cannot run."""
        if outcome.status != OK:
            return [FAR] * len(self.objectives)
        found = [objective.cost(outcome.metrics) for objective in self.objectives]
        return [value if np.isfinite(value) else FAR for value in found]

    @contextmanager
    def executor(self, level: Any) -> Iterator[Any]:
        """Give the workers of a level."""
        made = executor_of(self.plan, self.workers, self.scheduler, level)(BATCH)
        try:
            yield made
        finally:
            made.close()

    def climb(self, tasks: list[Task], confirm: int) -> Search:
        """Run the best points at the next levels; return everything."""
        self.order[self.levels[0]] = tasks
        for low, high in zip(self.levels, self.levels[1:], strict=False):
            chosen = self._promising(self.order[low], confirm, front_only=high == "cycle")
            self.order[high] = [self.task(task.changes | {"seed": task.seed}, high) for task in chosen]
            with self.executor(high) as executor:
                self.run(self.order[high], executor)
        sweeps = {level: self._sweep(self.order[level]) for level in self.levels}
        named = {str(level or self._own()): sweep for level, sweep in sweeps.items()}
        return Search(sweeps[self.levels[-1]], named, self.objectives, self._disagreement())

    def _own(self) -> str:
        own = self.plan.setup.document.get(("fidelity",))
        return own if isinstance(own, str) else "event"

    def _sweep(self, tasks: list[Task]) -> Sweep:
        return Sweep.collect(self.plan.spec, tasks, self.known, [*self.plan.design.paths])

    def _promising(self, tasks: list[Task], most: int, front_only: bool) -> list[Task]:
        """Return feasible points, front after front, until there are enough."""
        distinct = {task.id: task for task in tasks}
        good = [t for t in distinct.values() if _feasible(self.known[t.id])]
        costs = np.array([self.costs(self.known[t.id]) for t in good]).reshape(
            len(good), len(self.objectives)
        )
        chosen: list[int] = []
        left = np.arange(len(good))
        while len(left) and len(chosen) < most:
            front = nondominated(costs[left])
            chosen += left[front].tolist()
            left = left[~front]
            if front_only:
                break
        return [good[i] for i in chosen[:most]]

    def _disagreement(self) -> dict[str, dict[str, float]]:
        out = {}
        for low, high in zip(self.levels, self.levels[1:], strict=False):
            above = [task for task in self.order[high] if self.known[task.id].status == OK]
            below = [self.task({**task.changes, "seed": task.seed}, low) for task in above]
            pairs = [(self.costs(self.known[a.id]), self.costs(self.known[b.id]))
                     for a, b in zip(below, above, strict=True)]  # fmt: skip
            out[f"{low} -> {high}"] = {
                objective.text: discordance([a[i] for a, _ in pairs], [b[i] for _, b in pairs])
                for i, objective in enumerate(self.objectives)
            }
        return out


def discordance(first: Sequence[float], second: Sequence[float]) -> float:
    """Return the share of pairs that two lists order differently; NaN without pairs.  0: same order."""
    a, b = (np.sign(np.subtract.outer(x, x)) for x in (np.asarray(first, float), np.asarray(second, float)))
    above = np.triu_indices(len(first), 1)
    strict = (a[above] != 0) & (b[above] != 0)
    return float((a[above] != b[above])[strict].mean()) if strict.any() else float("nan")


def _feasible(outcome: Outcome) -> bool:
    return outcome.status == OK and (outcome.violation is None or outcome.violation <= 0)


def _propose(
    plan: SweepPlan, runner: _Runner, sampler: str, trials: int, seed: int, known: list[dict[str, Any]]
) -> list[Task]:
    """Let Optuna propose points, run them, tell it; return the tasks in order."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        study = optuna.create_study(
            storage=_storage(runner.store.folder), study_name="search", load_if_exists=True,
            directions=["minimize"] * len(runner.objectives), sampler=_sampler(sampler, seed),
        )  # fmt: skip
        dimensions = dimensions_of(plan)
        with runner.executor(runner.levels[0]) as executor:
            if not study.get_trials(deepcopy=False):
                _teach(study, dimensions, runner, known)
            return _ask(study, plan, dimensions, runner, executor, trials)


def _storage(folder: Path | None) -> Any:
    """Return Optuna's own storage: a journal beside the store, or memory."""
    if folder is None:
        return None
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    return JournalStorage(JournalFileBackend(str(folder / "optuna.journal")))


def _sampler(name: str, seed: int) -> Any:
    import optuna

    def violations(trial: Any) -> list[float]:
        return [float(trial.user_attrs.get("violation", 0.0))]

    if name == "random":
        return optuna.samplers.RandomSampler(seed=seed)
    if name == "tpe":
        # each parameter by itself: on spaces of mixed kinds, beside a joint density it gains the most
        return optuna.samplers.TPESampler(seed=seed, n_startup_trials=2 * BATCH, constraints_func=violations)
    kind = optuna.samplers.NSGAIISampler if name == "nsga2" else optuna.samplers.NSGAIIISampler
    return kind(seed=seed, population_size=24, constraints_func=violations)


def _ask(
    study: Any, plan: SweepPlan, dimensions: list[Dimension], runner: _Runner, executor: Any, trials: int
) -> list[Task]:
    import optuna

    done: list[Task] = []
    for trial in study.get_trials(deepcopy=False):  # of a search that was begun before
        if trial.state == optuna.trial.TrialState.RUNNING:
            study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
        elif "changes" in trial.user_attrs:
            done.append(runner.task(trial.user_attrs["changes"], runner.levels[0]))
    runner.run(done, executor)
    while len(done) < trials:
        asked = [study.ask() for _ in range(min(BATCH, trials - len(done)))]
        tasks = []
        for trial in asked:
            changes = suggest(dimensions, plan.design, trial)
            trial.set_user_attr("changes", changes)
            tasks.append(runner.task(changes, runner.levels[0]))
        for trial, outcome, task in zip(asked, _outcomes(plan, runner, tasks, executor), tasks, strict=True):
            trial.set_user_attr("violation", _miss(outcome))
            study.tell(trial, runner.costs(outcome))
            done.append(task)
        if runner.progress is not None:
            runner.progress(len(done), trials)
    return done


def _outcomes(plan: SweepPlan, runner: _Runner, tasks: list[Task], executor: Any) -> list[Outcome]:
    """Run the points that the input constraints allow; the others are excluded."""
    from codesign.explore.evaluate import EXCLUDED

    for task in tasks:
        if task.id not in runner.known and not plan.design.allows(task.changes):
            outcome = Outcome(task.id, EXCLUDED, error="an input constraint")
            runner.store.add([(task, outcome)])
            runner.known[task.id] = outcome
    return runner.run(tasks, executor)


def _miss(outcome: Outcome) -> float:
    if outcome.status != OK:
        return FAR
    return float(outcome.violation or 0.0)


def _teach(study: Any, dimensions: list[Dimension], runner: _Runner, known: list[dict[str, Any]]) -> None:
    """Tell Optuna of points that were run before and lie in the space."""
    import optuna

    distributions = {d.name: d.distribution() for d in dimensions}
    for point in known:
        params = {d.name: d.encode(point["changes"]) for d in dimensions}
        if None in params.values():
            continue
        outcome: Outcome = point["outcome"]
        study.add_trial(
            optuna.trial.create_trial(
                params=params, distributions=distributions, values=runner.costs(outcome),
                user_attrs={"violation": _miss(outcome)},
            )
        )  # fmt: skip


def _points_of(folder: Path) -> list[dict[str, Any]]:
    """Return the changes and outcomes of a sweep's or search's store."""
    import json

    if not exists(folder):
        raise ConfigError(f"{folder}: holds no sweep; warm start from a folder that a sweep or search wrote")
    with Store(folder, write=False) as store:
        rows = store.database.execute("SELECT id, changes FROM outcomes ORDER BY id").fetchall()
        outcomes = store.outcomes()
    return [{"changes": json.loads(changes), "outcome": outcomes[key]} for key, changes in rows]
