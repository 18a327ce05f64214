"""Serving a composition of expert models: each engine runs one model at a time, and brings those it lacks."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from codesign.experiment import Experiment
from codesign.lower.batch import Batch
from codesign.lower.composition import Composition, compose
from codesign.lower.plan import Plan
from codesign.serve.cluster import Cluster
from codesign.serve.gaps import Gaps
from codesign.serve.group import Group
from codesign.serve.lane import Lane, Shared
from codesign.serve.memory import KvMemory
from codesign.serve.part import Part
from codesign.serve.sequence import Sequence
from codesign.serve.store import ModelStore
from codesign.serve.tasklog import TaskLog
from ext.iteration.layout import FETCH, FETCH_BANDWIDTH, KINDS, PARTS
from workloads.requests import Requests

_OVERHEAD, _ENGINE = KINDS.index("overhead"), PARTS.index("engine")
ROUTER = -1  # as a model


@dataclass(frozen=True)
class Models:
    """What the lanes of a composition share: its parts by shape, and how a group of a model is made."""

    composition: Composition
    parts: list[Part]
    start_s: float
    make_group: Callable[[int, int, Callable[[Sequence], None] | None], Group]


class ModelLane(Lane):
    """One engine: a queue of requests of many models, and the batch of the model that it serves now.

    The requests of a model that wait when it is chosen are its batch; those that come later join only if no
    other model waits.  With a router, requests are first read by it, in batches between those of the models.
    Law: at most one model has requests in KV memory.

    Attributes
    ----------
    waiting : deque of Sequence     arrived; with a router, not yet read
    routed : deque of Sequence      whose model is known, in order; without a router, `waiting` itself
    outstanding_tokens : int        of the queue and the batch
    """

    def __init__(self, engine: int, shared: Shared, models: Models, store: ModelStore) -> None:
        super().__init__(engine, 0, [], models.parts[0].engines[engine], shared)
        self.models, self.store = models, store
        self.waiting: deque[Sequence] = deque()
        self._routed: deque[Sequence] | None = deque() if models.composition.router >= 0 else None
        self.peers: list[ModelLane] = []
        self.by_model: dict[int, Group] = {}
        self.model = ROUTER
        self.reading: dict[int, Sequence] = {}  # by request, at the router
        self.start_s, self._latency_share, self._host_s = 0.0, 0.0, 0.0

    @property
    def routed(self) -> deque[Sequence]:
        """Requests whose model is known."""
        return self.waiting if self._routed is None else self._routed

    @property
    def queued(self) -> set[Sequence]:
        """Requests that no group of an expert model holds."""
        return {*self.waiting, *self.routed, *self.reading.values()}

    @property
    def running(self) -> int:
        """Requests in the batch."""
        return sum(group.running for group in self.groups)

    @property
    def outstanding_tokens(self) -> int:
        """Tokens still to compute of what this engine was given."""
        tokens: int = sum(s.prompt + s.output - 1 for s in (*self.waiting, *(self._routed or ())))
        for group in self.groups:
            tokens += group.outstanding_tokens
        return tokens

    def start(self, now: float) -> float | None:
        """Schedule and run an iteration of the model at work, or of the next one; see `Lane.start`."""
        if not any(group.running or group.waiting for group in self.groups):
            if not self._choose(now):
                return None
        elif self.model != ROUTER:
            self._join()
            self.start_s = now
        else:
            self.start_s = now
        if self.models.composition.spec.prefetch and self.model != ROUTER:
            self._prefetch(now)
        plan = self.shared.batching.schedule(self.groups[0], now, False)
        if plan is None:
            return None
        self._attribute(now)
        return self.run([plan], now, self.start_s)

    def _choose(self, now: float) -> bool:
        """Begin a batch: the router's or a model's, in turns if both have work; False if there is none."""
        if self._routed is not None and self.waiting and (self.model != ROUTER or not self._routed):
            self._read(now)
        elif self.routed:
            self._serve(now)
        else:
            return False
        return True

    def _read(self, now: float) -> None:
        """Give all that has arrived to the router."""
        tokens = self.models.composition.spec.router_tokens
        group = self._group(ROUTER)
        for sequence in self.waiting:
            self.reading[sequence.index] = sequence
            self._enter(group, Sequence(sequence.index, now, sequence.prompt, tokens))
        self.waiting.clear()
        self._use(ROUTER, group, self.models.composition.router)
        self._begin(now, now, 0.0)

    def _serve(self, now: float) -> None:
        """Choose a model, bring it, and take the requests of it."""
        of, switching = self.models.composition.requests, self.models.composition.switching
        waiting = [(int(of[s.index]), s.arrival_s) for s in self.routed]
        model = switching.choose(waiting, self.store.held, now)
        ready_s, latency_share = self.store.visit(model, now)
        self._use(model, self._group(model), int(self.models.composition.shape_of[model]))
        self._take(model)
        self._begin(now, ready_s, latency_share)
        if self._routed is None and self.waiting:
            for lane in self.peers:
                lane.wake()

    def _begin(self, now: float, ready_s: float, latency_share: float) -> None:
        self._host_s = self.models.start_s
        self.start_s, self._latency_share = ready_s + self._host_s, latency_share

    def _use(self, model: int, group: Group, shape: int) -> None:
        part = self.models.parts[shape]
        self.model, self.groups = model, [group]
        self.iteration, self.costs, self.routing = part.engines[self.engine], part.costs, part.routing

    def _group(self, model: int) -> Group:
        group = self.by_model.get(model)
        if group is None:
            done = self._on_read if model == ROUTER else None
            group = self.by_model[model] = self.models.make_group(self.engine, model, done)
        return group

    def _take(self, model: int) -> None:
        """Move the queued requests of a model into its group."""
        of, group, queue = self.models.composition.requests, self.groups[0], self.routed
        mine = [s for s in queue if of[s.index] == model]
        if len(mine) == len(queue):
            queue.clear()
        else:
            rest = [s for s in queue if of[s.index] != model]
            queue.clear()
            queue.extend(rest)
        for sequence in mine:
            self._enter(group, sequence)

    def _enter(self, group: Group, sequence: Sequence) -> None:
        group.waiting.append(sequence)
        group.outstanding_tokens += sequence.prompt + sequence.output - 1

    def _join(self) -> None:
        """Let later requests of the model at work join it, if no other model waits."""
        of, unread = self.models.composition.requests, self._routed is not None and self.waiting
        if self.routed and not unread and all(of[s.index] == self.model for s in self.routed):
            self._take(self.model)

    def _prefetch(self, now: float) -> None:
        of, switching = self.models.composition.requests, self.models.composition.switching
        waiting = [(int(of[s.index]), s.arrival_s) for s in self.routed if of[s.index] != self.model]
        if waiting:
            self.store.prefetch(switching.choose(waiting, self.store.held, now), now)

    def _attribute(self, now: float) -> None:
        """Add what the batch waits for its model, and for the host, to the seconds of the critical paths."""
        wait_s = self.start_s - now
        if not wait_s:
            return
        fetch_s = wait_s - self._host_s
        parts = self.iteration.path_parts
        parts[FETCH, FETCH_BANDWIDTH] += fetch_s * (1.0 - self._latency_share)
        parts[FETCH, FETCH_BANDWIDTH + 1] += fetch_s * self._latency_share
        parts[_OVERHEAD, _ENGINE] += self._host_s

    def _on_read(self, read: Sequence) -> None:
        self.routed.append(self.reading.pop(read.index))

    def complete(self, end_s: float) -> None:
        """End the iteration; the router's tokens are nobody's output."""
        given = self.groups[0].complete(end_s)
        if self.model != ROUTER:
            self.shared.output_tokens += given

    def note(self, now: float, end_s: float, batches: list[Batch]) -> None:
        """See `Lane.note`."""
        super().note(now, end_s, batches)
        self.shared.log[-2] += len(self.queued)  # the column "waiting"


class ComposedCluster(Cluster):
    """A cluster whose requests are each of one of several expert models."""

    composition: Composition
    lanes: list[ModelLane]  # type: ignore[assignment]

    def __init__(self, experiment: Experiment, plan: Plan, requests: Requests, tasks: TaskLog) -> None:
        composition = compose(experiment, plan, len(requests))
        if composition is None:
            raise experiment.document.error(("composition",), "is not given")
        self.composition = composition
        self._tasks = tasks
        super().__init__(experiment, replace(plan, residency=composition.residency), requests, tasks)

    @property
    def parts(self) -> list[Part]:
        """What runs each shape of model."""
        return self._parts

    @property
    def waiting_elsewhere(self) -> int:
        """Requests in the queues and at the routers."""
        return len({sequence for lane in self.lanes for sequence in lane.queued})

    def _build_lanes(self) -> list[Lane]:
        own = Part(self.plan, self.shared.costs, self.shared.routing, list(self.engines), self.assigners)
        members = zip(self.composition.experiments[1:], self.composition.plans[1:], strict=True)
        built = [Cluster(e, p, self.requests, self._tasks).parts[0] for e, p in members]
        self._parts = [own, *built]
        for part in built:
            self.engines += part.engines
        self._memories = [self._memory_of(shape) for shape in range(len(self._parts))]
        seed, start_s = self.experiment.seed, self.composition.spec.start
        start_s /= self.experiment.spec.speed.get("engine", 1.0)
        models = Models(self.composition, self._parts, start_s, self._make_group)
        self._made: list[Group] = []
        lanes = [
            ModelLane(i, self.shared, models, ModelStore(self.composition, seed, i))
            for i in range(self.plan.parallel.replicas)
        ]
        self.stores = [lane.store for lane in lanes]
        for lane in lanes:
            lane.peers = [other for other in lanes if other is not lane]
        return list(lanes)

    def _memory_of(self, shape: int) -> KvMemory:
        return KvMemory(self._parts[shape].plan.kv, int(self.composition.residency.kv_bytes))

    def _make_group(self, engine: int, model: int, done: Callable[[Sequence], None] | None) -> Group:
        c = self.composition
        shape = c.router if model == ROUTER else int(c.shape_of[model])
        gaps = Gaps() if model == ROUTER else self.gaps
        views = self._parts[shape].costs.views
        group = Group(engine, self._memory_of(shape), views, gaps, done or self._on_finish)
        if model != ROUTER:
            self.groups.append(group)
        return group

    def _share_queues(self) -> None:
        self.balance.share_queues(self.lanes)

    @property
    def _prefixes(self) -> bool:
        return False

    def _fits(self, sequence: Sequence) -> bool:
        c = self.composition
        fits = self._memories[int(c.shape_of[c.requests[sequence.index]])].fits_alone(sequence)
        if c.router < 0 or not fits:
            return fits
        read = Sequence(sequence.index, sequence.arrival_s, sequence.prompt, c.spec.router_tokens)
        return self._memories[c.router].fits_alone(read)

    def _announce(self, request: int, domain: int) -> None:
        for part in self._parts:
            part.routing.announce(request, domain)

    def _forget(self, request: int) -> None:
        for part in self._parts:
            if part.routing.stream is not None:
                part.routing.stream.forget(request)

    def _enqueue(self, sequence: Sequence) -> None:
        c = self.composition
        if c.spec.spread:
            sequence.group = c.engine_of(int(c.requests[sequence.index]))
        else:
            sequence.group = self.balance.choose(sequence, self.lanes)
        lane = self.lanes[sequence.group]
        lane.waiting.append(sequence)
        lane.wake()

    def own_laws(self) -> Iterator[tuple[str, str, str]]:
        """Give the laws of models in turn."""
        for i, lane in enumerate(self.lanes):
            store, slots = lane.store, self.composition.slots
            found = f"{len(store.held)} models in {slots} slots" if len(store.held) > slots else ""
            yield "models held <= slots", f"engine {i}", found
            asked, counted = len(store.visits), store.hits + store.misses
            found = "" if asked == counted else f"{asked} asked for, {counted} found or fetched"
            yield "models asked for = found + fetched", f"engine {i}", found
            at_work = [group for group in lane.by_model.values() if group.memory.held_bytes]
            found = "" if len(at_work) <= 1 else f"{len(at_work)} models hold KV at once"
            yield "one model at a time in KV memory", f"engine {i}", found
