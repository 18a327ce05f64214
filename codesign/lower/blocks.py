"""Pass: parts of a batch of which each layer takes one after the other, while the rest lies in another tier.

A *turn* is one layer of one part.  The part's activations, and its cache of the layer, are brought when a
turn leaves its slot, as many turns before as there are slots: that of the cache when attention is done, that
of the activations when they are back where they live.  The model's first layer begins with the embedding; the
output head takes what the last layer leaves.  Layers of experts take the whole batch: the parts meet there.

Laws: a turn's activations are written once and read once, by the same part's next turn, so either way carries
the batch's activations once for every layer but one.  With equal turns of c seconds, which read for r and
write for w, and k slots (no more than parts), each takes ``max(c, r, w, (c + r + w) / k)`` once the ring is
filled.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from codesign.lower.streams import HEAD, Kind
from codesign.lower.turns import TurnsBuilder
from workloads.models import Attention, Layer


@dataclass
class BlocksBuilder(TurnsBuilder):
    """Builds one iteration of `Streams.in_blocks`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.caches: Iterator[tuple[int, int]] = iter(())  # turns whose cache is still to be brought

    def embed(self) -> None:
        """Leave the embedding to each part's first turn."""

    def fill_ring(self, free: list[list[int]]) -> None:
        """Begin to bring what the first turns need: tokens, the first layer, caches, further layers."""
        if not self.stage:
            for part in range(self.streams.in_flight):
                self.look_up(part, free)
        layers, slots = self.streams.stages[self.stage], self.streams.ring.layers
        cached = [i for i in layers if self.streams.parts > 1 and self.streams.cached(i)]
        self.caches = iter([(i, part) for i in cached for part in range(self.parts)])
        for unit in self.units[:1]:
            self.bring_unit(unit, free)
        for _ in range(slots):
            self.bring_cache(free)
        for unit in self.units[1:slots]:
            self.bring_unit(unit, free)

    def look_up(self, part: int, after: list[list[int]]) -> None:
        """Begin to bring the rows of the embedding of a part's tokens."""
        if "embedding" in self.streams.places:
            self.bring(Kind("embedding", part=part), HEAD, after)

    def bring_cache(self, after: list[list[int]]) -> None:
        """Begin to bring the cache of the next turn that has not got it."""
        for unit, part in self.caches:
            self.bring(Kind("kv", self.streams.cached(unit), part), unit, after)
            break

    def lower_layers(self, layers: range) -> None:
        """Lower a stage's layers, all parts' turns of one before those of the next."""
        self.fork()
        for self.layer in layers:
            layer = self.model.layers[self.layer]
            for part in range(self.parts):
                self.begin(part)
                self.take_turn(layer)
                if not layer.moe:
                    self.hand_over(layers)
            if layer.moe:
                self.meet()
                self.mixture(layer.moe)
                self.fork()
                for part in range(self.parts):
                    self.begin(part)
                    self.hand_over(layers)
            self.turn_ring()
        self.meet()

    def take_turn(self, layer: Layer) -> None:
        """Lower a layer of a part, experts apart; the model's first layer begins with the embedding."""
        for r in range(self.parallel.ranks):
            self.tail[r] = self.arrived("activations", r) or self.tail[r]
        if self.layer == 0:
            self.layer = HEAD
            self.compute(self.row_of(self.operators.embed), "embedding")
            self.layer = 0
        elif "activations" in self.streams.places:  # each tensor rank has brought its part of them
            self.reduce_over_tensor(self.row_of(self.operators.gather))
        self.mix(layer.attention)
        self.feed_forward(layer)

    def mix(self, attention: Attention | None) -> None:
        """Lower a part's attention, and give the slot of its cache to the next."""
        super().mix(attention)
        if self.streams.cached(self.layer):
            self.bring_cache(self.tail)

    def hand_over(self, layers: range) -> None:
        """Send a part's activations away, except from the last layer; who gets their slot comes."""
        if "activations" not in self.streams.places:
            return
        free = self.tail
        if self.layer != layers[-1]:
            free = self.move(Kind("activations", None, self.part, written=True), self.tail)
            self.tails[self.part] = free
        ahead, part = divmod(self.part + self.streams.in_flight, self.parts)
        if self.layer + ahead in layers:
            after = [sorted({*own, *left}) for own, left in zip(self.tails[part], free, strict=True)]
            self.come(part, self.layer + ahead, after)

    def come(self, part: int, layer: int, after: list[list[int]]) -> None:
        """Let a part begin a layer: its activations are brought, or, for the first, what it looks up."""
        if layer:
            self.bring(Kind("activations", None, part), layer, after)
        else:
            self.tails[part] = after
            self.look_up(part, after)
