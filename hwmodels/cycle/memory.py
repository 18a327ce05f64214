"""The bandwidth that an access pattern gets from a device's DRAM: blocks read by several streams in turn.

The pattern of one channel is simulated, and all channels see the same one: addresses are interleaved over
them, so that a block lies in one channel as at least one unit of interleaving, in one row.  Blocks lie at
drawn, aligned places; the banks of a row are permuted by a hash of its number, as memory controllers of
accelerators do, so that equal strides do not meet in one bank.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property

import numpy as np

from codesign.base.errors import ConfigError
from ext.dram import Channel, Controller, Refresh, addresses, run
from hwmodels.spec import Device, MemoryTier

from .standards import Part, load_part
from .store import Store
from .streams import MAPPINGS, IntArray, splitmix64

MODEL_VERSION = 1  # of what `Store` keeps: raise it when answers change
_IN_CLOCKS = ("nBL", "nCCD", "nPPD", "nCS", "nAAD", "nWCKPST", "nCAS")  # not analogue: clocks at any rate
_MOST = 16384  # bursts of a block in one channel, from which on it counts as endless
_INTERVALS = 4  # refresh intervals in a run at full speed; slower patterns see more
_TURN_BYTES = 1024  # read of one stream before the next one's turn, in one channel
# bytes in a row of one channel before the next channel; of accelerators as Accel-Sim describes GPUs
_INTERLEAVE = {"hbm": 256.0, "gddr": 256.0, "lpddr": 256.0}
_KINDS = {"hbm": "hbm3", "ddr": "ddr5", "lpddr": "lpddr5", "gddr": "gddr6"}


@dataclass(frozen=True)
class Pattern:
    """Reads of blocks: `streams` readers take turns, each reads block after block."""

    block_bytes: float  # contiguous, over all channels
    streams: int = 1


@dataclass(frozen=True)
class Traffic:
    """One of several kinds of traffic at once: weights, key-value cache, activations."""

    block_bytes: float  # contiguous, over all channels
    share: float  # of all bytes; the shares are scaled to sum to 1
    write: bool = False


@dataclass(frozen=True)
class Bandwidth:
    """What a pattern got, as shares."""

    efficiency: float  # of the peak of the pins
    hits: float  # of bursts, by the state of their bank
    misses: float
    conflicts: float
    refresh_loss: float  # efficiency without refresh, less this


SEQUENTIAL = Pattern(math.inf)


class DramSystem:
    """The DRAM of one memory tier: a part at the tier's rate, and how many channels."""

    def __init__(
        self, part: Part, channels: int, *, queue: int = 128, refresh: int = Refresh.ALL_BANK,
        interleave_bytes: float = 0.0, store: Store | None = None,
    ) -> None:  # fmt: skip
        self.part, self.channels, self.queue, self.refresh = part, channels, queue, refresh
        self.interleave_bytes = max(interleave_bytes, part.burst_bytes)
        self.store = store or Store()

    @cached_property
    def channel(self) -> Channel:
        """The kernel's description of one channel."""
        return self.part.channel()

    @cached_property
    def _described(self) -> dict[str, object]:
        return {"version": MODEL_VERSION, "channel": asdict(self.channel), "queue": self.queue,
                "interleave": self.interleave_bytes}  # fmt: skip

    @property
    def peak_bytes_per_s(self) -> float:
        """Peak of all channels."""
        return self.part.peak_bytes_per_s * self.channels

    def bandwidth(self, pattern: Pattern) -> Bandwidth:
        """Return what a pattern gets; found once per pattern and part, kept on disk.

        Laws: 0 < efficiency <= 1; at most what sequential reads get, within 5 %.
        """
        block, streams = self._rounded(pattern)
        refreshed = self._answer(block, streams, self.refresh)
        free = self._answer(block, streams, Refresh.NONE)
        loss = max(0.0, free["efficiency"] - refreshed["efficiency"])
        return Bandwidth(**refreshed, refresh_loss=loss)

    def mixed(self, traffic: Sequence[Traffic]) -> Bandwidth:
        """Return what a mix gets in all; each kind gets its share of it.

        Raises
        ------
        ConfigError   no traffic, or shares that are negative or all zero

        Notes
        -----
        Law: the order in which the kinds are given does not matter.  Shares are rounded to 1/32.
        """
        total = sum(kind.share for kind in traffic)
        if total <= 0 or min(kind.share for kind in traffic) < 0:
            raise ConfigError("a mix needs kinds of traffic with shares that are positive")
        parts = sorted(
            (round(32 * kind.share / total), self._rounded(Pattern(kind.block_bytes))[0], int(kind.write))
            for kind in traffic
        )
        key = [part for part in parts if part[0] > 0]
        refreshed, free = (self._mixture(key, refresh) for refresh in (self.refresh, Refresh.NONE))
        loss = max(0.0, free["efficiency"] - refreshed["efficiency"])
        return Bandwidth(**refreshed, refresh_loss=loss)

    def _mixture(self, parts: list[tuple[int, int, int]], refresh: int) -> dict[str, float]:
        question = {**self._described, "refresh": int(refresh), "mix": parts}
        return self.store.get(question, lambda: self._serve(*self._mix(parts), refresh))

    def _mix(self, parts: list[tuple[int, int, int]]) -> tuple[IntArray, IntArray]:
        """Return (burst, write) of kinds that take turns in proportion to their shares, evenly spread."""
        order = sorted(
            ((place + 0.5) / weight, kind)
            for kind, (weight, _, _) in enumerate(parts)
            for place in range(weight)
        )
        turn = max(1, _TURN_BYTES // self.part.burst_bytes)
        n = self._run_length
        turns = np.resize([kind for _, kind in order], -(-n // turn))
        unit = np.empty(len(turns) * turn, dtype=np.int64)
        whose = np.repeat(turns, turn)
        for kind, (_, block, _) in enumerate(parts):
            mine = np.flatnonzero(whose == kind)
            unit[mine] = block_reads(len(mine), block, 1, turn, self.channel.units, seed=kind)
        write = np.array([part[2] for part in parts], dtype=np.int64)[whose]
        return unit[:n], write[:n]

    @property
    def _run_length(self) -> int:
        interval = self.channel.refresh_interval / self.channel.ticks_per_clock
        return math.ceil(_INTERVALS * interval * self.part.bursts_per_clock)

    def _rounded(self, pattern: Pattern) -> tuple[int, int]:
        """Return bursts of a block in one channel and streams, as powers of two: few questions recur."""
        run_bytes = max(pattern.block_bytes / self.channels, min(pattern.block_bytes, self.interleave_bytes))
        bursts = run_bytes / self.part.burst_bytes
        block = _MOST if bursts >= _MOST else 1 << max(0, round(math.log2(max(bursts, 1.0))))
        streams = 1 if block == _MOST and pattern.streams <= 1 else min(max(pattern.streams, 1), 32)
        return block, 1 << round(math.log2(streams))

    def _answer(self, block: int, streams: int, refresh: int) -> dict[str, float]:
        question = {**self._described, "refresh": int(refresh), "block": block, "streams": streams}
        return self.store.get(question, lambda: self._simulate(block, streams, refresh))

    def _simulate(self, block: int, streams: int, refresh: int) -> dict[str, float]:
        turn = max(1, _TURN_BYTES // self.part.burst_bytes)
        unit = block_reads(self._run_length, block, streams, turn, self.channel.units)
        return self._serve(unit, np.zeros_like(unit), refresh)

    def _serve(self, unit: IntArray, write: IntArray, refresh: int) -> dict[str, float]:
        """Run bursts as fast as they are taken; what a lone read takes is latency, not bandwidth."""
        channel, n = self.channel, len(unit)
        run_length = max(1, int(self.interleave_bytes) // self.part.burst_bytes)
        bank, row = addresses(in_one_row(unit, run_length, channel), channel, MAPPINGS["M1"])
        bank = permuted(bank, row, channel)
        at_once = np.zeros(n, dtype=np.int64)
        got = run(channel, Controller(queue=self.queue, refresh=refresh), bank, row, unit, write, at_once)
        lone = run(channel, Controller(refresh=0), bank[:1], row[:1], unit[:1], at_once[:1], at_once[:1])
        busy = max(1, got.end - lone.end) / channel.ticks_per_clock
        served = max(1, got.hits + got.misses + got.conflicts)
        return {
            "efficiency": min(1.0, (n - 1) / self.part.bursts_per_clock / busy),
            "hits": got.hits / served, "misses": got.misses / served, "conflicts": got.conflicts / served,
        }  # fmt: skip


def block_reads(n: int, block: int, streams: int, turn: int, total: int, seed: int = 0) -> IntArray:
    """Return the burst numbers of `streams` readers of blocks that take turns of `turn` bursts.

    Another `seed` draws other places.

    Law: each reader walks every block that it begins in order; blocks begin at multiples of their size.
    """
    i = np.arange(n)
    reader = i // turn % streams
    walked = i // (turn * streams) * turn + i % turn
    places = max(1, total // block)
    drawn = splitmix64(((seed * 4099 + reader) * 1_000_003 + walked // block).astype(np.uint64)) % np.uint64(
        places
    )
    out: IntArray = (drawn.astype(np.int64) * block + walked % block) % total
    return out


def in_one_row(unit: IntArray, run_length: int, channel: Channel) -> IntArray:
    """Return burst numbers whose every `run_length` lie in one row, for a mapping with bank groups lowest.

    Law: a bijection of the bursts of whole runs over all groups; the identity for a run of one burst.
    """
    groups = channel.groups * channel.pseudo
    place, run = unit % run_length, unit // run_length
    out: IntArray = (run // groups * run_length + place) * groups + run % groups
    return out


def permuted(bank: IntArray, row: IntArray, channel: Channel) -> IntArray:
    """Return the banks shifted, inside their group and rank, by a hash of the row.

    Law: for each row, a permutation of the banks.
    """
    mixed = (splitmix64(row.astype(np.uint64)) & np.uint64(0xFFFF)).astype(np.int64)
    inside, group = bank % channel.banks, bank // channel.banks % channel.groups
    above = bank // (channel.banks * channel.groups)
    rank, pseudo = above % channel.ranks, above // channel.ranks
    inside = (inside + mixed) % channel.banks
    rank = (rank + mixed // channel.banks) % channel.ranks
    out: IntArray = ((pseudo * channel.ranks + rank) * channel.groups + group) * channel.banks + inside
    return out


def at_rate(part: Part, bytes_per_s: float) -> Part:
    """Return the part with its clock changed so that one channel peaks at `bytes_per_s`.

    Analogue times keep their nanoseconds; bursts and column spacing keep their clocks.
    """
    clock_s = part.clock_s * part.peak_bytes_per_s / bytes_per_s
    slower = part.clock_s / clock_s

    def clocks(name: str, value: float) -> float:
        return value if name.startswith(_IN_CLOCKS) else math.ceil(value * slower - 1e-6)

    timing = {name: clocks(name, value) for name, value in part.timing.items()}
    return replace(part, timing=timing, clock_s=clock_s)


def dram_of(
    device: Device, *, queue: int = 128, refresh: int = Refresh.ALL_BANK, store: Store | None = None
) -> DramSystem:
    """Return the DRAM of a device's main memory: its ``standard`` and ``channels``, at its bandwidth.

    Raises
    ------
    ConfigError   the main memory is no DRAM, or its standard is not in the library
    """
    tier = device.memory[device.main_memory]
    where = f"{device.name}: memory.{device.main_memory}"
    part = load_part(_standard(tier, where))
    channels = tier.channels or max(1, round(tier.bandwidth / part.peak_bytes_per_s))
    part = at_rate(part, tier.bandwidth / channels)
    interleave = tier.interleave or _INTERLEAVE.get(tier.kind, 0.0)
    return DramSystem(part, channels, queue=queue, refresh=refresh, interleave_bytes=interleave, store=store)


def _standard(tier: MemoryTier, where: str) -> str:
    if tier.standard:
        return tier.standard
    if tier.kind not in _KINDS:
        raise ConfigError(f"{where}.kind = {tier.kind!r}: the cycle level needs DRAM, with its `standard`")
    return _KINDS[tier.kind]


def explain(found: Bandwidth, best: Bandwidth) -> str:
    """Name what a pattern lost most by, against another one: row misses, bank conflicts or refresh."""
    losses: Mapping[str, float] = {
        "row misses": found.misses - best.misses, "bank conflicts": found.conflicts - best.conflicts,
        "refresh": found.refresh_loss - best.refresh_loss,
    }  # fmt: skip
    return max(losses, key=lambda name: losses[name])
