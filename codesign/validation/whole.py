"""End-to-end validations as the command line shows them: what was fitted, what is predicted, errors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from codesign.validation import energy, plots, serving

UNITS = {"ttft": "s", "tpot": "s", "throughput": "token/s"}


@dataclass(frozen=True)
class Whole:
    """One end-to-end validation.

    Attributes
    ----------
    split : str         which rows were fitted and which are predicted
    counts : dict       rows fitted, predicted, left out by reason
    constants : list    fitted constants: name, value (where it is one of a profile), source
    rows : list         errors: name, metric, error (median, absolute), goal, n, mean, p90, bias
    places : list       plots that were written
    """

    split: str
    counts: dict[str, Any]
    constants: list[dict[str, str]]
    rows: list[dict[str, Any]]
    places: list[str]

    def as_dict(self) -> dict[str, Any]:
        """Return a plain mapping for JSON."""
        return {"split": self.split, "counts": self.counts, "fitted_constants": self.constants,
                "rows": self.rows, "plots": self.places}  # fmt: skip


def validate_serving(data: Path, limit: int | None, output: Path | None) -> Whole:
    """Predict unseen serving points (raises ConfigError: no such table)."""
    points = serving.predict(data, limit)
    split = (
        f"Serving on H100: engines' profiles were fitted to {' and '.join(serving.FITTED_MODELS)}, to half of"
        " their configurations, which a hash names; the errors are of the other half, and of models that"
        " nothing was fitted to."
    )
    places = []
    for metric in serving.METRICS if output else ():
        clouds = [
            plots.Cloud(name, [p.measured[metric] for p in members], [p.simulated[metric] for p in members])
            for name, members in _grouped(points, lambda p: serving.group_of(p.row)).items()
        ]
        places.append(str(plots.draw_whole(f"serving {metric}", UNITS[metric], clouds, output or Path())))
    constants = serving.fitted_constants()
    return Whole(split, serving.counts(data), constants, serving.report(points), places)


def validate_energy(data: Path, limit: int | None, output: Path | None) -> Whole:
    """Predict energy per token and average power (raises ConfigError: no such table)."""
    points = energy.predict(data, limit)
    split = (
        "Energy on H100: two constants of the device were fitted to average powers of this table; energy per"
        " token is predicted through the whole simulator, and again with both refitted on the other family"
        " of models."
    )
    places = []
    if output:
        clouds = [
            plots.Cloud(name, [p.measured_joules for p in members], [p.joules for p in members])
            for name, members in _grouped(points, lambda p: energy.MODELS[p.row["model_id"]]).items()
        ]
        places.append(str(plots.draw_whole("energy per token", "J", clouds, output)))
    constants = [dict(constant) for constant in energy.FITTED_CONSTANTS]
    return Whole(split, energy.counts(data), constants, energy.report(points), places)


WHOLE: dict[str, Callable[[Path, int | None, Path | None], Whole]] = {
    "serving": validate_serving,
    "energy": validate_energy,
}


def _grouped(points: list[Any], key: Callable[[Any], str]) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {}
    for point in points:
        found.setdefault(key(point), []).append(point)
    return dict(sorted(found.items()))
