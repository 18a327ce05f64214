"""The banks of one channel: which row is open where, and from which tick each command may start.

Plain twin, made to be read: each node of the hierarchy holds, per command, the first tick at which the
command may start there; issuing a command raises these by the waits of the standard.
"""

from __future__ import annotations

from .channel import N_COMMANDS, N_LEVELS, Channel, Command, Level, Refresh, Wait

SCOPED = (Command.PREA, Command.REFA)
CLOSED = -1
OPENING = -2  # between ACT and ACT2


class Device:
    """State of the banks and the waits between commands."""

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self.open_row = [CLOSED] * channel.n_banks
        counts = [1, channel.pseudo, channel.ranks, channel.groups, channel.banks]
        self.first, self.width = _layout(counts)
        total = self.first[-1] + channel.n_banks
        self.ready = [[0] * N_COMMANDS for _ in range(total)]
        self.history: dict[tuple[int, int], list[int]] = {}
        self.waits: list[list[list[Wait]]] = [[[] for _ in range(N_COMMANDS)] for _ in range(N_LEVELS)]
        for wait in channel.waits:
            self.waits[wait.level][wait.before].append(wait)

    def node(self, level: int, bank: int) -> int:
        """Return the node of a level above a bank."""
        return self.first[level] + bank // self.width[level]

    def scope(self, bank: int) -> range:
        """Return the banks that an all-bank command to `bank`'s refresh scope reaches."""
        width = self.width[self.channel.refresh_scope]
        start = bank // width * width
        return range(start, start + width)

    def is_ready(self, command: int, bank: int, now: int) -> bool:
        """Tell whether `command` may start at `now`."""
        return all(self.ready[node][command] <= now for node in self._nodes(command, bank))

    def issue(self, command: int, bank: int, row: int, now: int) -> None:
        """Start a command: raise the waits, change the banks."""
        for level, node in self._levelled(command, bank):
            self._raise(level, node, command, now)
        for level in range(1, N_LEVELS):
            if command not in SCOPED or level <= self.channel.refresh_scope:
                self._raise_siblings(level, bank, command, now)
        self._change(command, bank, row)

    def _change(self, command: int, bank: int, row: int) -> None:
        if command == Command.ACT:
            self.open_row[bank] = OPENING if self.channel.split_activate else row
        elif command == Command.ACT2:
            self.open_row[bank] = row
        elif command in (Command.PRE, Command.RDA, Command.WRA):
            self.open_row[bank] = CLOSED
        elif command == Command.PREA:
            for other in self.scope(bank):
                self.open_row[other] = CLOSED

    def _levelled(self, command: int, bank: int) -> list[tuple[int, int]]:
        """Return the (level, node) pairs that a command touches: its path, and what lies in its scope."""
        last = self.channel.refresh_scope if command in SCOPED else Level.BANK
        pairs = [(level, self.node(level, bank)) for level in range(last + 1)]
        for level in range(last + 1, N_LEVELS):
            below = sorted({self.node(level, other) for other in self.scope(bank)})
            pairs += [(level, node) for node in below]
        return pairs

    def _nodes(self, command: int, bank: int) -> list[int]:
        return [node for _, node in self._levelled(command, bank)]

    def _raise(self, level: int, node: int, command: int, now: int) -> None:
        starts = self.history.setdefault((node, command), [])
        starts.append(now)
        for wait in self.waits[level][command]:
            if not wait.sibling and len(starts) >= wait.window:
                ready = self.ready[node]
                ready[wait.after] = max(ready[wait.after], starts[-wait.window] + wait.ticks)
        del starts[:-8]

    def _raise_siblings(self, level: int, bank: int, command: int, now: int) -> None:
        waits = [wait for wait in self.waits[level][command] if wait.sibling]
        if not waits:
            return
        mine = self.node(level, bank)
        per_parent = self.width[level - 1] // self.width[level]
        start = self.first[level] + bank // self.width[level - 1] * per_parent
        for node in range(start, start + per_parent):
            for wait in waits if node != mine else ():
                self.ready[node][wait.after] = max(self.ready[node][wait.after], now + wait.ticks)


def _layout(counts: list[int]) -> tuple[list[int], list[int]]:
    """Return each level's first node number, and the banks below one node of it."""
    first, width, nodes, total = [], [], 1, 1
    for count in counts:
        total *= count
    start = 0
    for count in counts:
        nodes *= count
        first.append(start)
        width.append(total // nodes)
        start += nodes
    return first, width


class RefreshClock:
    """Says which banks are due for a refresh command at a tick."""

    def __init__(self, channel: Channel, kind: int) -> None:
        self.channel, self.kind = channel, kind
        per_bank = kind == Refresh.PER_BANK
        self.interval = channel.refresh_interval_bank if per_bank else channel.refresh_interval
        if kind == Refresh.NONE or self.interval <= 0:
            self.kind = Refresh.NONE
        self.next = self.interval
        self.turn = 0
        self.pending: list[int] = []
        self.marked = [0] * channel.pseudo * channel.ranks  # banks done in this round
        self.allowed = [0] * channel.pseudo * channel.ranks  # first tick of the next round

    def due(self, now: int) -> list[int]:
        """Return one bank of each scope (all-bank) or the banks (per-bank) to be refreshed from now."""
        if self.kind == Refresh.NONE:
            return []
        if self.kind == Refresh.PER_BANK and self.channel.refresh_bank_paired:
            return self._paired(now)
        if now != self.next:
            return []
        self.next += self.interval
        if self.kind == Refresh.ALL_BANK:
            ranks = self.channel.ranks if self.channel.refresh_scope == Level.RANK else 1
            width = self.channel.n_banks // (self.channel.pseudo * ranks)
            return list(range(0, self.channel.n_banks, width))
        bank, self.turn = self.turn, (self.turn + 1) % self.channel.n_banks
        return [bank]

    def _paired(self, now: int) -> list[int]:
        """One bank of every pseudo-channel at a time; a rank begins no new round before a refresh cycle."""
        if self.pending:
            return [self._send(now)]
        if now < self.next:
            return []
        channel = self.channel
        per_rank = channel.groups * channel.banks
        rank, inside = divmod(self.turn, per_rank)
        sets = [p * channel.ranks + rank for p in range(channel.pseudo)]
        if any(now < self.allowed[s] for s in sets):
            self.next = now + 1
            return []
        self.pending = [s * per_rank + inside for s in sets]
        self.turn = (self.turn + 1) % (channel.ranks * per_rank)
        self.next += self.interval
        return [self._send(now)]

    def _send(self, now: int) -> int:
        bank = self.pending.pop(0)
        per_rank = self.channel.groups * self.channel.banks
        index = bank // per_rank
        self.marked[index] += 1
        if self.marked[index] == per_rank:
            self.marked[index] = 0
            self.allowed[index] = now + self.channel.refresh_bank_cycle
        return bank
