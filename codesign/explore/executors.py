"""Where points run: in this process, or in worker processes of this machine."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import suppress
from multiprocessing.connection import Connection, Pipe, wait
from time import monotonic
from typing import Any, Protocol

from codesign.base.errors import CodesignError
from codesign.explore.evaluate import KILLED, TIMEOUT, Outcome, Setup, Task, evaluator_of

ATTEMPTS = 3  # of a point whose worker is killed
CHUNK_S = 0.05  # a worker gets points for about so long at a time
MAX_CHUNK = 64
ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")


class Executor(Protocol):
    """Runs points somewhere.  Law: every task gives one outcome, whatever the order."""

    def run(self, tasks: Iterable[Task]) -> Iterator[Outcome]:
        """Give the outcomes as they come; tasks are taken as they are needed."""
        ...

    def close(self) -> None:
        """End the workers."""
        ...


class Serial:
    """Runs points here, one after the other; there is no time limit."""

    def __init__(self, setup: Setup) -> None:
        self._run = evaluator_of(setup)

    def run(self, tasks: Iterable[Task]) -> Iterator[Outcome]:
        """See `Executor.run`."""
        return map(self._run, tasks)

    def close(self) -> None:
        """Nothing to end."""


class _Worker:
    """A process, the pipe to it, and the points that it has."""

    def __init__(self, setup: Setup) -> None:
        ours, theirs = Pipe()
        path = os.pathsep.join(entry for entry in sys.path if entry)
        environment = {**os.environ, **dict.fromkeys(ONE_THREAD, "1"), "PYTHONPATH": path}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "codesign.explore.worker", str(theirs.fileno())],
            pass_fds=[theirs.fileno()], env=environment, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        theirs.close()
        self.channel: Connection[Any, Any] = ours
        self.channel.send(setup)
        self.tasks: deque[Task] = deque()
        self.ready = False
        self.since_s = monotonic()

    def give(self, tasks: list[Task]) -> None:
        self.tasks.extend(tasks)
        self.since_s = monotonic()
        with suppress(OSError):  # a worker that has died is found by its end of file
            self.channel.send(tasks)

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        self.channel.close()


class Processes:
    """Worker processes of this machine, each warmed once.

    A killed worker is replaced and its points run again, each at most `ATTEMPTS` times; a point past
    `time_limit_s` is recorded and its worker replaced.
    """

    def __init__(self, setup: Setup, workers: int, time_limit_s: float | None = None) -> None:
        self.setup, self.time_limit_s = setup, time_limit_s
        self.workers = [_Worker(setup) for _ in range(workers)]
        self._again: deque[Task] = deque()
        self._deaths: dict[str, int] = {}
        self._early_deaths = 0
        self._mean_s = 0.0
        self._left = 0

    def run(self, tasks: Iterable[Task]) -> Iterator[Outcome]:
        """See `Executor.run`.

        Raises
        ------
        CodesignError   no worker can be started
        """
        source = iter(tasks)
        while True:
            for worker in self.workers:
                self._feed(worker, source)
            if not any(worker.tasks for worker in self.workers):
                return
            for channel in wait([w.channel for w in self.workers], timeout=self._patience_s()):
                yield from self._hear(next(w for w in self.workers if w.channel is channel))
            yield from self._overdue()

    def close(self) -> None:
        """End all workers at once."""
        for worker in self.workers:
            worker.end()
        self.workers = []

    def _feed(self, worker: _Worker, source: Iterator[Task]) -> None:
        if worker.tasks and (not worker.ready or len(worker.tasks) > self._chunk() // 2):
            return
        chunk: list[Task] = []
        while len(chunk) < self._chunk():
            task = self._again.popleft() if self._again else next(source, None)
            if task is None:
                break
            chunk.append(task)
        if chunk:
            worker.give(chunk)

    def _chunk(self) -> int:
        if self.time_limit_s is not None or not self._mean_s:
            return 1
        return max(1, min(MAX_CHUNK, int(CHUNK_S / self._mean_s)))

    def _patience_s(self) -> float | None:
        if self.time_limit_s is None:
            return None
        running = [w.since_s for w in self.workers if w.tasks and w.ready]
        return max(0.01, min(running, default=monotonic()) + self.time_limit_s - monotonic())

    def _hear(self, worker: _Worker) -> Iterator[Outcome]:
        try:
            while worker.channel.poll():
                kind, value = worker.channel.recv()
                if kind == "broken":
                    raise CodesignError(f"a worker cannot start: {value}")
                worker.ready, worker.since_s = True, monotonic()
                if kind == "outcome":
                    worker.tasks.popleft()
                    self._mean_s = 0.8 * (self._mean_s or value.wall_s) + 0.2 * value.wall_s
                    yield value
        except (EOFError, OSError):
            yield from self._bury(worker, KILLED)

    def _overdue(self) -> Iterator[Outcome]:
        if self.time_limit_s is None:
            return
        for worker in list(self.workers):
            if worker.ready and worker.tasks and monotonic() - worker.since_s > self.time_limit_s:
                yield from self._bury(worker, TIMEOUT)

    def _bury(self, worker: _Worker, why: str) -> Iterator[Outcome]:
        """Replace a worker; run its points again, but for one that is given up."""
        worker.end()
        if not worker.ready:
            self._early_deaths += 1
            if self._early_deaths > ATTEMPTS:
                raise CodesignError("workers end as soon as they start (out of memory?)")
        if worker.tasks and worker.ready:
            first = worker.tasks[0]
            self._deaths[first.id] = self._deaths.get(first.id, 0) + 1
            if why == TIMEOUT:
                worker.tasks.popleft()
                yield Outcome(first.id, TIMEOUT, error=f"took longer than {self.time_limit_s:g} s")
            elif self._deaths[first.id] >= ATTEMPTS:
                worker.tasks.popleft()
                yield Outcome(first.id, KILLED, error=f"its worker was killed {ATTEMPTS} times")
        self._again.extend(worker.tasks)
        self.workers[self.workers.index(worker)] = _Worker(self.setup)
