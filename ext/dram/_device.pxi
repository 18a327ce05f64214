# Waits between commands: when a command may start, and what one that starts holds up.

cdef inline int64_t whole(Machine* m, int64_t t) noexcept nogil:
    """Return the first tick from t on at which any command may start (half clocks are even)."""
    return t | 1 if m.per_clock == 2 else t


cdef inline int64_t ready_in(const int64_t* r, const Bank* b) noexcept nogil:
    """First tick at which a command may start in a bank; `r`: the command's column of `ready`."""
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


cdef inline int64_t ready_at(Machine* m, Bank* b, int command) noexcept nogil:
    """First tick at which a command to one bank may start."""
    return ready_in(m.ready + command, b)


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
