"""Points on a Dask cluster: the same sweep, on many machines."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import islice
from typing import Any
from urllib.parse import urlsplit

from codesign.base.errors import CodesignError, ConfigError
from codesign.explore.evaluate import KILLED, Outcome, Setup, Task, evaluator_of
from codesign.explore.executors import ATTEMPTS, Processes

PATIENCE_S = 8.0  # until a scheduler that does not answer is given up
SCHEMES = ("tcp", "tls", "ws", "wss", "ucx")
AHEAD = 3  # chunks in flight for each thread of the cluster
_known: dict[str, Any] = {}  # on a worker: what it keeps between chunks, by setup


def run_chunk(setup: Setup, tasks: list[Task], time_limit_s: float | None) -> list[Outcome]:
    """Run some points on a worker; with a time limit in a process of their own, which can be ended."""
    from threading import get_ident

    key = f"{setup.key}/{time_limit_s}/{get_ident()}"
    if time_limit_s is None:
        run = _known.get(key) or _known.setdefault(key, evaluator_of(setup))
        return [run(task) for task in tasks]
    executor = Processes(setup, 1, time_limit_s)
    try:
        return list(executor.run(tasks))
    finally:
        executor.close()


class Dask:
    """Runs points on the workers of a Dask scheduler.

    A worker that dies gives its chunks to the others, as Dask does; a chunk that keeps killing workers is
    run point by point, and the point that does is recorded.
    """

    def __init__(self, setup: Setup, address: str, time_limit_s: float | None = None, chunk: int = 4) -> None:
        self.setup, self.time_limit_s, self.chunk = setup, time_limit_s, chunk
        self.client = connect(address)

    def run(self, tasks: Iterable[Task]) -> Iterator[Outcome]:
        """See `codesign.explore.executors.Executor.run`."""
        from distributed import as_completed

        source = iter(tasks)
        pending: dict[str, list[Task]] = {}
        done = as_completed([], loop=self.client.loop)
        threads = max(1, sum(self.client.nthreads().values()))
        again: deque[list[Task]] = deque()
        while True:
            while len(pending) < AHEAD * threads:
                chunk = again.popleft() if again else list(islice(source, self.chunk))
                if not chunk:
                    break
                future = self.client.submit(run_chunk, self.setup, chunk, self.time_limit_s, pure=False)
                pending[future.key] = chunk
                done.add(future)
            if not pending:
                return
            future = next(done)
            chunk = pending.pop(future.key)
            if future.status == "finished":
                yield from future.result()
            elif len(chunk) > 1:
                again.extend([task] for task in chunk)
            else:
                yield _lost(chunk[0], future)

    def close(self) -> None:
        """Leave the cluster; it goes on without us."""
        with suppress(Exception):
            self.client.close(timeout=2)


def _lost(task: Task, future: Any) -> Outcome:
    error = future.exception()
    if type(error).__name__ == "KilledWorker":
        return Outcome(task.id, KILLED, error=f"its worker was killed {ATTEMPTS} times")
    raise CodesignError(f"the cluster lost a point: {type(error).__name__}: {error}")


def connect(address: str) -> Any:
    """Connect to a scheduler.

    Raises
    ------
    ConfigError   distributed is not installed, this is no address, no scheduler answers within
                  `PATIENCE_S`, or it has no worker
    """
    try:
        from distributed import Client
    except ImportError:
        raise ConfigError("--scheduler needs Dask: pip install 'codesign[explore]'") from None
    _check_address(address)
    try:
        client = Client(address, timeout=PATIENCE_S, set_as_default=False)
    except (OSError, ValueError, TypeError, AssertionError) as error:  # the last: its loop did not start
        reason = " ".join(str(error).split())
        raise ConfigError(
            f"--scheduler {address}: no scheduler answers ({reason or type(error).__name__}); start one with"
            " `dask scheduler` and workers with `dask worker tcp://HOST:8786`"
        ) from None
    try:
        client.wait_for_workers(1, timeout=PATIENCE_S)
    except Exception:
        client.close(timeout=2)
        raise ConfigError(
            f"--scheduler {address}: has no worker; start one with `dask worker {address}`"
        ) from None
    return client


def _check_address(address: str) -> None:
    """Refuse what is no address of a scheduler, before a connection is tried."""
    parts = urlsplit(address if "://" in address else f"tcp://{address}")
    try:
        sound = parts.scheme in SCHEMES and bool(parts.hostname) and parts.port is not None
    except ValueError:  # a port that is no number
        sound = False
    if not sound:
        raise ConfigError(f"--scheduler {address}: is no address; write tcp://HOST:8786")
