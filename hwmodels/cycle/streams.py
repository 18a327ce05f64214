"""Streams of bursts by name, and one DRAM system that serves them.

A stream is a row: part, channels, queue, refresh, mapping, kind, length, offered load.  Kinds: ``seq``,
``rand``, ``strideS`` (every S-th burst), ``blkB`` (B bursts from random aligned starts); with ``mix`` in
front half of the bursts are writes, with ``write`` all are.  The draws are a hash of the burst's number:
the same stream everywhere.  Channels interleave burst by burst and are independent of each other.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from codesign.base.errors import ConfigError, unknown_name
from ext.dram import Controller, Counters, Refresh, addresses, run

from .energy import Joules, joules
from .standards import Part

IntArray = npt.NDArray[np.int64]
WordArray = npt.NDArray[np.uint64]
MAPPINGS = {"M1": "pgcbkr", "M2": "cpkgbr"}  # fields from least to most significant
KINDS = ("seq", "rand", "strideS", "blkB", "mixseq", "mixrand", "writeseq")
REFRESH = {
    "true": Refresh.ALL_BANK, "all_bank": Refresh.ALL_BANK, "false": Refresh.NONE, "none": Refresh.NONE,
    "per_bank": Refresh.PER_BANK,
}  # fmt: skip
_KIND = re.compile(r"(?P<mode>mix|write)?(?P<base>seq|rand|stride|blk)(?P<size>[0-9]+)?")
_WRITE_SALT = np.uint64(0xABCDEF)


@dataclass(frozen=True)
class Stream:
    """What is asked of one DRAM system."""

    kind: str
    n: int
    load: float | None = None  # share of the peak that is offered, in order; None: as fast as it is taken
    mapping: str = "M1"
    channels: int = 1
    queue: int = 32
    refresh: str = "true"


@dataclass(frozen=True)
class Outcome:
    """How a stream went; clocks are command clocks, bandwidth is a share of the peak."""

    clocks: float
    bandwidth: float
    read_latency: float  # mean, in the controller, clocks
    read_latency_waiting: float  # with the wait before the controller
    hits: int
    misses: int
    conflicts: int
    activations: int
    refreshes: int
    reads: int
    writes: int
    energy: Joules
    seconds: float
    bytes_per_s: float


def splitmix64(x: WordArray) -> WordArray:
    """Return the SplitMix64 hash of each word (Steele, Lea and Flood, OOPSLA 2014)."""
    with np.errstate(over="ignore"):
        x = x + np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return x ^ (x >> np.uint64(31))


def bursts(kind: str, n: int, total: int) -> tuple[IntArray, IntArray]:
    """Return (burst number, 1 where it is a write) of each request of a stream.

    Parameters
    ----------
    kind : str    see the module
    total : int   bursts of the memory; numbers lie in [0, total)

    Raises
    ------
    ConfigError   unknown kind, a size of 0 or above the memory
    """
    mode, base, size = _parse_kind(kind, total)
    i = np.arange(n, dtype=np.uint64)
    whole = np.uint64(total)
    if base == "seq":
        unit = i % whole
    elif base == "rand":
        unit = splitmix64(i) % whole
    elif base == "stride":
        unit = i * np.uint64(size) % whole
    else:
        start = splitmix64(i // np.uint64(size)) % np.uint64(total // size)
        unit = start * np.uint64(size) + i % np.uint64(size)
    write = np.zeros(n, dtype=np.int64)
    if mode == "mix":
        write = (splitmix64(i ^ _WRITE_SALT) & np.uint64(1)).astype(np.int64)
    elif mode == "write":
        write += 1
    return unit.astype(np.int64), write


def _parse_kind(kind: str, total: int) -> tuple[str, str, int]:
    found = _KIND.fullmatch(kind)
    sized = bool(found) and found["base"] in ("stride", "blk")  # type: ignore[index]
    if not found or sized != bool(found["size"]):
        raise unknown_name("kind of stream", kind, KINDS)
    size = int(found["size"] or 1)
    if not 1 <= size <= total:
        raise ConfigError(f"kind {kind!r}: the size must lie between 1 and the {total} bursts of the memory")
    return found["mode"] or "", found["base"], size


def arrivals(n: int, load: float | None, part: Part, ticks_per_clock: int, channels: int = 1) -> IntArray:
    """Return the tick from which each request is offered: request i at clock i / (load * peak)."""
    if load is None:
        return np.zeros(n, dtype=np.int64)
    clock = np.floor(np.arange(n) / (load * part.bursts_per_clock * channels) + 1e-9)
    out: IntArray = clock.astype(np.int64) * ticks_per_clock
    return out


def simulate(part: Part, stream: Stream, controller: Controller | None = None) -> Outcome:
    """Run one stream on one DRAM system.

    Raises
    ------
    ConfigError   unknown mapping, kind or refresh; a count or load out of range
    """
    _check(stream)
    channel = part.channel()
    unit, write = bursts(stream.kind, stream.n, channel.units * stream.channels)
    arrival = arrivals(stream.n, stream.load, part, channel.ticks_per_clock, stream.channels)
    rules = controller or Controller(queue=stream.queue, refresh=REFRESH[stream.refresh.lower()])
    counted = []
    for c in range(min(stream.channels, max(stream.n, 1))):
        mine = np.flatnonzero(unit % stream.channels == c)
        inside = unit[mine] // stream.channels
        bank, row = addresses(inside, channel, MAPPINGS[stream.mapping])
        counted.append(run(channel, rules, bank, row, inside, write[mine], arrival[mine]))
    return _outcome(part, stream, counted, channel.ticks_per_clock)


def _check(stream: Stream) -> None:
    if stream.mapping not in MAPPINGS:
        raise unknown_name("mapping", stream.mapping, MAPPINGS)
    if stream.refresh.lower() not in REFRESH:
        raise unknown_name("refresh", stream.refresh, REFRESH)
    counts = (("n", stream.n, 0), ("queue", stream.queue, 1), ("channels", stream.channels, 1))
    for name, value, least in counts:
        if value < least:
            raise ConfigError(f"{name} = {value}: must be at least {least}")
    if stream.load is not None and not stream.load > 0:
        raise ConfigError(f"inject_frac = {stream.load}: must be positive, or max")


def _outcome(part: Part, stream: Stream, counted: list[Counters], per_clock: int) -> Outcome:
    clocks = max((c.end for c in counted), default=0) / per_clock
    reads = sum(c.reads for c in counted)
    latency = sum(c.latency for c in counted) / per_clock
    waiting = 0.0 if stream.load is None else sum(c.waiting for c in counted) / per_clock
    peak = part.bursts_per_clock * stream.channels
    seconds = clocks * part.clock_s
    return Outcome(
        clocks, stream.n / clocks / peak if clocks else 0.0, latency / reads if reads else 0.0,
        (latency + waiting) / reads if reads else 0.0, sum(c.hits for c in counted),
        sum(c.misses for c in counted), sum(c.conflicts for c in counted),
        sum(c.activations for c in counted), sum(c.refreshes for c in counted), reads,
        sum(c.writes for c in counted), joules(part, counted, seconds, stream.channels), seconds,
        stream.n * part.burst_bytes / seconds if seconds else 0.0,
    )  # fmt: skip
