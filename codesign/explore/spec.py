"""What a sweep file may hold, and the ranges of its axes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from codesign.base.document import Document, Strict, read_yaml, validate
from codesign.base.errors import ConfigError
from codesign.base.units import Time, si_value

MAX_POINTS = 2_000_000


class Range(Strict):
    """Values from `low` to `high`, both included: a grid of `steps`, or what a sample draws from.

    Both ends have the same unit, or none; ``integer: true`` rounds to whole numbers.
    """

    low: Any
    high: Any
    steps: Annotated[int, Field(ge=1, le=MAX_POINTS)] | None = None
    scale: Literal["linear", "log"] = "linear"
    integer: bool = False
    when: str | None = None

    @model_validator(mode="after")
    def _ends(self) -> Range:
        low, high = self.ends
        if not low <= high:
            raise ValueError("low must not exceed high")
        if self.scale == "log" and low <= 0:
            raise ValueError("a logarithmic range begins above 0")
        return self

    @property
    def unit(self) -> str:
        """The unit that both ends are written with; empty for plain numbers."""
        units = {str(end).partition(" ")[2].strip() if isinstance(end, str) else "" for end in self._both}
        if len(units) > 1 or (any(units) and si_value(f"1 {next(iter(units))}") is None):
            raise ValueError("low and high need the same unit, as 2 TB/s and 8 TB/s, or none")
        return units.pop()

    @property
    def _both(self) -> tuple[Any, Any]:
        return self.low, self.high

    @property
    def ends(self) -> tuple[float, float]:
        """Both ends as numbers, in `unit`."""
        unit = self.unit
        try:
            low, high = (float(str(end).partition(" ")[0] if unit else end) for end in self._both)
        except (TypeError, ValueError):
            raise ValueError("low and high are numbers, or numbers with a unit") from None
        return low, high

    def at(self, share: float) -> Any:
        """Return the value at a share (0 ... 1) of the way."""
        low, high = self.ends
        value = low * (high / low) ** share if self.scale == "log" else low + (high - low) * share
        plain: float | int = round(value) if self.integer else float(f"{value:.12g}")
        return f"{plain} {self.unit}" if self.unit else plain

    def grid(self) -> list[Any]:
        """Return `steps` values, without those that rounding makes equal."""
        if self.steps is None:
            raise ValueError("needs steps: how many values from low to high")
        last = max(self.steps - 1, 1)
        return list(dict.fromkeys(self.at(i / last) for i in range(self.steps)))


class Values(Strict):
    """A list of values, for points of which a condition holds."""

    values: Annotated[list[Any], Field(min_length=1)]
    when: str | None = None


class Sample(Strict):
    """Points drawn from ranges and lists, instead of or beside a grid."""

    method: Literal["random", "sobol", "lhs"] = "sobol"
    points: Annotated[int, Field(ge=1)]
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 1
    over: Annotated[dict[str, Any], Field(min_length=1)]


class Derived(Strict):
    """A field that follows from others; a quantity's formula gives SI and names its unit here."""

    value: str
    unit: str | None = None


class Constraints(Strict):
    """Conditions on a point before it runs, and on what it gave."""

    inputs: list[str] = Field(default_factory=list)
    outputs: list[str] = Field(default_factory=list)


class SweepSpec(Strict):
    """One sweep file."""

    name: str | None = None
    experiment: Any
    set: dict[str, Any] = Field(default_factory=dict)
    axes: dict[str, Any] = Field(default_factory=dict)
    zip: list[dict[str, list[Any]]] = Field(default_factory=list)
    sample: Sample | None = None
    derived: dict[str, Any] = Field(default_factory=dict)
    constraints: Constraints = Constraints()
    objectives: list[str] = Field(default_factory=list)
    replicates: Annotated[int, Field(ge=1, le=10_000)] = 1
    time_limit: Time | None = None


def read_sweep(source: str | Path | Document | Mapping[str, Any]) -> tuple[SweepSpec, Document, Path]:
    """Read a sweep file, or a mapping of the same form; return it, its document, and where paths begin.

    Raises
    ------
    ConfigError   file:line, key, value, rule, nearest name
    """
    if isinstance(source, Document):
        document, base = source, Path()
    elif isinstance(source, Mapping):
        document, base = Document(dict(source), "sweep"), Path()
    else:
        document, base = read_yaml(source, "YAML sweep file"), Path(source).parent
    if "experiment" not in document.data and "model" in document.data:
        raise ConfigError(f"{document.origin}: is an experiment; a sweep has `experiment:` and `axes:`")
    spec = validate(SweepSpec, document)
    if not (spec.axes or spec.zip or spec.sample):
        raise document.error((), "a sweep needs axes, zip or sample: what is to vary")
    return spec, document, base
