"""The timeline of one channel whose banks work in step: ACT, MAC per column, PRE, refresh."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class RowTimes:
    """Waits of one channel, in clocks (the same between any two banks that work in step)."""

    open_to_read: float  # tRCD
    open_to_close: float  # tRAS
    close_to_open: float  # tRP
    open_to_open: float  # tRC
    read_to_close: float  # tRTP
    refresh_interval: float  # tREFI; 0: none
    refresh_cycle: float  # tRFC


@dataclass(frozen=True)
class Streamed:
    """What a stream of columns took."""

    clocks: float
    openings: int
    refreshes: int


def stream_rows(
    times: RowTimes, columns: int, per_row: int, pace: float, sets: int = 1, next_refresh: float | None = None
) -> Streamed:
    """Read `columns` columns, `per_row` of each opened row, one per `pace` clocks.

    Parameters
    ----------
    columns : int          columns in all, the same in every bank that works in step
    per_row : int          columns of a row (of all rows that one ACT opens)
    pace : float           clocks from one MAC to the next: the array's own, or the arithmetic's
    sets : int             sets of banks that take turns; the next row of another set is opened meanwhile
    next_refresh : float   clock of the first refresh; by default one interval from the start

    Notes
    -----
    Laws: clocks >= columns * pace; without refresh, one set:
    clocks == rows * max(tRC, tRCD + tRP + (per_row - 1) * pace + tRTP, tRAS + tRP) - what the last row
    need not wait for; more sets never take longer.  Cost O(rows).
    """
    due = times.refresh_interval if next_refresh is None else next_refresh
    closed = [0.0] * sets  # from when a set may be opened
    data_free = 0.0
    refreshes = openings = 0
    left, turn = columns, 0
    while left > 0:
        count = min(left, per_row)
        opened = closed[turn]
        first = max(opened + times.open_to_read, data_free)
        if times.refresh_interval > 0 and first >= due:
            start = max(due, data_free, *closed)
            closed = [start + times.refresh_cycle] * sets
            due += times.refresh_interval
            refreshes += 1
            continue
        last = first + (count - 1) * pace
        data_free = first + count * pace
        shut = max(opened + times.open_to_close, last + times.read_to_close)
        closed[turn] = max(shut + times.close_to_open, opened + times.open_to_open)
        openings += 1
        left -= count
        turn = (turn + 1) % sets
    return Streamed(data_free, openings, refreshes)
