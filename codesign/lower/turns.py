"""Pass: parts of a batch that take turns, and attention on other devices, as tasks.

A part's work between two attentions (the feed-forward of one layer, the projections of the next) is one turn
on the compute engine; turns of different parts alternate, so that one part's attention elsewhere, or its
collective, hides behind another part's turn.  Layers of experts take the whole batch: the parts meet there.
"""

from __future__ import annotations

from dataclasses import dataclass

from codesign.lower.graph import GraphBuilder
from workloads.models import Attention, Layer

# of each device: the pool's share that serves it, and the two directions of its port to the pool
POOL, OUT, BACK = "attention", "to_pool", "from_pool"


@dataclass
class TurnsBuilder(GraphBuilder):
    """Builds one iteration of an operators' `turns` and `pool`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.parts = len(self.operators.turns)
        self.tails: list[list[list[int]]] = []

    @property
    def engines(self) -> list[str]:
        """Beside the others: the share of the pool that serves a device, and the ways there and back."""
        return super().engines + ([POOL, OUT, BACK] if self.operators.pool else [])

    def lower_layers(self, layers: range) -> None:
        """Lower a stage's layers; all parts have ended where the next stage or the head begins."""
        self.fork()
        waiting: int | None = None  # layer whose feed-forward is still to come
        for self.layer in layers:
            layer = self.model.layers[self.layer]
            for part in range(self.parts):
                self.begin(part)
                self.feed(waiting)
                self.mix(layer.attention)
            waiting = self.layer
            if layer.moe:
                self.finish_parts(waiting)
                waiting = None
                self.mixture(layer.moe)
                self.turn_ring()
                self.fork()
        self.finish_parts(waiting)

    def fork(self) -> None:
        """Let every part go on from where the whole batch is."""
        self.tails = [[list(tail) for tail in self.tail] for _ in range(self.parts)]

    def begin(self, part: int) -> None:
        """Go on with a part of the batch."""
        self.part, self.tail = part, self.tails[part]

    def finish_parts(self, waiting: int | None) -> None:
        """Bring all parts to the end of their layer; the whole batch goes on."""
        for part in range(self.parts):
            self.begin(part)
            self.feed(waiting)
        self.meet()

    def meet(self) -> None:
        """Let the whole batch go on from where all its parts are."""
        ranks = range(self.parallel.ranks)
        self.tail = [sorted({task for tails in self.tails for task in tails[r]}) for r in ranks]
        self.part = 0

    def row_of(self, index: int) -> int:
        """Return the row of a class for the part that is being lowered."""
        return self.operators.turns[self.part] + index

    def feed(self, index: int | None) -> None:
        """Lower what follows a layer's attention; without experts, the last part's is the layer's end."""
        if index is None:
            return
        here, self.layer = self.layer, index
        layer = self.model.layers[index]
        self.feed_forward(layer)
        if not layer.moe and self.part == self.parts - 1:
            self.turn_ring()
        self.layer = here

    def feed_forward(self, layer: Layer) -> None:
        """Lower the sum of a layer's attention over the ranks, and its dense feed-forward."""
        if layer.attention:
            self.reduce_over_tensor(self.row_of(self.operators.reduce))
        if layer.dense:
            self.compute(self.row_of(self.operators.dense_class[layer.dense]), "dense")
            self.reduce_over_tensor(self.row_of(self.operators.reduce))

    def mix(self, attention: Attention | None) -> None:
        """Lower a layer's projections, and its attention where it is computed."""
        if attention is None:
            return
        self.compute(self.row_of(self.operators.attention_class[attention]), "attention", "kv")
        self.send_cache()
        if self.operators.pool is not None:
            self.attend(*self.operators.pool_rows[attention][self.part])

    def attend(self, send: int, attend: int, back: int) -> None:
        """Send each rank's queries, keys and values, compute, and bring the result back."""
        for r in range(self.parallel.ranks):
            for engine, index in ((OUT, send), (POOL, attend), (BACK, back)):
                row, port = self.static_row(r, index), self.port(engine, r)
                self.tail[r] = [self.task(row, port, self.tail[r], self.device(r))]
