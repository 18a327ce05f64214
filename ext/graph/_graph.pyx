# cython: language_level=3
"""Compiled twins of `ext.graph.reference`; see there for what each does."""

from libc.stdlib cimport free, malloc
import numpy as np

cdef enum:
    IN_ORDER = 0
    FIRST_COME = 1
    SHARED = 2
    FROM_START = -1
    FROM_EARLIER = -2
    FINISH = 0
    SHARED_DONE = 1
    TAKE = 2


def sweep(
    const int[::1] row, const int[::1] resource, const int[::1] pred_ptr, const int[::1] pred,
    const double[::1] row_s, double start_s, double[::1] free_s, double[::1] busy_s,
    double[::1] finish_s, int[::1] cause,
):
    cdef int n = row.shape[0], n_resources = free_s.shape[0], i, j, p, held, why
    cdef double begin, finish, duration, end = start_s
    cdef int[::1] last = np.full(n_resources, FROM_EARLIER, dtype=np.intc)
    with nogil:
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
    return end


def critical_path(const double[::1] finish_s, const int[::1] cause, int[::1] path):
    cdef int n = finish_s.shape[0], i, task = 0, length = 0
    if n == 0:
        return 0
    with nogil:
        for i in range(1, n):
            if finish_s[i] > finish_s[task]:
                task = i
        while task >= 0:
            path[length] = task
            length += 1
            task = cause[task]
    return length


cdef struct Event:
    double time
    int kind
    int index
    int epoch


cdef inline bint before(const Event* a, const Event* b) noexcept nogil:
    if a.time != b.time:
        return a.time < b.time
    if a.kind != b.kind:
        return a.kind < b.kind
    if a.index != b.index:
        return a.index < b.index
    return a.epoch < b.epoch


cdef class _Heap:
    """A binary heap of events; grows as needed."""

    cdef Event* items
    cdef int size, room

    def __cinit__(self, int room=1024):
        self.room = room
        self.size = 0
        self.items = <Event*>malloc(room * sizeof(Event))
        if self.items == NULL:
            raise MemoryError

    def __dealloc__(self):
        free(self.items)

    cdef int grow(self) except -1 nogil:
        cdef Event* bigger = <Event*>malloc(2 * self.room * sizeof(Event))
        cdef int i
        if bigger == NULL:
            with gil:
                raise MemoryError
        for i in range(self.size):
            bigger[i] = self.items[i]
        free(self.items)
        self.items = bigger
        self.room *= 2
        return 0

    cdef int push(self, double time, int kind, int index, int epoch) except -1 nogil:
        cdef int at = self.size, up
        cdef Event item
        item.time = time
        item.kind = kind
        item.index = index
        item.epoch = epoch
        if self.size == self.room:
            self.grow()
        self.size += 1
        while at > 0:
            up = (at - 1) >> 1
            if not before(&item, &self.items[up]):
                break
            self.items[at] = self.items[up]
            at = up
        self.items[at] = item
        return 0

    cdef Event pop(self) noexcept nogil:
        cdef Event top = self.items[0], item
        cdef int at = 0, down
        self.size -= 1
        item = self.items[self.size]
        while True:
            down = 2 * at + 1
            if down >= self.size:
                break
            if down + 1 < self.size and before(&self.items[down + 1], &self.items[down]):
                down += 1
            if not before(&self.items[down], &item):
                break
            self.items[at] = self.items[down]
            at = down
        self.items[at] = item
        return top


cdef class _Run:
    cdef const int[::1] row, resource, discipline, pred_ptr, pred
    cdef const double[::1] row_s
    cdef double start_s, end
    cdef double[::1] free_s, busy_s, finish_s, left_s, since_s
    cdef int[::1] cause, missing, follow_ptr, follow, program_ptr, program, next_at, held_by, last
    cdef int[::1] epoch, awake, sharers, n_sharers
    cdef _Heap heap
    cdef list waiting

    def __init__(
        self, row, resource, discipline, pred_ptr, pred, row_s, double start_s, free_s, busy_s, finish_s,
        cause,
    ):
        cdef int n = len(row), n_resources = len(free_s)
        self.row, self.resource, self.discipline = row, resource, discipline
        self.pred_ptr, self.pred, self.row_s = pred_ptr, pred, row_s
        self.start_s = self.end = start_s
        self.free_s, self.busy_s, self.finish_s, self.cause = free_s, busy_s, finish_s, cause
        counts = np.diff(pred_ptr).astype(np.intc)
        self.missing = counts
        tasks = np.repeat(np.arange(n, dtype=np.intc), counts)
        by_pred = np.argsort(pred, kind="stable")
        self.follow = tasks[by_pred].astype(np.intc)
        self.follow_ptr = np.searchsorted(np.asarray(pred)[by_pred], np.arange(n + 1)).astype(np.intc)
        by_resource = np.argsort(resource, kind="stable").astype(np.intc)
        self.program = by_resource
        held = np.asarray(resource)[by_resource]
        self.program_ptr = np.searchsorted(held, np.arange(n_resources + 1)).astype(np.intc)
        self.next_at = np.asarray(self.program_ptr)[:n_resources].copy()
        self.sharers = np.zeros(n, dtype=np.intc)  # of resource r: from program_ptr[r] on
        self.n_sharers = np.zeros(n_resources, dtype=np.intc)
        self.held_by = np.full(n_resources, -1, dtype=np.intc)
        self.last = np.full(n_resources, FROM_EARLIER, dtype=np.intc)
        self.left_s = np.zeros(n)
        self.since_s = np.full(n_resources, start_s)
        self.epoch = np.zeros(n_resources, dtype=np.intc)
        self.awake = np.zeros(n_resources, dtype=np.intc)
        self.heap = _Heap()
        self.waiting = [_Heap(16) if discipline[r] != IN_ORDER else None for r in range(n_resources)]

    cdef double run(self) except? -1.0:
        cdef int i, n = self.row.shape[0]
        cdef Event event
        for i in range(n):
            if self.missing[i] == 0:
                self.make_ready(i, self.start_s)
        while self.heap.size:
            event = self.heap.pop()
            if event.kind == FINISH:
                self.finish(event.index, event.time)
            elif event.kind == SHARED_DONE:
                if event.epoch == self.epoch[event.index]:
                    self.finish_shared(event.index, event.time)
            else:
                self.awake[event.index] = 0
                self.take(event.index, event.time)
        return self.end

    cdef int make_ready(self, int task, double now) except -1:
        cdef int held = self.resource[task]
        if held < 0:
            self.begin(task, now, False)
            return 0
        if self.discipline[held] != IN_ORDER:
            (<_Heap>self.waiting[held]).push(now, 0, task, 0)
        self.wake(held, now)
        return 0

    cdef int wake(self, int held, double now) except -1:
        if not self.awake[held]:
            self.awake[held] = 1
            self.heap.push(now, TAKE, held, 0)
        return 0

    cdef int take(self, int held, double now) except -1:
        cdef int task
        if self.free_s[held] > now:
            if self.held_by[held] < 0:
                self.awake[held] = 1
                self.heap.push(self.free_s[held], TAKE, held, 0)
        elif self.discipline[held] == SHARED:
            self.take_shared(held, now)
        elif self.held_by[held] < 0:
            task = self.next_task(held)
            if task >= 0:
                self.held_by[held] = task
                self.begin(task, now, True)
        return 0

    cdef int next_task(self, int held):
        cdef int at
        cdef _Heap queue
        if self.discipline[held] == FIRST_COME:
            queue = <_Heap>self.waiting[held]
            return queue.pop().index if queue.size else -1
        at = self.next_at[held]
        if at == self.program_ptr[held + 1] or self.missing[self.program[at]] > 0:
            return -1
        self.next_at[held] += 1
        return self.program[at]

    cdef int begin(self, int task, double now, bint holds) except -1:
        self.blame(task, holds)
        self.heap.push(now + self.row_s[self.row[task]], FINISH, task, 0)
        return 0

    cdef void blame(self, int task, bint holds) noexcept:
        cdef double latest = self.start_s
        cdef int why = FROM_START, held = self.resource[task], j, p
        if holds and self.free_s[held] > latest:
            latest = self.free_s[held]
            why = self.last[held]
        for j in range(self.pred_ptr[task], self.pred_ptr[task + 1]):
            p = self.pred[j]
            if self.finish_s[p] > latest:
                latest = self.finish_s[p]
                why = p
        self.cause[task] = why

    cdef int finish(self, int task, double now) except -1:
        cdef int held = self.resource[task]
        if held >= 0:
            self.busy_s[held] += self.row_s[self.row[task]]
            self.free_s[held] = now
            self.last[held] = task
            self.held_by[held] = -1
            self.wake(held, now)
        return self.complete(task, now)

    cdef int complete(self, int task, double now) except -1:
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

    cdef void settle(self, int held, double now) noexcept:
        cdef int j, count = self.n_sharers[held], base = self.program_ptr[held]
        cdef double done_s
        if count:
            done_s = (now - self.since_s[held]) / count
            for j in range(count):
                self.left_s[self.sharers[base + j]] -= done_s
            self.busy_s[held] += now - self.since_s[held]
        self.since_s[held] = now

    cdef int least(self, int held) noexcept:
        """Position of the sharer with least left, the smallest task index among equals."""
        cdef int j, best = 0, base = self.program_ptr[held], task, chosen
        for j in range(1, self.n_sharers[held]):
            task, chosen = self.sharers[base + j], self.sharers[base + best]
            if self.left_s[task] < self.left_s[chosen] or (
                self.left_s[task] == self.left_s[chosen] and task < chosen
            ):
                best = j
        return best

    cdef int plan(self, int held, double now) except -1:
        cdef int count = self.n_sharers[held]
        cdef double least_s
        self.epoch[held] += 1
        if count:
            least_s = self.left_s[self.sharers[self.program_ptr[held] + self.least(held)]]
            if least_s < 0.0:
                least_s = 0.0
            self.heap.push(now + least_s * count, SHARED_DONE, held, self.epoch[held])
        return 0

    cdef int take_shared(self, int held, double now) except -1:
        cdef _Heap queue = <_Heap>self.waiting[held]
        cdef int task
        self.settle(held, now)
        while queue.size:
            task = queue.pop().index
            self.blame(task, False)
            self.left_s[task] = self.row_s[self.row[task]]
            self.sharers[self.program_ptr[held] + self.n_sharers[held]] = task
            self.n_sharers[held] += 1
        return self.plan(held, now)

    cdef int finish_shared(self, int held, double now) except -1:
        cdef int j, at, task, base = self.program_ptr[held]
        self.settle(held, now)
        at = self.least(held)
        task = self.sharers[base + at]
        for j in range(at, self.n_sharers[held] - 1):
            self.sharers[base + j] = self.sharers[base + j + 1]
        self.n_sharers[held] -= 1
        self.plan(held, now)
        self.free_s[held] = now
        self.last[held] = task
        return self.complete(task, now)


def events(
    row, resource, discipline, pred_ptr, pred, row_s, double start_s, free_s, busy_s, finish_s, cause,
):
    return _Run(
        row, resource, discipline, pred_ptr, pred, row_s, start_s, free_s, busy_s, finish_s, cause
    ).run()
