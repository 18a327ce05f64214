"""The runs that figures need: each once, on the machine's cores."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from codesign.base.errors import CapacityError, ConfigError
from codesign.base.hashing import content_hash
from codesign.study.measures import FITS, measure
from codesign.study.operators import OPERATOR, evaluate
from codesign.study.spec import Changes, Figure, Study

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Run:
    """One experiment: a base and what is laid over it, in order."""

    base: Mapping[str, Any]
    changes: tuple[Changes, ...]
    seed: int

    @property
    def key(self) -> str:
        """Name of the run; equal for equal experiments."""
        return content_hash([dict(self.base), _merge(self.changes), self.seed])


def _merge(changes: Iterable[Changes]) -> Changes:
    return {path: value for part in changes for path, value in part.items()}


def run_of(study: Study, figure: Figure, case: str, point: Changes, seed: int) -> Run:
    """Return the run of a case at a point of a figure: base, point, case, figure."""
    return Run(study.spec.base, (point, study.spec.cases[case], figure.spec.set), seed)


def needed(study: Study, figures: Iterable[Figure], full: bool) -> dict[str, tuple[Run, set[str]]]:
    """Return by key the runs of some figures, and the paths that are read of each."""
    found: dict[str, tuple[Run, set[str]]] = {}
    for figure in figures:
        for point in study.points(figure.spec, full):
            for seed in range(1, figure.spec.seeds + 1):
                for case, path in figure.reads:
                    run = run_of(study, figure, case, point, seed)
                    found.setdefault(run.key, (run, set()))[1].add(path)
    return found


def execute(job: tuple[str, Run, set[str]]) -> tuple[str, dict[str, float]]:
    """Run one experiment and return what is read of it; one that does not fit has only ``fits`` = 0."""
    key, run, paths = job
    try:
        result = _result(run)
    except CapacityError:
        if paths != {FITS}:
            raise
        return key, {FITS: 0.0}
    return key, {path: measure(result, path) for path in sorted(paths)}


def _result(run: Run) -> Mapping[str, Any]:
    changes = _merge(run.changes)
    if OPERATOR in run.base or OPERATOR in changes:
        return evaluate(run.base, changes)
    from codesign.api import simulate

    return simulate({**run.base, "seed": run.seed}, changes).to_dict()


def run_all(
    wanted: Mapping[str, tuple[Run, set[str]]], workers: int | None = None, progress: Progress | None = None
) -> dict[str, dict[str, float]]:
    """Run everything, in worker processes if that pays; return what is read of each run.

    Law: the number of workers changes nothing.
    """
    jobs = [(key, run, paths) for key, (run, paths) in wanted.items()]
    workers = min(workers or os.cpu_count() or 1, len(jobs))
    found: dict[str, dict[str, float]] = {}
    for key, values in _map(jobs, workers):
        found[key] = values
        if progress is not None:
            progress(len(found), len(jobs))
    return found


def _map(jobs: list[tuple[str, Run, set[str]]], workers: int) -> Iterable[tuple[str, dict[str, float]]]:
    if workers <= 1 or len(jobs) < 4:
        yield from map(execute, jobs)
        return
    from concurrent.futures import ProcessPoolExecutor, as_completed
    from multiprocessing import get_context

    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        futures = [pool.submit(execute, job) for job in jobs]
        try:
            for future in as_completed(futures):
                yield future.result()
        except ConfigError:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
