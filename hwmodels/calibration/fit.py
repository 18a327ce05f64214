"""Fit the constants of one section: least squares on logarithms, robust, held near where they start."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hwmodels.costs.machine import Machine
from hwmodels.costs.tables import Batch, Table

FloatArray = npt.NDArray[np.float64]
SCALE = 0.05  # errors above 5 % count less and less
_STEP = 1e-3


@dataclass(frozen=True)
class Rows:
    """Rows of one device that share a section."""

    batch: Batch
    seconds: FloatArray
    architecture: str


@dataclass(frozen=True)
class Target:
    """What is fitted: the section, its table and its rows on one or more devices."""

    section: str
    table: Table
    rows: Sequence[Rows]

    def predicted(self, constants: Mapping[str, float]) -> list[FloatArray]:
        """Return the seconds of each group of rows under candidate constants."""
        found = []
        for each in self.rows:
            machine: Machine = each.batch.machine
            machine.sections[self.section] = layered(constants, each.architecture)
            found.append(np.asarray(self.table.run(each.batch).seconds()))
        return found

    def errors(self, constants: Mapping[str, float]) -> FloatArray:
        """Return ln(predicted / measured) of all rows; devices weigh the same, a thousand rows each."""
        count: dict[str, int] = {}
        for each in self.rows:
            count[each.architecture] = count.get(each.architecture, 0) + len(each.seconds)
        return np.concatenate([
            np.log(seconds / each.seconds) * (1000.0 / count[each.architecture]) ** 0.5
            for each, seconds in zip(self.rows, self.predicted(constants), strict=True)
        ])  # fmt: skip


def layered(constants: Mapping[str, float], architecture: str) -> dict[str, float]:
    """Return the constants of one architecture: ``name@architecture`` stands before ``name``."""
    out = {name: value for name, value in constants.items() if "@" not in name}
    own = f"@{architecture}"
    out.update({name[: -len(own)]: value for name, value in constants.items() if name.endswith(own)})
    return out


def fit(target: Target, start: Mapping[str, float], free: Mapping[str, tuple[float, float]], hold: float,
        rounds: int = 25) -> dict[str, float]:  # fmt: skip
    """Return `start` with the `free` constants fitted within their bounds.

    Parameters
    ----------
    start : mapping   all constants of the section
    free : mapping    name -> (lowest, highest); ``name@architecture`` for one architecture alone
    hold : float      how strongly a constant is held at its start: one that the rows say nothing about
                      stays there (a factor of e costs as much as `hold` of a thousand rows' errors)
    """
    from scipy.optimize import least_squares

    names = list(free)
    low, high = (np.log([free[name][side] for name in names]) for side in (0, 1))
    origin = np.clip(np.log([start[name] for name in names]), low + 1e-6, high - 1e-6)

    def constants(x: FloatArray) -> dict[str, float]:
        return {**start, **dict(zip(names, map(float, np.exp(x)), strict=True))}

    def residuals(x: FloatArray) -> FloatArray:
        return np.concatenate([target.errors(constants(x)), hold * (x - origin)])

    found = least_squares(residuals, origin, bounds=(low, high), loss="soft_l1", f_scale=SCALE,
                          diff_step=_STEP, max_nfev=rounds, x_scale="jac")  # fmt: skip
    return {name: float(f"{value:.4g}") for name, value in constants(found.x).items()}


def median_error(target: Target, constants: Mapping[str, float]) -> float:
    """Return the median absolute percentage error."""
    pairs = zip(target.predicted(constants), target.rows, strict=True)
    return float(np.median(np.concatenate([np.abs(found / each.seconds - 1.0) for found, each in pairs])))
