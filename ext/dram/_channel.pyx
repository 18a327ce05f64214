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

cdef enum:
    ACT = 0
    PRE = 1
    PREA = 2
    RD = 3
    WR = 4
    RDA = 5
    WRA = 6
    REFA = 7
    REFB = 8
    ACT2 = 9
    CASR = 10
    CASW = 11
    NC = 12
    CLOSED = -1
    OPENING = -2
    COL = 0
    OPEN = 1
    SHUT = 2
    KINDS = 3
    RING = 4

cdef int64_t NEVER = <int64_t> 1 << 62


cdef struct Entry:
    int64_t unit
    int64_t accepted
    int64_t order
    int32_t bank
    int32_t row
    int32_t write
    int32_t counted
    int32_t bank_next
    int32_t bank_prev
    int32_t next
    int32_t prev


cdef struct Bank:
    int32_t row
    int32_t owned
    int32_t head[2]
    int32_t tail[2]
    int32_t hit[2]   # oldest entry of the open row
    int32_t miss[2]  # oldest entry of another row, or of any row if the bank is closed
    int32_t place[2]  # in the list of banks with entries
    int32_t node[5]
    int32_t base[5]  # of the node's row of `ready`
    int32_t sibling  # first rank of the pseudo-channel


cdef struct Wait:
    int64_t ticks
    int32_t after
    int32_t level
    int32_t window


cdef struct Machine:
    # geometry and rules
    int n_banks, pseudo, ranks, per_pseudo, scope_width, scope_level
    int first[5]
    int width[5]
    int per_clock, two_buses, split, pairing, queue, accept, closed_rows, keep_hits, drain
    int64_t sync_tail, sync_read, sync_write, read_latency
    double high, low
    # waits by command: waits[start[command]] .. waits[start[command + 1] - 1]; the same between ranks
    Wait* waits
    Wait* siblings
    int* start
    int* start_sibling
    int* windowed  # bits of the levels that need a history
    int64_t* ready  # [node][command]
    int64_t* ring  # [node][command][RING]
    # queues
    Entry* entry
    int* free_list
    int n_free
    Bank* bank
    int* banks_of[2]  # banks with entries, for reads and writes
    int n_banks_of[2]
    int64_t* when[2][KINDS]  # [queue][COL, OPEN or SHUT][place]: no sooner can the bank's entry go on
    int head[2]
    int tail[2]
    int size[2]
    int64_t bound[2][KINDS]  # the least of `when`, or less
    int* owner
    int64_t* owner_when  # no sooner can it send its burst
    int n_owners
    int64_t owner_bound
    int* opening
    int64_t* deadline
    int n_opening
    int* urgent
    int urgent_first, urgent_count, urgent_size
    int pending_reads
    # refresh
    int refresh, paired, turn, n_due
    int64_t refresh_next, refresh_interval, refresh_cycle
    int* due
    int* marked
    int64_t* allowed
    # control
    int draining, sync_entry, sync_command
    int64_t synced_until
    int64_t now, order
    int64_t pairing_tick
    int pairing_command, pairing_bank
    # counters
    int64_t end, reads, writes, forwarded, coalesced, hits, misses, conflicts
    int64_t activations, precharges, refreshes, served, latency, waiting
    int logging
    int64_t* log
    int64_t n_log, log_size


# -- waits --------------------------------------------------------------------------------------------
cdef inline int64_t whole(Machine* m, int64_t t) noexcept nogil:
    """Return the first tick from t on at which any command may start (half clocks are even)."""
    return t | 1 if m.per_clock == 2 else t


cdef inline int64_t ready_at(Machine* m, Bank* b, int command) noexcept nogil:
    """First tick at which a command to one bank may start."""
    cdef int64_t* r = m.ready + command
    cdef int64_t t = r[0]
    cdef int64_t v = r[b.base[1]]
    if v > t:
        t = v
    v = r[b.base[2]]
    if v > t:
        t = v
    v = r[b.base[3]]
    if v > t:
        t = v
    v = r[b.base[4]]
    return v if v > t else t


cdef int64_t scope_ready(Machine* m, int bank, int command) noexcept nogil:
    """First tick at which a command to all banks of a scope may start."""
    cdef int64_t t = 0, v
    cdef int start = bank // m.scope_width * m.scope_width
    cdef int i
    for i in range(start, start + m.scope_width):
        v = ready_at(m, &m.bank[i], command)
        if v > t:
            t = v
    return t


cdef inline void remember(Machine* m, int node, int command) noexcept nogil:
    """Keep the last starts of a command at a node."""
    cdef int k
    cdef int64_t* ring = &m.ring[(node * NC + command) * RING]
    for k in range(RING - 1, 0, -1):
        ring[k] = ring[k - 1]
    ring[0] = m.now


cdef inline void raise_one(Machine* m, Wait* w, int node, int command) noexcept nogil:
    cdef int64_t past = m.now, t
    cdef int64_t* slot = &m.ready[node * NC + w.after]
    if w.window > 1:
        past = m.ring[(node * NC + command) * RING + w.window - 1]
        if past < 0:
            return
    t = past + w.ticks
    if slot[0] < t:
        slot[0] = t


cdef void raise_siblings(Machine* m, int bank, int command) noexcept nogil:
    """Waits between ranks of one pseudo-channel."""
    cdef int i, node
    cdef int mine = m.bank[bank].node[2]
    cdef int begin = m.bank[bank].sibling
    cdef int64_t t
    cdef Wait* w
    for i in range(m.start_sibling[command], m.start_sibling[command + 1]):
        w = &m.siblings[i]
        t = m.now + w.ticks
        for node in range(begin, begin + m.ranks):
            if node != mine and m.ready[node * NC + w.after] < t:
                m.ready[node * NC + w.after] = t


cdef inline void raise_bank(Machine* m, int bank, int command) noexcept nogil:
    """Waits of a command to one bank."""
    cdef int i
    cdef Bank* b = &m.bank[bank]
    cdef Wait* w
    cdef int64_t now = m.now, t
    cdef int64_t* slot
    if m.windowed[command]:
        for i in range(5):
            if m.windowed[command] >> i & 1:
                remember(m, b.node[i], command)
        for i in range(m.start[command], m.start[command + 1]):
            raise_one(m, &m.waits[i], b.node[m.waits[i].level], command)
    else:
        for i in range(m.start[command], m.start[command + 1]):
            w = &m.waits[i]
            t = now + w.ticks
            slot = &m.ready[b.base[w.level] + w.after]
            if slot[0] < t:
                slot[0] = t
    if m.start_sibling[command] != m.start_sibling[command + 1]:
        raise_siblings(m, bank, command)


cdef void raise_scope(Machine* m, int bank, int command) noexcept nogil:
    """Waits of a command to all banks of a scope: once per node above, at each node below."""
    cdef int i, b, node, last
    cdef int start = bank // m.scope_width * m.scope_width
    cdef Wait* w
    for i in range(m.start[command], m.start[command + 1]):
        w = &m.waits[i]
        last = -1
        for b in range(start, start + (m.scope_width if w.level > m.scope_level else 1)):
            node = m.bank[b].node[w.level]
            if node != last:
                raise_one(m, w, node, command)
                last = node


# -- queues -------------------------------------------------------------------------------------------
cdef inline void refind(Machine* m, Bank* b, int q) noexcept nogil:
    """Find again the oldest hit and the oldest other entry of a bank."""
    cdef int e = b.head[q]
    b.hit[q] = -1
    b.miss[q] = -1
    while e >= 0:
        if m.entry[e].row == b.row:
            if b.hit[q] < 0:
                b.hit[q] = e
        elif b.miss[q] < 0:
            b.miss[q] = e
        if b.hit[q] >= 0 and b.miss[q] >= 0:
            break
        e = m.entry[e].bank_next


cdef inline void settle_hit(Machine* m, Bank* b, int q) noexcept nogil:
    """Note when the bank's oldest hit can go on."""
    cdef int64_t t = NEVER
    if b.hit[q] >= 0:
        t = ready_at(m, b, WR if q else RD)
        if t < m.bound[q][COL]:
            m.bound[q][COL] = t
    m.when[q][COL][b.place[q]] = t


cdef inline void settle_miss(Machine* m, Bank* b, int q) noexcept nogil:
    """Note when the bank can be opened or closed for its oldest entry of another row."""
    cdef int64_t t
    cdef int place = b.place[q]
    m.when[q][OPEN][place] = NEVER
    m.when[q][SHUT][place] = NEVER
    if b.miss[q] < 0 or b.row == OPENING:
        return
    if b.row == CLOSED:
        t = whole(m, ready_at(m, b, ACT))
        m.when[q][OPEN][place] = t
        if t < m.bound[q][OPEN]:
            m.bound[q][OPEN] = t
    elif not b.owned:
        t = ready_at(m, b, PRE)
        m.when[q][SHUT][place] = t
        if t < m.bound[q][SHUT]:
            m.bound[q][SHUT] = t


cdef inline void row_changed(Machine* m, int bank, int row) noexcept nogil:
    """Open or close a row (after its waits were raised): find the bank's entries again, lower bounds."""
    cdef Bank* b = &m.bank[bank]
    cdef int q
    b.row = row
    for q in range(2):
        if b.head[q] < 0:
            continue
        refind(m, b, q)
        settle_hit(m, b, q)
        settle_miss(m, b, q)


cdef inline void insert(Machine* m, int e, int q) noexcept nogil:
    cdef Entry* x = &m.entry[e]
    cdef Bank* b = &m.bank[x.bank]
    x.next = -1
    x.prev = m.tail[q]
    if m.tail[q] >= 0:
        m.entry[m.tail[q]].next = e
    else:
        m.head[q] = e
    m.tail[q] = e
    m.size[q] += 1
    x.bank_next = -1
    x.bank_prev = b.tail[q]
    if b.tail[q] >= 0:
        m.entry[b.tail[q]].bank_next = e
    else:
        b.head[q] = e
        b.place[q] = m.n_banks_of[q]
        m.banks_of[q][m.n_banks_of[q]] = x.bank
        m.when[q][COL][m.n_banks_of[q]] = NEVER
        m.when[q][OPEN][m.n_banks_of[q]] = NEVER
        m.when[q][SHUT][m.n_banks_of[q]] = NEVER
        m.n_banks_of[q] += 1
    b.tail[q] = e
    if x.row == b.row:
        if b.hit[q] < 0:
            b.hit[q] = e
            settle_hit(m, b, q)
    elif b.miss[q] < 0:
        b.miss[q] = e
        settle_miss(m, b, q)


cdef inline void take_out(Machine* m, int e, int q) noexcept nogil:
    cdef Entry* x = &m.entry[e]
    cdef Bank* b = &m.bank[x.bank]
    cdef int other, place
    if x.prev >= 0:
        m.entry[x.prev].next = x.next
    else:
        m.head[q] = x.next
    if x.next >= 0:
        m.entry[x.next].prev = x.prev
    else:
        m.tail[q] = x.prev
    m.size[q] -= 1
    if b.hit[q] == e:
        other = x.bank_next
        while other >= 0 and m.entry[other].row != b.row:
            other = m.entry[other].bank_next
        b.hit[q] = other
        if other < 0:
            m.when[q][COL][b.place[q]] = NEVER
    elif b.miss[q] == e:
        other = x.bank_next
        while other >= 0 and m.entry[other].row == b.row:
            other = m.entry[other].bank_next
        b.miss[q] = other
        if other < 0:
            m.when[q][OPEN][b.place[q]] = NEVER
            m.when[q][SHUT][b.place[q]] = NEVER
    if x.bank_prev >= 0:
        m.entry[x.bank_prev].bank_next = x.bank_next
    else:
        b.head[q] = x.bank_next
    if x.bank_next >= 0:
        m.entry[x.bank_next].bank_prev = x.bank_prev
    else:
        b.tail[q] = x.bank_prev
    if b.head[q] < 0:
        place = b.place[q]
        m.n_banks_of[q] -= 1
        other = m.banks_of[q][m.n_banks_of[q]]
        m.banks_of[q][place] = other
        m.when[q][COL][place] = m.when[q][COL][m.n_banks_of[q]]
        m.when[q][OPEN][place] = m.when[q][OPEN][m.n_banks_of[q]]
        m.when[q][SHUT][place] = m.when[q][SHUT][m.n_banks_of[q]]
        m.bank[other].place[q] = place


cdef inline bint queued_write(Machine* m, int bank, int64_t unit) noexcept nogil:
    cdef int e = m.bank[bank].head[1]
    while e >= 0:
        if m.entry[e].unit == unit:
            return True
        e = m.entry[e].bank_next
    return False


cdef inline bint accept_one(Machine* m, int bank, int row, int64_t unit, int write) noexcept nogil:
    cdef int e
    if m.size[1] and queued_write(m, bank, unit):
        if write:
            m.coalesced += 1
        else:
            m.forwarded += 1
            if m.now + 1 > m.end:
                m.end = m.now + 1
    else:
        if m.size[write] >= m.queue:
            return False
        m.n_free -= 1
        e = m.free_list[m.n_free]
        m.entry[e].unit = unit
        m.entry[e].bank = bank
        m.entry[e].row = row
        m.entry[e].write = write
        m.entry[e].counted = 0
        m.entry[e].accepted = m.now
        m.entry[e].order = m.order
        m.order += 1
        insert(m, e, write)
        if not write:
            m.pending_reads += 1
    if write:
        m.writes += 1
        if m.now > m.end:
            m.end = m.now
    else:
        m.reads += 1
    return True


cdef inline void turn_around(Machine* m) noexcept nogil:
    if not m.draining:
        if m.size[1] > m.high * m.queue or m.size[0] == 0:
            m.draining = 1
    elif m.size[1] < m.low * m.queue and m.size[0] != 0:
        m.draining = 0


# -- issue --------------------------------------------------------------------------------------------
cdef void record(Machine* m, int command, int bank) noexcept nogil:
    if m.n_log + 3 > m.log_size:
        m.log_size = 2 * m.log_size + 3072
        m.log = <int64_t*> realloc(m.log, m.log_size * sizeof(int64_t))
    m.log[m.n_log] = m.now
    m.log[m.n_log + 1] = command
    m.log[m.n_log + 2] = bank
    m.n_log += 3


cdef inline void start_waits(Machine* m, int command, int bank) noexcept nogil:
    if m.logging:
        record(m, command, bank)
    if command == PREA or command == REFA:
        raise_scope(m, bank, command)
    else:
        raise_bank(m, bank, command)


cdef inline void count_row(Machine* m, int e) noexcept nogil:
    cdef int row = m.bank[m.entry[e].bank].row
    if m.entry[e].counted:
        return
    m.entry[e].counted = 1
    if row == m.entry[e].row:
        m.hits += 1
    elif row < 0:
        m.misses += 1
    else:
        m.conflicts += 1


cdef inline void start_column(Machine* m, int e, int owner_place) noexcept nogil:
    """Send a burst: from a queue (owner_place < 0) or from the list of owners."""
    cdef Entry* x = &m.entry[e]
    cdef Bank* b = &m.bank[x.bank]
    cdef int q = x.write
    cdef int command = WR if q else RD
    cdef int i
    cdef int64_t end
    count_row(m, e)
    if owner_place < 0:
        take_out(m, e, q)
    else:
        b.owned -= 1
        m.n_owners -= 1
        for i in range(owner_place, m.n_owners):
            m.owner[i] = m.owner[i + 1]
            m.owner_when[i] = m.owner_when[i + 1]
        for i in range(2):  # the bank may be closed again
            if b.miss[i] >= 0:
                settle_miss(m, b, i)
    if m.closed_rows and b.hit[0] < 0 and b.hit[1] < 0 and b.owned == 0:
        command = WRA if q else RDA
    start_waits(m, command, x.bank)
    if command == RDA or command == WRA:
        row_changed(m, x.bank, CLOSED)
    m.served += 1
    if not q:
        m.pending_reads -= 1
        end = m.now + m.read_latency
        m.latency += end - x.accepted - 1
        if end > m.end:
            m.end = end
    m.free_list[m.n_free] = e
    m.n_free += 1


cdef void start_row(Machine* m, int e) noexcept nogil:
    """Open or close the row that a queued entry needs changed."""
    cdef Entry* x = &m.entry[e]
    cdef int bank = x.bank
    count_row(m, e)
    if m.bank[bank].row >= 0:
        m.precharges += 1
        start_waits(m, PRE, bank)
        row_changed(m, bank, CLOSED)
        return
    m.activations += 1
    start_waits(m, ACT, bank)
    take_out(m, e, x.write)
    if m.split:
        m.opening[m.n_opening] = e
        m.deadline[m.n_opening] = m.now + m.split
        m.n_opening += 1
        row_changed(m, bank, OPENING)
    else:
        own(m, e)
        row_changed(m, bank, x.row)


cdef void own(Machine* m, int e) noexcept nogil:
    cdef Bank* b = &m.bank[m.entry[e].bank]
    cdef int64_t t = ready_at(m, b, WR if m.entry[e].write else RD)
    m.owner[m.n_owners] = e
    m.owner_when[m.n_owners] = t
    m.n_owners += 1
    b.owned += 1
    if m.n_owners == 1 or t < m.owner_bound:
        m.owner_bound = t


cdef void start_urgent(Machine* m, int command, int bank) noexcept nogil:
    cdef int i, begin
    start_waits(m, command, bank)
    if command == PREA:
        m.precharges += 1
        begin = bank // m.scope_width * m.scope_width
        for i in range(begin, begin + m.scope_width):
            row_changed(m, i, CLOSED)
    elif command == PRE:
        m.precharges += 1
        row_changed(m, bank, CLOSED)
    else:
        m.refreshes += 1
        m.urgent_first = (m.urgent_first + 1) % m.urgent_size
        m.urgent_count -= 1


# -- choice -------------------------------------------------------------------------------------------
cdef inline bint paired_away(Machine* m, int command, int bank, int64_t t) noexcept nogil:
    """Tell whether a precharge at half clock t is barred by the row command before it."""
    if m.per_clock == 1 or t & 1 or t != m.pairing_tick:
        return False
    if bank // m.per_pseudo != m.pairing_bank // m.per_pseudo:
        return False
    return command != PRE or m.pairing_command == PREA or m.pairing_command == REFA or bank == m.pairing_bank


cdef int find_owner(Machine* m) noexcept nogil:
    """Return the place of the oldest owner whose burst may start now, or -1; set the bound."""
    cdef int i, best = -1
    cdef int64_t t, least = NEVER, oldest = NEVER
    cdef Entry* x
    for i in range(m.n_owners):
        x = &m.entry[m.owner[i]]
        t = m.owner_when[i]
        if t <= m.now:
            t = ready_at(m, &m.bank[x.bank], WR if x.write else RD)
            m.owner_when[i] = t
            if t <= m.now and x.accepted < oldest:
                oldest = x.accepted
                best = i
        if t < least:
            least = t
    m.owner_bound = least
    return best


cdef int find_hit(Machine* m, int q) noexcept nogil:
    """Return the oldest entry of a queue whose burst may start now, or -1; set the bound."""
    cdef int i, e, best = -1
    cdef int64_t t, least = NEVER, oldest = NEVER, now = m.now
    cdef int64_t* when = m.when[q][COL]
    cdef int command = WR if q else RD
    cdef Bank* b
    if m.head[q] < 0:
        m.bound[q][COL] = NEVER
        return -1
    b = &m.bank[m.entry[m.head[q]].bank]
    if b.row == m.entry[m.head[q]].row and ready_at(m, b, command) <= now:
        return m.head[q]  # none is older
    for i in range(m.n_banks_of[q]):
        t = when[i]
        if t <= now:
            b = &m.bank[m.banks_of[q][i]]
            t = ready_at(m, b, command)
            when[i] = t
            if t <= now:
                e = b.hit[q]
                if m.entry[e].order < oldest:
                    oldest = m.entry[e].order
                    best = e
        if t < least:
            least = t
    m.bound[q][COL] = least
    return best


cdef int find_open(Machine* m, int q, int64_t older) noexcept nogil:
    """Return the oldest entry (older than `older`) whose bank may be opened now, or -1; set the bound."""
    cdef int i, e, best = -1
    cdef int64_t t, least = NEVER, oldest = older, now = m.now
    cdef int64_t* when = m.when[q][OPEN]
    cdef Bank* b
    if m.n_opening:
        return -1  # until the activation under way is complete
    for i in range(m.n_banks_of[q]):
        t = when[i]
        if t <= now:
            b = &m.bank[m.banks_of[q][i]]
            t = whole(m, ready_at(m, b, ACT))
            when[i] = t
            if t <= now:
                e = b.miss[q]
                if m.entry[e].order < oldest:
                    oldest = m.entry[e].order
                    best = e
        if t < least:
            least = t
    m.bound[q][OPEN] = least
    return best


cdef int find_shut(Machine* m, int q, int64_t older) noexcept nogil:
    """Return the oldest entry (older than `older`) whose bank may be closed now, or -1; set the bound."""
    cdef int i, e, best = -1
    cdef int64_t t, least = NEVER, oldest = older, now = m.now
    cdef int64_t* when = m.when[q][SHUT]
    cdef Bank* b
    for i in range(m.n_banks_of[q]):
        t = when[i]
        if t <= now:
            b = &m.bank[m.banks_of[q][i]]
            e = b.miss[q]
            t = ready_at(m, b, PRE)
            when[i] = t
            if m.keep_hits and b.hit[q] >= 0 and m.entry[b.hit[q]].accepted <= m.entry[e].accepted:
                least = 0
                continue
            if t <= now and paired_away(m, PRE, m.banks_of[q][i], now):
                t = now + 1
            if t <= now and m.entry[e].order < oldest:
                oldest = m.entry[e].order
                best = e
        if t < least:
            least = t
    m.bound[q][SHUT] = least
    return best


cdef inline int64_t floor_of(Machine* m, int command) noexcept nogil:
    """First tick at which any bank at all may take a command."""
    cdef int p
    cdef int64_t t = NEVER
    for p in range(1, 1 + m.pseudo):
        if m.ready[p * NC + command] < t:
            t = m.ready[p * NC + command]
    return t if t > m.ready[command] else m.ready[command]


cdef inline int find_row(Machine* m, int q, int64_t older) noexcept nogil:
    """Return the oldest entry (older than `older`) whose bank may be opened or closed now, or -1."""
    cdef int e = -1, s = -1
    if (m.per_clock == 1 or m.now & 1) and m.bound[q][OPEN] <= m.now and floor_of(m, ACT) <= m.now:
        e = find_open(m, q, older)
        if e >= 0:
            older = m.entry[e].order
    if m.bound[q][SHUT] <= m.now and floor_of(m, PRE) <= m.now:
        s = find_shut(m, q, older)
    return s if s >= 0 else e


cdef bint any_owned(Machine* m, int command, int bank) noexcept nogil:
    cdef int i, begin
    if command == PRE:
        return m.bank[bank].owned > 0
    if command != PREA or m.n_owners == 0:
        return False
    begin = bank // m.scope_width * m.scope_width
    for i in range(begin, begin + m.scope_width):
        if m.bank[i].owned:
            return True
    return False


cdef bint any_opening(Machine* m, int command, int bank) noexcept nogil:
    cdef int i, other
    for i in range(m.n_opening):
        other = m.entry[m.opening[i]].bank
        if command == PRE or command == REFB:
            if other == bank:
                return True
        elif other // m.scope_width == bank // m.scope_width:
            return True
    return False


cdef int urgent_command(Machine* m) noexcept nogil:
    cdef int bank = m.urgent[m.urgent_first]
    cdef int i, begin
    if m.refresh == 2:
        return REFB if m.bank[bank].row == CLOSED else PRE
    begin = bank // m.scope_width * m.scope_width
    for i in range(begin, begin + m.scope_width):
        if m.bank[i].row != CLOSED:
            return PREA
    return REFA


cdef int64_t urgent_ready(Machine* m, int command) noexcept nogil:
    """First tick, from now on, at which the refresh at the head may go on; NEVER while an owner bars it."""
    cdef int bank = m.urgent[m.urgent_first]
    cdef int64_t t
    if any_owned(m, command, bank) or any_opening(m, command, bank):
        return NEVER
    if command == PREA or command == REFA:
        t = scope_ready(m, bank, command)
    else:
        t = ready_at(m, &m.bank[bank], command)
    if m.per_clock == 2 and (command == REFA or command == REFB):
        t = whole(m, t)
        if t < m.now:
            t = whole(m, m.now)
    if t <= m.now and paired_away(m, command, bank, m.now):
        t = m.now + 1
    return t


cdef inline void note_pairing(Machine* m, int command, int bank) noexcept nogil:
    if m.per_clock == 2 and m.now & 1:
        m.pairing_tick = m.now + (m.pairing if command == ACT else 1)
        m.pairing_command = command
        m.pairing_bank = bank


# -- one tick -----------------------------------------------------------------------------------------
cdef void column_slot(Machine* m) noexcept nogil:
    cdef int i, e
    if m.n_owners and m.owner_bound <= m.now:
        i = find_owner(m)
        if i >= 0:
            start_column(m, m.owner[i], i)
            return
    if m.urgent_count:
        return
    turn_around(m)
    if m.bound[m.draining][COL] <= m.now and floor_of(m, WR if m.draining else RD) <= m.now:
        e = find_hit(m, m.draining)
        if e >= 0:
            start_column(m, e, -1)


cdef void row_slot(Machine* m) noexcept nogil:
    cdef int e, command, bank
    if m.urgent_count:
        command = urgent_command(m)
        if urgent_ready(m, command) <= m.now:
            bank = m.urgent[m.urgent_first]
            start_urgent(m, command, bank)
            note_pairing(m, command, bank)
            return
    if m.urgent_count:
        return
    turn_around(m)
    e = find_row(m, m.draining, NEVER)
    if e >= 0:
        bank = m.entry[e].bank
        command = PRE if m.bank[bank].row >= 0 else ACT
        start_row(m, e)
        note_pairing(m, command, bank)


cdef int find_any(Machine* m) noexcept nogil:
    """Return the oldest entry of the current queue that can go on now, or -1."""
    cdef int q = m.draining
    cdef int e = -1, r = -1
    if m.bound[q][COL] <= m.now and floor_of(m, WR if q else RD) <= m.now:
        e = find_hit(m, q)
    r = find_row(m, q, m.entry[e].order if e >= 0 else NEVER)
    return r if r >= 0 else e


cdef inline bint is_hit(Machine* m, int e) noexcept nogil:
    return m.bank[m.entry[e].bank].row == m.entry[e].row


cdef void one_bus(Machine* m) noexcept nogil:
    cdef int i, e, command
    if m.n_owners and m.owner_bound <= m.now:
        i = find_owner(m)
        if i >= 0:
            start_column(m, m.owner[i], i)
            return
    if m.urgent_count:
        command = urgent_command(m)
        if urgent_ready(m, command) <= m.now:
            start_urgent(m, command, m.urgent[m.urgent_first])
        return
    turn_around(m)
    e = find_any(m)
    if e >= 0:
        if is_hit(m, e):
            start_column(m, e, -1)
        else:
            start_row(m, e)


# -- split activation (LPDDR5) ------------------------------------------------------------------------
cdef void start_second(Machine* m, int64_t limit) noexcept nogil:
    """Start the ACT2 that is due first, of those due by `limit`."""
    cdef int i, best = -1, e
    for i in range(m.n_opening):
        if m.deadline[i] > limit:
            continue
        if ready_at(m, &m.bank[m.entry[m.opening[i]].bank], ACT2) > m.now:
            continue
        if best < 0 or m.deadline[i] < m.deadline[best] or (
                m.deadline[i] == m.deadline[best]
                and m.entry[m.opening[i]].accepted < m.entry[m.opening[best]].accepted):
            best = i
    if best < 0:
        return
    e = m.opening[best]
    m.n_opening -= 1
    for i in range(best, m.n_opening):
        m.opening[i] = m.opening[i + 1]
        m.deadline[i] = m.deadline[i + 1]
    count_row(m, e)
    start_waits(m, ACT2, m.entry[e].bank)
    own(m, e)
    row_changed(m, m.entry[e].bank, m.entry[e].row)
    m.bound[0][OPEN] = 0  # other banks may be opened again
    m.bound[1][OPEN] = 0


cdef bint second_due(Machine* m, int64_t limit) noexcept nogil:
    cdef int i
    for i in range(m.n_opening):
        if m.deadline[i] <= limit:
            return True
    return False


cdef inline void synchronised(Machine* m, int write) noexcept nogil:
    cdef int64_t until = m.now + (m.sync_write if write else m.sync_read) + m.sync_tail
    if until > m.synced_until:
        m.synced_until = until


cdef int owner_place(Machine* m, int e) noexcept nogil:
    cdef int i
    for i in range(m.n_owners):
        if m.owner[i] == e:
            return i
    return -1


cdef void split_column(Machine* m, int e) noexcept nogil:
    """Send a burst, or first start the data clock for it."""
    cdef int bank = m.entry[e].bank
    cdef int command = CASW if m.entry[e].write else CASR
    if m.now < m.synced_until:
        synchronised(m, m.entry[e].write)
        start_column(m, e, owner_place(m, e))
        return
    if second_due(m, m.now + 1):
        start_second(m, NEVER)
        return
    if ready_at(m, &m.bank[bank], command) <= m.now:
        start_waits(m, command, bank)
        m.sync_entry = e


cdef void split_tick(Machine* m) noexcept nogil:
    cdef int e, i, command
    if m.sync_entry >= 0:
        e = m.sync_entry
        m.sync_entry = -1
        synchronised(m, m.entry[e].write)
        start_column(m, e, owner_place(m, e))
        return
    if second_due(m, m.now):
        start_second(m, m.now)
        return
    if m.n_owners and m.owner_bound <= m.now:
        i = find_owner(m)
        if i >= 0:
            split_column(m, m.owner[i])
            return
    e = -1
    if m.urgent_count:
        command = urgent_command(m)
        if urgent_ready(m, command) <= m.now:
            start_urgent(m, command, m.urgent[m.urgent_first])
            return
    else:
        turn_around(m)
        e = find_any(m)
    if e < 0:
        start_second(m, NEVER)
    elif is_hit(m, e):
        split_column(m, e)
    else:
        start_row(m, e)


# -- refresh ------------------------------------------------------------------------------------------
cdef void push_urgent(Machine* m, int bank) noexcept nogil:
    cdef int i, old
    if m.urgent_count == m.urgent_size:  # grow: unroll the ring
        old = m.urgent_size
        m.urgent_size = 2 * old
        m.urgent = <int*> realloc(m.urgent, m.urgent_size * sizeof(int))
        for i in range(m.urgent_first):
            m.urgent[old + i] = m.urgent[i]
    m.urgent[(m.urgent_first + m.urgent_count) % m.urgent_size] = bank
    m.urgent_count += 1


cdef void refresh_paired(Machine* m) noexcept nogil:
    cdef int p, s, i
    cdef int ranks = m.width[1] // m.width[2]
    cdef int per_rank = m.width[2]
    cdef int rank = m.turn // per_rank, inside = m.turn % per_rank
    if m.n_due == 0:
        if m.now < m.refresh_next:
            return
        for p in range(m.pseudo):
            if m.now < m.allowed[p * ranks + rank]:
                m.refresh_next = m.now + 1
                return
        for p in range(m.pseudo):
            m.due[p] = (p * ranks + rank) * per_rank + inside
        m.n_due = m.pseudo
        m.turn = (m.turn + 1) % (ranks * per_rank)
        m.refresh_next += m.refresh_interval
    push_urgent(m, m.due[0])
    s = m.due[0] // per_rank
    m.marked[s] += 1
    if m.marked[s] == per_rank:
        m.marked[s] = 0
        m.allowed[s] = m.now + m.refresh_cycle
    m.n_due -= 1
    for i in range(m.n_due):
        m.due[i] = m.due[i + 1]


cdef inline void refresh_tick(Machine* m) noexcept nogil:
    cdef int b
    if m.refresh == 2 and m.paired:
        refresh_paired(m)
        return
    if m.now != m.refresh_next:
        return
    m.refresh_next += m.refresh_interval
    if m.refresh == 1:
        for b in range(m.n_banks // m.scope_width):
            push_urgent(m, b * m.scope_width)
    else:
        push_urgent(m, m.turn)
        m.turn = (m.turn + 1) % m.n_banks


# -- time ---------------------------------------------------------------------------------------------
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


# -- from and to Python -------------------------------------------------------------------------------
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
