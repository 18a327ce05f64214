"""`Sweep`: the outcomes of a design space as tables, and what one asks of them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import isclose
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from codesign.base.errors import ConfigError, unknown_name
from codesign.base.hashing import canonical_json, content_hash
from codesign.explore.evaluate import OK, Outcome, Task
from codesign.explore.expression import number_of
from codesign.explore.objective import Objective, read_objective
from codesign.explore.pareto import nondominated
from codesign.explore.spec import SweepSpec
from codesign.explore.store import FILE, Store

if TYPE_CHECKING:
    from codesign.explore.plan import SweepPlan

RESULTS = "results.parquet"
HEAD = ("id", "point", "replicate", "status", "feasible", "error")


@dataclass(frozen=True)
class Difference:
    """A paired difference b - a over replicates with equal seeds, and its confidence interval."""

    metric: str
    a: float
    b: float
    difference: float
    half_width: float  # of the interval; NaN with one replicate
    confidence: float
    replicates: int

    @property
    def low(self) -> float:
        """Lower end of the interval."""
        return self.difference - self.half_width

    @property
    def high(self) -> float:
        """Upper end of the interval."""
        return self.difference + self.half_width


class Sweep:
    """Outcomes of a sweep, a row for each point and replicate, in the order of the design."""

    def __init__(
        self, spec: SweepSpec, rows: list[dict[str, Any]], metrics: list[dict[str, Any]], paths: list[str]
    ):
        self.spec, self.rows, self.metrics, self.paths = spec, rows, metrics, paths

    @classmethod
    def collect(
        cls, spec: SweepSpec, tasks: Iterable[Task], outcomes: Mapping[str, Outcome], paths: list[str]
    ) -> Sweep:
        """Lay outcomes out in the order of the tasks; points without an outcome are left out."""
        rows, metrics, numbers, seen, first = [], [], dict[str, int](), set[str](), dict[int, int]()
        for task in tasks:
            if task.id in seen:
                continue
            seen.add(task.id)
            point = numbers.setdefault(canonical_json(task.changes), len(numbers))
            first.setdefault(point, task.seed)
            outcome = outcomes.get(task.id)
            if outcome is None:
                continue
            head = (
                task.id,
                point,
                task.seed - first[point],
                outcome.status,
                _feasible(outcome),
                outcome.error,
            )
            rows.append({**dict(zip(HEAD, head, strict=True)), **task.changes})
            metrics.append(outcome.metrics)
        return cls(spec, rows, metrics, list(dict.fromkeys(paths)))

    @classmethod
    def open(cls, folder: str | Path) -> Sweep:
        """Read the sweep of a folder, also while it runs.

        Raises
        ------
        ConfigError   the folder holds no sweep
        """
        with opened(folder) as store:
            plan = plan_of(store)
            outcomes = store.outcomes()
            order = json.loads(store.meta("order") or "null")
            if order is None and store.meta("search"):  # a search that was interrupted
                order = sorted(outcomes)
            tasks = plan.tasks() if order is None else store.tasks(order)
            return cls.collect(plan.spec, tasks, outcomes, plan.design.paths)

    def __len__(self) -> int:
        return len(self.rows)

    def __repr__(self) -> str:
        return f"<Sweep over {', '.join(self.paths)}: {len(self)} points, {self.counts}>"

    def _repr_html_(self) -> str:
        """Show the first rows in a notebook: point, axes, the sweep's objectives."""
        names = [n for text in self.spec.objectives for n in read_objective(text).formula.names]
        table = self.table
        wanted = ["point", "replicate", "status", *self.paths, *dict.fromkeys(names)]
        return html(repr(self), table.select([n for n in wanted if n in table.column_names]))

    @property
    def counts(self) -> dict[str, int]:
        """Rows by status."""
        return dict(Counter(str(row["status"]) for row in self.rows))

    @property
    def state(self) -> str:
        """Hash of which points there are and how they ended: it tells whether a written table is current."""
        return content_hash([[row["id"], row["status"], row["point"], row["replicate"]] for row in self.rows])

    @cached_property
    def table(self) -> Any:
        """An Arrow table: id, point, replicate, status, feasible, error, the axes, the metrics.

        Quantities of axes are in SI.
        """
        import pyarrow as pa

        names = [*HEAD, *self.paths]
        columns = {name: _column([row.get(name) for row in self.rows], name in self.paths) for name in names}
        known = list(dict.fromkeys(name for kind in {tuple(m): None for m in self.metrics} for name in kind))
        shape = tuple(known)
        cells = [tuple(m.values()) if tuple(m) == shape else tuple(map(m.get, known)) for m in self.metrics]
        for name, values in zip(known, zip(*cells, strict=True), strict=True):
            columns[name if name not in columns else f"{name} (result)"] = pa.array(values)
        return pa.table(columns)

    def export(self, folder: Path) -> Path:
        """Write ``results.parquet``, whole or not at all; return its path."""
        import pyarrow.parquet as pq

        place = folder / RESULTS
        part = folder / f".{RESULTS}.part"
        pq.write_table(self.table, part)
        part.replace(place)
        return place

    def summary(self, confidence: float = 0.95) -> Any:
        """Return an Arrow table with a row for each point: means over replicates, ``NAME +-`` half widths."""
        import pyarrow as pa

        grouped: dict[int, list[int]] = {}
        for i, row in enumerate(self.rows):
            if row["status"] == OK:
                grouped.setdefault(row["point"], []).append(i)
        columns: dict[str, list[Any]] = {
            "point": list(grouped),
            "replicates": [len(g) for g in grouped.values()],
        }
        for path in self.paths:
            columns[path] = [self.rows[g[0]].get(path) for g in grouped.values()]
        out = {name: _column(values, name in self.paths) for name, values in columns.items()}
        for name in _numeric(self.metrics):
            found = [[_number(self.metrics[i].get(name)) for i in g] for g in grouped.values()]
            spreads = [mean_and_half_width(values, confidence) for values in found]
            out[name if name not in out else f"{name} (result)"] = pa.array([mean for mean, _ in spreads])
            if self.spec.replicates > 1:
                out[f"{name} +-"] = pa.array([half for _, half in spreads])
        return pa.table(out)

    def pareto(self, *objectives: str, feasible: bool = True) -> Any:
        """Return the rows of `table` that no other row beats in all of some objectives.

        Parameters
        ----------
        objectives : str    ``max output_tokens_per_s``, ``energy_j_per_token``; none: those of the file
        feasible : bool     only rows that meet the output constraints

        Raises
        ------
        ConfigError   no objective, or an unknown metric
        """
        read = self._objectives(objectives)
        rows = self._candidates(feasible)
        costs = np.array([[o.cost(self.metrics[i]) for o in read] for i in rows]).reshape(
            len(rows), len(read)
        )
        kept = [i for i, keep in zip(rows, nondominated(costs), strict=True) if keep]
        return self.table.take(kept) if kept else self.table.slice(0, 0)

    def best(self, objective: str | None = None, *, feasible: bool = True) -> dict[str, Any]:
        """Return the best row by one objective, as a mapping.

        Raises
        ------
        ConfigError   an unknown metric, or no row that may be chosen
        """
        (read,) = self._objectives((objective,) if objective else ())[:1]
        rows = self._candidates(feasible)
        found = [(read.cost(self.metrics[i]), i) for i in rows]
        found = [pair for pair in found if not np.isnan(pair[0])]
        if not found:
            raise ConfigError(f"no point {'meets the constraints' if feasible else 'ran'}: {self.counts}")
        row: dict[str, Any] = self.table.slice(min(found)[1], 1).to_pylist()[0]
        return row

    def compare(
        self, a: int | Mapping[str, Any], b: int | Mapping[str, Any], metric: str, confidence: float = 0.95
    ) -> Difference:
        """Return the paired difference of a metric between two points, replicate by replicate.

        Parameters
        ----------
        a, b : int or mapping    number of a point (column ``point``), or the values of its axes

        Raises
        ------
        ConfigError   no such point, an unknown metric, no replicate that both have
        """
        first, second = self._values(a, metric), self._values(b, metric)
        both = sorted(first.keys() & second.keys())
        if not both:
            raise ConfigError(f"the points {a} and {b} have no finished replicate in common")
        gaps = [second[r] - first[r] for r in both]
        mean, half = mean_and_half_width(gaps, confidence)
        one, two = (float(np.mean([values[r] for r in both])) for values in (first, second))
        return Difference(metric, one, two, mean, half, confidence, len(both))

    def _objectives(self, given: Sequence[str | None]) -> list[Objective]:
        texts = [text for text in given if text] or self.spec.objectives
        if not texts:
            raise ConfigError("name an objective, as 'max output_tokens_per_s'")
        read = [read_objective(text) for text in texts]
        known = dict.fromkeys(name for found in self.metrics for name in found)
        for objective in read:
            for name in objective.formula.names:
                if known and name not in known:
                    raise unknown_name("metric", name, known)
        return read

    def _candidates(self, feasible: bool) -> list[int]:
        return [
            i for i, row in enumerate(self.rows) if row["status"] == OK and (row["feasible"] or not feasible)
        ]

    def _values(self, which: int | Mapping[str, Any], metric: str) -> dict[int, float]:
        found: dict[int, float] = {}
        for row, metrics in zip(self.rows, self.metrics, strict=True):
            if row["status"] != OK or not _is(row, which):
                continue
            if metric not in metrics:
                raise unknown_name("metric", metric, metrics)
            found[row["replicate"]] = _number(metrics[metric])
        if not found:
            raise ConfigError(f"no finished point is {which}")
        return found


def html(title: str, table: Any, most: int = 20) -> str:
    """Write a title and the first rows of an Arrow table as HTML."""
    from html import escape

    def cell(value: Any) -> str:
        return escape("" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value))

    head = "".join(f"<th>{escape(name)}</th>" for name in table.column_names)
    rows = ("".join(f"<td>{cell(v)}</td>" for v in row.values()) for row in table.slice(0, most).to_pylist())
    body = "".join(f"<tr>{row}</tr>" for row in rows)
    rest = f"<p>... {table.num_rows - most} more</p>" if table.num_rows > most else ""
    return f"<p>{escape(title)}</p><table><tr>{head}</tr>{body}</table>{rest}"


def opened(folder: str | Path) -> Store:
    """Open the store of a sweep or search for reading.

    Raises
    ------
    ConfigError   the folder holds none
    """
    place = Path(folder)
    if not (place / FILE).is_file():
        raise ConfigError(f"{place}: holds no sweep; give the folder that `codesign sweep -o DIR` wrote")
    return Store(place, write=False)


def plan_of(store: Store) -> SweepPlan:
    """Return the plan of a store's sweep or search, its points named as they were.

    Raises
    ------
    ConfigError   the store holds no sweep
    """
    from codesign.explore.plan import plan_sweep

    noted = json.loads(store.meta("sweep") or "{}")
    if "experiment" not in noted:
        raise ConfigError(f"{store.path}: holds no sweep")
    source = {**noted["sweep"], "experiment": noted["experiment"], "set": {}}
    plan = plan_sweep(
        source, evaluator=noted["evaluator"], check=False, base_dir=Path(noted.get("folder", "."))
    )
    plan.base = noted["base"]
    return plan


def _is(row: Mapping[str, Any], which: int | Mapping[str, Any]) -> bool:
    if isinstance(which, int):
        return bool(row["point"] == which)
    return all(_same(row.get(path), value) for path, value in which.items())


def _same(first: Any, second: Any) -> bool:
    """Tell whether two values are one, however their quantities are written."""
    one, other = number_of(first), number_of(second)
    if isinstance(one, float) and isinstance(other, float):
        return isclose(one, other, rel_tol=1e-12)
    return bool(one == other)


def _feasible(outcome: Outcome) -> bool:
    return outcome.status == OK and (outcome.violation is None or outcome.violation <= 0)


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else float("nan")


def _numeric(metrics: list[dict[str, Any]]) -> list[str]:
    names = dict.fromkeys(name for found in metrics for name in found)
    return [name for name in names if any(isinstance(found.get(name), int | float) for found in metrics)]


def _column(values: list[Any], axis: bool) -> Any:
    """Return a column; an axis of quantities in SI, one of mixed values as text."""
    import pyarrow as pa

    if axis:
        values = [number_of(value) for value in values]
        kinds = {type(value) for value in values if value is not None}
        if len(kinds) > 1 and kinds <= {int, float}:
            values = [None if value is None else float(value) for value in values]
        elif len(kinds) > 1 or kinds & {dict, list}:
            values = [None if v is None else v if isinstance(v, str) else canonical_json(v) for v in values]
    return pa.array(values)


def mean_and_half_width(values: Sequence[float], confidence: float) -> tuple[float, float]:
    """Return the mean and the half width of Student's interval; NaN for fewer than two values."""
    n, mean = len(values), float(np.mean(values))
    if n < 2:
        return mean, float("nan")
    from scipy.special import stdtrit

    return mean, float(stdtrit(n - 1, 0.5 + confidence / 2) * np.std(values, ddof=1) / np.sqrt(n))
