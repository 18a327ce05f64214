"""The compiled twin of `ext.dram.reference`: the same integers, skipping ticks at which nothing can happen.

How it skips.  For the reads and the writes it keeps, per bank, the oldest request that hits the open row and
the oldest that does not; only these can be chosen next in the bank.  Lower bounds on when the next column and
row command can start (`bound`) survive until an event could lower them; the next tick to look at is the
least of the bounds, the next arrival, refresh and end.  If the oldest request of all hits, and nothing can
start before it, it goes without a search.
"""
from libc.stdint cimport int32_t, int64_t
from libc.stdlib cimport calloc, free, realloc
from libc.string cimport memset

import numpy as np

from .channel import Counters, Refresh
from .tables import tables_of

include "_state.pxi"
include "_device.pxi"
include "_queues.pxi"
include "_choice.pxi"
include "_tick.pxi"


cdef inline int64_t start_floor(Machine* m, int q, int kind, int command) noexcept nogil:
    """First tick after now at which a queue's entry may take a column command or open a bank."""
    cdef int64_t t = m.bound[q][kind], v
    if t == NEVER:
        return t
    v = floor_of(m, command)
    if v > t:
        t = v
    return whole(m, t if t > m.now else m.now + 1)


cdef inline int64_t next_event(Machine* m, int64_t due) noexcept nogil:
    """First tick after now at which anything can happen; `due`: the tick after the next arrival."""
    cdef int64_t t = m.refresh_next, v, soon = m.now + 1
    cdef int q
    if due < t:
        t = due
    if m.sync_entry >= 0 or m.n_opening or m.n_due:
        return soon
    if m.n_owners:
        v = whole(m, m.owner_bound)
        if v < t:
            t = v
    if m.urgent_count:
        v = urgent_ready(m, urgent_command(m))
        if v < t:
            t = v
        return t if t > soon else soon
    q = m.draining  # the queue at the next choice, if no request arrives before
    if q:
        if m.size[1] < m.low * m.queue and m.size[0]:
            q = 0
    elif m.size[1] > m.high * m.queue or m.size[0] == 0:
        q = 1
    v = start_floor(m, q, COL, WR if q else RD)
    if v < t:
        t = v
    v = start_floor(m, q, OPEN, ACT)
    if v < t:
        t = v
    v = m.bound[q][SHUT]
    if v < t:
        t = v
    if t > soon:
        m.draining = q  # chosen at the idle tick that follows
        return t
    return soon


cdef inline bint quick(Machine* m, int64_t due) noexcept nogil:
    """Send the oldest read of all, if it hits and nothing else can start before it or instead of it."""
    cdef int e = m.head[0]
    cdef Bank* b
    cdef int64_t t, floor
    if e < 0 or m.draining or m.urgent_count or m.n_opening or m.size[1]:
        return False
    b = &m.bank[m.entry[e].bank]
    if b.row != m.entry[e].row:
        return False
    floor = m.ready[RD]
    if floor <= m.now:
        floor = m.now + 1
    floor = whole(m, floor)
    t = whole(m, ready_at(m, b, RD))
    if t > floor:
        floor = whole(m, floor_of(m, RD))
        if t > floor:
            return False
    if m.n_owners and m.owner_bound <= floor:
        return False
    if floor >= m.refresh_next or floor > due or m.bound[0][OPEN] <= floor or m.bound[0][SHUT] <= floor:
        return False
    if floor == due and due > m.now + 1:
        return False
    m.now = floor
    start_column(m, e, -1)
    return True


cdef void serve(Machine* m, int64_t n, const int64_t* bank, const int64_t* row, const int64_t* unit,
                const int64_t* write, const int64_t* arrival) noexcept nogil:
    cdef int64_t todo = 0, t, due, last
    cdef int k, w
    cdef bint blocked
    cdef bint split = m.split > 0
    while True:
        if todo == n and m.pending_reads == 0 and m.end <= m.now:
            if not m.drain or (m.size[1] == 0 and m.n_owners == 0 and m.n_opening == 0):
                return
        # requests, offered before the next tick
        blocked = False
        for k in range(m.accept):
            if todo == n or arrival[todo] > m.now:
                break
            w = <int> write[todo]
            if not accept_one(m, <int> bank[todo], <int> row[todo], unit[todo], w):
                blocked = True
                break
            if not w:
                m.waiting += m.now - arrival[todo]
            todo += 1
        # the next tick to look at
        due = NEVER
        if todo < n and not blocked:
            due = (arrival[todo] if arrival[todo] > m.now else m.now) + 1
        if not split and quick(m, due):
            continue
        t = next_event(m, due)
        if t == due and t > m.now + 1:  # nothing happens before the request arrives
            m.now = t - 1
            continue
        if todo == n and m.pending_reads == 0 and t > m.now + 1 and t > m.end:
            last = m.end if m.end > m.now + 1 else m.now + 1
            if not m.drain or (m.size[1] == 0 and m.n_owners == 0 and m.n_opening == 0):
                m.now = last
                continue
        m.now = t
        refresh_tick(m)
        if split:
            split_tick(m)
        elif m.two_buses:
            if m.per_clock == 1 or m.now & 1:
                column_slot(m)
            row_slot(m)
        else:
            one_bus(m)


# -- from and to Python

cdef class _Store:
    """The arrays that a machine points into."""
    cdef list arrays

    def __init__(self):
        self.arrays = []

    cdef void* ints(self, count, fill=0):
        cdef int[::1] view = np.full(max(1, count), fill, dtype=np.intc)
        self.arrays.append(view)
        return &view[0]

    cdef void* longs(self, count, fill=0):
        cdef int64_t[::1] view = np.full(max(1, count), fill, dtype=np.int64)
        self.arrays.append(view)
        return &view[0]

    cdef void* raw(self, size_t size):
        cdef unsigned char[::1] view = np.zeros(max(1, size), dtype=np.uint8)
        self.arrays.append(view)
        return &view[0]


cdef void _set_rules(Machine* m, channel, controller):
    m.n_banks, m.pseudo, m.ranks = channel.n_banks, channel.pseudo, channel.ranks
    m.per_pseudo = m.n_banks // m.pseudo
    m.per_clock, m.two_buses, m.split = channel.ticks_per_clock, channel.two_buses, channel.split_activate
    m.pairing, m.queue, m.accept = channel.act_pairing, controller.queue, controller.accept
    m.closed_rows, m.keep_hits, m.drain = controller.closed_rows, controller.keep_hits, controller.drain
    m.sync_tail, m.sync_read, m.sync_write = channel.sync_tail, channel.sync_read, channel.sync_write
    m.read_latency, m.high, m.low = channel.read_latency, controller.high, controller.low
    m.scope_level = channel.refresh_scope


cdef void _set_refresh(Machine* m, channel, controller, _Store store):
    per_bank = controller.refresh == Refresh.PER_BANK
    m.refresh_interval = channel.refresh_interval_bank if per_bank else channel.refresh_interval
    m.refresh = controller.refresh if m.refresh_interval > 0 else 0
    m.paired = channel.refresh_bank_paired
    m.refresh_next = m.refresh_interval if m.refresh else NEVER
    m.refresh_cycle = channel.refresh_bank_cycle
    m.due = <int*> store.ints(m.pseudo)
    m.marked = <int*> store.ints(m.pseudo * channel.ranks)
    m.allowed = <int64_t*> store.longs(m.pseudo * channel.ranks)
    m.urgent_size = 64
    m.urgent = <int*> calloc(m.urgent_size, sizeof(int))


cdef Wait* _wait_list(rows, _Store store):
    cdef int i
    cdef Wait* waits = <Wait*> store.raw(max(1, len(rows)) * sizeof(Wait))
    for i, (after, level, ticks, window) in enumerate(rows):
        waits[i].after, waits[i].level, waits[i].ticks, waits[i].window = after, level, ticks, window
    return waits


cdef void _set_waits(Machine* m, tables, _Store store):
    cdef int i
    m.waits, m.siblings = _wait_list(tables.waits, store), _wait_list(tables.siblings, store)
    m.start, m.start_sibling = <int*> store.ints(NC + 1), <int*> store.ints(NC + 1)
    m.windowed = <int*> store.ints(NC)
    for i in range(NC + 1):
        m.start[i], m.start_sibling[i] = tables.start[i], tables.start_sibling[i]
    for i in range(NC):
        m.windowed[i] = tables.windowed[i]
    for i in range(5):
        m.first[i], m.width[i] = tables.first[i], tables.width[i]
    m.scope_width = m.width[m.scope_level]
    m.ready = <int64_t*> store.longs(tables.nodes * NC)
    m.ring = <int64_t*> store.longs(tables.nodes * NC * RING, -1)


cdef void _set_queues(Machine* m, _Store store):
    cdef int i, q, entries = 2 * m.queue + 2 * m.n_banks + 4
    m.entry = <Entry*> store.raw(entries * sizeof(Entry))
    m.free_list = <int*> store.ints(entries)
    for i in range(entries):
        m.free_list[i] = i
    m.n_free = entries
    m.bank = <Bank*> store.raw(m.n_banks * sizeof(Bank))
    m.owner = <int*> store.ints(m.n_banks + 2)
    m.owner_when = <int64_t*> store.longs(m.n_banks + 2)
    m.opening = <int*> store.ints(m.n_banks + 1)
    m.deadline = <int64_t*> store.longs(m.n_banks + 1)
    for q in range(2):
        m.banks_of[q] = <int*> store.ints(m.n_banks + 1)
        m.when[q][COL] = <int64_t*> store.longs(m.n_banks + 1)
        m.when[q][OPEN] = <int64_t*> store.longs(m.n_banks + 1)
        m.when[q][SHUT] = <int64_t*> store.longs(m.n_banks + 1)
        m.head[q] = m.tail[q] = -1
    for i in range(m.n_banks):
        m.bank[i].row = CLOSED
        for q in range(2):
            m.bank[i].head[q] = m.bank[i].tail[q] = m.bank[i].hit[q] = m.bank[i].miss[q] = -1
        for q in range(5):
            m.bank[i].node[q] = m.first[q] + i // m.width[q]
            m.bank[i].base[q] = m.bank[i].node[q] * NC
        m.bank[i].sibling = m.first[2] + i // m.width[1] * m.ranks
    m.pairing_tick, m.sync_entry = -1, -1


def run(channel, controller, const int64_t[::1] bank, const int64_t[::1] row, const int64_t[::1] unit,
        const int64_t[::1] write, const int64_t[::1] arrival, *, log=False):
    """Serve a stream of bursts; arguments, result and laws as `ext.dram.reference.run`."""
    cdef Machine m
    cdef int64_t n = bank.shape[0], i
    cdef _Store store = _Store()
    if n == 0:
        m.refresh = 2 if controller.refresh == Refresh.PER_BANK and channel.refresh_interval_bank > 0 else 0
        return Counters(per_bank_refresh=m.refresh == 2)
    if not (row.shape[0] == unit.shape[0] == write.shape[0] == arrival.shape[0] == n):
        raise ValueError("bank, row, unit, write and arrival must be of one length")
    m = _zero()
    _set_rules(&m, channel, controller)
    _set_waits(&m, tables_of(channel), store)
    _set_refresh(&m, channel, controller, store)
    _set_queues(&m, store)
    m.logging = log
    try:
        with nogil:
            serve(&m, n, &bank[0], &row[0], &unit[0], &write[0], &arrival[0])
        commands = [(m.log[i], <int> m.log[i + 1], <int> m.log[i + 2]) for i in range(0, m.n_log, 3)]
    finally:
        free(m.urgent)
        free(m.log)
    return Counters(
        m.end, m.reads, m.writes, m.forwarded, m.coalesced, m.hits, m.misses, m.conflicts, m.activations,
        m.precharges, m.refreshes, m.refresh == 2, m.served, m.latency, m.waiting, commands,
    )


cdef Machine _zero():
    cdef Machine m
    memset(&m, 0, sizeof(Machine))
    return m
