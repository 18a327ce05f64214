# Requests in queues, by age and by bank; commands that start, and what becomes of the requests.

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
