"""From a sweep's axes to its points.

A point is a mapping of dotted paths to values.  Points are numbered; their values are worked out from the
number, so that a design takes no memory per point until it is walked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np

from codesign.base.document import Document, show
from codesign.base.errors import ConfigError
from codesign.base.hashing import canonical_json
from codesign.explore.expression import Expression, MissingError, parse
from codesign.explore.sampling import unit_cube
from codesign.explore.spec import MAX_POINTS, Derived, Range, Sample, SweepSpec, Values

Changes = dict[str, Any]
# the experiment's value at a dotted path after some changes; MissingError where there is none
Known = Callable[[Changes, str], Any]


@dataclass(frozen=True)
class Factor:
    """Paths that vary together, and their values: ``rows[i]`` holds one value for each path."""

    paths: tuple[str, ...]
    rows: list[tuple[Any, ...]]


@dataclass
class Design:
    """All points of a sweep.

    Attributes
    ----------
    factors : list of Factor      a point takes one row of each
    size : int                    points before conditions and constraints
    excluded : int                points that input constraints left out, counted while walking
    """

    factors: list[Factor]
    conditions: dict[str, Expression]
    derived: dict[str, tuple[Expression, str | None]]
    limits: list[Expression]
    known: Known
    excluded: int = 0
    size: int = field(init=False)

    def __post_init__(self) -> None:
        self.size = prod(len(factor.rows) for factor in self.factors)

    @property
    def paths(self) -> list[str]:
        """Every path that some point sets, in the order of the file."""
        return [path for factor in self.factors for path in factor.paths] + list(self.derived)

    def raw(self, number: int) -> Changes:
        """Return the values of point `number`, conditions apart; the last factor varies fastest."""
        chosen = []
        for factor in reversed(self.factors):
            number, i = divmod(number, len(factor.rows))
            chosen.append(zip(factor.paths, factor.rows[i], strict=True))
        return {path: value for pairs in reversed(chosen) for path, value in pairs}

    def point(self, number: int) -> Changes:
        """Return what a point changes: conditions applied, derived fields worked out."""
        return self.finish(self.raw(number))

    def finish(self, changes: Changes) -> Changes:
        """Apply conditions to the values of the axes, and work out derived fields."""
        changes = dict(changes)
        for path, condition in self.conditions.items():
            if path in changes and not self._holds(condition, changes):
                del changes[path]
        return self.derive(changes)

    def derive(self, changes: Changes) -> Changes:
        """Work out derived fields, again where they stand already."""
        changes = {path: value for path, value in changes.items() if path not in self.derived}
        for path, (formula, unit) in self.derived.items():
            value = self._derive(path, formula, changes)
            if isinstance(value, float) and value.is_integer() and not unit:
                value = int(value)
            changes[path] = f"{value!r} {unit}" if unit else value
        return changes

    def walk(self) -> Iterator[Changes]:
        """Give every point once: equal ones (after conditions) and those out of limits are left out."""
        seen: set[str] = set()
        self.excluded = 0
        for number in range(self.size):
            changes = self.point(number)
            if self.conditions:
                key = canonical_json(changes)
                if key in seen:
                    continue
                seen.add(key)
            if self.allows(changes):
                yield changes
            else:
                self.excluded += 1

    def allows(self, changes: Changes) -> bool:
        """Tell whether a point meets the input constraints that are known before it is built."""
        return all(self._holds(limit, changes) for limit in self.limits)

    def _derive(self, path: str, formula: Expression, changes: Changes) -> Any:
        try:
            return formula(lambda name: self._look(changes, name))
        except MissingError as missing:
            raise ConfigError(
                f"derived {path} = {formula.text!r}: the experiment has no field {str(missing)!r}"
            ) from None

    def knows(self, name: str) -> bool:
        """Tell whether some point has a value at a dotted path; ends at the first that has."""
        return any(self._has(name, self.point(number)) for number in range(self.size))

    def _has(self, name: str, changes: Changes) -> bool:
        try:
            self._look(changes, name)
        except MissingError:
            return False
        return True

    def _holds(self, formula: Expression, changes: Changes) -> bool:
        try:
            return bool(formula(lambda name: self._look(changes, name)))
        except MissingError:
            return False

    def _look(self, changes: Changes, name: str) -> Any:
        return changes[name] if name in changes else self.known(changes, name)


def build_design(spec: SweepSpec, document: Document, known: Known, later: set[str]) -> Design:
    """Build the design that a sweep describes.

    Parameters
    ----------
    later : set of str    names that are known only when a point is built; constraints with them wait

    Raises
    ------
    ConfigError   empty axes, axes that contradict each other, too many points
    """
    factors, conditions = [], {}
    for path, given in spec.axes.items():
        rows, when = _axis(document, path, given)
        factors.append(Factor((path,), [(value,) for value in rows]))
        if when:
            conditions[path] = parse(when, document.where(("axes", path)))
    factors += [_zipped(document, i, group) for i, group in enumerate(spec.zip)]
    size = prod(len(factor.rows) for factor in factors) * (spec.sample.points if spec.sample else 1)
    _check_size(document, size * spec.replicates)
    if spec.sample:
        factors.append(_sampled(document, spec.sample))
    derived = {path: _derived(document, path, given) for path, given in spec.derived.items()}
    _check_paths(document, spec, [p for f in factors for p in f.paths], list(derived))
    limits = [parse(text, document.where(("constraints", "inputs"))) for text in spec.constraints.inputs]
    early = [limit for limit in limits if not later & set(limit.names)]
    return Design(factors, conditions, derived, early, known)


def _axis(document: Document, path: str, given: Any) -> tuple[list[Any], str | None]:
    where = ("axes", path)
    if isinstance(given, dict) and ("low" in given or "high" in given):
        ranged = _validated(Range, document, where, given)
        try:
            return ranged.grid(), ranged.when
        except ValueError as error:
            raise document.error(where, str(error)) from None
    if isinstance(given, dict) and "values" in given:
        listed = _validated(Values, document, where, given)
        return listed.values, listed.when
    if not isinstance(given, list):
        raise document.error(where, "an axis is a list, {low, high, steps} or {values, when}", given)
    if not given:
        raise document.error(where, "has no values; give at least one, or leave the axis out")
    return given, None


def _validated(model: Any, document: Document, where: tuple[str, ...], given: Any) -> Any:
    from codesign.base.document import validate

    lines = {k[len(where) :]: v for k, v in document.lines.items() if k[: len(where)] == where}
    try:
        return validate(model, Document(given, document.origin, lines))
    except ConfigError as error:
        raise ConfigError(f"{error} (in {'.'.join(where[:1])} {where[-1]!r})") from None


def _zipped(document: Document, i: int, group: dict[str, list[Any]]) -> Factor:
    lengths = {path: len(values) for path, values in group.items()}
    if not group or not min(lengths.values()):
        raise document.error(("zip", i), "has no values; give at least one to each path")
    if len(set(lengths.values())) > 1:
        shown = ", ".join(f"{path} has {n}" for path, n in lengths.items())
        raise document.error(("zip", i), f"its paths need equally many values: {shown}")
    return Factor(tuple(group), list(zip(*group.values(), strict=True)))


def _sampled(document: Document, sample: Sample) -> Factor:
    choices: list[Any] = []
    for path, given in sample.over.items():
        where = ("sample", "over", path)
        if isinstance(given, list) and given:
            choices.append(given)
        elif isinstance(given, dict):
            choices.append(_validated(Range, document, where, given))
        else:
            raise document.error(where, "is a list of values, or {low, high}", given)
    cube = unit_cube(sample.method, sample.points, len(choices), sample.seed)
    rows = [tuple(_drawn(c, float(u)) for c, u in zip(choices, row, strict=True)) for row in cube]
    return Factor(tuple(sample.over), rows)


def _drawn(choice: Any, share: float) -> Any:
    if isinstance(choice, list):
        return choice[min(int(share * len(choice)), len(choice) - 1)]
    if choice.integer and choice.scale == "linear":  # every whole number equally likely
        low, high = (round(end) for end in choice.ends)
        value = min(int(low + np.floor(share * (high - low + 1))), high)
        return f"{value} {choice.unit}" if choice.unit else value
    return choice.at(share)


def _derived(document: Document, path: str, given: Any) -> tuple[Expression, str | None]:
    where = ("derived", path)
    told = (
        _validated(Derived, document, where, given) if isinstance(given, dict) else Derived(value=str(given))
    )
    return parse(told.value, document.where(where)), told.unit


def _check_size(document: Document, size: int) -> None:
    if size > MAX_POINTS:
        raise document.error(
            (), f"has {size:,} points; at most {MAX_POINTS:,} run: shorten the axes, zip those that belong"
            " together, or draw some with sample: {method: sobol, points: 1000, over: ...}"
        )  # fmt: skip


def _check_paths(document: Document, spec: SweepSpec, paths: list[str], derived: list[str]) -> None:
    """Refuse a path that two axes set, or that an axis sets inside what another axis replaces."""
    for i, path in enumerate([*paths, *derived]):
        if path in [*paths, *derived][:i] or path in spec.set:
            raise document.error(
                (), f"{path} is given twice (set, axes, zip, sample, derived): keep one", ...
            )
    for inner in (*paths, *derived, *spec.set):
        for outer in (*paths, *derived):
            if inner.startswith(outer + ".") and outer not in _OPENED and not _is_part(outer):
                raise document.error(
                    (), f"the axes {outer} and {inner} contradict each other: one lies inside the other"
                )  # fmt: skip
    for forms in _FORMS:
        given = [path for path in paths if path in forms]
        if len(given) > 1:
            raise document.error((), f"the axes {' and '.join(given)} contradict each other: keep one")


# names that may be an axis while fields below them vary as well: the name is resolved first
_OPENED = ("model", "system", "system.device", "workload.routing", "cost_model")
_FORMS = [
    {f"workload.requests.{form}" for form in ("trace", "dataset", "prompt_tokens")},
    {f"workload.requests.{form}" for form in ("rate", "concurrency", "batch")},
]


def _is_part(path: str) -> bool:
    return path.startswith("policies.") and path.count(".") == 1


def describe(changes: Changes) -> str:
    """Write a point's changes in one line."""
    return (
        ", ".join(f"{path}={show(value)}" for path, value in changes.items()) or "(the experiment as it is)"
    )
