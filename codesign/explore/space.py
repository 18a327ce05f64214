"""The space that a search moves in: a sweep's axes, each a range or a list, as Optuna's parameters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from codesign.base.document import Document
from codesign.base.hashing import canonical_json
from codesign.explore.design import Design
from codesign.explore.expression import number_of
from codesign.explore.plan import SweepPlan
from codesign.explore.spec import Range

Changes = dict[str, Any]


@dataclass(frozen=True)
class Dimension:
    """Paths that move together: along a range (one path), or through rows of values.

    `ordered`: the rows' values are numbers that grow, so that neighbours are alike.
    """

    paths: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...] = ()
    ranged: Range | None = None
    ordered: bool = False

    @property
    def name(self) -> str:
        """Name of Optuna's parameter."""
        return "+".join(self.paths)

    def suggest(self, trial: Any) -> Changes:
        """Let Optuna choose a value."""
        if self.ranged is None:
            return dict(zip(self.paths, self.rows[self._index(trial)], strict=True))
        low, high = self.ranged.ends
        log = self.ranged.scale == "log"
        if self.ranged.integer:
            value: Any = trial.suggest_int(self.name, round(low), round(high), log=log)
        else:
            value = float(f"{trial.suggest_float(self.name, low, high, log=log):.12g}")
        return {self.paths[0]: f"{value} {self.ranged.unit}" if self.ranged.unit else value}

    def _index(self, trial: Any) -> int:
        last = len(self.rows) - 1
        if self.ordered:
            return int(trial.suggest_int(self.name, 0, last))
        return int(trial.suggest_categorical(self.name, list(range(last + 1))))

    def distribution(self) -> Any:
        """Return Optuna's distribution, as `suggest` makes it."""
        from optuna import distributions as d

        if self.ranged is None:
            last = len(self.rows) - 1
            return d.IntDistribution(0, last) if self.ordered else d.CategoricalDistribution(range(last + 1))
        low, high = self.ranged.ends
        log = self.ranged.scale == "log"
        if self.ranged.integer:
            return d.IntDistribution(round(low), round(high), log=log)
        return d.FloatDistribution(low, high, log=log)

    def encode(self, changes: Mapping[str, Any]) -> Any:
        """Return the parameter's value of a point, or None if the point lies outside."""
        if any(path not in changes for path in self.paths):
            return None
        values = [changes[path] for path in self.paths]
        if self.ranged is None:
            keys = [canonical_json(list(row)) for row in self.rows]
            key = canonical_json(values)
            return keys.index(key) if key in keys else None
        unit = number_of(f"1 {self.ranged.unit}") if self.ranged.unit else 1.0
        value, (low, high) = number_of(values[0]), self.ranged.ends
        if not isinstance(value, int | float) or not low <= value / unit * (1 + 1e-12) <= high * (1 + 2e-12):
            return None
        return round(value / unit) if self.ranged.integer else min(max(value / unit, low), high)


def dimensions_of(plan: SweepPlan) -> list[Dimension]:
    """Return the dimensions of a sweep's axes, zips and sample; ranges stay continuous."""
    spec, found = plan.spec, []
    ranges = {path: given for path, given in spec.axes.items() if _is_range(given)}
    if spec.sample:
        ranges |= {path: given for path, given in spec.sample.over.items() if _is_range(given)}
        listed = {path: given for path, given in spec.sample.over.items() if not _is_range(given)}
        found += [_listed((path,), [(value,) for value in values]) for path, values in listed.items()]
    for factor in plan.design.factors:
        if len(factor.paths) == 1 and factor.paths[0] in ranges:
            continue
        if spec.sample and set(factor.paths) == set(spec.sample.over):
            continue
        found.append(_listed(factor.paths, factor.rows))
    return found + [Dimension((path,), ranged=Range(**given)) for path, given in ranges.items()]


def _is_range(given: Any) -> bool:
    return isinstance(given, dict) and "low" in given


def _listed(paths: tuple[str, ...], rows: list[tuple[Any, ...]]) -> Dimension:
    numbers = [number_of(row[0]) for row in rows] if len(paths) == 1 else []
    numeric = bool(numbers) and all(isinstance(n, int | float) and not isinstance(n, bool) for n in numbers)
    ordered = numeric and sorted(set(numbers)) == numbers and len(numbers) > 1
    return Dimension(paths, tuple(rows), ordered=ordered)


def suggest(dimensions: list[Dimension], design: Design, trial: Any) -> Changes:
    """Return the point that a trial proposes."""
    changes: Changes = {}
    for dimension in dimensions:
        changes |= dimension.suggest(trial)
    return design.finish(changes)


def relaxed(document: Document) -> Document:
    """Return the sweep with a grid of two steps on each range that has none: a search needs no steps."""
    out = document.copy()
    axes = out.data.get("axes") if isinstance(out.data, dict) else None
    for given in axes.values() if isinstance(axes, dict) else ():
        if _is_range(given):
            given.setdefault("steps", 2)
    return out
