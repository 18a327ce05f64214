"""`Lane`: one running batch of an engine: its data groups, and the process that iterates.

An engine of p pipeline stages has p lanes, whose iterations follow each other through the stages; without
pipelining, one.
"""

from __future__ import annotations

from array import array
from collections.abc import Generator
from collections.abc import Sequence as Seq
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

import numpy as np
from numpy.typing import NDArray
from simpy import Event

from codesign.execute.clock import Clock
from codesign.lower.batch import Batch
from codesign.lower.costs import BatchCosts
from codesign.policies.batching import Batching, Chunks
from codesign.serve.group import Group
from codesign.serve.tasklog import TaskLog
from workloads.routing import RoutingStream, set_domain

ITERATION_COLUMNS = (
    "start_s", "end_s", "engine", "lane", "tokens", "prefill_tokens", "decodes", "waiting", "kv_bytes",
)  # fmt: skip
_EMPTY = Batch()


@dataclass
class RoutingFeed:
    """Draws the routing of what an iteration computes into one buffer, grown as needed."""

    stream: RoutingStream | None
    _buffer: NDArray[np.int16] | None = None
    last: NDArray[np.int16] | None = None  # of the iteration that runs

    def announce(self, request: int, domain: int) -> None:
        """Tell a stream that knows domains which one a request is of."""
        if self.stream is not None and domain >= 0:
            set_domain(self.stream, request, domain)

    def draw(self, groups: list[Group]) -> NDArray[np.int16] | None:
        """Return int16[T, L, k] for all groups' tokens, group after group; None for a dense model."""
        if self.stream is None:
            return None
        parts = [part for group in groups for part in group.spans()]
        spans = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)
        tokens = int(spans[2].sum())
        if self._buffer is None or len(self._buffer) < tokens:
            shape = (max(1024, 2 * tokens), self.stream.n_layers, self.stream.top_k)
            self._buffer = np.empty(shape, np.int16)
        self.last = self.stream.draw(spans[0], spans[1], spans[2], self._buffer[:tokens])
        return self.last


@dataclass
class Shared:
    """What the lanes of all engines use together."""

    clock: Clock
    batching: Batching
    costs: BatchCosts
    routing: RoutingFeed
    tasks: TaskLog
    log: array[float] = field(default_factory=lambda: array("d"))
    more_to_come: bool = True
    output_tokens: int = 0
    iterations: int = 0


class Lane:
    """One running batch; `iteration` is the engine that its lanes share."""

    def __init__(self, engine: int, lane: int, groups: list[Group], iteration: Any, shared: Shared) -> None:
        self.engine, self.lane, self.groups = engine, lane, groups
        self.iteration, self.shared = iteration, shared
        self.costs, self.routing = shared.costs, shared.routing
        self.idle: Event | None = None

    def wake(self) -> None:
        """Let an idle lane look at its queues."""
        if self.idle is not None:
            self.idle.succeed()
            self.idle = None

    def process(self) -> Generator[Event, None, None]:
        """Iterate for ever: schedule, run, complete; sleep when there is nothing to do."""
        clock = self.shared.clock
        while True:
            end_s = self.start(clock.now)
            if end_s is None:
                self.idle = clock.event()
                yield self.idle
                continue
            yield clock.at(end_s)
            self.complete(end_s)

    def complete(self, end_s: float) -> None:
        """End the iteration, and count the output tokens that it gave."""
        self.shared.output_tokens += sum(group.complete(end_s) for group in self.groups)

    def start(self, now: float) -> float | None:
        """Schedule and run one iteration; return its end, or None if no group has anything to do."""
        shared = self.shared
        plans = [shared.batching.schedule(group, now, shared.more_to_come) for group in self.groups]
        return self.run(plans, now, now) if any(plans) else None

    def run(self, plans: Seq[tuple[Chunks, bool] | None], now: float, start_s: float) -> float:
        """Run what was scheduled `now` once the devices may start; return the end of the iteration."""
        batches = [
            group.start(*plan) if plan else _EMPTY for group, plan in zip(self.groups, plans, strict=True)
        ]
        self.costs.fill(batches)
        group_ptr = np.array([0, *accumulate(batch.tokens for batch in batches)], dtype=np.int32)
        ids = self.routing.draw(self.groups)
        end_s: float = self.iteration.run(ids, group_ptr, self.costs.static_parts, start_s)
        self.note(now, end_s, batches)
        return end_s

    def note(self, now: float, end_s: float, batches: list[Batch]) -> None:
        """Log the iteration (ITERATION_COLUMNS), and its tasks if asked."""
        tokens = sum(batch.tokens for batch in batches)
        decodes = sum(batch.decodes for batch in batches)
        waiting = sum(len(group.waiting) for group in self.groups)
        held = sum(group.memory.held_bytes for group in self.groups)
        self.shared.log.extend(
            (now, end_s, self.engine, self.lane, tokens, tokens - decodes, decodes, waiting, held)
        )
        self.shared.iterations += 1
        if self.shared.tasks.wants_more and self.costs is self.shared.costs:  # whose graph the log knows
            self.shared.tasks.add(self.shared.iterations - 1, self.engine, self.iteration)
