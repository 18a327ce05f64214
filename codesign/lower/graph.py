"""Pass 6: operators of all ranks to tasks, resources and edges."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from codesign.lower.operators import Operators
from codesign.lower.parallel import Parallel
from codesign.lower.portions import Portion, Portions
from codesign.lower.residency import stage_layers
from codesign.lower.streams import BY_TOKENS, HEAD, Kind, Streams
from codesign.lower.tiers import Path, n_legs
from ext.iteration import KINDS
from workloads.models import Layer, Model, MoE

I32 = NDArray[np.int32]
NO_RESOURCE = -1
OVERHEAD = "overhead"


@dataclass
class TaskGraph:
    """Tasks of one iteration in program order; see `ext.graph` for the arrays.

    ``layer`` and ``device`` say what a task was for (-1: none): what the timeline and reports show.
    """

    row: I32
    resource: I32
    pred_ptr: I32
    pred: I32
    layer: I32
    device: I32
    resources: tuple[str, ...]
    row_kind: I32
    n_classes: int
    n_shared: int = 0  # the last of the resources, channels and units of hosts: for whoever comes first

    def __len__(self) -> int:
        return len(self.row)


@dataclass
class _Rows:
    """Where the rows of the duration table begin (the order of `ext.iteration.Layout`)."""

    n_classes: int
    parallel: Parallel
    n_moe: int
    exchanged: bool
    portions: Portions

    def static(self, group: int, index: int) -> int:
        return group * self.n_classes + index

    @property
    def experts(self) -> int:
        return self.parallel.data * self.n_classes

    def expert(self, m: int, group: int, portion: int) -> int:
        return self.experts + (m * self.parallel.expert + group) * len(self.portions.parts) + portion

    @property
    def fetches(self) -> int:
        return self.experts + self.n_moe * self.parallel.expert * len(self.portions.parts)

    def fetch(self, m: int, group: int, fetch: int) -> int:
        return self.fetches + (m * self.parallel.expert + group) * self.portions.n_fetches + fetch

    @property
    def dispatch(self) -> int:
        return self.fetches + self.n_moe * self.parallel.expert * self.portions.n_fetches

    @property
    def combine(self) -> int:
        return self.dispatch + self.n_moe * self.parallel.ranks * self.exchanged

    @property
    def total(self) -> int:
        return self.combine + self.n_moe * self.parallel.ranks * self.exchanged


@dataclass
class GraphBuilder:
    """Builds one iteration.  ``tail[r]`` holds the tasks that rank r's next task waits for."""

    model: Model
    parallel: Parallel
    operators: Operators
    host_rows: int  # 0; 1: work before the iteration; 2: and launching while it runs
    portions: Portions
    streams: Streams
    row: list[int] = field(default_factory=list)
    resource: list[int] = field(default_factory=list)
    preds: list[list[int]] = field(default_factory=list)
    layer_of: list[int] = field(default_factory=list)
    device_of: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        p = self.parallel
        self.exchanged = p.data > 1
        n_moe = len(self.model.moe_layers)
        self.n_classes = len(self.operators.classes) + self.host_rows
        self.rows = _Rows(self.n_classes, p, n_moe, self.exchanged, self.portions)
        self.fetched: dict[tuple[int, int, int], list[int]] = {}  # (MoE layer, rank, fetch) -> tasks
        self.on_channel: dict[tuple[str, int], int] = {}  # piece, device -> its last task on the channel
        self.tail: list[list[int]] = [[] for _ in range(p.ranks)]
        self.began = self.tail  # what the first tasks of the iteration wait for
        self.units: list[int] = []  # layers of the stage for which something is brought
        self.units_done = 0
        self.brought: dict[tuple[str, int, int, int], list[int]] = {}  # (content, layer, part, rank) -> tasks
        self.stage, self.layer, self.moe_index = 0, HEAD, 0
        self.part = 0  # of the batch, if it is cut into parts

    def build(self) -> TaskGraph:
        """Lower every layer of every stage."""
        if self.host_rows:
            self.overhead()
        self.began = [list(tail) for tail in self.tail]
        stages = stage_layers(len(self.model.layers), self.parallel.pipeline)
        self.open_ring()
        self.embed()
        for stage, layers in enumerate(stages):
            if stage:
                self.next_stage(stage)
                self.open_ring()
            self.foresee()
            self.lower_layers(layers)
        self.layer = HEAD
        self.compute(self.operators.head, "head")
        if self.parallel.tensor > 1:
            self.collective(self.operators.logits)
        return self.finish()

    def embed(self) -> None:
        """Look up the batch's tokens."""
        self.compute(self.operators.embed, "embedding")

    def lower_layers(self, layers: range) -> None:
        """Lower a stage's layers, one after the other."""
        for self.layer in layers:
            self.lower_layer(self.model.layers[self.layer])

    def lower_layer(self, layer: Layer) -> None:
        ops = self.operators
        if layer.attention:
            self.compute(ops.attention_class[layer.attention], "attention", "kv")
            self.send_cache()
            self.reduce_over_tensor(ops.reduce)
        if layer.dense:
            self.compute(ops.dense_class[layer.dense], "dense")
            self.reduce_over_tensor(ops.reduce)
        if layer.moe:
            self.mixture(layer.moe)
        self.turn_ring()

    def mixture(self, moe: MoE) -> None:
        """Lower the experts of a layer: the gate, fetches of what is missed, the experts' own work."""
        self.compute(self.operators.gate_class[moe])
        self.fetch_experts()
        (self.exchanged_experts if self.exchanged else self.local_experts)(moe)
        self.moe_index += 1

    def open_ring(self) -> None:
        """Begin to bring what a stage's first layers need.

        The slots are free when the device has computed what was sent to it before.
        """
        self.units, self.units_done = self.streams.units(self.stage), 0
        if self.streams.rows:
            ranks = range(self.parallel.ranks)
            free = [[self.on_compute(r, self.rows.total, self.began[r])] for r in ranks]
            self.fill_ring(free)
            if "swap" in self.streams.places:
                self.swap(free)

    def fill_ring(self, free: list[list[int]]) -> None:
        """Begin to bring the rows of the embedding, and as many layers as the ring has slots."""
        if not self.stage and "embedding" in self.streams.places:
            self.bring(Kind("embedding"), HEAD, free)
        for unit in self.units[: self.streams.ring.layers]:
            self.bring_unit(unit, free)

    def swap(self, after: list[list[int]]) -> None:
        """Move the caches of preempted sequences out and in; what follows on a device waits for it."""
        for written in (True, False):
            for r, moves in enumerate(self.move(Kind("swap", written=written), after)):
                self.tail[r] = [*self.tail[r], *moves]

    def turn_ring(self) -> None:
        """Give the slot of a layer that is done to the next in the ring."""
        done = self.units_done
        if done < len(self.units) and self.units[done] == self.layer:
            self.units_done += 1
            ahead = done + self.streams.ring.layers
            if ahead < len(self.units):
                self.bring_unit(self.units[ahead], self.tail)

    def bring_unit(self, unit: int, after: list[list[int]]) -> None:
        """Bring all that a layer, or the head, needs, in the order of its use."""
        for kind in self.streams.order(unit):
            self.bring(kind, unit, after)

    def bring(self, kind: Kind, unit: int, after: list[list[int]]) -> None:
        """Begin a transfer for a layer on every rank."""
        here, self.layer = self.layer, unit  # what the tasks are for
        for r, tasks in enumerate(self.move(kind, after)):
            self.brought[kind.content, unit, kind.part, r] = tasks
        self.layer = here

    def move(self, kind: Kind, after: list[list[int]]) -> list[list[int]]:
        """Begin a transfer on every rank; return each rank's tasks."""
        way, indices = self.streams.way(kind), self.streams.rows[kind]
        ranks = range(self.parallel.ranks)
        return [self.transfer([self.static_row(r, i) for i in indices], way, r, after[r]) for r in ranks]

    def send_cache(self) -> None:
        """Begin to send the new entries of this layer's cache to where it lives; nothing waits for it."""
        if (attention := self.streams.cached(self.layer)) is not None:
            self.move(Kind("kv", attention, self.part, written=True), self.tail)

    def arrived(self, content: str, rank: int) -> list[int]:
        """Return the tasks that bring something of this layer, and part, to a rank."""
        part = self.part if content in BY_TOKENS else 0
        return self.brought.get((content, self.layer, part, rank), [])

    def overhead(self) -> None:
        """The host prepares each data group's batch before its ranks begin, and may launch while they run."""
        t = self.parallel.tensor
        for d in range(self.parallel.data):
            host = 2 * self.parallel.devices + d
            task = self.task(self.rows.static(d, self.n_classes - self.host_rows), host, [], -1)
            if self.host_rows > 1:
                self.task(self.rows.static(d, self.n_classes - 1), host, [task], -1)
            for r in range(d * t, (d + 1) * t):
                self.tail[r] = [task]

    def next_stage(self, stage: int) -> None:
        """Hand each rank's activations to the same rank of the next stage."""
        self.collective(self.operators.send, together=False)
        self.stage = stage

    def compute(self, index: int, *contents: str) -> None:
        """A task of a static class on every rank's compute engine, once what it reads is there."""
        for r in range(self.parallel.ranks):
            waits = [*self.tail[r], *(task for content in contents for task in self.arrived(content, r))]
            self.tail[r] = [self.on_compute(r, self.static_row(r, index), waits)]

    def reduce_over_tensor(self, index: int) -> None:
        if self.parallel.tensor > 1:
            self.collective(index)

    def collective(self, index: int, together: bool = True) -> None:
        """A task on every rank's link, beginning when all ranks of its data group are there."""
        t = self.parallel.tensor
        for d in range(self.parallel.data):
            ranks = range(d * t, (d + 1) * t)
            if together:
                self.barrier(ranks)
            for r in ranks:
                self.tail[r] = [self.on_link(r, self.static_row(r, index), self.tail[r])]

    def exchanged_experts(self, moe: MoE) -> None:
        """Dispatch, experts, combine; what all tokens share runs while tokens travel.

        An exchange is done on every rank when it is done on all: every rank receives from the slowest.
        """
        w = self.parallel.ranks
        everyone = range(w)
        gated = [list(tail) for tail in self.tail]
        first = self.rows.dispatch + self.moe_index * w
        for r in everyone:
            self.tail[r] = [self.on_link(r, first + r, gated[r])]
        self.barrier(everyone)
        self.shared(moe, gated)
        for r in everyone:
            self.tail[r] = self.experts(r)
        first = self.rows.combine + self.moe_index * w
        for r in everyone:
            self.tail[r] = [self.on_link(r, first + r, self.tail[r])]
        self.barrier(everyone)
        self.reduce_over_tensor(self.operators.gather)
        if moe in self.operators.shared_class:
            self.reduce_over_tensor(self.operators.reduce)

    def local_experts(self, moe: MoE) -> None:
        """All ranks hold all tokens: each computes its experts' part, and the parts are added."""
        self.shared(moe, self.tail)
        for r in range(self.parallel.ranks):
            self.tail[r] = self.experts(r)
        if self.parallel.ranks > 1:
            self.barrier(range(self.parallel.ranks))
            for r in range(self.parallel.ranks):
                row = self.static_row(r, self.operators.expert_reduce)
                self.tail[r] = [self.on_link(r, row, self.tail[r])]

    def shared(self, moe: MoE, after: list[list[int]]) -> None:
        """Shared experts go before the routed ones on the same engine; no other edge is needed."""
        if moe in self.operators.shared_class:
            for r in range(self.parallel.ranks):
                waits = [*after[r], *self.arrived("shared", r)]
                self.on_compute(r, self.static_row(r, self.operators.shared_class[moe]), waits)

    def static_row(self, rank: int, index: int) -> int:
        return self.rows.static(rank // self.parallel.tensor, index)

    def fetch_experts(self) -> None:
        """Begin the fetches of this layer's experts, then those of a later one that are foretold."""
        for part in sorted(self.portions.parts, key=lambda part: part.lead):
            if part.fetch >= 0:
                self.fetch(part, self.moe_index + part.lead)

    def foresee(self) -> None:
        """Begin the fetches that are foretold before the pass, of the first layers of the stage."""
        for part in self.portions.parts if self.portions.before else ():
            for ahead in range(part.lead):
                self.fetch(part, self.moe_index + ahead)

    def fetch(self, part: Portion, m: int) -> None:
        """Begin one fetch for MoE layer `m` on every rank, if the layer is in this stage."""
        if m >= self.rows.n_moe or self.moe_stage(m) != self.stage:
            return
        for r in range(self.parallel.ranks):
            first = self.rows.fetch(m, r // self.parallel.expert_tensor, part.fetch)
            rows = [first + i * self.portions.n_transfers for i in range(n_legs(self.portions.way))]
            self.fetched[m, r, part.fetch] = self.transfer(rows, self.portions.way, r, self.tail[r])

    def transfer(self, rows: list[int], way: tuple[Path, ...], rank: int, after: list[int]) -> list[int]:
        """Bring bytes over all pieces of a way at once: a row for each port, and for each channel."""
        left, tasks = iter(rows), []
        for piece in way:
            tasks.append(self.task(next(left), self.port(piece.port, rank), after, self.device(rank)))
            if piece.channel is not None:
                tasks.append(self.share_channel(next(left), piece, rank, after))
        return tasks

    def share_channel(self, row: int, piece: Path, rank: int, after: list[int]) -> int:
        """Bring bytes over a channel, after what this device brought over it before."""
        key = piece.port, self.device(rank)
        before = [self.on_channel[key]] if key in self.on_channel else []
        channel = self.first_channel + self.channels[piece.port] + self.channel(piece, self.device(rank))
        self.on_channel[key] = self.task(row, channel, [*after, *before], self.device(rank))
        return self.on_channel[key]

    def channel(self, piece: Path, device: int) -> int:
        """Return the channel of a device, counted over the engine's nodes."""
        sharers = piece.channel.sharers if piece.channel else 1
        node, place = divmod(device, self.parallel.devices_per_node)
        return node * -(-self.parallel.devices_per_node // sharers) + place // sharers

    @cached_property
    def ways(self) -> list[Path]:
        """The pieces of all ways in use, each once."""
        pieces = (piece for way in self.streams.pieces.values() for piece in way)
        return list({piece.port: piece for piece in pieces}.values())

    @cached_property
    def channels(self) -> dict[str, int]:
        """Shared channels before those of each piece, by its port; and of all, as ``""``."""
        found, total = {}, 0
        for piece in self.ways:
            found[piece.port] = total
            if piece.channel is not None:
                total += 1 + self.channel(piece, self.parallel.devices - 1)
        return {**found, "": total}

    @cached_property
    def first_channel(self) -> int:
        """Return the first of the channels among the resources."""
        return len(self.resources()) - self.n_channels - self.n_near

    @property
    def n_channels(self) -> int:
        """Shared channels that the engine's devices fetch over."""
        return self.channels[""]

    def moe_stage(self, m: int) -> int:
        """Return the pipeline stage of a MoE layer."""
        layer = self.model.moe_layers[m]
        stages = stage_layers(len(self.model.layers), self.parallel.pipeline)
        return next(i for i, layers in enumerate(stages) if layer in layers)

    def experts(self, rank: int) -> list[int]:
        """A task for each portion of a rank's experts; return those that the combine waits for."""
        before, last, beside = self.tail[rank], list(self.tail[rank]), list[int]()
        for u, part in enumerate(self.portions.parts):
            row = self.rows.expert(self.moe_index, rank // self.parallel.expert_tensor, u)
            waits = list(before)
            waits += self.fetched.get((self.moe_index, rank, part.fetch), [])
            if part.unit == "pim":
                waits = waits if self.portions.parallel else last
                last = [*last, self.task(row, self.port("pim", rank), waits, self.device(rank))]
            elif part.unit == "near":
                beside.append(self.task(row, self.near_unit(rank), waits, self.device(rank)))
            else:
                last = [self.on_compute(rank, row, waits)]
        return last + beside

    def near_unit(self, rank: int) -> int:
        """Return the unit of a device's node that computes beside the tier of the experts."""
        return self.first_channel + self.n_channels + self.device(rank) // self.parallel.devices_per_node

    @property
    def n_near(self) -> int:
        """Units beside the tier of the experts, one in each of the engine's nodes, if any computes there."""
        return -(-self.parallel.devices // self.parallel.devices_per_node) * (self.portions.near >= 0)

    def port(self, engine: str, rank: int) -> int:
        """Return a resource of a device beside its compute engine and its link."""
        before = 2 * self.parallel.devices + self.parallel.data * bool(self.host_rows)
        return before + self.engines.index(engine) * self.parallel.devices + self.device(rank)

    @property
    def engines(self) -> list[str]:
        """The engines that a device has beside compute and link, as far as the portions use them."""
        used = [piece.port for piece in self.ways]
        return used + (["pim"] if self.portions.pim >= 0 else [])

    def device(self, rank: int) -> int:
        return self.stage * self.parallel.ranks + rank

    def on_compute(self, rank: int, row: int, preds: list[int]) -> int:
        return self.task(row, self.device(rank), preds, self.device(rank))

    def on_link(self, rank: int, row: int, preds: list[int]) -> int:
        return self.task(row, self.parallel.devices + self.device(rank), preds, self.device(rank))

    def barrier(self, ranks: range) -> None:
        """One node after all tails; it takes no time and holds nothing."""
        waits = sorted({p for r in ranks for p in self.tail[r]})
        if len(waits) > 1:
            waits = [self.task(0, NO_RESOURCE, waits, -1)]
        for r in ranks:
            self.tail[r] = waits

    def task(self, row: int, resource: int, preds: list[int], device: int) -> int:
        self.row.append(self.rows.total if resource == NO_RESOURCE else row)
        self.resource.append(resource)
        self.preds.append(preds)
        self.layer_of.append(self.layer)
        self.device_of.append(device)
        return len(self.row) - 1

    def finish(self) -> TaskGraph:
        def ints(values: list[int]) -> I32:
            return np.array(values, dtype=np.int32)

        ptr = np.concatenate(([0], np.cumsum([len(p) for p in self.preds]))).astype(np.int32)
        return TaskGraph(
            row=ints(self.row), resource=ints(self.resource), pred_ptr=ptr,
            pred=ints([p for preds in self.preds for p in preds]), layer=ints(self.layer_of),
            device=ints(self.device_of), resources=self.resources(), row_kind=self.row_kinds(),
            n_classes=self.n_classes, n_shared=self.n_channels + self.n_near,
        )  # fmt: skip

    def resources(self) -> tuple[str, ...]:
        devices = range(self.parallel.devices)
        hosts = [f"host{d}" for d in range(self.parallel.data)] if self.host_rows else []
        others = [f"gpu{i}.{engine}" for engine in self.engines for i in devices]
        return (
            *(f"gpu{i}.compute" for i in devices), *(f"gpu{i}.link" for i in devices), *hosts, *others,
            *(f"channel{i}" for i in range(self.n_channels)), *(f"near{i}" for i in range(self.n_near)),
        )  # fmt: skip

    def row_kinds(self) -> I32:
        kinds = [c.kind for c in self.operators.classes] + [OVERHEAD] * self.host_rows
        rows, w = self.rows, self.parallel.ranks
        named = kinds * self.parallel.data + ["experts"] * (rows.fetches - rows.experts)
        named += ["fetch"] * (rows.dispatch - rows.fetches)
        if self.exchanged:
            named += ["dispatch"] * (rows.n_moe * w) + ["combine"] * (rows.n_moe * w)
        return np.array([KINDS.index(kind) for kind in [*named, OVERHEAD]], dtype=np.int32)
