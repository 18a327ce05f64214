"""What a kernel needs to know of one DRAM channel: geometry, waits between commands, controller.

Plain numbers only; `hwmodels.cycle.standards` builds them from the files of the standards.  All times are
in *ticks*: one command clock, or half of one where row commands may start at half clocks (HBM3, HBM4).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int64]


class Command(IntEnum):
    """Commands of all standards; ACT is ACT-1 where activation is split in two."""

    ACT = 0
    PRE = 1  # one bank
    PREA = 2  # all banks of the refresh scope
    RD = 3
    WR = 4
    RDA = 5  # with auto-precharge
    WRA = 6
    REFA = 7  # all banks of the refresh scope
    REFB = 8  # one bank
    ACT2 = 9
    CASR = 10  # clock synchronisation before a read (LPDDR5)
    CASW = 11


class Level(IntEnum):
    """Levels of the hierarchy at which a wait applies; ranks are stack ids in HBM3 and HBM4."""

    CHANNEL = 0
    PSEUDO = 1
    RANK = 2
    GROUP = 3
    BANK = 4


class Refresh(IntEnum):
    """How a controller refreshes."""

    NONE = 0
    ALL_BANK = 1
    PER_BANK = 2


N_COMMANDS = len(Command)
N_LEVELS = len(Level)


@dataclass(frozen=True)
class Wait:
    """`ticks` must pass between `before` (the `window`-th last one) and `after`, inside one node."""

    level: int
    before: int
    after: int
    ticks: int
    window: int = 1
    sibling: bool = False  # between the nodes of one parent instead


@dataclass(frozen=True)
class Channel:
    """One channel: geometry, waits, command buses."""

    pseudo: int
    ranks: int
    groups: int
    banks: int
    rows: int
    columns: int  # bursts per row
    waits: tuple[Wait, ...]
    read_latency: int  # RD to the end of its data
    ticks_per_clock: int = 1  # 2: row commands start at half clocks, column commands at whole ones
    two_buses: bool = False  # row and column commands have a bus each (HBM)
    split_activate: int = 0  # ticks within which ACT2 follows ACT; 0: one command
    sync_tail: int = 0  # ticks for which the data clock runs after a burst (split_activate only)
    sync_read: int = 0  # RD to the end of its data, as the data clock counts
    sync_write: int = 0
    act_pairing: int = 1  # ticks after ACT at which a PRE at a half clock must be of another bank
    refresh_scope: int = Level.RANK  # PSEUDO or RANK
    refresh_interval: int = 0  # between all-bank refreshes
    refresh_interval_bank: int = 0  # between per-bank refreshes
    refresh_bank_paired: bool = False  # per-bank refresh goes to every pseudo-channel at once
    refresh_bank_cycle: int = 0  # ticks of one per-bank refresh, kept between two rounds over the banks

    @property
    def n_banks(self) -> int:
        """Banks of the channel, all pseudo-channels and ranks."""
        return self.pseudo * self.ranks * self.groups * self.banks

    @property
    def units(self) -> int:
        """Bursts that the channel holds."""
        return self.n_banks * self.rows * self.columns


@dataclass(frozen=True)
class Controller:
    """The memory controller: queues, drain levels, refresh, row policy."""

    queue: int = 32  # entries of the read queue, and of the write queue
    high: float = 0.8  # more writes than this share of the queue start a drain
    low: float = 0.2  # fewer end it, if a read waits
    refresh: int = Refresh.ALL_BANK
    closed_rows: bool = False  # close a row after its last queued access
    keep_hits: bool = False  # an older request of another row waits for the queued hits of a bank
    accept: int = 2  # requests taken per tick
    drain: bool = False  # go on until the last write is in its bank, not only accepted


@dataclass
class Counters:
    """What one run counted.  Law: hits + misses + conflicts >= served."""

    end: int = 0  # ticks to the last read's data, or the last accepted write
    reads: int = 0
    writes: int = 0
    forwarded: int = 0  # reads served from the write queue
    coalesced: int = 0  # writes merged into a queued one
    hits: int = 0
    misses: int = 0
    conflicts: int = 0
    activations: int = 0
    precharges: int = 0
    refreshes: int = 0  # refresh commands, all-bank or per-bank
    per_bank_refresh: bool = False
    served: int = 0  # bursts sent
    latency: int = 0  # summed over reads: from the first tick at which it could start to its data
    waiting: int = 0  # summed over reads, from arrival to acceptance, ticks
    commands: list[tuple[int, int, int]] = field(default_factory=list)  # (tick, command, bank) if recorded


def addresses(unit: IntArray, channel: Channel, order: str) -> tuple[IntArray, IntArray]:
    """Return (bank, row) of each burst address.

    Parameters
    ----------
    unit : int array, shape (n,)   burst number inside the channel; taken modulo `channel.units`
    order : str                    fields from least to most significant, of p g c b k r: pseudo-channel,
                                   bank group, column, bank, rank, row

    Notes
    -----
    bank = ((p * ranks + k) * groups + g) * banks + b.  Law: (bank, row, column) <-> unit is one to one.
    """
    sizes = {
        "p": channel.pseudo, "g": channel.groups, "c": channel.columns, "b": channel.banks,
        "k": channel.ranks, "r": channel.rows,
    }  # fmt: skip
    left = np.asarray(unit, dtype=np.int64) % channel.units
    part: dict[str, IntArray] = {}
    for name in order:
        part[name] = left % sizes[name]
        left = left // sizes[name]
    bank = part["p"] * channel.ranks + part["k"]
    bank = (bank * channel.groups + part["g"]) * channel.banks + part["b"]
    return bank, part["r"]
