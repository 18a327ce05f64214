# One tick of each kind of controller, refresh included.

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


# -- split activation (LPDDR5)

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


# -- refresh

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
