"""`Cluster`: engines behind a load balancer, and the stream of requests that they serve."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from collections.abc import Sequence as Seq
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from simpy import Event

from codesign.base.errors import CapacityError
from codesign.execute import iteration_class
from codesign.execute.clock import ARRIVAL, Clock
from codesign.experiment import Experiment
from codesign.lower.costs import BatchCosts
from codesign.lower.fetching import Access
from codesign.lower.plan import Plan, build_plan
from codesign.lower.portions import Assigner
from codesign.policies import build_policies
from codesign.serve.gaps import Gaps
from codesign.serve.group import Group
from codesign.serve.lane import Lane, RoutingFeed, Shared
from codesign.serve.memory import KvMemory
from codesign.serve.part import Part
from codesign.serve.prefix import PrefixCache
from codesign.serve.sequence import Sequence
from codesign.serve.tasklog import TaskLog
from workloads.requests import Requests

if TYPE_CHECKING:
    from codesign.lower.composition import Composition
    from codesign.serve.store import ModelStore

REQUEST_COLUMNS = (
    "arrival_s", "admitted_s", "first_token_s", "finished_s", "longest_gap_s", "preemptions", "group",
    "refused",
)  # fmt: skip


class Cluster:
    """Runs a stream of requests to its end, or to the horizon.

    Attributes
    ----------
    composition : Composition or None           the expert models that requests are of, if there are several
    stores : list of ModelStore                 of which each engine holds some
    table : float64[N, len(REQUEST_COLUMNS)]    one row for each request; NaN where it did not happen
    engines : list of iterations                state and totals of each engine
    """

    composition: Composition | None = None
    stores: Seq[ModelStore] = ()

    def __init__(self, experiment: Experiment, plan: Plan, requests: Requests, tasks: TaskLog) -> None:
        self.experiment, self.plan, self.requests = experiment, plan, requests
        policies = build_policies(experiment)
        self.balance = policies.load_balance
        self.clock, self.gaps = Clock(), Gaps()
        costs = BatchCosts(plan, experiment.spec.engine)
        routing = RoutingFeed(experiment.routing())
        self.shared = Shared(self.clock, policies.batching, costs, routing, tasks)
        make = iteration_class(experiment.spec.executor)
        self.assigners: list[Assigner] = []
        known = self._rehearse()
        self.engines: list[Any] = [self._build_engine(make, known) for _ in range(plan.parallel.replicas)]
        self.lanes = self._build_lanes()
        self.groups = [group for lane in self.lanes for group in lane.groups]
        self._lane_of = [lane for lane in self.lanes for _ in lane.groups]
        self._share_queues()
        n = len(requests)
        self.table: NDArray[np.float64] = np.full((n, len(REQUEST_COLUMNS)), np.nan)
        self.table[:, 0], self.table[:, 7] = requests.arrival_s, 0.0
        self._front_end_s = 0.0  # until when the front end is busy
        self.at_front_end = 0  # requests that wait for it or are in it
        self.submitted = self.finished = self.refused = self.expected_tokens = 0

    def _rehearse(self) -> list[list[Access]]:
        """Learn the uses to come of each group's experts, for a cache that knows them: run without it."""
        cache = self.plan.portions.cache
        if cache is None or cache.policy != "belady":
            return []
        if self.plan.parallel.replicas > 1:
            rule = "knows the future of one engine; this plan has several (parallel.replicas)"
            raise self.experiment.document.error(("policies", "expert_cache", "name"), rule, "belady")
        twin = self.experiment.replace({"policies.expert_cache.name": "lru", "horizon": None})
        cluster = Cluster(twin, build_plan(twin), twin.requests(), TaskLog(self.plan.graph))
        caches = [assigner.caches for assigner in cluster.assigners if assigner.caches]
        for found in caches:
            found.record = [[] for _ in found.devices]
        cluster.run()
        return caches[0].record or []

    def _build_engine(self, make: Callable[..., Any], known: list[list[Access]]) -> Any:
        plan = self.plan
        if len(plan.portions.parts) == 1:
            return make(plan.layout)
        feed = self.shared.routing
        assigner = Assigner(
            self.experiment, plan.portions, plan.layout, plan.expert_bytes, lambda: feed.last, known
        )
        self.assigners.append(assigner)
        return make(plan.layout, assign=assigner)

    @property
    def parts(self) -> list[Part]:
        """What runs each model of an engine: usually one."""
        shared = self.shared
        return [Part(self.plan, shared.costs, shared.routing, self.engines, self.assigners)]

    @property
    def waiting_elsewhere(self) -> int:
        """Count the requests inside that neither the front end nor a group holds."""
        return 0

    def own_laws(self) -> Iterator[tuple[str, str, str]]:
        """Give laws of this kind of cluster: law, place, what violates it."""
        return iter(())

    def _share_queues(self) -> None:
        self.balance.share_queues(self.groups)

    def _build_lanes(self) -> list[Lane]:
        p = self.plan.parallel
        fit = self.plan.residency
        share, swap = int(fit.kv_bytes) // p.pipeline, int(fit.swap_bytes) // p.pipeline
        views = self.shared.costs.views
        lanes: list[Lane] = []
        for engine in range(p.replicas):
            for lane in range(p.pipeline):
                first = len(lanes) * p.data
                groups = [
                    Group(first + d, self._memory(share, swap), views, self.gaps, self._on_finish)
                    for d in range(p.data)
                ]
                lanes.append(Lane(engine, lane, groups, self.engines[engine], self.shared))
        return lanes

    def _memory(self, capacity_bytes: int, swap_bytes: int) -> KvMemory:
        kv, prefix = self.plan.kv, None
        if self.experiment.spec.memory.prefix_cache and self.requests.prefix_ids is not None:
            if self.requests.block_tokens % kv.block_tokens:
                raise self.experiment.document.error(
                    ("memory", "block_tokens"), "must divide the"
                    f" {self.requests.block_tokens} tokens of a prefix block", kv.block_tokens,
                )  # fmt: skip
            prefix = PrefixCache(kv, self.requests.block_tokens)
        return KvMemory(kv, capacity_bytes, prefix, swap_bytes)

    def run(self) -> float:
        """Run, and return the simulated time: the end of the last iteration, or the horizon.

        Raises
        ------
        CapacityError   no request of the stream fits the KV memory
        """
        for lane in self.lanes:
            self.clock.process(lane.process())
        closed = self.requests.concurrency is not None
        self.clock.process(self._closed_loop() if closed else self._open_loop())
        self.clock.run(until=self.experiment.spec.horizon)
        if self.refused == len(self.requests) and self.refused:
            raise self._nothing_fits()
        return float(self.clock.now)

    def _open_loop(self) -> Generator[Event, None, None]:
        for i, arrival_s in enumerate(self.requests.arrival_s.tolist()):
            if arrival_s > self.clock.now:
                yield self.clock.at(arrival_s, ARRIVAL)
            self._submit(i)
        self._last_came()

    def _closed_loop(self) -> Generator[Event, None, None]:
        for i in range(min(self.requests.concurrency or 1, len(self.requests))):
            self._submit(i)
        yield self.clock.timeout(0)
        if self.submitted == len(self.requests):
            self._last_came()

    def _last_came(self) -> None:
        self.shared.more_to_come = False
        for lane in self.lanes:
            lane.wake()

    def _submit(self, i: int) -> None:
        self.submitted += 1
        now = self.clock.now
        prompt, output = int(self.requests.prompt_tokens[i]), int(self.requests.output_tokens[i])
        chain = self.requests.blocks(i).tolist() if self._prefixes else None
        sequence = Sequence(i, now, prompt, output, chain)
        if self.requests.held_tokens is not None:
            sequence.prefilled = int(self.requests.held_tokens[i])
        self.table[i, 0] = now
        if not self._fits(sequence):
            self.refused += 1
            self.table[i, 7] = 1.0
            self._next_of_closed_loop()
            return
        if self.requests.domain is not None:
            self._announce(i, int(self.requests.domain[i]))
        self.expected_tokens += output
        self._receive(sequence)

    @property
    def _prefixes(self) -> bool:
        return self.groups[0].memory.prefix is not None

    def _fits(self, sequence: Sequence) -> bool:
        return self.groups[0].memory.fits_alone(sequence)

    def _announce(self, request: int, domain: int) -> None:
        self.shared.routing.announce(request, domain)

    def _receive(self, sequence: Sequence) -> None:
        """Let the engine's front end take a request, after those before it, and queue it."""
        engine = self.experiment.spec.engine
        work_s = engine.request + engine.prompt_token * sequence.prompt
        if not work_s:
            self._enqueue(sequence)
            return
        self._front_end_s = max(self._front_end_s, self.clock.now) + work_s
        self.at_front_end += 1
        event = self.clock.at(self._front_end_s, ARRIVAL)
        event.callbacks.append(lambda _: self._leave_front_end(sequence))

    def _leave_front_end(self, sequence: Sequence) -> None:
        self.at_front_end -= 1
        self._enqueue(sequence)

    def _enqueue(self, sequence: Sequence) -> None:
        sequence.group = self.balance.choose(sequence, self.groups)
        group = self.groups[sequence.group]
        group.waiting.append(sequence)
        group.outstanding_tokens += sequence.prompt + sequence.output - 1
        self._lane_of[group.index].wake()

    def _on_finish(self, sequence: Sequence) -> None:
        self.finished += 1
        self.table[sequence.index, 1:7] = (
            sequence.admitted_s, sequence.first_token_s, sequence.finished_s, sequence.longest_gap_s,
            sequence.preemptions, sequence.group,
        )  # fmt: skip
        self._forget(sequence.index)
        self._next_of_closed_loop()

    def _forget(self, request: int) -> None:
        stream = self.shared.routing.stream
        if stream is not None:
            stream.forget(request)

    def _next_of_closed_loop(self) -> None:
        if self.requests.concurrency is not None and self.submitted < len(self.requests):
            self._submit(self.submitted)
            if self.submitted == len(self.requests):
                self._last_came()

    def _nothing_fits(self) -> CapacityError:
        plan, kv = self.plan, self.plan.kv
        tokens = int((self.requests.prompt_tokens + self.requests.output_tokens).min())
        return CapacityError(
            f"no request fits: the shortest has {tokens} tokens and needs"
            f" {kv.sequence_bytes(kv.blocks(tokens)) / 1e9:.3f} GB of KV cache on a device;"
            f" {plan.residency.kv_bytes / plan.parallel.pipeline / 1e9:.3f} GB are left beside the weights:"
            " use more devices, fewer bits (precision.kv, precision.weights) or shorter requests"
        )
