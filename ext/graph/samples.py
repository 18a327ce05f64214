"""Graphs to test and measure executors on: random ones, and the one of a model's iteration."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

F64 = NDArray[np.float64]
I32 = NDArray[np.int32]


class Outcome(NamedTuple):
    """All that an executor leaves behind."""

    end_s: float
    free_s: F64
    busy_s: F64
    finish_s: F64
    cause: I32

    def to_bytes(self) -> bytes:
        """Return the bits of every number, to compare exactly."""
        return np.float64(self.end_s).tobytes() + b"".join(np.asarray(part).tobytes() for part in self[1:])


@dataclass(frozen=True)
class Sample:
    """A graph (see `ext.graph`) and the state that its resources are in before it."""

    row: I32
    resource: I32
    discipline: I32
    pred_ptr: I32
    pred: I32
    row_s: F64
    start_s: float
    free_s: F64

    def preds(self, task: int) -> I32:
        """Return a task's predecessors."""
        return self.pred[self.pred_ptr[task] : self.pred_ptr[task + 1]]

    def after(self, start_s: float, free_s: F64) -> Sample:
        """Return the same graph on resources in another state."""
        return replace(self, start_s=start_s, free_s=free_s)

    def run(self, events: Callable[..., float]) -> Outcome:
        """Execute by an executor with the signature of `ext.graph.events`."""
        state = self._state()
        graph = (self.row, self.resource, self.discipline, self.pred_ptr, self.pred, self.row_s)
        return Outcome(events(*graph, self.start_s, *state), *state)

    def sweep(self, sweep: Callable[..., float]) -> Outcome:
        """Execute by an executor with the signature of `ext.graph.sweep`; the disciplines are ignored."""
        state = self._state()
        graph = (self.row, self.resource, self.pred_ptr, self.pred, self.row_s)
        return Outcome(sweep(*graph, self.start_s, *state), *state)

    def _state(self) -> tuple[F64, F64, F64, I32]:
        n = len(self.row)
        return self.free_s.copy(), np.zeros(len(self.free_s)), np.full(n, np.nan), np.full(n, -9, np.int32)


def random_graph(
    seed: int,
    n: int,
    disciplines: Sequence[int],
    *,
    degree: float = 1.5,
    grid: bool = True,
    barriers: float = 0.2,
    earlier: bool = True,
) -> Sample:
    """Draw a graph of n tasks on resources of the given disciplines.

    Parameters
    ----------
    degree : float      mean number of predecessors (drawn with replacement)
    grid : bool         durations 0, 0.5 or 1 s, hence many ties; else exponential, a tenth of them zero
    barriers : float    fraction of tasks without a resource
    earlier : bool      some resources are busy with earlier work, and the graph starts late
    """
    rng = np.random.default_rng(seed)
    n_resources = len(disciplines)
    rows = max(1, n // 2)
    row_s = rng.integers(0, 3, rows) / 2 if grid else rng.exponential(1.0, rows) * (rng.random(rows) > 0.1)
    resource = rng.integers(0, n_resources, n) if n_resources else np.full(n, -1)
    resource = np.where(rng.random(n) < barriers, -1, resource)
    counts = np.minimum(rng.poisson(degree, n), np.arange(n))
    pred = [rng.integers(0, i, count) for i, count in enumerate(counts) if count]
    start_s = float(rng.integers(0, 3)) * earlier
    free_s = rng.choice([0.0, 0.5, 1.0, 2.5], n_resources) * earlier + (0.0 if grid else rng.random())
    return Sample(
        row=rng.integers(0, rows, n).astype(np.int32),
        resource=resource.astype(np.int32),
        discipline=np.array(disciplines, dtype=np.int32),
        pred_ptr=np.concatenate([[0], np.cumsum(counts)]).astype(np.int32),
        pred=np.concatenate([np.zeros(0), *pred]).astype(np.int32),
        row_s=row_s.astype(np.float64),
        start_s=start_s,
        free_s=free_s.astype(np.float64),
    )


def iteration_graph(n_layers: int, n_devices: int = 8, discipline: int = 0) -> Sample:
    """Build the graph of a decode iteration under expert parallelism, with three barriers a layer.

    A layer has 5 tasks per device: attention, gate and experts on its compute unit, dispatch and combine
    on its link.  Durations are drawn between 1 and 50 microseconds.
    """
    row: list[int] = []
    resource: list[int] = []
    preds: list[Sequence[int]] = []

    def add(held: int, after: Sequence[int]) -> int:
        row.append(len(row) if held >= 0 else 0)
        resource.append(held)
        preds.append(after)
        return len(row) - 1

    def step(after: Sequence[Sequence[int]], offset: int) -> list[int]:
        return [add(offset + d, after[d]) for d in range(n_devices)]

    last: list[int] = [add(-1, [])]
    for _ in range(n_layers):
        gathered = add(-1, step([last] * n_devices, 0))
        gate = step([[gathered]] * n_devices, 0)
        arrived = add(-1, step([[g] for g in gate], n_devices))
        experts = step([[arrived]] * n_devices, 0)
        last = [add(-1, step([[e] for e in experts], n_devices))]
    row_s = np.random.default_rng(0).uniform(1e-6, 5e-5, len(row))
    row_s[0] = 0.0
    counts = [len(after) for after in preds]
    return Sample(
        row=np.array(row, dtype=np.int32),
        resource=np.array(resource, dtype=np.int32),
        discipline=np.full(2 * n_devices, discipline, dtype=np.int32),
        pred_ptr=np.concatenate([[0], np.cumsum(counts)]).astype(np.int32),
        pred=np.array([p for after in preds for p in after], dtype=np.int32),
        row_s=row_s,
        start_s=0.0,
        free_s=np.zeros(2 * n_devices),
    )
