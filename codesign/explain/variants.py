"""Runs of a design point with some numbers changed, at one level of fidelity, with the same random draws."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from codesign.base.errors import ConfigError
from codesign.explain.numbers import numbers_of
from codesign.explore.evaluate import OK, Setup, Task, build, needs, value_at
from codesign.explore.expression import number_of

if TYPE_CHECKING:
    from codesign.experiment import Experiment

Changes = dict[str, Any]
Metrics = dict[str, Any]
Finish = Callable[[Changes], Changes]


@dataclass
class Variants:
    """A design point and its neighbours.

    Attributes
    ----------
    setup : Setup      experiment that the point changes
    changes : dict     what the point changes: dotted path -> value
    seed : int         of every variant: common random numbers
    level : str        roofline (the closed form), event, cycle
    finish : f         works out what follows from a change (a sweep's derived fields)
    """

    setup: Setup
    changes: Changes
    seed: int
    level: str
    workers: int | None = 0
    finish: Finish = dict
    runs: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        from codesign.experiment.override import override

        own = {path: v for path, v in self.changes.items() if path not in ("fidelity", "cost_model", "seed")}
        forced: Changes = {"seed": self.seed, "fidelity": self.level}
        if self.level == "roofline" and self.setup.document.get(("cost_model",)) not in (..., None):
            forced["cost_model"] = "roofline"
        pairs = sorted(own.items(), key=lambda pair: pair[0].count("."))
        document = override(self.setup.document, [*pairs, *forced.items()])
        self.changes = own
        self.setup = replace(self.setup, document=document, limits=(), wanted=())

    @cached_property
    def experiment(self) -> Experiment:
        """The point itself, built."""
        return build(self.setup, {})

    @cached_property
    def arrays(self) -> dict[str, str]:
        """Paths whose variants the closed form takes as arrays (`codesign.explore.roofline.leaves`)."""
        from codesign.explore.roofline import leaves

        return leaves(self.experiment) if self.level == "roofline" else {}

    def changed(self, more: Mapping[str, Any]) -> Changes:
        """Return what a variant changes of the point, with what follows from it."""
        full = self.finish({**self.changes, **more}) if more else {}
        return {path: value for path, value in full.items() if self.changes.get(path, ...) != value}

    def possible(self, more: Mapping[str, Any]) -> bool:
        """Tell whether a variant can be built."""
        from codesign.api import check

        try:
            experiment = build(self.setup, self.changed(more))
            _ = needs(experiment) if self.level == "roofline" else check(experiment)
        except ConfigError:
            return False
        return True

    def run(self, wanted: Sequence[Mapping[str, Any]]) -> list[Metrics | None]:
        """Return the metrics of variants, in their order; None for one that cannot run."""
        changes = [self.changed(more) for more in wanted]
        self.runs += len(changes)
        direct = [i for i, c in enumerate(changes) if self.arrays.keys() >= c.keys()] if self.arrays else []
        found = dict(zip(direct, self._in_arrays([changes[i] for i in direct]), strict=True))
        tasks = [Task(str(i), c, self.seed) for i, c in enumerate(changes) if i not in found]
        executor = self._executor(len(tasks))
        try:
            for outcome in executor.run(tasks):
                found[int(outcome.id)] = dict(outcome.metrics) if outcome.status == OK else None
        finally:
            executor.close()
        return [found[i] for i in range(len(changes))]

    def _in_arrays(self, changes: list[Changes]) -> list[Metrics | None]:
        """Return the closed form of variants that differ in numbers alone."""
        from codesign.explore.closed_form import plain
        from codesign.explore.roofline import evaluate_group

        if not changes:
            return []
        paths = dict.fromkeys(path for c in changes for path in c) or dict.fromkeys([next(iter(self.arrays))])
        own = {n.path: n.value for n in numbers_of(self.experiment.resolved) if n.path in paths}
        own |= {p: float(value_at(self.experiment, p)) for p in paths if p not in own}
        columns = {
            self.arrays[p]: np.array([float(number_of(c.get(p, own[p]))) for c in changes]) for p in paths
        }
        try:
            found = evaluate_group(self.experiment, columns)
        except ConfigError:
            return [None] * len(changes)
        rows = [{name: column[i] for name, column in found.items()} for i in range(len(changes))]
        return [None if row["batch"] != row["batch"] else plain(row) for row in rows]

    def _executor(self, points: int) -> Any:
        from codesign.explore.columns import ClosedForm
        from codesign.explore.executors import Processes, Serial

        if self.level == "roofline":
            return ClosedForm(self.setup)
        if self.workers == 0 or points < 4:
            return Serial(self.setup)
        return Processes(self.setup, max(1, min(self.workers or _cores(), points)))


def _cores() -> int:
    import os

    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
