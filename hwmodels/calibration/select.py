"""Choose which constants an implementation has of its own: as few as the rows ask for."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from .fit import SCALE, FloatArray, Target, fit

_TRIED = 4  # candidates refitted in each step: those with the largest expected gain
_ROUNDS, _PROBE = 8, 0.02

Values = dict[str, float]


def robust_cost(target: Target, constants: Mapping[str, float]) -> float:
    """Return what a fit makes small: errors beyond `SCALE` count less and less."""
    return float(np.sum(2.0 * (np.sqrt(1.0 + (target.errors(constants) / SCALE) ** 2) - 1.0)))


@dataclass(frozen=True)
class Selection:
    """The search for the few constants that leave what a section inherits.

    A constant joins if it takes away the share `gain` of the error that is left, and leaves again if
    without it the error is not larger by that share.  What one of an architecture alone takes away
    must be more than it adds to the errors on devices that are left out of the fit.
    """

    target: Target
    inherited: Mapping[str, float]  # all constants; ``name@architecture`` stands before ``name``
    free: Mapping[str, tuple[float, float]]  # candidates with their bounds, of either form
    hold: float
    gain: float
    kept: tuple[str, ...] = ()  # never given back
    known: Mapping[str, float] = field(default_factory=dict)  # not fitted: what architectures are known to do

    def constants(self, own: Mapping[str, float]) -> Values:
        """Return all constants: own ones stand before everything inherited of that name."""
        kept = {name: value for name, value in self.inherited.items() if name.partition("@")[0] not in own}
        return {**kept, **self.known, **own}

    def run(self) -> Values:
        """Return the own constants: all that are shared at first, then fewer; then of architectures."""
        shared = [name for name in self.free if "@" not in name]
        own, cost = self._refitted({name: self._start(name, {}) for name in shared}, 25)
        own, cost = self._fewer(own, cost)
        refused: set[str] = set()
        while True:
            tries = [(*self._refitted({**own, name: self._start(name, own)}, _ROUNDS)[::-1], name)
                     for name in self._promising(own, refused)]  # fmt: skip
            if not tries or min(tries, key=lambda each: each[0])[0] > cost * (1.0 - self.gain):
                break
            least, found, name = min(tries, key=lambda each: each[0])
            if "@" in name and least + self.left_out_cost(found) > cost + self.left_out_cost(own):
                refused.add(name)
            else:
                cost, own = least, found
        return self._fewer(*self._refitted(own, 25))[0]

    def left_out_cost(self, own: Mapping[str, float]) -> float:
        """Return the summed error on each architecture's rows with constants fitted to all the others'."""
        total = 0.0
        for line in sorted({each.architecture for each in self.target.rows}):
            seen = [each for each in self.target.rows if each.architecture != line]
            shared = {name: value for name, value in own.items() if not name.endswith(f"@{line}")}
            if seen:
                learned = replace(self, target=replace(self.target, rows=seen))._refitted(shared, _ROUNDS)[0]
                unseen = [each for each in self.target.rows if each.architecture == line]
                total += robust_cost(replace(self.target, rows=unseen), self.constants(learned))
        return total

    def _fewer(self, own: Values, cost: float) -> tuple[Values, float]:
        """Give back constants, the least missed first, as long as the error grows little by each."""
        while own.keys() - self.kept:
            growth = self._growth(own, cost)
            order = sorted(growth, key=lambda name: growth[name])
            light = np.cumsum([growth[name] for name in order]) < 0.5 * self.gain
            groups = [order[: int(light.sum())]] if light.sum() > 1 else []
            for group in [*groups, *([name] for name in order[:_TRIED])]:
                rest = {name: value for name, value in own.items() if name not in group}
                found, without = self._refitted(rest, _ROUNDS)
                if without < cost * (1.0 + self.gain) ** len(group):
                    own, cost = found, without
                    break
            else:
                break
        return own, cost

    def _growth(self, own: Values, cost: float) -> Values:
        """Return by which share the error would grow without each constant, to second order."""
        errors = self.target.errors(self.constants(own))
        weight = 1.0 / np.sqrt(1.0 + (errors / SCALE) ** 2)
        slopes = np.stack([self._slope(own, name, errors) for name in own])
        inverse = np.linalg.inv((slopes * weight) @ slopes.T + self.hold**2 * np.eye(len(own)))
        moved = np.log([own[name] / self._start(name, {}) for name in own])
        grown = moved**2 / np.diag(inverse) / SCALE**2 / (cost + 1e-9)
        return {name: float(each) for name, each in zip(own, grown, strict=True) if name not in self.kept}

    def _slope(self, own: Values, name: str, errors: FloatArray) -> FloatArray:
        """Return how the errors change with the logarithm of a constant."""
        value = own.get(name) or self._start(name, own)
        step = _PROBE if value * (1.0 + _PROBE) <= self.free[name][1] else -_PROBE
        moved = self.target.errors(self.constants({**own, name: value * (1.0 + step)}))
        return np.asarray((moved - errors) / np.log1p(step))

    def _start(self, name: str, own: Mapping[str, float]) -> float:
        shared = name.partition("@")[0]
        if name in self.inherited and shared not in own:
            return self.inherited[name]
        return own.get(shared, self.inherited[shared])

    def _refitted(self, own: Values, rounds: int) -> tuple[Values, float]:
        found = self.constants(own)
        if own:
            found = fit(self.target, found, {name: self.free[name] for name in own}, self.hold, rounds)
        return {name: found[name] for name in own}, robust_cost(self.target, found)

    def _promising(self, own: Values, refused: Collection[str]) -> list[str]:
        """Return the candidates whose step, by the slope of the errors, takes away most."""
        errors = self.target.errors(self.constants(own))
        weight = 1.0 / np.sqrt(1.0 + (errors / SCALE) ** 2)
        expected = {}
        for name in self.free:
            if name not in own and name not in refused:
                slope = self._slope(own, name, errors)
                gain = float((slope @ (weight * errors)) ** 2 / (slope @ (weight * slope) + 1e-9))
                expected[name] = gain
        best = sorted(expected, key=lambda name: -expected[name])[:_TRIED]
        return [name for name in best if expected[name] > 0]
