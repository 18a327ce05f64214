"""The controller of one channel, tick by tick: the definition of what the compiled twin computes.

First-ready first-come: of the queued requests whose next command may start now, the oldest is served.  A
request that opened a row keeps it (it moves to the *owners*) until its burst is sent; refresh goes before
all that own no row.  Method: FR-FCFS (Rixner et al., ISCA 2000); write drain between two queue levels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from .channel import Channel, Command, Controller, Counters, Refresh
from .device import CLOSED, OPENING, Device, RefreshClock

COLUMN = (Command.RD, Command.WR, Command.RDA, Command.WRA)
CLOSING = (Command.PRE, Command.PREA)
Filter = Callable[["Entry", int], bool]


@dataclass(eq=False)
class Entry:
    """A queued request, or a refresh (final is REFA or REFB)."""

    final: int
    bank: int
    row: int
    unit: int = -1
    accepted: int = -1
    counted: bool = False


@dataclass
class Pick:
    """An entry, the command that it needs next, and the queue that holds it."""

    entry: Entry
    command: int
    queue: list[Entry]


class Machine:
    """One channel and its controller."""

    def __init__(self, channel: Channel, controller: Controller, *, log: bool = False) -> None:
        self.channel, self.controller, self.log = channel, controller, log
        self.device = Device(channel)
        self.clock = RefreshClock(channel, controller.refresh)
        self.now = 0
        self.reads: list[Entry] = []
        self.writes: list[Entry] = []
        self.owners: list[Entry] = []
        self.urgent: list[Entry] = []  # refreshes
        self.opening: list[tuple[int, Entry]] = []  # (deadline of ACT2, entry)
        self.after_sync: Pick | None = None
        self.draining = False
        self.synced_until = 0
        self.pairing_tick, self.pairing_command, self.pairing_bank = -1, -1, -1
        self.count = Counters(per_bank_refresh=self.clock.kind == Refresh.PER_BANK)

    # -- requests -------------------------------------------------------------------------------------
    def accept(self, bank: int, row: int, unit: int, write: bool) -> bool:
        """Take a request into its queue; False if the queue is full."""
        queue = self.writes if write else self.reads
        if any(entry.unit == unit for entry in self.writes):
            if write:
                self.count.coalesced += 1
            else:
                self.count.forwarded += 1
                self.count.end = max(self.count.end, self.now + 1)
        else:
            if len(queue) >= self.controller.queue:
                return False
            final = Command.WR if write else Command.RD
            queue.append(Entry(final, bank, row, unit, self.now))
        if write:
            self.count.writes += 1
            self.count.end = max(self.count.end, self.now)
        else:
            self.count.reads += 1
        return True

    def busy(self) -> bool:
        """Tell whether a read has not got its data yet, or (`drain`) a write is still queued."""
        owned = [*self.owners, *(entry for _, entry in self.opening)]
        reads = bool(self.reads) or any(entry.final == Command.RD for entry in owned)
        writes = self.controller.drain and bool(self.writes or owned)
        return reads or writes or self.count.end > self.now

    # -- one tick -------------------------------------------------------------------------------------
    def tick(self) -> None:
        """Advance by one tick and start at most one command on each bus."""
        self.now += 1
        for bank in self.clock.due(self.now):
            all_bank = self.clock.kind == Refresh.ALL_BANK
            self.urgent.append(Entry(Command.REFA if all_bank else Command.REFB, bank, -1))
        if self.channel.split_activate:
            self._tick_split()
        elif self.channel.two_buses:
            whole = self.channel.ticks_per_clock == 1 or self.now % 2 == 1
            if whole:
                self._slot(column=True)
            self._slot(column=False)
        else:
            pick = self._oldest(self.owners) or self._from_urgent() or self._from_queues()
            if pick:
                self._start(pick)

    def _slot(self, *, column: bool) -> None:
        def fits(entry: Entry, command: int) -> bool:
            if column or command in COLUMN:
                return column and command in COLUMN
            return self._fits_half_clock(command, entry.bank)

        pick = self._oldest(self.owners, fits) if column else None
        pick = pick or self._from_urgent(fits) or self._from_queues(fits)
        if not pick:
            return
        command = self._start(pick)
        if not column and self.channel.ticks_per_clock == 2 and self.now % 2 == 1:
            act = command == Command.ACT
            self.pairing_tick = self.now + (self.channel.act_pairing if act else 1)
            self.pairing_command, self.pairing_bank = command, pick.entry.bank

    def _fits_half_clock(self, command: int, bank: int) -> bool:
        """Only a precharge starts at a half clock, and not of what the row command before it touches."""
        if self.channel.ticks_per_clock == 1 or self.now % 2 == 1:
            return True
        if command not in CLOSING:
            return False
        per_pseudo = self.channel.n_banks // self.channel.pseudo
        if self.now != self.pairing_tick or bank // per_pseudo != self.pairing_bank // per_pseudo:
            return True
        whole = self.pairing_command in (Command.PREA, Command.REFA)
        return command == Command.PRE and not whole and bank != self.pairing_bank

    # -- choice ---------------------------------------------------------------------------------------
    def _next_command(self, entry: Entry) -> int:
        open_row = self.device.open_row
        if entry.final == Command.REFA:
            is_open = any(open_row[bank] != CLOSED for bank in self.device.scope(entry.bank))
            return Command.PREA if is_open else entry.final
        now_open = open_row[entry.bank]
        if entry.final == Command.REFB:
            return Command.PRE if now_open != CLOSED else entry.final
        if now_open == CLOSED:
            return Command.ACT
        if now_open == OPENING:
            return Command.ACT2
        return entry.final if now_open == entry.row else Command.PRE

    def _closes_owned(self, command: int, bank: int) -> bool:
        if command not in CLOSING:
            return False
        reach: Sequence[int] = [bank] if command == Command.PRE else self.device.scope(bank)
        return any(entry.bank in reach for entry in self.owners)

    def _oldest(self, queue: list[Entry], fits: Filter | None = None) -> Pick | None:
        """Return the oldest entry whose next command may start now."""
        best: Pick | None = None
        for entry in queue:
            command = self._next_command(entry)
            if fits and not fits(entry, command):
                continue
            if best and best.entry.accepted <= entry.accepted:
                continue
            if self.device.is_ready(command, entry.bank, self.now):
                best = Pick(entry, command, queue)
        return best

    def _from_urgent(self, fits: Filter | None = None) -> Pick | None:
        if not self.urgent:
            return None
        entry = self.urgent[0]
        command = self._next_command(entry)
        if not self.device.is_ready(command, entry.bank, self.now):
            return None
        if self._closes_owned(command, entry.bank) or (fits and not fits(entry, command)):
            return None
        return Pick(entry, command, self.urgent)

    def _from_queues(self, fits: Filter | None = None) -> Pick | None:
        if self.urgent:
            return None
        self._turn_around()
        queue = self.writes if self.draining else self.reads

        def allowed(entry: Entry, command: int) -> bool:
            if self._closes_owned(command, entry.bank):
                return False
            if self.controller.keep_hits and command == Command.PRE and self._hit_before(entry, queue):
                return False
            return fits is None or fits(entry, command)

        return self._oldest(queue, allowed)

    def _hit_before(self, entry: Entry, queue: list[Entry]) -> bool:
        row = self.device.open_row[entry.bank]
        return any(
            other.bank == entry.bank and other.row == row and other.accepted <= entry.accepted
            for other in queue
        )

    def _turn_around(self) -> None:
        size = self.controller.queue
        if not self.draining:
            self.draining = len(self.writes) > self.controller.high * size or not self.reads
        elif len(self.writes) < self.controller.low * size and self.reads:
            self.draining = False

    # -- issue ----------------------------------------------------------------------------------------
    def _start(self, pick: Pick) -> int:
        """Start the picked command and move its entry on; return the command."""
        entry, command = pick.entry, pick.command
        if command in (Command.RD, Command.WR) and self.controller.closed_rows and self._last(entry):
            command = Command.RDA if command == Command.RD else Command.WRA
        self._count(entry, command)
        self.device.issue(command, entry.bank, entry.row, self.now)
        if command in COLUMN:
            pick.queue.remove(entry)
            self.count.served += 1
            if entry.final == Command.RD:
                end = self.now + self.channel.read_latency
                self.count.latency += end - entry.accepted - 1
                self.count.end = max(self.count.end, end)
        elif command == entry.final:
            pick.queue.remove(entry)
        elif command == Command.ACT:
            pick.queue.remove(entry)
            if self.channel.split_activate:
                self.opening.append((self.now + self.channel.split_activate, entry))
            else:
                self.owners.append(entry)
        return command

    def _last(self, entry: Entry) -> bool:
        """Tell whether no other queued request wants the entry's row."""
        queues = (self.reads, self.writes, self.owners)
        return not any(
            other is not entry and other.bank == entry.bank and other.row == entry.row
            for queue in queues for other in queue
        )  # fmt: skip

    def _count(self, entry: Entry, command: int) -> None:
        if self.log:
            self.count.commands.append((self.now, command, entry.bank))
        if command == Command.ACT:
            self.count.activations += 1
        elif command in CLOSING:
            self.count.precharges += 1
        elif command in (Command.REFA, Command.REFB):
            self.count.refreshes += 1
        if entry.counted or entry.final in (Command.REFA, Command.REFB) or command in (10, 11):
            return
        entry.counted = True
        row = self.device.open_row[entry.bank]
        if row == entry.row:
            self.count.hits += 1
        elif row in (CLOSED, OPENING):
            self.count.misses += 1
        else:
            self.count.conflicts += 1

    # -- split activation and clock synchronisation (LPDDR5) ------------------------------------------
    def _tick_split(self) -> None:
        if self.after_sync:
            self._synchronised(self.after_sync.command)
            self._start(self.after_sync)
            self.after_sync = None
            return
        urgent = self._second_half(self.now)
        pick = None if urgent else self._normal()
        if urgent or not pick:
            self._start_second(urgent or self._second_half(None))
        elif pick.command in COLUMN and self.now >= self.synced_until:
            self._synchronise(pick)
        else:
            if pick.command in COLUMN:
                self._synchronised(pick.command)
            self._start(pick)

    def _normal(self) -> Pick | None:
        def allowed(entry: Entry, command: int) -> bool:
            if command == Command.ACT2:
                return False
            if not self.opening or command in COLUMN:
                return True
            reach: Sequence[int] = [entry.bank]
            if command in (Command.PREA, Command.REFA):
                reach = self.device.scope(entry.bank)
            closing = command in CLOSING or command in (Command.REFA, Command.REFB)
            return closing and not any(other.bank in reach for _, other in self.opening)

        return self._oldest(self.owners, allowed) or self._from_urgent(allowed) or self._from_queues(allowed)

    def _second_half(self, deadline: int | None) -> tuple[int, Entry] | None:
        """Return the ACT2 that is due first (of those due by `deadline`)."""
        due = [item for item in self.opening if deadline is None or item[0] <= deadline]
        due = [item for item in due if self.device.is_ready(Command.ACT2, item[1].bank, self.now)]
        return min(due, key=lambda item: (item[0], item[1].accepted)) if due else None

    def _start_second(self, item: tuple[int, Entry] | None) -> None:
        if item is None:
            return
        entry = item[1]
        self._count(entry, Command.ACT2)
        self.device.issue(Command.ACT2, entry.bank, entry.row, self.now)
        self.opening.remove(item)
        self.owners.append(entry)

    def _synchronise(self, pick: Pick) -> None:
        if any(deadline <= self.now + 1 for deadline, _ in self.opening):
            self._start_second(self._second_half(None))
            return
        command = Command.CASR if pick.command == Command.RD else Command.CASW
        if self.device.is_ready(command, pick.entry.bank, self.now):
            if self.log:
                self.count.commands.append((self.now, command, pick.entry.bank))
            self.device.issue(command, pick.entry.bank, pick.entry.row, self.now)
            self.after_sync = pick

    def _synchronised(self, command: int) -> None:
        reach = self.channel.sync_read if command == Command.RD else self.channel.sync_write
        self.synced_until = max(self.synced_until, self.now + reach + self.channel.sync_tail)


def run(
    channel: Channel, controller: Controller, bank: Sequence[int], row: Sequence[int], unit: Sequence[int],
    write: Sequence[int], arrival: Sequence[int], *, log: bool = False,
) -> Counters:  # fmt: skip
    """Serve a stream of bursts, in order of arrival.

    Parameters
    ----------
    bank, row, unit : int sequence, shape (n,)   where each burst lies (`channel.addresses`); equal `unit`
                                                 means equal address
    write : 0 or 1, shape (n,)
    arrival : int sequence, shape (n,)           first tick at which a request is offered; not decreasing

    Notes
    -----
    A request that its queue cannot take holds back all behind it.  Cost O(ticks * queue).
    """
    machine = Machine(channel, controller, log=log)
    todo, total = 0, len(bank)
    while todo < total or machine.busy():
        for _ in range(controller.accept):
            if todo == total or arrival[todo] > machine.now:
                break
            if not machine.accept(bank[todo], row[todo], unit[todo], bool(write[todo])):
                break
            if not write[todo]:
                machine.count.waiting += machine.now - arrival[todo]
            todo += 1
        machine.tick()
    return machine.count
