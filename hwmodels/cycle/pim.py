"""Processing in memory, command by command: bank level, bank-group level, logic die.

A unit multiplies weights that lie in its banks with operands that are sent to it.  Every MAC command reads
one column of all banks that work in step; a column is used for as many tokens as the unit has accumulators
for, and takes as long as the slower of the array (`pace`) and the arithmetic.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Literal

from pydantic import Field

from codesign.base.compose import merge, without
from codesign.base.document import Document, Strict, read_yaml, validate
from codesign.base.errors import ConfigError, unknown_name
from codesign.base.units import Area, Bytes, Energy, EnergyPerByte, EnergyPerFlop, Frequency, Latency
from ext.pim import RowTimes, Streamed, stream_rows
from hwmodels.spec import Device

from .memory import dram_of
from .standards import Part, named_part

LIBRARY = Path(__file__).parent / "pim_units"
VALUE_BYTES = 2.0  # the units multiply FP16 or BF16
_SETS = 4  # bundles of banks per pseudo-channel (Duplex)
_LONG_ROWS = 512  # rows of a long stream: several refreshes


class PimEnergy(Strict):
    """Energy of a unit's events."""

    activate: Energy  # of one row in one bank
    read: EnergyPerByte  # bank to unit
    io: EnergyPerByte  # operands and results over the channel
    mac: EnergyPerFlop


class PimUnit(Strict):
    """One stack (or chip) with processing in memory."""

    name: str
    part: str
    timing: dict[str, float] = Field(default_factory=dict)  # clocks that differ from the part's
    channels: int = Field(gt=0)  # pseudo-channels that take commands of their own
    banks_at_once: int = Field(gt=0)  # per channel
    rows_per_opening: int = Field(default=1, gt=0)  # rows of a unit's banks that one ACT opens
    sets: int = Field(default=1, gt=0)  # sets of banks that take turns
    pace: str  # timing between two columns of a bank
    units_per_channel: int = Field(gt=0)
    lanes: int = Field(gt=0)
    clock: Frequency
    tokens_per_read: int = Field(gt=0)
    outputs_per_unit: int = Field(gt=0)  # results held before they are read out
    operand_buffer: Bytes | None = None  # per channel; None: one operand at a time
    transfer: Literal["stall", "overlap"]  # whether operands and results hold up the MACs
    mode_switch: Latency = 0.0  # into and out of the mode in which banks work in step
    area: Area
    energy: PimEnergy
    sources: dict[str, str]

    @property
    def dram(self) -> Part:
        """The part, with what is laid over its timing."""
        part = named_part(self.part)
        return replace(part, timing={**part.timing, **self.timing}) if self.timing else part

    @property
    def peak_flop_rate(self) -> float:
        """FLOP/s of all units."""
        return self.channels * self.units_per_channel * self.lanes * 2 * self.clock

    @property
    def bandwidth(self) -> float:
        """Bytes/s from all banks at work to their units."""
        part = self.dram
        column = self.channels * self.banks_at_once * part.burst_bytes
        return column / (part.timing[self.pace] * part.clock_s)

    @property
    def external_bandwidth(self) -> float:
        """Bytes/s at the pins of the stack."""
        part = named_part(self.part)
        return part.peak_bytes_per_s / part.organisation.pseudo_channels * self.channels


@dataclass(frozen=True)
class PimCost:
    """What one matrix product on a unit took."""

    seconds: float
    rows_s: float  # of it: columns, openings and refresh
    transfer_s: float  # operands in, results out (hidden where the unit overlaps them)
    flop: float
    weight_bytes: float  # read from banks, every pass counted
    transfer_bytes: float
    openings: int  # all-bank activations of one channel
    refreshes: int
    joules: float
    energy_delay_area: float  # J s m^2


def names() -> list[str]:
    """Return the units of the library."""
    return sorted(path.stem for path in LIBRARY.glob("*.yaml"))


@lru_cache(maxsize=64)
def load_unit(name: str) -> PimUnit:
    """Load a unit by name, or by the path of a file.

    Raises
    ------
    ConfigError   unknown name, broken file, unknown DRAM part or timing
    """
    return _checked(_read(name))


def unit_of(source: Document) -> PimUnit:
    """Load a unit by name, or one that is laid over another: ``{from: duplex_logic, area: 900 mm**2}``.

    Raises
    ------
    ConfigError   as `load_unit`; a mapping that does not say where it starts
    """
    if isinstance(source.data, str):
        return load_unit(source.data)
    base = source.get(("from",))
    if not isinstance(base, str):
        raise source.error((), f"a PIM unit is a name ({', '.join(names())}), or a mapping with `from`")
    return _checked(merge(_read(base), without(source, ("from",))))


def _read(name: str) -> Document:
    path = Path(name) if name.endswith(".yaml") else LIBRARY / f"{name}.yaml"
    if not name.endswith(".yaml") and name not in names():
        raise unknown_name("PIM unit", name, names())
    return read_yaml(path, "PIM unit")


def _checked(document: Document) -> PimUnit:
    unit = validate(PimUnit, document)
    part, place = named_part(unit.part, document.where(("part",))), document.where(())
    for name in (unit.pace, *unit.timing):
        if name not in part.timing:
            raise unknown_name("timing", name, part.timing, f"{place}: pace or timing")
    if min(unit.timing.values(), default=1.0) <= 0:
        raise document.error(("timing",), "clocks must be positive")
    if unit.banks_at_once > part.channel().n_banks:
        raise ConfigError(f"{place}: banks_at_once = {unit.banks_at_once}: the channel has fewer banks")
    return unit


def gemm(unit: PimUnit, m: int, n: int, k: int) -> PimCost:
    """Cost ``y[m, n] = x[m, k] @ w[k, n]`` with the weights in the banks of one stack.

    Laws: seconds >= weights / bandwidth and >= FLOP / peak; no token costs nothing; monotone in m.
    """
    if min(m, n, k) <= 0:
        return PimCost(0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0, 0, 0.0, 0.0)
    part = unit.dram
    passes = _passes(m, unit.tokens_per_read)
    streamed = [(count, _stream(unit, part, n * k, tokens)) for tokens, count in passes.items()]
    rows_s = sum(count * got.clocks for count, got in streamed) * part.clock_s
    moved, seconds = _transfer(unit, part, m, n, k)
    total = (max(rows_s, seconds) if unit.transfer == "overlap" else rows_s + seconds) + 2 * unit.mode_switch
    openings = sum(count * got.openings for count, got in streamed)
    weights = n * k * VALUE_BYTES * sum(passes.values())
    flop = 2.0 * m * n * k
    energy = _joules(unit, openings, weights, moved, flop)
    return PimCost(
        total, rows_s, seconds, flop, weights, moved, openings,
        sum(count * got.refreshes for count, got in streamed), energy, energy * total * unit.area,
    )  # fmt: skip


def _passes(m: int, tokens_per_read: int) -> dict[int, int]:
    """Return how often the weights are read, by tokens served at once."""
    full, rest = divmod(m, tokens_per_read)
    passes = {tokens_per_read: full} if full else {}
    return passes | ({rest: 1} if rest else {})


_stream_rows = lru_cache(maxsize=4096)(stream_rows)


def _stream(unit: PimUnit, part: Part, weights: int, tokens: int) -> Streamed:
    per_column = unit.banks_at_once * part.burst_bytes / VALUE_BYTES  # weights, one channel
    columns = math.ceil(weights / unit.channels / per_column)
    rate = unit.units_per_channel * unit.lanes * unit.clock * part.clock_s  # MACs per clock
    pace = max(part.timing[unit.pace], per_column * tokens / rate)
    per_row = part.organisation.columns * unit.rows_per_opening
    return _stream_rows(row_times(part), columns, per_row, pace, unit.sets)


def row_times(part: Part) -> RowTimes:
    """Return the waits that banks in step keep, by the names that the standards use."""
    timing = part.timing

    def first(*candidates: str) -> float:
        found = [timing[name] for name in candidates if name in timing]
        if not found:
            raise ConfigError(f"{part.name}: none of the timings {', '.join(candidates)} is given")
        return float(found[0])

    return RowTimes(
        first("nRCDRD", "nRCD"), first("nRAS"), first("nRP"), first("nRC"), first("nRTP", "nRTPL"),
        first("nREFI"), first("nRFC", "nRFCab"),
    )  # fmt: skip


def _transfer(unit: PimUnit, part: Part, m: int, n: int, k: int) -> tuple[float, float]:
    """Return (bytes over all channels, seconds) of sending operands and reading results.

    Each channel gets every operand.  Either the results stay and the operands come again for each group of
    outputs that the units hold, or (with a buffer) the operands stay in pieces and partial results are
    read per piece: whichever moves less.
    """
    outputs = math.ceil(n / unit.channels)
    groups = math.ceil(outputs / (unit.units_per_channel * unit.outputs_per_unit))
    values = m * k * groups + m * outputs
    if unit.operand_buffer is not None:
        piece = unit.operand_buffer / VALUE_BYTES / min(m, unit.tokens_per_read)
        values = min(values, m * k + m * outputs * math.ceil(k / piece))
    per_channel = values * VALUE_BYTES
    rate = part.peak_bytes_per_s / part.organisation.pseudo_channels
    return per_channel * unit.channels, per_channel / rate


def _joules(unit: PimUnit, openings: int, weights: float, moved: float, flop: float) -> float:
    figures = unit.energy
    rows = openings * unit.channels * unit.banks_at_once * unit.rows_per_opening
    return rows * figures.activate + weights * figures.read + moved * figures.io + flop * figures.mac


def stream_efficiency(device: Device) -> float:
    """Return the share of its peak bandwidth that a device's PIM unit gets from long streams of weights.

    Rows are opened in all banks of a set at once and refreshed; at bank level every bank works, so nothing
    hides the change of rows; units of a bank group or the logic die change to another set meanwhile.

    Raises
    ------
    ConfigError   the device has no PIM unit, or its memory is no DRAM of the library
    """
    if device.pim is None:
        raise ConfigError(f"{device.name}: has no PIM unit")
    part = dram_of(device).part
    columns = part.organisation.columns
    pace = part.timing.get("nCCDL", part.timing.get("nCCDS", 1))
    sets = 1 if device.pim.level == "bank" else _SETS
    many = _LONG_ROWS * columns
    return many * pace / _stream_rows(row_times(part), many, columns, pace, sets).clocks


def shared_makespan(pim_s: Sequence[float], xpu_s: Sequence[float]) -> float:
    """Return the least time in which two engines do their work on bundles of banks.

    Parameters
    ----------
    pim_s, xpu_s : float, shape (bundles,)   time that each engine needs on each bundle

    Notes
    -----
    A bundle serves one engine at a time, an engine works on one bundle at a time (Duplex, section 5).  With
    free order and pre-emption between rows this is the open shop of two machines, whose optimum is the
    larger of the engines' sums and the largest sum of a bundle (Gonzalez and Sahni, J. ACM 1976).
    """
    if len(pim_s) != len(xpu_s):
        raise ConfigError("the two engines must name the same bundles")
    by_bundle = [a + b for a, b in zip(pim_s, xpu_s, strict=True)]
    return max([sum(pim_s), sum(xpu_s), *by_bundle], default=0.0)


def compare(units: Sequence[str], tokens: Sequence[int], n: int, k: int) -> dict[str, list[float]]:
    """Return each unit's energy-delay-area product, as a share of the largest, by number of tokens."""
    found = {name: [gemm(load_unit(name), m, n, k).energy_delay_area for m in tokens] for name in units}
    return {name: _shares(values, found) for name, values in found.items()}


def _shares(values: Sequence[float], found: Mapping[str, Sequence[float]]) -> list[float]:
    return [value / max(other[i] for other in found.values()) for i, value in enumerate(values)]
