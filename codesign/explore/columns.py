"""Many points of the closed form at once: a whole design as arrays, or a list of points.

`evaluate` is for 10^4 .. 10^6 points that need no store: a table in seconds.  A sweep whose experiment has
`fidelity: roofline` runs through `ClosedForm`, point by point in the store, the arithmetic in arrays.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from codesign.base.errors import CodesignError, ConfigError
from codesign.base.hashing import canonical_json
from codesign.explore.closed_form import plain
from codesign.explore.evaluate import (
    OK,
    REFUSED,
    Outcome,
    Setup,
    Task,
    build,
    metric_lookup,
)  # fmt: skip
from codesign.explore.expression import number_of, parse
from codesign.explore.plan import SweepPlan, plan_sweep
from codesign.explore.roofline import evaluate_group, leaves

if TYPE_CHECKING:
    from codesign.experiment import Experiment

F64 = NDArray[np.float64]
Changes = dict[str, Any]
BLOCK = 8192
NO_ROOM = "no request of mean length fits the KV memory beside the weights"


def evaluate(source: str | Path | Mapping[str, Any] | SweepPlan) -> Any:
    """Return the closed form of every point of a sweep as an Arrow table, in the order of the design.

    Parameters
    ----------
    source : a sweep file, a mapping of the same form, or a plan; conditions, derived fields, constraints
        and replicates need a store: use `codesign.sweep`

    Returns
    -------
    Arrow table    axes (quantities in SI), metrics (null where a point is impossible), ``error``

    Raises
    ------
    ConfigError   the sweep is wrong

    Notes
    -----
    Law: row i is ``steady_state.metrics_of`` of point i, to 1e-12.
    """
    import pyarrow as pa

    plan = source if isinstance(source, SweepPlan) else plan_sweep(source)
    design = plan.design
    if design.conditions or design.derived or design.limits or plan.spec.replicates > 1:
        raise ConfigError("arrays of points have plain axes and samples alone: use codesign.sweep")
    codes, values = _coded(plan)
    metrics, errors = _evaluate_coded(plan.setup, codes, values, design.size)
    columns: dict[str, Any] = {}
    for path, code in codes.items():
        columns[path] = pa.array([_plain(value) for value in values[path]]).take(pa.array(code))
    columns |= {name: pa.array(column, from_pandas=True) for name, column in metrics.items()}
    return pa.table({**columns, "error": pa.array(errors, pa.string())})


def _plain(value: Any) -> Any:
    found = number_of(value)
    return float(found) if isinstance(value, str) and not isinstance(found, str) else found


def _coded(plan: SweepPlan) -> tuple[dict[str, NDArray[np.int64]], dict[str, list[Any]]]:
    """Return each path's values, and which of them each point has."""
    codes, values, rest = {}, {}, np.arange(plan.design.size)
    for factor in reversed(plan.design.factors):
        rest, row = np.divmod(rest, len(factor.rows))
        for i, path in enumerate(factor.paths):
            codes[path], values[path] = row, [cells[i] for cells in factor.rows]
    return codes, values


def _evaluate_coded(
    setup: Setup, codes: dict[str, NDArray[np.int64]], values: dict[str, list[Any]], size: int
) -> tuple[dict[str, F64], list[str | None]]:
    known = _leaves(setup, {path: values[path][0] for path in codes})
    numbers = {path: _numbers(values[path]) for path in codes if path in known}
    direct = {path: column for path, column in numbers.items() if column is not None}
    fixed = [path for path in codes if path not in direct]
    key = np.zeros(size, np.int64)
    for path in fixed:
        distinct, inverse = _distinct(values[path])
        key = key * len(distinct) + inverse[codes[path]]
    out: dict[str, F64] = {}
    errors: list[str | None] = [None] * size
    group = np.unique(key, return_inverse=True)[1]
    order = np.argsort(group, kind="stable")
    for members in np.split(order, np.cumsum(np.bincount(group))[:-1]):
        i = int(members[0])
        changes = {path: values[path][codes[path][i]] for path in codes}
        arrays = {path: column[codes[path][members]] for path, column in direct.items()}
        _fill(setup, changes, arrays, members, out, errors)
    return out, errors


def _distinct(values: list[Any]) -> tuple[list[str], NDArray[np.int64]]:
    keys = [canonical_json(value) for value in values]
    distinct = list(dict.fromkeys(keys))
    index = {key: i for i, key in enumerate(distinct)}
    return distinct, np.array([index[key] for key in keys])


def _numbers(values: list[Any]) -> F64 | None:
    """Return an axis of numbers or quantities in SI; None if some value is neither."""
    numbers = [number_of(value) for value in values]
    if any(isinstance(n, bool) or not isinstance(n, int | float) or n <= 0 for n in numbers):
        return None
    return np.array(numbers, np.float64)


def _leaves(setup: Setup, changes: Changes) -> dict[str, str]:
    try:
        return leaves(build(setup, changes))
    except ConfigError:
        return {}


def _fill(
    setup: Setup, changes: Changes, arrays: dict[str, F64], members: NDArray[np.int64], out: dict[str, F64],
    errors: list[str | None],
) -> None:  # fmt: skip
    """Evaluate the points of one group into the columns."""
    try:
        experiment = build(setup, changes)
        found = _group_metrics(setup, experiment, changes, arrays, len(members))
    except ConfigError as error:
        for i in members.tolist():
            errors[i] = str(error)
        return
    for name, column in found.items():
        if name not in out:
            out[name] = np.full(len(errors), np.nan)
        out[name][members] = column
    for i in members[np.isnan(found["batch"])].tolist():
        errors[i] = NO_ROOM


def _group_metrics(
    setup: Setup, experiment: Experiment, changes: Changes, arrays: dict[str, F64], n: int
) -> dict[str, F64]:
    known = leaves(experiment)
    if all(path in known for path in arrays):
        found = evaluate_group(experiment, {known[path]: column for path, column in arrays.items()})
        return {name: np.broadcast_to(column, (n,)) for name, column in found.items()}
    columns: list[dict[str, F64]] = []  # a group whose fields are called otherwise: one by one
    for i in range(n):
        point = {
            **changes,
            **{path: _as_written(changes[path], column[i]) for path, column in arrays.items()},
        }
        columns.append(evaluate_group(build(setup, point), {}))
    return {name: np.concatenate([column[name] for column in columns]) for name in columns[0]}


def _as_written(example: Any, value: float) -> Any:
    """Return an SI value in the unit in which its axis is written."""
    if not isinstance(example, str):
        return int(value) if isinstance(example, int) else float(value)
    unit = example.partition(" ")[2].strip()
    return f"{value / number_of(f'1 {unit}')!r} {unit}"


class ClosedForm:
    """Runs tasks of a sweep through arrays, block by block, in this process."""

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        self.wanted = [parse(text) for text in setup.wanted]

    def run(self, tasks: Iterable[Task]) -> Iterator[Outcome]:
        """See `codesign.explore.executors.Executor.run`."""
        source = iter(tasks)
        while block := list(islice(source, BLOCK)):
            yield from self._block(block)

    def close(self) -> None:
        """Nothing to end."""

    def _block(self, block: list[Task]) -> Iterator[Outcome]:
        known = _leaves(self.setup, block[0].changes)
        groups: dict[str, list[Task]] = {}
        for task in block:
            fixed = {p: v for p, v in task.changes.items() if p not in known or _numbers([v]) is None}
            units = sorted(p for p in task.changes if p not in fixed)
            groups.setdefault(canonical_json([fixed, units, task.seed]), []).append(task)
        for group in groups.values():
            yield from self._group(group, known)

    def _group(self, group: list[Task], known: dict[str, str]) -> Iterator[Outcome]:
        begun, first = perf_counter(), group[0]
        direct = [p for p, v in first.changes.items() if p in known and _numbers([v]) is not None]
        try:
            experiment = build(self.setup, {**first.changes, "seed": first.seed})
            arrays = {p: np.array([float(number_of(t.changes[p])) for t in group]) for p in direct}
            found = _group_metrics(self.setup, experiment, first.changes, arrays, len(group))
        except CodesignError as error:
            text = " ".join(str(error).split())
            yield from (Outcome(task.id, REFUSED, error=text) for task in group)
            return
        wall_s = (perf_counter() - begun) / len(group)
        names, rows = list(found), np.stack(list(found.values()), axis=1).tolist()
        for task, row in zip(group, rows, strict=True):
            yield self._outcome(task, dict(zip(names, row, strict=True)), wall_s)

    def _outcome(self, task: Task, found: dict[str, float], wall_s: float) -> Outcome:
        if found["batch"] != found["batch"]:
            return Outcome(task.id, REFUSED, error=NO_ROOM, wall_s=wall_s)
        metrics = plain(found)
        look = metric_lookup(metrics)
        violation = max((formula.violation(look) for formula in self.wanted), default=None)
        return Outcome(task.id, OK, metrics, violation=violation, wall_s=wall_s)
