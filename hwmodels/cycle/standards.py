"""DRAM standards from files: geometry, waits as expressions of timings, speed grades, energy.

A standard is one file of ``hwmodels/library/dram``; ``from: NAME`` lays it over another one.  A *part* is a
standard at one speed grade and organisation; its timings are clocks by name (``nRCD``).  Parts come from the
files or from a table of timings (one row per part, the layout of the reference data).
"""

from __future__ import annotations

import ast
import csv
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

from pydantic import Field

from codesign.base.compose import merge, without
from codesign.base.document import Document, Strict, read_yaml, validate
from codesign.base.errors import ConfigError, read_text, unknown_name
from codesign.base.units import Energy, EnergyPerByte, Power
from ext.dram import Channel, Command, Level, Wait

LIBRARY = Path(__file__).parent.parent / "library" / "dram"
_LEVELS = {
    "channel": Level.CHANNEL, "pseudo_channel": Level.PSEUDO, "rank": Level.RANK,
    "other_rank": Level.RANK, "bank_group": Level.GROUP, "bank": Level.BANK,
}  # fmt: skip
_GROUPS = {"read": (Command.RD, Command.RDA), "write": (Command.WR, Command.WRA)}
_COLUMN = (Command.RD, Command.WR, Command.RDA, Command.WRA)
_BUSED = (*_COLUMN, Command.ACT, Command.PRE, Command.PREA, Command.REFA, Command.REFB)
_GEOMETRY = ("channels", "pseudo_channels", "ranks", "bank_groups", "banks", "rows", "columns")


class SplitActivate(Strict):
    """Activation in two commands and a data clock that must be started (LPDDR5)."""

    within: str
    sync_tail: str
    sync_read: str
    sync_write: str


class RefreshRule(Strict):
    """What one refresh command reaches, and how often it is due."""

    scope: Literal["pseudo_channel", "rank"]
    interval: str
    bank_interval: str | None = None
    bank_cycle: str = "0"
    paired: bool = False


class Organisation(Strict):
    """Geometry of one channel."""

    pseudo_channels: int = Field(gt=0)
    ranks: int = Field(gt=0)
    bank_groups: int = Field(gt=0)
    banks: int = Field(gt=0)
    rows: int = Field(gt=0)
    columns: int = Field(gt=0)
    nanoseconds: dict[str, float] = Field(default_factory=dict)


class Grade(Strict):
    """Timings of one speed grade, in clocks or in nanoseconds."""

    clock_ps: float = Field(gt=0)
    rate_mbps: float = Field(gt=0)
    clocks: dict[str, int] = Field(default_factory=dict)
    nanoseconds: dict[str, float] = Field(default_factory=dict)


class DramEnergy(Strict):
    """Energy of one channel's events."""

    activate: Energy  # one ACT and its precharge
    read: EnergyPerByte  # array to pins, without I/O
    write: EnergyPerByte
    io: EnergyPerByte
    refresh_activations: float = Field(gt=0)  # activations that one all-bank refresh command stands for
    background: Power  # of one channel, clocks running


class Standard(Strict):
    """One file of the library."""

    standard: str
    burst_bytes: int = Field(gt=0)
    burst: str
    read_latency: str
    buses: Literal["one", "two"]
    half_clocks: bool = False
    command_clocks: dict[str, float] = Field(default_factory=dict)
    split_activate: SplitActivate | None = None
    refresh: RefreshRule
    waits: dict[str, dict[str, str]]
    organisations: dict[str, Organisation]
    grades: dict[str, Grade]
    nanoseconds: dict[str, float] = Field(default_factory=dict)
    least_clocks: dict[str, int] = Field(default_factory=dict)
    default: dict[str, str]
    energy: DramEnergy
    sources: dict[str, str]


@dataclass(frozen=True)
class Part:
    """A standard at one speed and size: what a kernel and a report need."""

    name: str
    standard: Standard
    organisation: Organisation
    timing: Mapping[str, float]  # clocks, by name
    clock_s: float

    @property
    def burst_bytes(self) -> int:
        """Bytes of one request."""
        return self.standard.burst_bytes

    @property
    def bursts_per_clock(self) -> float:
        """Return the peak of one channel: bursts per clock on its data pins."""
        burst_clocks = _evaluate(self.standard.burst, self.timing, self.name)
        return self.organisation.pseudo_channels / burst_clocks

    @property
    def peak_bytes_per_s(self) -> float:
        """Peak of one channel."""
        return self.bursts_per_clock * self.burst_bytes / self.clock_s

    def channel(self) -> Channel:
        """Build the kernel's description of one channel."""
        return _channel(self)


def names() -> list[str]:
    """Return the standards of the library, as file names."""
    return sorted(path.stem for path in LIBRARY.glob("*.yaml"))


@lru_cache(maxsize=64)
def load_standard(name: str) -> Standard:
    """Load a standard by name (``hbm3``, any case) or by the path of a file.

    Raises
    ------
    ConfigError   unknown name, broken file, an expression that names no timing
    """
    return validate(Standard, _document(name, ()))


def load_part(standard: str, grade: str | None = None, organisation: str | None = None) -> Part:
    """Return a part of the library; grade and organisation default to the file's.

    Raises
    ------
    ConfigError   unknown standard, grade or organisation, with the nearest name
    """
    described = load_standard(standard)
    grade = grade or described.default["grade"]
    organisation = organisation or described.default["organisation"]
    if grade not in described.grades:
        raise unknown_name("speed grade", grade, described.grades, described.standard)
    if organisation not in described.organisations:
        raise unknown_name("organisation", organisation, described.organisations, described.standard)
    speed, shape = described.grades[grade], described.organisations[organisation]
    timing: dict[str, float] = {}
    for source in (described.nanoseconds, speed.nanoseconds, shape.nanoseconds):
        for name, value in source.items():
            clocks = math.ceil(value * 1000 / speed.clock_ps - 1e-9)
            timing[name] = max(clocks, described.least_clocks.get(name, 0))
    timing |= speed.clocks
    return Part(f"{grade}_{organisation}", described, shape, timing, speed.clock_ps * 1e-12)


def named_part(name: str, where: str = "", known: Iterable[str] = ()) -> Part:
    """Return the library's part of a name like ``HBM3_6400_16Gb_8hi``: grade, ``_``, organisation.

    A grade alone gives its usual organisation, and a standard alone (``hbm3``) its usual part.

    Raises
    ------
    ConfigError   no standard, grade or organisation of that name; `known` are other names to suggest
    """
    standard = load_standard(standard_of(name, where, known))
    if name.lower() == standard.standard.lower():
        return load_part(standard.standard)
    for grade in standard.grades:
        organisation = name[len(grade) + 1 :]
        if name == grade or (name.startswith(f"{grade}_") and organisation in standard.organisations):
            return load_part(standard.standard, grade, organisation or None)
    there = [f"{grade}_{shape}" for grade in standard.grades for shape in standard.organisations]
    raise unknown_name("DRAM part", name, [*known, *there], where)


def read_timings(path: str | Path) -> dict[str, Part]:
    """Read parts from a table: ``cfg``, ``geo_ch_pc_ra_bg_ba_ro_co``, clocks by name, ``tCK_ps``.

    The standard is the one of the library whose name begins ``cfg`` (``HBM3_6400_...`` -> ``hbm3``).

    Raises
    ------
    ConfigError   a missing column, a row that is no part, a timing that the standard needs and that is absent
    """
    rows = list(csv.DictReader(read_text(path, "table of timings").splitlines()))
    parts = {}
    for line, row in enumerate(rows, start=2):
        part = _part_of_row(row, f"{path}:{line}")
        parts[part.name] = part
    return parts


def _part_of_row(row: Mapping[str, str], where: str) -> Part:
    name = row.get("cfg") or ""
    standard = load_standard(standard_of(name, where))
    geometry = row.get("geo_ch_pc_ra_bg_ba_ro_co") or ""
    try:
        numbers = [int(word) for word in geometry.strip("() ").split(",")]
        timing = {key: float(value) for key, value in row.items() if value and key[:1] == "n"}
        clock_s = float(row.get("tCK_ps") or "") * 1e-12
    except (ValueError, AttributeError):
        raise ConfigError(
            f"{where}: {name}: geo_ch_pc_ra_bg_ba_ro_co is seven integers, timings and tCK_ps are numbers"
        ) from None
    if len(numbers) != len(_GEOMETRY) or min(numbers) < 1 or clock_s <= 0:
        raise ConfigError(f"{where}: {name}: geometry {geometry!r}: seven positive integers are needed")
    shape = Organisation(**dict(zip(_GEOMETRY[1:], numbers[1:], strict=True)))
    part = Part(name, standard, shape, timing, clock_s)
    try:
        part.channel()
    except ConfigError as error:  # a timing that the standard needs
        raise ConfigError(f"{where}: {error}") from None
    return part


def standard_of(name: str, where: str = "", known: Iterable[str] = ()) -> str:
    """Return the library's standard that a part's name begins with: the longest one."""
    fits = [known for known in names() if name.lower().startswith(known)]
    if not fits:
        raise unknown_name("DRAM part", name, [*known, *names()], where)
    return max(fits, key=len)


def _document(name: str, trail: tuple[str, ...]) -> Document:
    if name in trail:
        raise ConfigError(f"{name}: from: lays the file over itself ({' -> '.join(trail)})")
    path = Path(name) if name.endswith(".yaml") else LIBRARY / f"{name.lower()}.yaml"
    if not name.endswith(".yaml") and not path.exists():
        raise unknown_name("DRAM standard", name, names())
    document = read_yaml(path, "DRAM standard")
    base = document.get(("from",))
    if base is ...:
        return document
    below = _document(str(base), (*trail, name))
    for key in ("grades", "organisations"):  # of another standard: replaced, not joined
        if document.get((key,)) is not ...:
            below = without(below, (key,))
    return merge(below, without(document, ("from",)))


def _channel(part: Part) -> Channel:
    standard, shape = part.standard, part.organisation
    per_clock = 2 if standard.half_clocks else 1

    def ticks(expression: str) -> int:
        return round(_evaluate(expression, part.timing, part.name, per_clock))

    split = standard.split_activate
    lengths = _lengths(standard, per_clock)
    rule = standard.refresh
    bank_interval = 0
    if rule.bank_interval and rule.bank_interval in part.timing:
        bank_interval = ticks(rule.bank_interval)
    return Channel(
        shape.pseudo_channels, shape.ranks, shape.bank_groups, shape.banks, shape.rows, shape.columns,
        tuple(_bus_waits(standard, lengths) + _waits(standard, lengths, ticks)),
        read_latency=ticks(standard.read_latency), ticks_per_clock=per_clock,
        two_buses=standard.buses == "two",
        split_activate=ticks(split.within) if split else 0, sync_tail=ticks(split.sync_tail) if split else 0,
        sync_read=ticks(split.sync_read) if split else 0,
        sync_write=ticks(split.sync_write) if split else 0,
        act_pairing=lengths[Command.ACT],
        refresh_scope=Level.PSEUDO if rule.scope == "pseudo_channel" else Level.RANK,
        refresh_interval=ticks(rule.interval), refresh_interval_bank=bank_interval,
        refresh_bank_paired=rule.paired,
        refresh_bank_cycle=ticks(rule.bank_cycle) if bank_interval else 0,
    )  # fmt: skip


def _lengths(standard: Standard, per_clock: int) -> dict[int, int]:
    """Return how long each command holds its bus, in ticks."""
    out = {int(command): per_clock for command in Command}
    for name, clocks in standard.command_clocks.items():
        out[_command(name, standard)] = round(clocks * per_clock)
    return out


def _bus_waits(standard: Standard, lengths: Mapping[int, int]) -> list[Wait]:
    """Keep the bus of a command of several ticks free of others."""
    column = [command for command in _BUSED if command in _COLUMN]
    row = [command for command in _BUSED if command not in _COLUMN]
    out = []
    for bus in (column, row) if standard.buses == "two" else (list(_BUSED),):
        for before in bus:
            if lengths[before] > 1:
                out += [Wait(Level.CHANNEL, before, after, lengths[before]) for after in bus]
    return out


def _waits(standard: Standard, lengths: Mapping[int, int], ticks: Callable[[str], int]) -> list[Wait]:
    """Expand the file's waits.  They count from the end of a command of several ticks to the other's end."""
    out = []
    for level, rules in standard.waits.items():
        if level not in _LEVELS:
            raise unknown_name("level", level, _LEVELS, f"{standard.standard}: waits")
        for key, expression in rules.items():
            nominal = ticks(expression)
            befores, afters, window = _pairs(key, standard)
            for before in befores:
                for after in afters:
                    wait = nominal + lengths[before] - lengths[after]
                    out.append(Wait(_LEVELS[level], before, after, wait, window, level == "other_rank"))
    return out


def _pairs(key: str, standard: Standard) -> tuple[list[int], list[int], int]:
    """Read ``ACT*4 -> ACT, REFB`` as commands before, commands after, window."""
    left, arrow, right = key.partition("->")
    if not arrow:
        raise ConfigError(f"{standard.standard}: waits: {key!r}: is written COMMAND -> COMMAND")
    words, window = left, 1
    if "*" in left:
        words, _, count = left.partition("*")
        window = int(count)
    return _commands(words, standard), _commands(right, standard), window


def _commands(words: str, standard: Standard) -> list[int]:
    out: list[int] = []
    for word in (piece.strip() for piece in words.split(",")):
        out += [int(c) for c in _GROUPS[word]] if word in _GROUPS else [_command(word, standard)]
    return out


def _command(name: str, standard: Standard) -> int:
    if name not in Command.__members__:
        raise unknown_name("command", name, [*Command.__members__, *_GROUPS], standard.standard)
    return int(Command[name])


def _evaluate(expression: str, timing: Mapping[str, float], where: str, per_clock: int = 1) -> float:
    """Return the value of sums, differences and maxima of timings and integers.

    Clocks become ticks by name; a bare integer counts ticks of the coarse clock only where there is no
    finer one.
    """
    try:
        tree = ast.parse(expression, mode="eval").body
    except SyntaxError:
        raise ConfigError(f"{where}: {expression!r}: is no sum of timings") from None
    return _value(tree, timing, f"{where}: {expression}", per_clock)


def _value(node: ast.AST, timing: Mapping[str, float], where: str, per_clock: int) -> float:
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        return float(node.value)
    if isinstance(node, ast.Name):
        if node.id not in timing:
            raise unknown_name("timing", node.id, timing, where)
        return int(timing[node.id] * per_clock)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add | ast.Sub):
        left = _value(node.left, timing, where, per_clock)
        right = _value(node.right, timing, where, per_clock)
        return left + right if isinstance(node.op, ast.Add) else left - right
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "max":
        return max(_value(argument, timing, where, per_clock) for argument in node.args)
    raise ConfigError(f"{where}: only sums, differences and max() of timings are understood")
