# State of one channel and its controller, as the compiled twin keeps it.

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
