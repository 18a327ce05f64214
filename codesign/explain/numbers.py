"""The numbers of an experiment's hardware, model and engine, and how each can be changed a little."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from codesign.base.units import si_value

PARTS = ("system", "model", "engine")
_NO_NUMBERS = ("sources", "name", "standard", "lifetime_years")


@dataclass(frozen=True)
class Number:
    """A number at a dotted path of an experiment.

    Attributes
    ----------
    written : Any     as the file has it: ``3.35 TB/s``, 0.9, 8
    value : float     SI
    """

    path: str
    written: Any
    value: float

    @property
    def whole(self) -> bool:
        """Tell whether it counts something: layers, experts, devices."""
        return isinstance(self.written, int)

    def at(self, factor: float) -> Any:
        """Return the number times a factor, as a file writes it."""
        if not isinstance(self.written, str):
            return round(self.written * factor) if self.whole else self.written * factor
        plain, _, unit = self.written.strip().partition(" ")
        return f"{float(plain) * factor!r} {unit}"

    def factors(self, step: float) -> tuple[list[float], list[float]]:
        """Return factors above and below 1, those to be tried first first.

        A count changes by multiples of its roundness: 4096 by 512, 61 by 1; some do not suit the rest of
        the experiment (a tensor degree that no longer divides the heads), so that there are several.
        """
        if not self.whole:
            return [1.0 + step], [1.0 / (1.0 + step)]
        n = int(self.written)
        grain = 1
        while n % (2 * grain) == 0 and 16 * grain <= n:
            grain *= 2
        steps = [grain * 2**i for i in range(8) if grain * 2**i <= n]
        above = [(n + s) / n for s in steps]
        below = [(n - s) / n for s in steps if n - s >= max(1, n // 2)]
        return above, below


def numbers_of(resolved: Mapping[str, Any]) -> list[Number]:
    """Return the positive numbers of a resolved experiment (`Experiment.resolved`) in the file's order."""
    return [number for part in PARTS for number in _walk(part, resolved.get(part))]


def _walk(path: str, node: Any) -> Iterator[Number]:
    if isinstance(node, Mapping):
        for key, value in node.items():
            if key not in _NO_NUMBERS:
                yield from _walk(f"{path}.{key}", value)
    elif isinstance(node, str):
        value = si_value(node) if node[:1].isdigit() and " " in node.strip() else None
        if value is not None and value > 0:
            yield Number(path, node, value)
    elif isinstance(node, int | float) and not isinstance(node, bool) and node > 0:
        yield Number(path, node, float(node))
