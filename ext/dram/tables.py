"""The waits of a channel as rows sorted by command, without those that others imply."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from .channel import N_COMMANDS, Channel, Command, Level, Wait

Row = tuple[int, int, int, int]  # after, level, ticks, window


@dataclass(frozen=True)
class Tables:
    """What the compiled twin reads."""

    waits: list[Row]  # of command c: rows start[c] .. start[c + 1] - 1
    start: list[int]
    siblings: list[Row]  # the same, between ranks
    start_sibling: list[int]
    windowed: list[int]  # of each command: bits of the levels that need its history
    first: list[int]  # number of each level's first node
    width: list[int]  # banks below one node of a level
    nodes: int


@lru_cache(maxsize=128)
def tables_of(channel: Channel) -> Tables:
    """Compile a channel's waits; the result is kept per channel."""
    needed = _needed(channel)
    own = [wait for wait in needed if not wait.sibling]
    between = [wait for wait in needed if wait.sibling and channel.ranks > 1]
    windowed = [0] * N_COMMANDS
    for wait in own:
        windowed[wait.before] |= (wait.window > 1) << wait.level
    first, width, total, nodes = [], [], 0, 1
    for count in (1, channel.pseudo, channel.ranks, channel.groups, channel.banks):
        nodes *= count
        first.append(total)
        width.append(channel.n_banks // nodes)
        total += nodes
    return Tables(*_rows(own), *_rows(between), windowed, first, width, total)


def _rows(waits: list[Wait]) -> tuple[list[Row], list[int]]:
    ordered = sorted(waits, key=lambda wait: (wait.before, wait.level))
    rows = [(wait.after, wait.level, wait.ticks, wait.window) for wait in ordered]
    start = [sum(wait.before < command for wait in ordered) for command in range(N_COMMANDS + 1)]
    return rows, start


def _needed(channel: Channel) -> list[Wait]:
    """Drop a wait if one at the same or a wider level asks for as much between the same commands."""
    best: dict[tuple[int, int, int, int, bool], int] = {}
    for wait in channel.waits:
        key = (wait.level, wait.before, wait.after, wait.window, wait.sibling)
        best[key] = max(best.get(key, 0), wait.ticks)
    kept = []
    for (level, before, after, window, sibling), ticks in best.items():
        span = channel.refresh_scope if before in (Command.PREA, Command.REFA) else Level.BANK
        wider = [best.get((above, before, after, window, False), 0) for above in range(min(level, span + 1))]
        if ticks > (0 if sibling else max(wider, default=0)):
            kept.append(Wait(level, before, after, ticks, window, sibling))
    return kept
