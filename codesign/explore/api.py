"""`sweep`: run every point of a design space that has not run yet."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from time import perf_counter
from typing import Any

from codesign.base.errors import ConfigError
from codesign.base.hashing import canonical_json
from codesign.explore.evaluate import DEFAULT, Outcome, Task
from codesign.explore.executors import Executor, Processes, Serial
from codesign.explore.plan import SweepPlan, plan_sweep
from codesign.explore.results import RESULTS, Sweep
from codesign.explore.store import Store, exists
from codesign.explore.watch import Progress, watched

COMMIT_S = 0.2  # fast points are committed together, at most so long after they came
COMMIT_MANY = 200


def sweep(
    source: str | Path | Mapping[str, Any],
    output: str | Path | None = None,
    *,
    overrides: Mapping[str, Any] | None = None,
    resume: bool = False,
    retry: bool = False,
    merge: tuple[str | Path, ...] = (),
    workers: int | None = None,
    scheduler: str | None = None,
    progress: Progress | bool | None = None,
    evaluator: str = DEFAULT,
) -> Sweep:
    """Run the points of a sweep, keep every outcome, and return them all.

    Parameters
    ----------
    source : path of a sweep file, or a mapping of the same form
    output : folder    store and ``results.parquet``; None: nothing is kept on disk
    overrides : mapping, dotted path -> value    laid over the sweep's `set`
    resume : bool      go on in a folder that holds a sweep: only what has no outcome yet runs
    retry : bool       run points again whose worker was killed or whose time was up
    merge : folders    take over what other sweeps found for the same points
    workers : int      processes; None: one for each core; 0: in this process
    scheduler : str    address of a Dask scheduler, instead of processes
    progress : f(done, to run)    called as points finish; True: a bar with rate and time left
    evaluator : str    "module:name" of what runs a point (see `codesign.explore.evaluate.Setup`)

    Raises
    ------
    ConfigError   the sweep, the folder or the scheduler is wrong; nothing has run

    Notes
    -----
    Laws: the same sweep gives the same results, to the byte, on any number of workers of either kind; an
    interrupt or a killed process loses no finished point.
    """
    folder = None if output is None else Path(output)
    known = folder is not None and exists(folder)
    if known and not resume:
        raise ConfigError(f"{folder}: holds a sweep; go on with it (--resume), or give another folder")
    plan = plan_sweep(source, overrides, evaluator=evaluator, check=not known)
    with Store(folder) as store:
        for other in merge:
            store.merge(Path(other))
        store.set_meta("sweep", canonical_json(portable(plan)))
        try:
            with watched(progress, "points") as told:
                _run(plan, store, executor_of(plan, workers, scheduler), retry, told)
        finally:
            found = Sweep.collect(plan.spec, plan.tasks(), store.outcomes(), plan.design.paths)
            if folder is not None and len(found):
                _export(found, folder, store)
    return found


def _export(found: Sweep, folder: Path, store: Store) -> None:
    """Write the table, unless the one that is there is current."""
    state = found.state
    if store.meta("exported") != state or not (folder / RESULTS).is_file():
        found.export(folder)
        store.set_meta("exported", state)


def portable(plan: SweepPlan) -> dict[str, Any]:
    """Return what a store keeps of a plan, for `codesign.explore.results.plan_of`."""
    return {
        "sweep": plan.document.data, "experiment": plan.setup.document.data, "base": plan.base,
        "evaluator": plan.setup.evaluator, "folder": str(plan.setup.base_dir.absolute()),
    }  # fmt: skip


def executor_of(
    plan: SweepPlan, workers: int | None, scheduler: str | None, level: str | None = None
) -> Callable[[int], Executor]:
    """Return what makes the executor for a number of points, all of one fidelity if `level` is given."""
    limit_s = plan.spec.time_limit

    def make(points: int) -> Executor:
        if scheduler is not None:
            from codesign.explore.dask import Dask

            return Dask(plan.setup, scheduler, limit_s)
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        wanted = cores if workers is None else workers
        if _in_arrays(plan, level):
            from codesign.explore.columns import ClosedForm

            return ClosedForm(plan.setup)
        if wanted == 0 or not points:
            return Serial(plan.setup)
        return Processes(plan.setup, max(1, min(wanted, points)), limit_s)

    return make


def _in_arrays(plan: SweepPlan, level: str | None) -> bool:
    """Tell whether every point is the closed form of what arrays can hold."""
    document = plan.setup.document
    plain = plan.setup.evaluator == DEFAULT and not plan.setup.limits and "fidelity" not in plan.design.paths
    own_costs = document.get(("cost_model",)) not in (..., None, "roofline")
    named = any(path.startswith("cost_model") for path in plan.design.paths)
    return plain and (level or document.get(("fidelity",))) == "roofline" and not own_costs and not named


def _run(
    plan: SweepPlan,
    store: Store,
    make: Callable[[int], Executor],
    retry: bool,
    progress: Progress | None,
) -> None:
    done = store.done(retry=retry)
    to_run = sum(1 for _ in _missing(plan, done))
    if not to_run:
        return
    executor = make(to_run)
    buffer, checked = _Buffer(store, to_run, progress), False
    try:
        for outcome in executor.run(buffer.note(_missing(plan, done))):
            buffer.add(outcome)
            checked = checked or plan.check_metrics(outcome)
    finally:
        with suppress(KeyboardInterrupt):
            executor.close()
        buffer.flush()


def _missing(plan: SweepPlan, done: set[str]) -> Iterator[Task]:
    """Give the tasks that have no outcome, each name once (two points may be the same experiment)."""
    given: set[str] = set()
    for task in plan.tasks():
        if task.id not in done and task.id not in given:
            given.add(task.id)
            yield task


class _Buffer:
    """Outcomes on their way into the store."""

    def __init__(self, store: Store, to_run: int, progress: Progress | None) -> None:
        self.store, self.to_run, self.progress = store, to_run, progress
        self._tasks: dict[str, Task] = {}
        self._pairs: list[tuple[Task, Outcome]] = []
        self._done, self._since_s = 0, perf_counter()

    def note(self, tasks: Iterator[Task]) -> Iterator[Task]:
        """Remember the tasks that are under way."""
        for task in tasks:
            self._tasks[task.id] = task
            yield task

    def add(self, outcome: Outcome) -> None:
        """Take one outcome; commit when some time has gone by."""
        task = self._tasks.pop(outcome.id, None)
        if task is None:
            return  # a second copy, of a worker that was given up too early
        self._pairs.append((task, outcome))
        self._done += 1
        if len(self._pairs) >= COMMIT_MANY or outcome.wall_s > COMMIT_S / 10 or self._late():
            self.flush()
        if self.progress is not None:
            self.progress(self._done, self.to_run)

    def _late(self) -> bool:
        return perf_counter() - self._since_s > COMMIT_S

    def flush(self) -> None:
        """Commit what is there."""
        pairs, self._pairs = self._pairs, []
        if pairs:
            self.store.add(pairs)
        self._since_s = perf_counter()
