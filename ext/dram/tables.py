"""The waits of a channel as arrays: sorted by (level, command), without those that others imply."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from .channel import N_COMMANDS, N_LEVELS, Channel, Command, IntArray, Level, Wait


@dataclass(frozen=True)
class Tables:
    """What the compiled twin reads."""

    waits: IntArray  # rows (after, ticks, window, sibling)
    start: list[int]  # waits of (level, command) are rows start[level * N + command] and following
    windowed: list[int]  # whether (level, command) needs its history
    first: list[int]  # number of each level's first node
    width: list[int]  # banks below one node of a level
    nodes: int


@lru_cache(maxsize=128)
def tables_of(channel: Channel) -> Tables:
    """Compile a channel's waits; the result is kept per channel."""
    waits = sorted(_needed(channel), key=lambda w: (w.level, w.before))
    rows = [(w.after, w.ticks, w.window, int(w.sibling)) for w in waits]
    keys = [w.level * N_COMMANDS + w.before for w in waits]
    cells = N_LEVELS * N_COMMANDS
    start = [int(np.searchsorted(keys, cell)) for cell in range(cells + 1)]
    windowed = [0] * cells
    for wait in waits:
        windowed[wait.level * N_COMMANDS + wait.before] |= wait.window > 1
    counts = [1, channel.pseudo, channel.ranks, channel.groups, channel.banks]
    first, width, nodes = [], [], 1
    total = 0
    for count in counts:
        nodes *= count
        first.append(total)
        width.append(channel.n_banks // nodes)
        total += nodes
    array = np.array(rows, dtype=np.int64).reshape(len(rows), 4)
    return Tables(array, start, windowed, first, width, total)


def _needed(channel: Channel) -> list[Wait]:
    """Drop a wait if one at the same or a wider level asks for as much between the same commands."""
    best: dict[tuple[int, int, int, int, bool], int] = {}
    for wait in channel.waits:
        key = (wait.level, wait.before, wait.after, wait.window, wait.sibling)
        best[key] = max(best.get(key, 0), wait.ticks)
    spans = _spans(channel)
    kept = []
    for (level, before, after, window, sibling), ticks in best.items():
        wider = [
            best.get((other, before, after, window, False), 0)
            for other in range(level) if other <= spans(before) and not sibling
        ]  # fmt: skip
        if ticks > max(wider, default=0):
            kept.append(Wait(level, before, after, ticks, window, sibling))
    return kept


def _spans(channel: Channel) -> Callable[[int], int]:
    """Return the narrowest level at which a command acts as one node."""


    def span(command: int) -> int:
        scoped = command in (Command.PREA, Command.REFA)
        return channel.refresh_scope if scoped else int(Level.BANK)

    return span
