# Who goes next: the oldest request whose command may start, by kind of command.

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
    cdef const int64_t* ready = m.ready + (WR if q else RD)
    cdef const int* ids = m.banks_of[q]
    cdef const Entry* entry = m.entry
    cdef const Bank* banks = m.bank
    cdef const Bank* b
    cdef int count = m.n_banks_of[q]
    if m.head[q] < 0:
        m.bound[q][COL] = NEVER
        return -1
    b = &banks[entry[m.head[q]].bank]
    if b.row == entry[m.head[q]].row and ready_in(ready, b) <= now:
        return m.head[q]  # none is older
    for i in range(count):
        t = when[i]
        if t <= now:
            b = &banks[ids[i]]
            t = ready_in(ready, b)
            when[i] = t
            if t <= now:
                e = b.hit[q]
                if entry[e].order < oldest:
                    oldest = entry[e].order
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
    cdef const int64_t* ready = m.ready + ACT
    cdef const int* ids = m.banks_of[q]
    cdef const Entry* entry = m.entry
    cdef const Bank* banks = m.bank
    cdef const Bank* b
    cdef int count = m.n_banks_of[q]
    cdef int64_t half = m.per_clock == 2
    if m.n_opening:
        return -1  # until the activation under way is complete
    for i in range(count):
        t = when[i]
        if t <= now:
            b = &banks[ids[i]]
            t = ready_in(ready, b) | half
            when[i] = t
            if t <= now:
                e = b.miss[q]
                if entry[e].order < oldest:
                    oldest = entry[e].order
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
    cdef const int64_t* ready = m.ready + PRE
    cdef const int* ids = m.banks_of[q]
    cdef const Entry* entry = m.entry
    cdef const Bank* banks = m.bank
    cdef const Bank* b
    cdef int count = m.n_banks_of[q]
    cdef bint keep = m.keep_hits
    for i in range(count):
        t = when[i]
        if t <= now:
            b = &banks[ids[i]]
            e = b.miss[q]
            t = ready_in(ready, b)
            when[i] = t
            if keep and b.hit[q] >= 0 and entry[b.hit[q]].accepted <= entry[e].accepted:
                least = 0
                continue
            if t <= now and paired_away(m, PRE, ids[i], now):
                t = now + 1
            if t <= now and entry[e].order < oldest:
                oldest = entry[e].order
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
