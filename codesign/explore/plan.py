"""A sweep before it runs: its file read, its experiment checked, its points named."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from codesign import __version__
from codesign.base.document import Document, KeyPath, read_yaml
from codesign.base.errors import CapacityError, ConfigError, choices_near
from codesign.base.hashing import canonical_json, content_hash
from codesign.explore.design import Design, build_design, describe
from codesign.explore.evaluate import (
    BEFORE,
    DEFAULT,
    OK,
    OPEN,
    REFUSED,
    Outcome,
    Setup,
    Task,
    build,
    flattened,
    value_at,
)
from codesign.explore.expression import Expression, MissingError, parse
from codesign.explore.known import Known
from codesign.explore.objective import read_objective
from codesign.explore.spec import SweepSpec, read_sweep

PROBES = 8  # points that are built before anything runs


@dataclass
class SweepPlan:
    """A checked sweep: its points in order, each with its name."""

    spec: SweepSpec
    document: Document
    setup: Setup
    design: Design
    seed: int
    base: str  # hash of what all points share

    def tasks(self) -> Iterator[Task]:
        """Give every point and replicate; replicate r has the seed of the experiment plus r.

        Law: all points of a replicate share its seed (common random numbers).
        """
        for changes in self.design.walk():
            for replicate in range(self.spec.replicates):
                seed = int(changes.get("seed", self.seed)) + replicate
                plain = {path: value for path, value in changes.items() if path != "seed"}
                yield Task(self.name(plain, seed), plain, seed)

    def name(self, changes: dict[str, Any], seed: int) -> str:
        """Return the id of a point: a hash of the experiment, what is changed, and the seed."""
        content = {path: _content(path, value) for path, value in changes.items()}
        return content_hash([self.base, content, seed])[:32]

    def check_metrics(self, outcome: Outcome) -> bool:
        """Refuse names that no point can have, by one that ran; return whether it told.

        Raises
        ------
        ConfigError   an objective or output constraint names a metric that there is not
        """
        if outcome.status not in (OK, REFUSED) or not outcome.metrics or self.setup.evaluator != DEFAULT:
            return False
        if "fidelity" in self.design.paths:
            return True  # each level has metrics of its own
        constraints, objectives = self.spec.constraints.outputs, self.spec.objectives
        formulas: list[tuple[KeyPath, Expression]]
        formulas = [(("constraints", "outputs"), parse(text)) for text in constraints]
        formulas += [(("objectives",), read_objective(text).formula) for text in objectives]
        for place, formula in formulas:
            for name in formula.names:
                if name not in outcome.metrics and name.partition(".")[0] not in OPEN:
                    rule = f"unknown metric {name!r}; choose from {choices_near(name, outcome.metrics)}"
                    raise self.document.error(place, rule, formula.text)
        return True

    @property
    def size(self) -> int:
        """Points times replicates, before conditions and constraints."""
        return self.design.size * self.spec.replicates


def plan_sweep(
    source: str | Path | Document | Mapping[str, Any],
    overrides: Mapping[str, Any] | None = None,
    *,
    evaluator: str = DEFAULT,
    check: bool = True,
    base_dir: Path | None = None,
) -> SweepPlan:
    """Read and check a sweep; nothing runs.

    Parameters
    ----------
    overrides : mapping    laid over the sweep's `set`
    base_dir : Path        where the sweep's relative paths begin; None: at its file
    check : bool           build some points first, so that a misspelt path is refused at once

    Raises
    ------
    ConfigError   file:line, key, value, rule, nearest name
    """
    from codesign.experiment.override import override

    spec, document, folder = read_sweep(source)
    folder = base_dir or folder
    experiment, place = _experiment(spec, document, folder)
    experiment = override(experiment, {**spec.set, **(overrides or {})})
    _check_formulas(spec, document)
    late = tuple(t for t in spec.constraints.inputs if set(BEFORE) & set(parse(t).names))
    setup = Setup(experiment, place, late, tuple(spec.constraints.outputs), evaluator)
    design = build_design(spec, document, Known(setup), set(BEFORE))
    seed = experiment.get(("seed",))
    plan = SweepPlan(spec, document, setup, design, seed if isinstance(seed, int) else 1, _base(setup))
    if check and evaluator == DEFAULT:
        _check_limits(plan)
        check_points(plan)
    return plan


def _experiment(spec: SweepSpec, document: Document, folder: Path) -> tuple[Document, Path]:
    given = spec.experiment
    if isinstance(given, Mapping):
        return document.child("experiment"), folder
    if not isinstance(given, str):
        raise document.error(("experiment",), "is the path of an experiment file, or its fields", given)
    place = folder / given if (folder / given).exists() else Path(given)
    if not place.exists():
        raise document.error(
            ("experiment",), "no such file (from the sweep file's folder, or from here)", given
        )
    return read_yaml(place, "YAML experiment file"), place.parent


def _check_formulas(spec: SweepSpec, document: Document) -> None:
    for kind in ("inputs", "outputs"):
        for text in getattr(spec.constraints, kind):
            parse(text, document.where(("constraints", kind)))


def _check_limits(plan: SweepPlan) -> None:
    """Refuse an input constraint on a field that no point has: it would leave out every point."""
    late = {name for text in plan.setup.limits for name in parse(text).names}
    for text in plan.spec.constraints.inputs:
        for name in parse(text).names:
            if name not in BEFORE and not plan.design.knows(name) and not (name in late and _has(plan, name)):
                known = [*BEFORE, *plan.design.paths, *flattened(plan.setup.document.data)]
                rule = (
                    f"no point has {name!r}; it is a field of the experiment, or {choices_near(name, known)}"
                )
                raise plan.document.error(("constraints", "inputs"), rule, text)


def _has(plan: SweepPlan, name: str) -> bool:
    """Tell whether the first point, built, has a value at a dotted path."""
    try:
        value_at(build(plan.setup, plan.design.point(0)), name)
    except (MissingError, ConfigError):
        return False
    return True


def _base(setup: Setup) -> str:
    """Hash what all points share: the experiment, resolved as far as it is complete, and the version."""
    data: Any = setup.document.data
    try:
        data = build(setup, {}).resolved
    except ConfigError:  # complete only with an axis
        data = {key: _content(key, value) for key, value in data.items()}
    rest = {key: value for key, value in data.items() if key not in ("seed", "name")}
    shared = [setup.limits, setup.wanted, setup.evaluator, dict(setup.options)]
    return content_hash([__version__, rest, shared])


def _content(path: str, value: Any) -> Any:
    """Return what a named model or system stands for, so that an edited file gives another name."""
    if path in ("model", "system", "system.device") and isinstance(value, str):
        return _expanded(path, value)
    return value


@lru_cache(maxsize=256)
def _expanded(path: str, value: str) -> str:
    import hwmodels
    import workloads.models

    try:
        if path == "model":
            return content_hash(workloads.models.resolve(value).data)
        return content_hash(hwmodels.resolve(value, "system" if path == "system" else "device").data)
    except ConfigError:
        return value


def check_points(plan: SweepPlan) -> None:
    """Build some points; refuse the sweep if a path works in none of them.

    Raises
    ------
    ConfigError   the axis, and what is wrong with it
    """
    faults, sound = _probe(plan)
    if sound or not faults:
        for path in plan.design.paths:
            if faults and all(path not in changes for changes in sound):
                _blame(plan, path, [c for c, _ in faults if path in c])
        return
    for path in plan.design.paths:
        _blame(plan, path, [c for c, _ in faults if path in c])
    changes, error = faults[0]
    raise ConfigError(
        f"{plan.document.origin}: none of the points tried can run; {describe(changes)}: {error}"
    )


def _probe(plan: SweepPlan) -> tuple[list[tuple[dict[str, Any], ConfigError]], list[dict[str, Any]]]:
    size, faults, sound = plan.design.size, [], []
    numbers = dict.fromkeys(i * (size - 1) // max(1, PROBES - 1) for i in range(PROBES))
    seen: set[str] = set()
    for number in numbers:
        changes = plan.design.point(number)
        if (key := canonical_json(changes)) in seen:
            continue
        seen.add(key)
        error = _fault(plan, changes)
        if error is None:
            sound.append(changes)
        else:
            faults.append((changes, error))
    return faults, sound


def _fault(plan: SweepPlan, changes: dict[str, Any]) -> ConfigError | None:
    """Return what is wrong with a point, too little memory apart."""
    from codesign.api import check

    try:
        check(build(plan.setup, changes))
    except CapacityError:
        return None
    except ConfigError as error:
        return error
    return None


def _blame(plan: SweepPlan, path: str, tried: list[dict[str, Any]]) -> None:
    """Raise if a path alone, at every value tried, makes the experiment impossible."""
    error: ConfigError | None = None
    if _fault(plan, {}) is not None:
        return  # the experiment itself is wrong
    for changes in tried:
        error = _fault(plan, {path: changes[path]})
        if error is None:
            return
    if error is not None:
        raise ConfigError(f"{_place(plan, path)}: {path}: {error}")


def _place(plan: SweepPlan, path: str) -> str:
    for key in ("axes", "derived"):
        if (key, path) in plan.document.lines:
            return plan.document.where((key, path))
    return plan.document.where(("sample", "over", path))
