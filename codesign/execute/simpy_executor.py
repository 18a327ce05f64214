"""The task graph as a SimPy model: the executor to read and to hook into.

It gives the same bits as the compiled event loop, `ext.graph.events`.  In SimPy's words:

    time         a `Clock`: an Environment that schedules at an absolute time, so that no time is ever the
                 sum of itself and a delay, and that breaks ties by (kind, index) instead of by chance
    resource     a process.  It sleeps on its *bell*, an Event; whoever makes a task ready for it rings.
                 A bell sounds once all that finishes at this time has finished; bells sound in the order
                 of the resources.  The process then takes a task and sleeps until the task's finish
    shared       a process that sleeps until the next finish among its tasks, and is interrupted by its
                 bell: then it admits who came, and foresees the next finish again
    task         an Event, its finish; on it hang the completion and the resource's next turn
    barrier      a task whose Event no process waits for
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from heapq import heappop, heappush

import numpy as np
import simpy
from numpy.typing import NDArray

from codesign.execute.clock import Clock
from ext.graph.reference import FIRST_COME, FROM_EARLIER, FROM_START, IN_ORDER, SHARED

F64 = NDArray[np.float64]
I32 = NDArray[np.int32]
Hook = Callable[[int, int, float, float], None]
Sleep = Generator[simpy.Event, None, None]

FINISH, SHARED_FINISH, TAKE = 1, 2, 3  # at one time, in this order; SimPy's own events (0) come first


def turn(kind: int, index: int) -> int:
    """Return the order of an event among those of one time: by kind, then by index."""
    return (kind << 40) + index


class Model:
    """The graph, its stations and what is known of each task."""

    def __init__(
        self, row: I32, resource: I32, discipline: I32, pred_ptr: I32, pred: I32, row_s: F64,
        start_s: float, free_s: F64, busy_s: F64, finish_s: F64, cause: I32, on_task: Hook | None,
    ) -> None:  # fmt: skip
        self.clock = Clock(start_s)
        self.start_s = self.end_s = start_s
        self.free_s, self.busy_s, self.finish_s, self.cause = free_s, busy_s, finish_s, cause
        self.on_task = on_task
        self.resource: list[int] = resource.tolist()
        self.duration_s: list[float] = row_s[row].tolist()
        self.preds: list[list[int]] = [pred[pred_ptr[i] : pred_ptr[i + 1]].tolist() for i in range(len(row))]
        self.missing = [len(preds) for preds in self.preds]
        self.followers: list[list[int]] = [[] for _ in row]
        for task, preds in enumerate(self.preds):
            for p in preds:
                self.followers[p].append(task)
        self.begin_s = [start_s] * len(row)
        self.stations = [STATIONS[int(kind)](self, held) for held, kind in enumerate(discipline)]

    def run(self) -> float:
        """Release the tasks that wait for nothing, and let time pass until nothing more happens."""
        for task, held in enumerate(self.resource):
            if held >= 0:
                self.stations[held].expect(task)
        for task, missing in enumerate(self.missing):
            if missing == 0:
                self.make_ready(task)
        self.clock.run()
        return self.end_s

    def make_ready(self, task: int) -> None:
        """Send a task to its resource; without one it begins at once."""
        held = self.resource[task]
        if held < 0:
            self.begin(task).callbacks.append(lambda _: self.complete(task))
        else:
            self.stations[held].receive(task)

    def begin(self, task: int) -> simpy.Event:
        """Begin a task that has its resource for itself; return its finish."""
        self.blame(task)
        return self.clock.at(self.clock.now + self.duration_s[task], turn(FINISH, task))

    def blame(self, task: int) -> None:
        """Note when a task begins, and what it waited for last."""
        self.begin_s[task] = self.clock.now
        latest, why = self.start_s, FROM_START
        held = self.resource[task]
        if held >= 0 and self.free_s[held] > latest and self.stations[held].has_kept_waiting():
            latest, why = self.free_s[held], self.stations[held].last
        for p in self.preds[task]:
            if self.finish_s[p] > latest:
                latest, why = self.finish_s[p], p
        self.cause[task] = why

    def complete(self, task: int) -> None:
        """Note a task's finish and release those that waited for it last."""
        now = self.clock.now
        self.finish_s[task] = now
        self.end_s = max(self.end_s, now)
        if self.on_task is not None:
            self.on_task(task, self.resource[task], self.begin_s[task], now)
        for follower in self.followers[task]:
            self.missing[follower] -= 1
            if self.missing[follower] == 0:
                self.make_ready(follower)


class Station:
    """A resource: the process that serves its tasks one by one, in an order that subclasses choose."""

    def __init__(self, model: Model, index: int) -> None:
        self.model, self.index = model, index
        self.last = FROM_EARLIER
        self.bell = model.clock.event()
        self.process = model.clock.process(self.serve())

    def expect(self, task: int) -> None:
        """Hear, before the start, of a task that will come; in the order of the program."""

    def receive(self, task: int) -> None:
        """Hear that a task is ready."""
        self.ring()

    def choose(self) -> int | None:
        """Choose the task to serve now, if any may be."""
        raise NotImplementedError

    def has_kept_waiting(self) -> bool:
        """Tell whether a task that begins now may have waited for this resource."""
        return True

    def ring(self) -> None:
        """Have a turn when all that finishes now has finished; not before earlier graphs' work is done."""
        if not self.bell.triggered:
            when_s = max(self.model.clock.now, float(self.model.free_s[self.index]))
            self.model.clock.at(when_s, turn(TAKE, self.index), self.bell)

    def serve(self) -> Sleep:
        """Sleep until rung; serve a task if there is one."""
        while True:
            yield self.bell
            task = self.choose()
            if task is not None:
                yield self.model.begin(task)
            self.bell = self.model.clock.event()
            if task is not None:
                self.ring()
                self.model.busy_s[self.index] += self.model.duration_s[task]
                self.release(task)

    def release(self, task: int) -> None:
        """Let go of a finished task."""
        self.model.free_s[self.index], self.last = self.model.clock.now, task
        self.model.complete(task)


class InOrder(Station):
    """A stream or an engine: serves in program order, and waits for the next of the program."""

    def __init__(self, model: Model, index: int) -> None:
        super().__init__(model, index)
        self.program: list[int] = []
        self.done = 0

    def expect(self, task: int) -> None:
        self.program.append(task)

    def choose(self) -> int | None:
        if self.done == len(self.program) or self.model.missing[self.program[self.done]]:
            return None
        self.done += 1
        return self.program[self.done - 1]


class FirstCome(Station):
    """A channel or a link: serves whoever was ready first (the smallest index among equals)."""

    def __init__(self, model: Model, index: int) -> None:
        super().__init__(model, index)
        self.line: list[tuple[float, int]] = []

    def receive(self, task: int) -> None:
        heappush(self.line, (self.model.clock.now, task))
        self.ring()

    def choose(self) -> int | None:
        return heappop(self.line)[1] if self.line else None


class Shared(Station):
    """A bandwidth: serves all at once, each at an equal part of its speed.

    Each task on it was served `served_s` since it was last empty, and is done when this has grown by the
    task's duration.
    """

    def __init__(self, model: Model, index: int) -> None:
        super().__init__(model, index)
        self.arrived: list[int] = []
        self.sharers: list[tuple[float, int]] = []  # (served_s at which it is done, task)
        self.served_s, self.since_s = 0.0, model.start_s

    def receive(self, task: int) -> None:
        self.arrived.append(task)
        self.ring()

    def has_kept_waiting(self) -> bool:
        return self.last == FROM_EARLIER

    def ring(self) -> None:
        if not self.bell.triggered:
            self.bell.callbacks.append(lambda _: self.process.interrupt())
        super().ring()

    def serve(self) -> Sleep:
        """Sleep until the next finish, or until rung because tasks have arrived."""
        finish = self.model.clock.event()  # never, as long as there is no task
        while True:
            try:
                yield finish
            except simpy.Interrupt:
                self.settle()
                self.admit()
                finish = self.foresee()
            else:
                self.settle()
                self.served_s, task = heappop(self.sharers)  # exact: equals finish at one time
                finish = self.foresee()
                self.release(task)

    def settle(self) -> None:
        """Account what was served since the last change."""
        passed_s = self.model.clock.now - self.since_s
        if self.sharers:
            self.served_s += passed_s / len(self.sharers)
            self.model.busy_s[self.index] += passed_s
        else:
            self.served_s = 0.0
        self.since_s = self.model.clock.now

    def admit(self) -> None:
        """Let those who arrived share from now on."""
        for task in self.arrived:
            self.model.blame(task)
            heappush(self.sharers, (self.served_s + self.model.duration_s[task], task))
        self.arrived.clear()
        self.bell = self.model.clock.event()

    def foresee(self) -> simpy.Event:
        """Return the next finish, if nobody else comes."""
        clock = self.model.clock
        if not self.sharers:
            return clock.event()
        left_s = max(0.0, self.sharers[0][0] - self.served_s)
        return clock.at(clock.now + left_s * len(self.sharers), turn(SHARED_FINISH, self.index))


STATIONS: dict[int, type[Station]] = {IN_ORDER: InOrder, FIRST_COME: FirstCome, SHARED: Shared}


def simpy_events(
    row: I32, resource: I32, discipline: I32, pred_ptr: I32, pred: I32, row_s: F64, start_s: float,
    free_s: F64, busy_s: F64, finish_s: F64, cause: I32, *, on_task: Hook | None = None,
) -> float:  # fmt: skip
    """Run a graph over resources of any discipline, as a SimPy model.

    Parameters
    ----------
    on_task : callable    called as ``on_task(task, resource, start_s, finish_s)`` when a task finishes
                          (resource -1: a barrier), in the order of the finishes
    others                as in `ext.graph.events`

    Returns
    -------
    float    the latest finish

    Notes
    -----
    Law: equals `ext.graph.events` to the last bit, in all that either writes.
    """
    model = Model(
        row, resource, discipline, pred_ptr, pred, row_s, start_s, free_s, busy_s, finish_s, cause, on_task
    )  # fmt: skip
    return model.run()
