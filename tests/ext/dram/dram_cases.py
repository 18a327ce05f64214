"""Random streams on random parts, and a checker of command logs that knows nothing of the kernels."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from ext.dram import Channel, Command, Controller, Counters, Level, Refresh, addresses
from hwmodels.cycle.standards import load_part, names

PARTS = [load_part(name) for name in names()]
COLUMN = {Command.RD, Command.WR, Command.RDA, Command.WRA, Command.CASR, Command.CASW}
SCOPED = {Command.PREA, Command.REFA}


@dataclass
class Case:
    """One stream, ready for `run`."""

    channel: Channel
    controller: Controller
    arrays: list[np.ndarray]

    @property
    def lists(self) -> list[list[int]]:
        return [array.tolist() for array in self.arrays]


def draw(rng: np.random.Generator, lengths=(0, 1, 2, 5, 30, 120, 300)) -> Case:
    """Draw a part, a controller and a stream; ties, full queues, idle times and refreshes all occur."""
    channel = PARTS[rng.integers(len(PARTS))].channel()
    if rng.random() < 0.3:
        channel = replace(channel, ranks=int(rng.choice([1, 2, 4])))
    if rng.random() < 0.4:
        channel = replace(channel, refresh_interval=max(1, channel.refresh_interval // 4))
    n = int(rng.choice(lengths))
    unit = _units(rng, n, channel.units)
    write = (rng.random(n) < rng.choice([0, 0, 0.3, 0.5, 1])).astype(np.int64)
    gap = int(rng.choice([0, 0, 1, 3, 10, 60, 300]))
    arrival = np.cumsum(rng.integers(0, gap + 1, n)).astype(np.int64)
    bank, row = addresses(unit, channel, str(rng.choice(["pgcbkr", "cpkgbr", "rkbcgp"])))
    controller = Controller(
        queue=int(rng.choice([1, 2, 8, 32])), refresh=int(rng.choice([0, 1, 1, 2])),
        closed_rows=bool(rng.random() < 0.3), keep_hits=bool(rng.random() < 0.3),
        drain=bool(rng.random() < 0.4), accept=int(rng.choice([1, 2, 4])),
    )  # fmt: skip
    return Case(channel, controller, [bank, row, unit, write, arrival])


def _units(rng: np.random.Generator, n: int, total: int) -> np.ndarray:
    kind = rng.integers(4)
    if kind == 0:
        return np.arange(n, dtype=np.int64)
    if kind == 1:
        return rng.integers(0, total, n)
    if kind == 2:
        return rng.integers(0, 64, n) * int(rng.choice([1, 8, 1024]))
    return np.arange(n, dtype=np.int64) * int(rng.choice([4, 8, 2048])) % total


def nodes(channel: Channel, level: int, command: int, bank: int) -> set[int]:
    """Return the nodes of a level that a command touches, as numbers of the level."""
    below = [
        channel.n_banks, channel.n_banks // channel.pseudo,
        channel.n_banks // channel.pseudo // channel.ranks, channel.banks, 1,
    ]  # fmt: skip
    reach = [bank]
    if command in SCOPED:
        width = below[channel.refresh_scope]
        reach = list(range(bank // width * width, bank // width * width + width))
    return {other // below[level] for other in reach}


def violations(channel: Channel, counters: Counters) -> list[str]:
    """Return every pair of commands that breaks a wait, a bus or the state of a bank."""
    found = _state_faults(channel, counters) + _bus_faults(channel, counters)
    for wait in channel.waits:
        found += _wait_faults(channel, wait, counters.commands)
    return found


def _wait_faults(channel, wait, commands):
    last: dict[int, list[int]] = {}
    found = []
    per_parent = channel.ranks if wait.level == Level.RANK else 1
    for tick, command, bank in commands:
        if command == wait.after:
            for node in nodes(channel, wait.level, command, bank):
                sources = [node]
                if wait.sibling:
                    first = node // per_parent * per_parent
                    sources = [other for other in range(first, first + per_parent) if other != node]
                for source in sources:
                    starts = last.get(source, [])
                    if len(starts) >= wait.window and tick < starts[-wait.window] + wait.ticks:
                        found.append(f"{wait} at {tick}, bank {bank}")
        if command == wait.before:
            for node in nodes(channel, wait.level, command, bank):
                last.setdefault(node, []).append(tick)
    return found


def _bus_faults(channel, counters):
    seen, found = set(), []
    for tick, command, _ in counters.commands:
        key = (tick, channel.two_buses and command in COLUMN)
        if key in seen:
            found.append(f"two commands on a bus at {tick}")
        seen.add(key)
        only_whole = channel.ticks_per_clock == 2 and command not in (Command.PRE, Command.PREA)
        if only_whole and tick % 2 == 0:
            found.append(f"{Command(command).name} at a half clock, {tick}")
    return found


def _state_faults(channel, counters):
    opened: dict[int, bool] = {}
    half_open: set[int] = set()
    found = []
    scope = {p: nodes(channel, Level.BANK, Command.REFA, p) for p in range(channel.n_banks)}
    for tick, command, bank in counters.commands:
        is_open = opened.get(bank, False)
        legal = {
            Command.ACT: not is_open, Command.ACT2: bank in half_open, Command.PRE: is_open,
            Command.REFB: not is_open,
            Command.REFA: command != Command.REFA or not any(opened.get(b) for b in scope[bank]),
        }.get(command, is_open or command == Command.PREA)  # fmt: skip
        if not legal:
            found.append(f"{Command(command).name} of bank {bank} at {tick}")
        if command == Command.ACT and channel.split_activate:
            half_open.add(bank)
        if command == Command.ACT2:
            half_open.discard(bank)
        if command == Command.ACT:
            opened[bank] = True
        elif command in (Command.PRE, Command.RDA, Command.WRA):
            opened[bank] = False
        elif command == Command.PREA:
            opened.update(dict.fromkeys(scope[bank], False))
    return found


def some_refresh(case: Case) -> bool:
    """Tell whether the case refreshes at all."""
    return case.controller.refresh != Refresh.NONE
