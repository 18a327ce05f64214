"""Elasticities of objectives to every number of a design point, and where the next bottleneck takes over.

An elasticity is ``d ln objective / d ln number``: the per cent that the objective changes for one per cent
more of the number.  It is measured: the point runs again a little above and a little below, with the same
random draws (central difference of logarithms).  Numbers that change nothing are found in groups, so that
most of a hardware file costs a few runs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf, isfinite, log, nan
from typing import Any

from codesign.explain.ledger import bottlenecks
from codesign.explain.numbers import Number
from codesign.explain.variants import Metrics, Variants
from codesign.explore.objective import Objective

STEP = 0.05
FARTHEST = 64.0
REFINED = 1.02  # ratio of the ends between which a takeover is found
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Elasticity:
    """What one number does to each objective; 0.0 where it changes nothing, NaN where it cannot be told.

    `above`, `below`: factors of the runs it was measured with (1.0: on that side none can run).
    """

    number: Number
    of: dict[str, float]
    above: float = 1.0
    below: float = 1.0

    @property
    def strength(self) -> float:
        """The largest of its elasticities, without its sign."""
        return max((abs(value) for value in self.of.values() if isfinite(value)), default=0.0)


@dataclass(frozen=True)
class Takeover:
    """Where a resource stops being the bottleneck as one number improves, all others as they are.

    Attributes
    ----------
    before, after : str    the resource that decides most of the busy time, here and from `factor` on
    factor : float         of the number; inf: none takes over up to `FARTHEST`
    at : Any               the number there, as a file writes it
    gains : dict           objective -> its value there over its value here
    """

    number: Number
    before: str
    after: str
    factor: float
    at: Any
    gains: dict[str, float]


def elasticities(
    variants: Variants, numbers: Sequence[Number], objectives: Sequence[Objective], step: float = STEP,
    progress: Progress | None = None,
) -> list[Elasticity]:  # fmt: skip
    """Return the elasticities of objectives to numbers, strongest first.

    Notes
    -----
    Law: where objectives are products of powers, exact for any step; else to the order of ``step**2``.
    """
    (base,) = variants.run([{}])
    if base is None:
        return []
    told = _Meter(variants, objectives, base)
    active = _active(told, [n for n in numbers if not n.whole], step)
    active += [n for n in numbers if n.whole]
    sides = [[_first_possible(variants, n, factors) for factors in n.factors(step)] for n in active]
    wanted = [{n.path: n.at(f)} for n, pair in zip(active, sides, strict=True) for f in pair]
    found = told.run(wanted, progress)
    out = []
    for i, (number, (above, below)) in enumerate(zip(active, sides, strict=True)):
        high, low = found[2 * i], found[2 * i + 1]
        above, below = (above if high else 1.0), (below if low else 1.0)
        of = told.slopes(high or base, low or base, log(above / below))
        out.append(Elasticity(number, of, above, below))
    inert = [Elasticity(n, {o.text: 0.0 for o in objectives}) for n in numbers if n not in active]
    return sorted(out + inert, key=lambda e: -e.strength)


class _Meter:
    """Runs variants and reads the objectives."""

    def __init__(self, variants: Variants, objectives: Sequence[Objective], base: Metrics) -> None:
        self.variants, self.objectives, self.base = variants, objectives, base

    def run(self, wanted: list[dict[str, Any]], progress: Progress | None) -> list[Metrics | None]:
        """Run variants in portions, so that progress can be told."""
        portion = 16 if progress else len(wanted) or 1
        out: list[Metrics | None] = []
        for i in range(0, len(wanted), portion):
            out += self.variants.run(wanted[i : i + portion])
            if progress:
                progress(len(out), len(wanted))
        return out

    def values(self, metrics: Metrics) -> list[float]:
        """Return the objectives' values."""
        return [objective.value(metrics) for objective in self.objectives]

    def slopes(self, high: Metrics, low: Metrics, width: float) -> dict[str, float]:
        """Return ``ln(high / low) / width`` of each objective."""
        pairs = zip(self.objectives, self.values(high), self.values(low), strict=True)
        return {o.text: _slope(a, b, width) for o, a, b in pairs}

    def inert(self, metrics: Metrics | None) -> bool:
        """Tell whether a variant is as the point itself, to the last bit."""
        return metrics is not None and self.values(metrics) == self.values(self.base)


def _slope(high: float, low: float, width: float) -> float:
    if width == 0.0 or not (high > 0 and low > 0):
        return nan
    return log(high / low) / width


def _active(told: _Meter, numbers: list[Number], step: float) -> list[Number]:
    """Return the numbers that change something: halve groups until what changes stands alone."""
    cheap = [n for n in numbers if n.path in told.variants.arrays]
    groups = _by_parent([n for n in numbers if n not in cheap])
    active = cheap  # of the closed form: in arrays
    while groups:
        found = told.run([{n.path: n.at(1.0 + step) for n in group} for group in groups], None)
        changed = [group for group, metrics in zip(groups, found, strict=True) if not told.inert(metrics)]
        active += [group[0] for group in changed if len(group) == 1]
        halves = [(group[: len(group) // 2], group[len(group) // 2 :]) for group in changed if len(group) > 1]
        groups = [half for pair in halves for half in pair]
    return sorted(active, key=numbers.index)


def _by_parent(numbers: list[Number]) -> list[list[Number]]:
    groups: dict[str, list[Number]] = {}
    for number in numbers:
        groups.setdefault(".".join(number.path.split(".")[:3]), []).append(number)
    return list(groups.values())


def _first_possible(variants: Variants, number: Number, factors: list[float]) -> float:
    """Return the first factor that suits the rest of the experiment; 1.0 if none does."""
    for factor in factors:
        if variants.possible({number.path: number.at(factor)}):
            return factor
    return 1.0


def takeover(
    variants: Variants, number: Number, objectives: Sequence[Objective], base: Metrics, better: float
) -> Takeover:
    """Return where the bottleneck changes as a number improves.

    Parameters
    ----------
    better : float    > 0: more of it is better; < 0: less
    """
    before = next(iter(bottlenecks(base)), "")
    up = better > 0

    def look(factors: list[float]) -> list[tuple[float, str, Metrics]]:
        found = variants.run([{number.path: number.at(f if up else 1.0 / f)} for f in factors])
        return [(f, next(iter(bottlenecks(m)), ""), m) for f, m in zip(factors, found, strict=True) if m]

    low, high = 1.0, None
    many = 13 if variants.level == "roofline" else 7
    for factor, which, metrics in look([FARTHEST ** (i / (many - 1)) for i in range(1, many)]):
        if which != before:
            high = (factor, which, metrics)
            break
        low = factor
    if high is None:
        return Takeover(number, before, "", inf, None, {})
    while high[0] / low > REFINED:
        middle = look([(low * high[0]) ** 0.5])
        if middle and middle[0][1] != before:
            high = middle[0]
        else:
            low = (low * high[0]) ** 0.5
    there = high[0] if up else 1.0 / high[0]
    gains = {o.text: o.value(high[2]) / o.value(base) if o.value(base) else nan for o in objectives}
    return Takeover(number, before, high[1], there, number.at(there), gains)
