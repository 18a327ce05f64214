"""Timing gates: for each wait, the command is not ready one tick before and is ready at it."""

import numpy as np
import pytest
from dram_cases import PARTS, nodes, violations

from ext.dram import Channel, Command, Controller, Counters, Level, Wait, addresses, reference
from ext.dram.device import Device


def related(channel: Channel) -> dict[str, tuple[int, int]]:
    """Return pairs of banks by what they share."""
    rank = channel.groups * channel.banks
    pairs = {"same bank": (0, 0), "same group": (0, 1)}
    if channel.groups > 1:
        pairs["other group"] = (0, channel.banks)
    if channel.ranks > 1:
        pairs["other rank"] = (0, rank)
    if channel.pseudo > 1:
        pairs["other pseudo-channel"] = (0, rank * channel.ranks)
    return pairs


def expected(channel: Channel, before: int, after: int, first: int, second: int) -> int:
    """Return the wait between two commands on fresh banks, from the list of waits alone."""
    best = 0
    for wait in channel.waits:
        if (wait.before, wait.after, wait.window) != (before, after, 1):
            continue
        there, here = nodes(channel, wait.level, before, first), nodes(channel, wait.level, after, second)
        siblings = {(x // channel.ranks, x) for x in there} if wait.sibling else set()
        hit = any((y // channel.ranks == p and y != x) for p, x in siblings for y in here)
        if hit if wait.sibling else there & here:
            best = max(best, wait.ticks)
    return best


@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.name)
def test_each_command_waits_exactly_as_long_as_the_standard_says(part):
    channel, gates = part.channel(), 0
    for first, second in related(channel).values():
        for before in Command:
            for after in Command:
                device = Device(channel)
                device.issue(before, first, 7, 1000)
                wait = expected(channel, before, after, first, second)
                assert device.is_ready(after, second, 1000 + wait)
                if wait > 0:
                    assert not device.is_ready(after, second, 1000 + wait - 1)
                    gates += 1
    assert gates > 50


@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.name)
def test_a_fifth_activation_waits_for_the_window_of_four(part):
    channel = part.channel()
    window = next(w for w in channel.waits if w.window == 4 and w.before == w.after == Command.ACT)
    device = Device(channel)
    for i in range(4):
        device.issue(Command.ACT, i % channel.groups * channel.banks + i // channel.groups, 7, 1000)
    last = channel.groups * channel.banks - 1
    assert not device.is_ready(Command.ACT, last, 1000 + window.ticks - 1)
    assert device.is_ready(Command.ACT, last, 1000 + window.ticks)


def test_the_checker_sees_a_command_one_tick_early():
    channel = PARTS[0].channel()
    wait = next(w for w in channel.waits if w.level == Level.BANK and w.after == Command.RD)
    good = Counters(commands=[(11, Command.ACT, 0), (11 + wait.ticks, Command.RD, 0)])
    early = Counters(commands=[(11, Command.ACT, 0), (10 + wait.ticks, Command.RD, 0)])
    assert violations(channel, good) == []
    assert any("after=3" in fault for fault in violations(channel, early))


def test_the_checker_sees_illegal_states_and_buses():
    channel = PARTS[0].channel()
    assert violations(channel, Counters(commands=[(11, Command.RD, 0)]))
    assert violations(channel, Counters(commands=[(11, Command.ACT, 0), (11, Command.ACT, 40)]))


@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.name)
def test_one_read_costs_activation_and_latency(part):
    channel = part.channel()
    controller = Controller(refresh=0)
    one = [[0], [3], [0], [0], [0]]
    counted = reference.run(channel, controller, *one, log=True)
    ticks = {command: tick for tick, command, _ in counted.commands}
    gap = max(w.ticks for w in channel.waits if (w.before, w.after) == (Command.ACT, Command.RD))
    pause = ticks[Command.RD] - ticks[Command.ACT]
    assert gap <= pause <= gap + (1 if channel.split_activate else channel.ticks_per_clock)
    assert counted.end == ticks[Command.RD] + channel.read_latency
    assert counted.latency == counted.end - 1


def test_a_longer_wait_never_makes_a_stream_shorter():
    channel = PARTS[0].channel()
    unit = np.arange(200, dtype=np.int64) * 8
    bank, row = addresses(unit, channel, "pgcbkr")
    arrays = [a.tolist() for a in (bank, row, unit, unit * 0, unit * 0)]
    slower = [Wait(**{**vars(w), "ticks": w.ticks + 3}) for w in channel.waits if w.before == Command.RD]
    slow = Channel(**{**vars(channel), "waits": channel.waits + tuple(slower)})
    end = reference.run(channel, Controller(refresh=0), *arrays).end
    assert reference.run(slow, Controller(refresh=0), *arrays).end > end
