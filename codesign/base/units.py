"""Units: parsed once, at the border.  Inside, everything is SI (s, bytes, FLOP, J, W, USD, m2).

A quantity in a file is written with its unit (``3.35 TB/s``); a bare number is an error.  Parsing is
pint's, over the few units of this field; pint is imported on first use.
"""

from __future__ import annotations

import math
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BeforeValidator
from pydantic_core import PydanticCustomError

from codesign.base.errors import nearest

if TYPE_CHECKING:
    import pint

_DEFINITIONS = """
femto- = 1e-15 = f-
pico- = 1e-12 = p-
nano- = 1e-9 = n-
micro- = 1e-6 = u- = µ-
milli- = 1e-3 = m-
centi- = 1e-2 = c-
kilo- = 1e3 = k-
mega- = 1e6 = M-
giga- = 1e9 = G-
tera- = 1e12 = T-
peta- = 1e15 = P-
exa- = 1e18 = E-
kibi- = 2**10 = Ki-
mebi- = 2**20 = Mi-
gibi- = 2**30 = Gi-
tebi- = 2**40 = Ti-
byte = [information] = B
bit = byte / 8 = b
second = [time] = s
minute = 60 * second = min
hour = 3600 * second = h
day = 24 * hour = d
year = 365.25 * day
joule = [energy] = J
watt = joule / second = W
flop = [operation] = FLOP
hertz = 1 / second = Hz
usd = [money] = USD
meter = [length] = m
cycle = [cycle]
"""

# dimension: (canonical unit, how it is written in a file)
DIMENSIONS: dict[str, tuple[str, str]] = {
    "bytes": ("B", "B ... TB, KiB ... TiB"),
    "bandwidth": ("B/s", "B/s ... TB/s"),
    "time": ("s", "ns, us, ms, s, min, h"),
    "frequency": ("Hz", "Hz ... GHz"),
    "flop_rate": ("FLOP/s", "GFLOP/s, TFLOP/s, PFLOP/s"),
    "energy_per_byte": ("J/B", "pJ/bit, pJ/B, nJ/B"),
    "energy_per_flop": ("J/FLOP", "pJ/FLOP, nJ/FLOP"),
    "energy": ("J", "pJ, nJ, J, kWh written as W*h"),
    "power": ("W", "mW, W, kW"),
    "money": ("USD", "USD"),
    "money_rate": ("USD/s", "USD/h"),
    "money_per_energy": ("USD/J", "USD/(kW*h)"),
    "area": ("m**2", "mm**2"),
    "request_rate": ("1/s", "1/s, 1/min, 1/h"),
}


@cache
def _registry() -> pint.UnitRegistry[float]:
    import pint

    return pint.UnitRegistry(_DEFINITIONS.strip().splitlines(), autoconvert_to_preferred=False)


def _known_spellings(dimension: str) -> list[str]:
    return [word.strip() for word in DIMENSIONS[dimension][1].replace("...", ",").split(",")]


def _near_unit(unit: str, dimension: str) -> str:
    base = DIMENSIONS[dimension][0]
    prefixes = ["", "k", "M", "G", "T", "P", "n", "u", "m", "p", "Ki", "Mi", "Gi", "Ti"]
    near = nearest(unit, _known_spellings(dimension) + [p + base for p in prefixes])
    return f" (did you mean {near!r}?)" if near else ""


def _error(text: str) -> PydanticCustomError:
    # the text may hold braces (a bad value): pass it as context, not as a template
    return PydanticCustomError("quantity", "{text}", {"text": text})


@lru_cache(maxsize=4096)
def _parse(text: str, dimension: str) -> float:
    canonical, written = DIMENSIONS[dimension]
    number, _, unit = text.strip().partition(" ")
    if not unit:
        split = len(text) - len(text.strip().lstrip("+-.0123456789eE"))
        number, unit = text.strip()[:split], text.strip()[split:]
    what = dimension.replace("_", " ")
    try:
        value = float(number)
    except ValueError:
        raise _error(f"not a number with a unit; a {what} is written in {written}") from None
    if not unit.strip():
        raise _error(f"has no unit; a {what} is written in {written}")
    if len(unit) > 40 or "**" in unit.replace("m**2", ""):
        raise _error(f'unknown unit "{unit[:40]}"; a {what} is written in {written}')
    try:
        factor = _registry().Quantity(1.0, unit.strip()).to(canonical).magnitude
    except Exception as error:
        kind = type(error).__name__
        reason = "is of another kind" if kind == "DimensionalityError" else "is unknown"
        raise _error(
            f'the unit "{unit.strip()}" {reason}; a {what} is written in {written}'
            f"{_near_unit(unit.strip(), dimension)}"
        ) from None
    return float(value * factor)


@lru_cache(maxsize=1024)
def _factor(unit: str) -> float | None:
    try:
        return float(_registry().Quantity(1.0, unit).to_base_units().magnitude)
    except Exception:
        return None


def si_value(text: str) -> float | None:
    """Return the SI value of any quantity, as 3.35e12 for ``"3.35 TB/s"``; None if it is not one.

    A product of units is written without blanks: ``0.1 USD/(kW*h)``.
    """
    number, _, unit = text.strip().partition(" ")
    unit = unit.strip()
    unit = f"1{unit}" if unit.startswith("/") else unit
    if not unit or len(unit) > 20 or " " in unit or not unit.lstrip("1/")[:1].isalpha():
        return None
    try:
        value = float(number)
    except ValueError:
        return None
    factor = _factor(unit)
    return None if factor is None else value * factor


def parse_quantity(value: object, dimension: str) -> float:
    """Turn ``"3.35 TB/s"`` into SI base units (here 3.35e12).

    Parameters
    ----------
    value : str           a number, a blank, a unit
    dimension : str       a key of `DIMENSIONS`

    Raises
    ------
    PydanticCustomError (a ValueError)   no unit, unknown unit, unit of another kind, not finite
    """
    if not isinstance(value, str):
        written = DIMENSIONS[dimension][1]
        raise _error(f"has no unit; a {dimension.replace('_', ' ')} is written in {written}")
    result = _parse(value, dimension)
    if not math.isfinite(result):
        raise _error("must be finite")
    if result < 0:
        raise _error("must not be negative")
    return result


class SI(float):
    """A float that is known to be in SI units already (for Python callers; a bare float is refused)."""


def _quantity(dimension: str, *, positive: bool) -> Any:
    def check(value: object) -> float:
        result = float(value) if isinstance(value, SI) else parse_quantity(value, dimension)
        if not math.isfinite(result):
            raise _error("must be finite")
        if result < 0 or (positive and result == 0):
            raise _error("must be positive" if positive else "must not be negative")
        return result

    return Annotated[float, BeforeValidator(check)]


if TYPE_CHECKING:
    Bytes = float
    Bandwidth = float
    Time = float
    Frequency = float
    FlopRate = float
    EnergyPerByte = float
    EnergyPerFlop = float
    Energy = float
    Power = float
    Money = float
    MoneyRate = float
    MoneyPerEnergy = float
    Area = float
    RequestRate = float
    Latency = float
else:
    Bytes = _quantity("bytes", positive=True)
    Bandwidth = _quantity("bandwidth", positive=True)
    Time = _quantity("time", positive=True)
    Latency = _quantity("time", positive=False)
    Frequency = _quantity("frequency", positive=True)
    FlopRate = _quantity("flop_rate", positive=True)
    EnergyPerByte = _quantity("energy_per_byte", positive=False)
    EnergyPerFlop = _quantity("energy_per_flop", positive=False)
    Energy = _quantity("energy", positive=False)
    Power = _quantity("power", positive=False)
    Money = _quantity("money", positive=False)
    MoneyRate = _quantity("money_rate", positive=False)
    MoneyPerEnergy = _quantity("money_per_energy", positive=False)
    Area = _quantity("area", positive=False)
    RequestRate = _quantity("request_rate", positive=True)
