"""The plain twins of the graph kernels: what `_graph.pyx` does, to be checked by eye.

Resource disciplines: 0 in-order (program order), 1 first-come (by time ready, ties by task index),
2 shared (the rate is divided evenly, which is max-min fair, among the tasks on it).
"""

from __future__ import annotations

from heapq import heappop, heappush

import numpy as np
from numpy.typing import NDArray

IN_ORDER, FIRST_COME, SHARED = 0, 1, 2
FROM_START, FROM_EARLIER = -1, -2  # causes that are no task: the graph's start; work of an earlier graph

F64 = NDArray[np.float64]
I32 = NDArray[np.int32]


def sweep(
    row: I32, resource: I32, pred_ptr: I32, pred: I32, row_s: F64, start_s: float,
    free_s: F64, busy_s: F64, finish_s: F64, cause: I32,
) -> float:  # fmt: skip
    """Run a graph whose resources are all in-order: one pass, longest path.

    Parameters
    ----------
    row, resource, pred_ptr, pred, row_s    the graph (see the package)
    start_s : float                         no task starts earlier
    free_s : float64[R], in and out         when each resource is free of earlier work
    busy_s : float64[R], in and out         grows by the time that each resource is held
    finish_s : float64[n], out              finish of each task
    cause : int32[n], out                   the task waited for last; -1 the start, -2 earlier work

    Returns
    -------
    float    the latest finish (`start_s` for an empty graph)

    Notes
    -----
    Law: start(i) = max(start_s, free(resource), max finish(pred)); among equals the first candidate in
    this order is the cause.  Cost O(n + m).
    """
    last = np.full(len(free_s), FROM_EARLIER, dtype=np.int32)
    end = start_s
    for i in range(len(row)):
        begin, why = start_s, FROM_START
        held = resource[i]
        if held >= 0 and free_s[held] > begin:
            begin, why = float(free_s[held]), int(last[held])
        for p in pred[pred_ptr[i] : pred_ptr[i + 1]]:
            if finish_s[p] > begin:
                begin, why = float(finish_s[p]), int(p)
        duration = float(row_s[row[i]])
        finish_s[i], cause[i] = begin + duration, why
        if held >= 0:
            free_s[held] = begin + duration
            busy_s[held] += duration
            last[held] = i
        end = max(end, begin + duration)
    return end


def critical_path(finish_s: F64, cause: I32, path: I32) -> int:
    """Follow the causes back from the last finish (the smallest index among equals).

    Parameters
    ----------
    finish_s, cause    as from `sweep` or `events`
    path : int32[n], out    tasks of the path, last first

    Returns
    -------
    int    length of the path; 0 for an empty graph
    """
    if len(finish_s) == 0:
        return 0
    task, length = int(np.argmax(finish_s)), 0
    while task >= 0:
        path[length] = task
        length += 1
        task = int(cause[task])
    return length


class _Run:
    """One run with any mix of disciplines: the state, and what happens at each event.

    Events are served in the order (time, kind, index): all that finishes at a time comes before any
    resource takes its next task at that time; resources then take theirs by index.
    """

    def __init__(
        self, row: I32, resource: I32, discipline: I32, pred_ptr: I32, pred: I32, row_s: F64,
        start_s: float, free_s: F64, busy_s: F64, finish_s: F64, cause: I32,
    ) -> None:  # fmt: skip
        n, n_resources = len(row), len(free_s)
        self.row, self.resource, self.discipline = row, resource, discipline
        self.pred_ptr, self.pred, self.row_s = pred_ptr, pred, row_s
        self.start_s, self.free_s, self.busy_s = start_s, free_s, busy_s
        self.finish_s, self.cause, self.end = finish_s, cause, start_s
        self.missing = np.diff(pred_ptr).astype(np.int64)
        self.followers: list[list[int]] = [[] for _ in range(n)]
        self.program: list[list[int]] = [[] for _ in range(n_resources)]
        for i in range(n):
            for p in pred[pred_ptr[i] : pred_ptr[i + 1]]:
                self.followers[p].append(i)
            if resource[i] >= 0:
                self.program[resource[i]].append(i)
        self.next_in_program = [0] * n_resources
        self.waiting: list[list[tuple[float, int]]] = [[] for _ in range(n_resources)]
        self.held_by = [-1] * n_resources
        self.last = [FROM_EARLIER] * n_resources
        # a shared resource: each task on it was served `served_s` since it was last empty, the rest follows
        self.sharers: list[list[tuple[float, int]]] = [[] for _ in range(n_resources)]  # (done at, task)
        self.served_s = [0.0] * n_resources
        self.since_s = [start_s] * n_resources
        self.epoch = [0] * n_resources
        self.awake = [False] * n_resources
        self.heap: list[tuple[float, int, int, int]] = []

    def run(self) -> float:
        for i in range(len(self.row)):
            if self.missing[i] == 0:
                self.make_ready(i, self.start_s)
        while self.heap:
            now, kind, index, epoch = heappop(self.heap)
            if kind == _FINISH:
                self.finish(index, now)
            elif kind == _SHARED:
                if epoch == self.epoch[index]:
                    self.finish_shared(index, now)
            else:
                self.awake[index] = False
                self.take(index, now)
        return self.end

    def make_ready(self, task: int, now: float) -> None:
        held = int(self.resource[task])
        if held < 0:
            self.begin(task, now)
            return
        if self.discipline[held] != IN_ORDER:
            heappush(self.waiting[held], (now, task))
        self.wake(held, now)

    def wake(self, held: int, now: float) -> None:
        if not self.awake[held]:
            self.awake[held] = True
            heappush(self.heap, (now, _TAKE, held, 0))

    def take(self, held: int, now: float) -> None:
        """Let a resource take what it may take now."""
        if self.free_s[held] > now:  # still busy with an earlier graph
            if self.held_by[held] < 0:
                self.awake[held] = True
                heappush(self.heap, (float(self.free_s[held]), _TAKE, held, 0))
        elif self.discipline[held] == SHARED:
            self.take_shared(held, now)
        elif self.held_by[held] < 0:
            task = self.next_task(held)
            if task >= 0:
                self.held_by[held] = task
                self.begin(task, now)

    def next_task(self, held: int) -> int:
        if self.discipline[held] == FIRST_COME:
            return heappop(self.waiting[held])[1] if self.waiting[held] else -1
        program, at = self.program[held], self.next_in_program[held]
        if at == len(program) or self.missing[program[at]] > 0:
            return -1
        self.next_in_program[held] += 1
        return program[at]

    def begin(self, task: int, now: float) -> None:
        self.blame(task)
        heappush(self.heap, (now + float(self.row_s[self.row[task]]), _FINISH, task, 0))

    def blame(self, task: int) -> None:
        """Note what a task waited for last, by the rule of `sweep`."""
        latest, why = self.start_s, FROM_START
        held = int(self.resource[task])
        if held >= 0 and self.free_s[held] > latest and self.queues(held):
            latest, why = float(self.free_s[held]), self.last[held]
        for p in self.pred[self.pred_ptr[task] : self.pred_ptr[task + 1]]:
            if self.finish_s[p] > latest:
                latest, why = float(self.finish_s[p]), int(p)
        self.cause[task] = why

    def queues(self, held: int) -> bool:
        """Tell whether a task may have waited for the resource: a shared one only for earlier graphs."""
        return self.discipline[held] != SHARED or self.last[held] == FROM_EARLIER

    def finish(self, task: int, now: float) -> None:
        held = int(self.resource[task])
        if held >= 0:
            self.busy_s[held] += float(self.row_s[self.row[task]])
            self.free_s[held], self.last[held], self.held_by[held] = now, task, -1
            self.wake(held, now)
        self.complete(task, now)

    def complete(self, task: int, now: float) -> None:
        self.finish_s[task] = now
        self.end = max(self.end, now)
        for i in self.followers[task]:
            self.missing[i] -= 1
            if self.missing[i] == 0:
                self.make_ready(i, now)

    def settle(self, held: int, now: float) -> None:
        """Account what a shared resource did since the last change."""
        passed_s = now - self.since_s[held]
        if self.sharers[held]:
            self.served_s[held] += passed_s / len(self.sharers[held])
            self.busy_s[held] += passed_s
        else:
            self.served_s[held] = 0.0
        self.since_s[held] = now

    def plan(self, held: int, now: float) -> None:
        """Foresee the next finish on a shared resource."""
        self.epoch[held] += 1
        sharers = self.sharers[held]
        if sharers:
            left_s = max(0.0, sharers[0][0] - self.served_s[held])
            heappush(self.heap, (now + left_s * len(sharers), _SHARED, held, self.epoch[held]))

    def take_shared(self, held: int, now: float) -> None:
        self.settle(held, now)
        while self.waiting[held]:
            task = heappop(self.waiting[held])[1]
            self.blame(task)
            done_at_s = self.served_s[held] + float(self.row_s[self.row[task]])
            heappush(self.sharers[held], (done_at_s, task))
        self.plan(held, now)

    def finish_shared(self, held: int, now: float) -> None:
        """End the sharer with least left (the smallest index among equals)."""
        self.settle(held, now)
        self.served_s[held], task = heappop(self.sharers[held])  # exact: equals finish at one time
        self.plan(held, now)
        self.free_s[held], self.last[held] = now, task
        self.complete(task, now)


_FINISH, _SHARED, _TAKE = 0, 1, 2


def events(
    row: I32, resource: I32, discipline: I32, pred_ptr: I32, pred: I32, row_s: F64, start_s: float,
    free_s: F64, busy_s: F64, finish_s: F64, cause: I32,
) -> float:  # fmt: skip
    """Run a graph over resources of any discipline: an event loop.

    Parameters
    ----------
    discipline : int32[R]    0 in-order, 1 first-come (time ready, then index), 2 shared equally
    others                   as in `sweep`

    Returns
    -------
    float    the latest finish

    Notes
    -----
    Law: on in-order resources alone it equals `sweep` to the last bit.  A shared resource with n tasks
    on it serves each at 1/n of its speed; it is busy while it has one.  Cost O((n + m) log n).
    """
    return _Run(
        row, resource, discipline, pred_ptr, pred, row_s, start_s, free_s, busy_s, finish_s, cause
    ).run()
