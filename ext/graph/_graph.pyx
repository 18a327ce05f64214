# cython: language_level=3
"""Compiled twins of `ext.graph.reference`; see there for what each does."""

cimport cython
cimport numpy as np
from libc.stdint cimport uint64_t
from libc.stdlib cimport calloc, free, malloc

np.import_array()


cdef extern from *:
    int lowest_bit "__builtin_ctzll"(uint64_t) noexcept nogil


cdef enum:
    IN_ORDER = 0
    FIRST_COME = 1
    SHARED = 2
    FROM_START = -1
    FROM_EARLIER = -2
    FINISH = 0
    SHARED_DONE = 1
    TAKE = 2


# `np.ndarray` here, not memoryviews: nine of those take 2 us to open, these 0.5; a sweep takes 3 in all
def sweep(
    np.ndarray[int, mode="c"] row, np.ndarray[int, mode="c"] resource, np.ndarray[int, mode="c"] pred_ptr,
    np.ndarray[int, mode="c"] pred, np.ndarray[double, mode="c"] row_s, double start_s,
    np.ndarray[double, mode="c"] free_s, np.ndarray[double, mode="c"] busy_s,
    np.ndarray[double, mode="c"] finish_s, np.ndarray[int, mode="c"] cause,
):
    cdef int n = row.shape[0], n_resources = free_s.shape[0], i, j, p, held, why
    cdef double begin, finish, duration, end = start_s
    cdef int* last = <int*>calloc(n_resources + 1, sizeof(int))
    if last == NULL:
        raise MemoryError
    try:
        with nogil:
            for i in range(n_resources):
                last[i] = FROM_EARLIER
            for i in range(n):
                begin = start_s
                why = FROM_START
                held = resource[i]
                if held >= 0 and free_s[held] > begin:
                    begin = free_s[held]
                    why = last[held]
                for j in range(pred_ptr[i], pred_ptr[i + 1]):
                    p = pred[j]
                    if finish_s[p] > begin:
                        begin = finish_s[p]
                        why = p
                duration = row_s[row[i]]
                finish = begin + duration
                finish_s[i] = finish
                cause[i] = why
                if held >= 0:
                    free_s[held] = finish
                    busy_s[held] += duration
                    last[held] = i
                if finish > end:
                    end = finish
    finally:
        free(last)
    return end


def critical_path(const double[::1] finish_s, const int[::1] cause, int[::1] path):
    cdef int n = finish_s.shape[0], i, task = n - 1, length = 0
    cdef double latest
    if n == 0:
        return 0
    with nogil:
        latest = finish_s[n - 1]
        for i in range(n - 2, -1, -1):  # the last finish is mostly near the end
            if finish_s[i] >= latest:
                latest = finish_s[i]
                task = i
        while task >= 0:
            path[length] = task
            length += 1
            task = cause[task]
    return length


cdef struct Event:
    double time
    uint64_t key  # ties in time are broken by it


cdef inline uint64_t event_key(int kind, int index, int epoch) noexcept nogil:
    return (<uint64_t>kind << 62) | (<uint64_t>index << 31) | <uint64_t>epoch


cdef inline bint before(double time, uint64_t key, const Event* other) noexcept nogil:
    return time < other.time or (time == other.time and key < other.key)


cdef inline void push(Event* heap, int* size, double time, uint64_t key) noexcept nogil:
    """Add to a binary heap that has room."""
    cdef int at = size[0], up
    size[0] += 1
    while at > 0:
        up = (at - 1) >> 1
        if not before(time, key, &heap[up]):
            break
        heap[at] = heap[up]
        at = up
    heap[at].time = time
    heap[at].key = key


cdef inline Event pop(Event* heap, int* size) noexcept nogil:
    """Take the first of a heap that is not empty."""
    cdef Event top = heap[0], item
    cdef int at = 0, down = 1, count = size[0] - 1
    size[0] = count
    item = heap[count]
    while down < count:
        if down + 1 < count:
            down += before(heap[down + 1].time, heap[down + 1].key, &heap[down])
        if not before(heap[down].time, heap[down].key, &item):
            break
        heap[at] = heap[down]
        at = down
        down = 2 * at + 1
    heap[at] = item
    return top


cdef struct Resource:
    int discipline
    int base       # its tasks stand from here on in `line` and `sharers`
    int head       # next of its line
    int tail       # end of its line
    int held_by    # task that holds it, -1 if none
    int last       # task that held it last
    int n_sharers
    int epoch
    bint booked    # a TAKE stands in the heap: earlier work ends then
    double since_s
    double served_s


@cython.final
cdef class _Run:
    """The state of one run; the methods are those of the plain twin.

    Three things are kept otherwise than there, for speed.  A TAKE is always due now (except after work of
    an earlier graph), so it is a bit in `turns`, not an event, and set only if there is a task to take.
    Tasks become ready in the order of time, so a first-come queue is a line into which ties are sorted.
    A task stands in one line, so all lines share one array; on an in-order resource the line is its program.
    """

    cdef const int[::1] row, resource, discipline, pred_ptr, pred
    cdef const double[::1] row_s
    cdef double[::1] free_s, busy_s, finish_s
    cdef int[::1] cause
    cdef double start_s, end
    cdef int n, n_resources, n_words, heap_size
    cdef int *missing
    cdef int *follow_ptr
    cdef int *follow
    cdef int *line
    cdef double *ready_s
    cdef Resource *resources
    cdef uint64_t *turns  # bit r: resource r takes its turn at this time
    cdef Event *heap
    cdef Event *sharers

    def __init__(
        self, row, resource, discipline, pred_ptr, pred, row_s, double start_s, free_s, busy_s, finish_s,
        cause,
    ):
        self.row, self.resource, self.discipline = row, resource, discipline
        self.pred_ptr, self.pred, self.row_s = pred_ptr, pred, row_s
        self.start_s = self.end = start_s
        self.free_s, self.busy_s, self.finish_s, self.cause = free_s, busy_s, finish_s, cause
        self.n, self.n_resources = self.row.shape[0], self.free_s.shape[0]
        self.n_words = (self.n_resources + 63) >> 6
        self.allocate()
        with nogil:
            self.line_up()
            self.link()

    cdef int allocate(self) except -1:
        """Reserve the scratch; zeroed where it is counted in.

        The heap never outgrows its room: an event per task, two plans per task on a shared resource (it
        comes, it goes), and per resource the end of earlier work and the plan after it.
        """
        cdef int n = self.n, n_resources = self.n_resources
        self.missing = <int*>calloc(n + 1, sizeof(int))
        self.follow_ptr = <int*>calloc(n + 2, sizeof(int))
        self.follow = <int*>malloc((self.pred.shape[0] + 1) * sizeof(int))
        self.line = <int*>malloc((n + 1) * sizeof(int))
        self.ready_s = <double*>malloc((n + 1) * sizeof(double))
        self.resources = <Resource*>calloc(n_resources + 1, sizeof(Resource))
        self.turns = <uint64_t*>calloc(self.n_words + 1, sizeof(uint64_t))
        self.heap = <Event*>malloc((3 * <size_t>n + 2 * n_resources + 1) * sizeof(Event))
        self.sharers = <Event*>malloc((n + 1) * sizeof(Event))
        if (
            self.missing == NULL or self.follow_ptr == NULL or self.follow == NULL or self.line == NULL
            or self.ready_s == NULL or self.resources == NULL or self.turns == NULL or self.heap == NULL
            or self.sharers == NULL
        ):
            raise MemoryError
        return 0

    def __dealloc__(self):
        free(self.missing)
        free(self.follow_ptr)
        free(self.follow)
        free(self.line)
        free(self.ready_s)
        free(self.resources)
        free(self.turns)
        free(self.heap)
        free(self.sharers)

    cdef int line_up(self) except -1 nogil:
        """Give each resource its part of `line`; an in-order one gets its program there."""
        cdef int i, r, held, base = 0
        cdef Resource* at
        for i in range(self.n):
            if self.resource[i] >= 0:
                self.resources[self.resource[i]].tail += 1  # for now, the number of its tasks
        for r in range(self.n_resources):
            at = &self.resources[r]
            at.discipline = self.discipline[r]
            at.base = at.head = base
            base += at.tail
            at.tail = at.base
            at.held_by = -1
            at.last = FROM_EARLIER
            at.since_s = self.start_s
        for i in range(self.n):
            held = self.resource[i]
            if held >= 0 and self.resources[held].discipline == IN_ORDER:
                self.line[self.resources[held].tail] = i
                self.resources[held].tail += 1
        return 0

    cdef int link(self) except -1 nogil:
        """Count each task's predecessors and list its followers, in the order of their indices."""
        cdef int i, j, p
        for j in range(self.pred.shape[0]):
            self.follow_ptr[self.pred[j] + 2] += 1
        for i in range(2, self.n + 1):
            self.follow_ptr[i + 1] += self.follow_ptr[i]
        for i in range(self.n):
            self.missing[i] = self.pred_ptr[i + 1] - self.pred_ptr[i]
            for j in range(self.pred_ptr[i], self.pred_ptr[i + 1]):
                p = self.pred[j] + 1
                self.follow[self.follow_ptr[p]] = i
                self.follow_ptr[p] += 1
        return 0

    cdef double run(self) except? -1.0 nogil:
        cdef int i, held
        cdef double now = self.start_s
        for i in range(self.n):
            if self.missing[i] == 0:
                self.make_ready(i, now)
        while True:
            if self.heap_size == 0 or self.heap[0].time > now:
                held = self.next_turn()
                if held >= 0:
                    self.take(held, now)
                    continue
                if self.heap_size == 0:
                    return self.end
                now = self.heap[0].time
            self.happen(now)

    cdef int happen(self, double now) except -1 nogil:
        """Serve the first event of the heap."""
        cdef Event event = pop(self.heap, &self.heap_size)
        cdef int kind = event.key >> 62, index = (event.key >> 31) & 0x7FFFFFFF
        if kind == FINISH:
            return self.finish(index, now)
        if kind == TAKE:
            self.resources[index].booked = False
            return self.wake(index)
        if self.resources[index].epoch == <int>(event.key & 0x7FFFFFFF):
            return self.finish_shared(index, now)
        return 0

    cdef inline int next_turn(self) noexcept nogil:
        """Return the first resource that is to take its turn now; -1: none."""
        cdef int word, bit
        for word in range(self.n_words):
            if self.turns[word]:
                bit = lowest_bit(self.turns[word])
                self.turns[word] &= self.turns[word] - 1
                return (word << 6) + bit
        return -1

    cdef inline int make_ready(self, int task, double now) except -1 nogil:
        cdef int held = self.resource[task]
        if held < 0:
            return self.begin(task, now)
        if self.resources[held].discipline != IN_ORDER:
            self.stand_in_line(task, held, now)
        return self.wake(held)

    cdef inline void stand_in_line(self, int task, int held, double now) noexcept nogil:
        """Queue by the time ready, then by index; nobody in the line became ready later than now."""
        cdef Resource* at = &self.resources[held]
        cdef int place = at.tail
        at.tail += 1
        self.ready_s[task] = now
        while place > at.head and self.ready_s[self.line[place - 1]] == now and self.line[place - 1] > task:
            self.line[place] = self.line[place - 1]
            place -= 1
        self.line[place] = task

    cdef inline int wake(self, int held) except -1 nogil:
        """Give a resource a turn if it could take a task then."""
        cdef Resource* at = &self.resources[held]
        if at.held_by >= 0 or at.head == at.tail or at.booked:
            return 0
        if at.discipline == IN_ORDER and self.missing[self.line[at.head]] > 0:
            return 0
        self.turns[held >> 6] |= <uint64_t>1 << (held & 63)
        return 0

    cdef inline int take(self, int held, double now) except -1 nogil:
        cdef Resource* at = &self.resources[held]
        if self.free_s[held] > now:  # still busy with an earlier graph
            at.booked = True
            push(self.heap, &self.heap_size, self.free_s[held], event_key(TAKE, held, 0))
            return 0
        if at.discipline == SHARED:
            return self.take_shared(held, now)
        at.held_by = self.line[at.head]
        at.head += 1
        return self.begin(at.held_by, now)

    cdef inline int begin(self, int task, double now) except -1 nogil:
        self.blame(task)
        push(self.heap, &self.heap_size, now + self.row_s[self.row[task]], event_key(FINISH, task, 0))
        return 0

    cdef inline int blame(self, int task) except -1 nogil:
        cdef double latest = self.start_s
        cdef int why = FROM_START, held = self.resource[task], j, p
        if held >= 0 and self.free_s[held] > latest and self.queues(held):
            latest = self.free_s[held]
            why = self.resources[held].last
        for j in range(self.pred_ptr[task], self.pred_ptr[task + 1]):
            p = self.pred[j]
            if self.finish_s[p] > latest:
                latest = self.finish_s[p]
                why = p
        self.cause[task] = why
        return 0

    cdef inline bint queues(self, int held) noexcept nogil:
        return self.resources[held].discipline != SHARED or self.resources[held].last == FROM_EARLIER

    cdef inline int finish(self, int task, double now) except -1 nogil:
        cdef int held = self.resource[task]
        if held >= 0:
            self.busy_s[held] += self.row_s[self.row[task]]
            self.free_s[held] = now
            self.resources[held].last = task
            self.resources[held].held_by = -1
            self.wake(held)
        return self.complete(task, now)

    cdef inline int complete(self, int task, double now) except -1 nogil:
        cdef int j, i
        self.finish_s[task] = now
        if now > self.end:
            self.end = now
        for j in range(self.follow_ptr[task], self.follow_ptr[task + 1]):
            i = self.follow[j]
            self.missing[i] -= 1
            if self.missing[i] == 0:
                self.make_ready(i, now)
        return 0

    cdef int settle(self, int held, double now) except -1 nogil:
        cdef Resource* at = &self.resources[held]
        cdef double passed_s = now - at.since_s
        if at.n_sharers:
            at.served_s += passed_s / at.n_sharers
            self.busy_s[held] += passed_s
        else:
            at.served_s = 0.0
        at.since_s = now
        return 0

    cdef void plan(self, int held, double now) noexcept nogil:
        cdef Resource* at = &self.resources[held]
        cdef double left_s
        at.epoch += 1
        if at.n_sharers:
            left_s = self.sharers[at.base].time - at.served_s
            if left_s < 0.0:
                left_s = 0.0
            push(
                self.heap, &self.heap_size, now + left_s * at.n_sharers,
                event_key(SHARED_DONE, held, at.epoch),
            )

    cdef int take_shared(self, int held, double now) except -1 nogil:
        cdef Resource* at = &self.resources[held]
        cdef int task
        self.settle(held, now)
        while at.head < at.tail:
            task = self.line[at.head]
            at.head += 1
            self.blame(task)
            push(
                &self.sharers[at.base], &at.n_sharers, at.served_s + self.row_s[self.row[task]],
                event_key(0, task, 0),
            )
        self.plan(held, now)
        return 0

    cdef int finish_shared(self, int held, double now) except -1 nogil:
        cdef Resource* at = &self.resources[held]
        cdef Event done
        cdef int task
        self.settle(held, now)
        done = pop(&self.sharers[at.base], &at.n_sharers)
        task = (done.key >> 31) & 0x7FFFFFFF
        at.served_s = done.time
        self.plan(held, now)
        self.free_s[held] = now
        at.last = task
        return self.complete(task, now)


def events(
    row, resource, discipline, pred_ptr, pred, row_s, double start_s, free_s, busy_s, finish_s, cause,
):
    cdef _Run run = _Run(
        row, resource, discipline, pred_ptr, pred, row_s, start_s, free_s, busy_s, finish_s, cause
    )
    cdef double end
    with nogil:
        end = run.run()
    return end
