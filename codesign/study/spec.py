"""What a study file may hold.

    base: {...}                         an experiment; every case and grid point is laid over it
                                        (with `operator`: one operator, see `codesign.study.operators`)
    cases: {gpu: {}, duplex: {policies.units: min_time}}
    grids:
      mixtral:
        set: {model: mixtral-8x7b}
        axes: [{workload.requests.concurrency: [32, 64, 128]}]
        reduced: [0, 2]                 points that are run unless the full grid is asked for
    figures:
      - {name: fastest, value: max(duplex.output_tokens_per_s / gpu.output_tokens_per_s), over: [mixtral],
         theirs: 2.67, tolerance: 0.15, kind: predicted, source: Figure 11}

In a formula, ``case.path`` is a vector of a case's results over the points of the figure's grids (a number if
it has none); a path is one of `codesign.study.measures`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any, Literal

from pydantic import Field

from codesign.base.document import Document, Strict, validate
from codesign.base.errors import unknown_name
from codesign.explore.expression import Expression, parse

Changes = dict[str, Any]
Axis = dict[str, list[Any]] | list[Changes]


class GridSpec(Strict):
    """Points: the product of the axes, each laid over `set`; a list of settings is one axis."""

    set: Changes = Field(default_factory=dict)
    axes: list[Axis] = Field(default_factory=list)
    reduced: list[int] | None = None  # indices of the points run by default; None: all

    def points(self, full: bool) -> list[Changes]:
        """Return what each point changes."""
        found = [_join([self.set, *choice]) for choice in product(*map(_choices, self.axes))]
        return found if full or self.reduced is None else [found[i] for i in self.reduced]


def _choices(axis: Axis) -> list[Changes]:
    """Return an axis' settings; several paths of one mapping move together."""
    if isinstance(axis, list):
        return axis
    return [dict(zip(axis, values, strict=True)) for values in zip(*axis.values(), strict=True)]


def _join(parts: list[Changes]) -> Changes:
    return {path: value for part in parts for path, value in part.items()}


class FigureSpec(Strict):
    """One published number, and the formula of ours."""

    name: str
    value: str
    theirs: float
    tolerance: float = Field(ge=0)  # relative to theirs, unless `absolute`
    absolute: bool = False
    source: str
    kind: Literal["predicted", "fitted", "identity"] = "predicted"
    over: list[str] = Field(default_factory=list)  # grids; none: the base alone
    set: Changes = Field(default_factory=dict)  # laid over every case, last
    seeds: int = Field(default=1, ge=1, le=100)
    full_only: bool = False  # means nothing on a reduced grid


class ConstantSpec(Strict):
    """A number that formulas use; `fitted` to published figures or not."""

    value: float
    source: str
    fitted: bool = False


class FittedSpec(Strict):
    """A constant inside the experiments that was fitted, and to what."""

    name: str
    value: str | float
    source: str


class StudySpec(Strict):
    """One study file."""

    name: str
    title: str
    paper: str
    reference: Literal["silicon", "simulator", "silicon and simulator", "arithmetic"]
    notes: str = ""
    base: dict[str, Any] = Field(default_factory=dict)
    cases: dict[str, Changes] = Field(default_factory=dict)
    grids: dict[str, GridSpec] = Field(default_factory=dict)
    constants: dict[str, ConstantSpec] = Field(default_factory=dict)
    fitted_constants: list[FittedSpec] = Field(default_factory=list)
    figures: list[FigureSpec] = Field(min_length=1)


@dataclass(frozen=True)
class Figure:
    """A figure with its checked formula; `reads` are the (case, path) that it needs."""

    spec: FigureSpec
    formula: Expression
    reads: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Study:
    """A checked study.  Laws: every case, grid and constant that a figure names is there."""

    spec: StudySpec
    figures: tuple[Figure, ...]

    def points(self, figure: FigureSpec, full: bool) -> list[Changes]:
        """Return the points of a figure, over its grids in order."""
        if not figure.over:
            return [{}]
        return [point for grid in figure.over for point in self.spec.grids[grid].points(full)]


def read_study(document: Document) -> Study:
    """Check a study file whole.

    Raises
    ------
    ConfigError   keys, cases, grids, names or formulas that are wrong, with the place
    """
    spec = validate(StudySpec, document)
    figures = tuple(_figure(document, i, spec) for i in range(len(spec.figures)))
    return Study(spec, figures)


def _figure(document: Document, index: int, spec: StudySpec) -> Figure:
    figure, place = spec.figures[index], document.where(("figures", index))
    for grid in figure.over:
        if grid not in spec.grids:
            raise unknown_name("grid", grid, spec.grids, place)
    formula = parse(figure.value, place)
    reads = tuple(_reads(formula.names, spec.cases, spec.constants, place))
    return Figure(figure, formula, reads)


def _reads(
    names: tuple[str, ...], cases: Mapping[str, Any], constants: Mapping[str, Any], place: str
) -> Iterator[tuple[str, str]]:
    for name in names:
        case, _, path = name.partition(".")
        if name in constants:
            continue
        if case not in cases or not path:
            raise unknown_name("case or constant", case, [*cases, *constants], f"{place}: {name}")
        yield case, path
