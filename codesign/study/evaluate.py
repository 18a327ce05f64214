"""A study's figures from its runs: ours beside theirs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from codesign.base.errors import ConfigError
from codesign.study.runs import Progress, needed, run_all, run_of
from codesign.study.spec import Changes, Figure, FigureSpec, Study

Values = Mapping[str, Mapping[str, float]]  # run -> path -> number
_T95 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571, 7: 2.447, 8: 2.365, 9: 2.306, 10: 2.262}


@dataclass(frozen=True)
class Outcome:
    """One figure, worked out; `interval` is half of the 95 % confidence interval over seeds."""

    spec: FigureSpec
    ours: float
    interval: float | None

    @property
    def error(self) -> float:
        """Ours against theirs: relative, or the difference where the tolerance is absolute."""
        gap = self.ours - self.spec.theirs
        return gap if self.spec.absolute or not self.spec.theirs else gap / abs(self.spec.theirs)

    @property
    def passed(self) -> bool:
        """Whether the error is within the tolerance."""
        return bool(abs(self.error) <= self.spec.tolerance * (1 + 1e-12) + 1e-15)

    def to_dict(self) -> dict[str, Any]:
        """Return what ``--json`` prints."""
        s = self.spec
        out: dict[str, Any] = {
            "name": s.name, "ours": self.ours, "theirs": s.theirs, "error": self.error,
            "tolerance": s.tolerance, "absolute": s.absolute, "verdict": "pass" if self.passed else "fail",
            "source": s.source, "kind": s.kind,
        }  # fmt: skip
        return out if self.interval is None else {**out, "interval": self.interval, "seeds": s.seeds}


@dataclass(frozen=True)
class StudyOutcome:
    """All figures of one study."""

    study: Study
    outcomes: tuple[Outcome, ...]
    runs: int
    full: bool

    def to_dict(self) -> dict[str, Any]:
        """Return what ``--json`` prints of one study."""
        spec = self.study.spec
        fitted = [item.model_dump() for item in spec.fitted_constants]
        fitted += [
            {"name": name, "value": constant.value, "source": constant.source}
            for name, constant in spec.constants.items()
            if constant.fitted
        ]
        return {
            "name": spec.name, "title": spec.title, "paper": spec.paper, "reference": spec.reference,
            "grid": "full" if self.full else "reduced", "runs": self.runs,
            "figures": [outcome.to_dict() for outcome in self.outcomes], "fitted_constants": fitted,
            "notes": spec.notes,
        }  # fmt: skip


def run_study(
    study: Study, full: bool = False, workers: int | None = None, progress: Progress | None = None
) -> StudyOutcome:
    """Run what a study's figures need, and work them out.

    Parameters
    ----------
    full : bool           the full grids, and the figures that need them
    workers : int         worker processes; None: the machine's cores

    Raises
    ------
    ConfigError   an experiment of the study is wrong, or a formula cannot be worked out
    """
    figures = [figure for figure in study.figures if full or not figure.spec.full_only]
    wanted = needed(study, figures, full)
    values = run_all(wanted, workers, progress)
    outcomes = tuple(_outcome(study, figure, values, full) for figure in figures)
    return StudyOutcome(study, outcomes, len(wanted), full)


def _outcome(study: Study, figure: Figure, values: Values, full: bool) -> Outcome:
    points = study.points(figure.spec, full)
    drawn = [_value(study, figure, values, points, seed) for seed in range(1, figure.spec.seeds + 1)]
    interval = None
    if len(drawn) > 1:
        t95 = _T95.get(len(drawn), 2.228)
        interval = t95 * float(np.std(drawn, ddof=1)) / len(drawn) ** 0.5
    return Outcome(figure.spec, float(np.mean(drawn)), interval)


def _value(study: Study, figure: Figure, values: Values, points: list[Changes], seed: int) -> float:
    constants = study.spec.constants

    def lookup(name: str) -> Any:
        if name in constants:
            return constants[name].value
        case, _, path = name.partition(".")
        found = [values[run_of(study, figure, case, point, seed).key][path] for point in points]
        return np.array(found) if figure.spec.over else found[0]

    got = figure.formula(lookup)
    if np.ndim(got):
        raise ConfigError(
            f"study {study.spec.name}: {figure.spec.name}: {figure.spec.value!r} gives {len(got)} numbers;"
            " reduce them with max, min, mean or sum"
        )
    return float(got)
