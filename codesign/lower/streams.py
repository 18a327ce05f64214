"""Pass: weights that live in another tier, and come to main memory layer by layer.

A stage's layers take turns in the ring's slots: what a layer needs is brought when the layer that had its
slot is done, each kind of weights as one transfer that its operator waits for; so is the output head.  Rows
of the embedding that a batch asks for are gathered where they live and come in one.

Law: with one transfer a layer, equal layers and two slots or more, a step of n layers takes
``n max(compute, load) + min(compute, load)``: the larger of the two, and the filling of the ring.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import TYPE_CHECKING

from codesign.experiment.schema import PlaceSpec, RingSpec
from codesign.lower.machine import FetchCost
from codesign.lower.operators import Operators, Transfer
from codesign.lower.parallel import Parallel
from codesign.lower.precision import Precision
from codesign.lower.residency import end_bytes, parts_of_layer, stage_layers
from codesign.lower.tiers import Path, apart, find_path, legs, n_legs
from hwmodels.costs import Cost
from workloads.models import Layer, Model

if TYPE_CHECKING:
    from codesign.experiment import Experiment

OF_LAYERS = ("attention", "dense", "shared")  # contents that layers have, in the order of their use
CONTENTS = (*OF_LAYERS, "embedding")
HEAD = -1  # what stands for embedding and output head among layers
Kind = tuple[str, Layer | None]  # what is brought, and for layers of which shape


@dataclass(frozen=True, kw_only=True)
class Streams:
    """What is brought to each rank of a plan; nothing, if `places` is empty.

    Attributes
    ----------
    places : mapping      content -> where it lives, if not in main memory; the head with the embedding
    paths, pieces : mapping    tier -> the way from there, whole and cut where others use a part of it
    rows : dict           kind -> classes of `Operators`, one for each leg of the way
    """

    model: Model
    parallel: Parallel
    precision: Precision
    places: Mapping[str, PlaceSpec]
    ring: RingSpec
    paths: Mapping[str, Path]
    pieces: Mapping[str, tuple[Path, ...]]
    rows: dict[Kind, list[int]] = field(default_factory=dict)

    def share(self, content: str) -> float:
        """Return the share of a kind of weights that lives elsewhere."""
        place = self.places.get(content)
        return place.share if place else 0.0

    def way(self, content: str) -> tuple[Path, ...]:
        """Return the pieces of the way that a kind of weights comes."""
        return self.pieces[self.places[content].tier]

    @cached_property
    def stages(self) -> list[range]:
        """The layers of each pipeline stage."""
        return stage_layers(len(self.model.layers), self.parallel.pipeline)

    @cached_property
    def pinned(self) -> frozenset[int]:
        """Layers whose weights stay in main memory, spread evenly over those of a stage that would move."""
        found: list[int] = []
        for layers in self.stages:
            moved = [i for i in layers if self._away(i)]
            keep, n = min(self.ring.pinned, len(moved)), len(moved)
            found += [at for i, at in enumerate(moved) if (i + 1) * keep // n > i * keep // n]
        return frozenset(found)

    def _away(self, index: int) -> dict[str, float]:
        """Return the bytes of a layer that live elsewhere, on one rank, by content; pinned or not."""
        layer = self.model.layers[index]
        parts = parts_of_layer(layer, self.model.hidden_size, self.parallel, self.precision)
        found = {name: parts.get(name, 0.0) * self.share(name) for name in OF_LAYERS}
        return {name: count for name, count in found.items() if count}

    def needs(self, index: int) -> dict[str, float]:
        """Return the bytes that are brought for a layer (or HEAD), on one rank, by content."""
        if index == HEAD:
            return {"head": self._head_bytes} if "head" in self.places else {}
        return {} if index in self.pinned else self._away(index)

    @property
    def _head_bytes(self) -> float:
        """Bytes of the output head that live elsewhere, on one rank."""
        count = self.model.embedding_parameters / self.parallel.tensor * self.precision.embedding_bytes
        return count * self.share("head")

    def units(self, stage: int) -> list[int]:
        """Return the layers of a stage for which something is brought, then HEAD, in order."""
        found = [i for i in self.stages[stage] if self.needs(i)]
        last = stage == self.parallel.pipeline - 1
        return found + [HEAD] * (last and bool(self.needs(HEAD)))

    def held_less(self, stage: int) -> float:
        """Return the bytes that a rank of a stage is spared: what lives elsewhere, less what is in the ring.

        In the ring are, at most, the largest of so many layers in a row as it has slots.
        """
        moved = [sum(self.needs(i).values()) for i in self.units(stage)]
        slots = self.ring.layers
        ring = max((sum(moved[i : i + slots]) for i in range(len(moved))), default=0.0)
        layers = sum(sum(self.needs(i).values()) for i in self.stages[stage])
        return layers + self._ends_away(stage) - ring

    def _ends_away(self, stage: int) -> float:
        ends = end_bytes(self.model, self.parallel, self.precision, stage, self.parallel.pipeline)
        return (ends["embedding"] + ends["head"]) * self.share("embedding")

    def stored(self, tier: str) -> float:
        """Return the bytes of one rank of each stage together that live in a tier.

        Pinned layers are there, too: it is where the model was loaded to.
        """
        total = 0.0
        for stage, layers in enumerate(self.stages):
            for i in layers:
                total += sum(n for name, n in self._away(i).items() if self.places[name].tier == tier)
            if "embedding" in self.places and self.places["embedding"].tier == tier:
                total += self._ends_away(stage)
        return total

    def kinds(self) -> Iterator[Kind]:
        """Give what is brought: contents of each shape of layer, the head, rows of the embedding."""
        for group in self.model.groups():
            moved = [self.needs(i) for i in group.indices if self.needs(i)]
            yield from ((name, group.layer) for name in (moved[0] if moved else ()))
        yield from ((name, None) for name in ("embedding", "head") if name in self.places)

    def add_rows(self, operators: Operators) -> None:
        """Add the classes of the transfers, a row for each leg, to the operators of a rank."""
        for kind in self.kinds():
            moved = Transfer(self.places[kind[0]].tier, kind[0])
            costs = [partial(self._cost, kind, leg) for leg in range(n_legs(self.way(kind[0])))]
            by = "outputs" if kind[0] == "head" else "tokens"
            self.rows[kind] = operators.add_transfer(moved, costs, by)

    def _cost(self, kind: Kind, leg: int, tokens: int) -> Cost:
        """Cost one leg of what an iteration of `tokens` tokens is brought."""
        count, calls = self._load(kind, tokens)
        way = self.way(kind[0])
        seconds = list(legs(way, count, calls))[leg]
        return FetchCost.of(*seconds, way[0].source, way[0].moved(count))

    def _load(self, kind: Kind, tokens: int) -> tuple[float, int]:
        """Return bytes on one rank, and in how many calls: a matrix is one, gathered rows are one."""
        content, layer = kind
        if content == "head":
            return self._head_bytes, 1
        if layer is None:
            width = self.model.embedding_dim or self.model.hidden_size
            row = self.paths[self.places[content].tier].moved(width * self.precision.embedding_bytes)
            return tokens / self.parallel.tensor * row * self.share(content), 1
        parts = parts_of_layer(layer, self.model.hidden_size, self.parallel, self.precision)
        return parts[content] * self.share(content), self._matrices(content, layer)

    def _matrices(self, content: str, layer: Layer) -> int:
        if content == "attention":
            mixers = (layer.attention, layer.cross_attention)
            return max(1, sum(len(m.projections(self.model.hidden_size)) for m in mixers if m))
        ffn = layer.dense if content == "dense" else layer.moe.shared if layer.moe else None
        return ffn.matrices if ffn else 2  # two projections into a latent space and back


def away_key(experiment: Experiment, content: str) -> tuple[str, str] | None:
    """Return the key which says that a kind of weights lives outside main memory; None: it does not.

    Routed experts are asked for as ``experts``.
    """
    memory, main = experiment.spec.memory, experiment.system.device.main_memory
    if content == "experts":
        tier = memory.expert_tier if experiment.model.moe_layers else None
    else:
        place = memory.place(content)
        tier = place.tier if place else None
    if tier in (None, main):
        return None
    return ("memory", content if getattr(memory, content) else "weights")


def build_streams(experiment: Experiment, parallel: Parallel, precision: Precision) -> Streams:
    """Read what lives in which tier, and cut the ways from there where they meet.

    Raises
    ------
    ConfigError   no such tier, no way from it, or what does not go with weights that are brought
    """
    memory, speed = experiment.spec.memory, experiment.spec.speed
    places, paths = {}, {}
    for content in ("experts", *CONTENTS):
        key = away_key(experiment, content)
        if key is None:
            continue
        place = memory.place(content) if content in CONTENTS else None
        if place is not None:
            _check(experiment, key)
            places[content] = place
            if content == "embedding":
                places["head"] = place
        tier = place.tier if place else str(memory.expert_tier)
        where = f"{experiment.document.where(key)}: {'.'.join(key)}"
        paths[tier] = find_path(experiment.system, tier, where)
    pieces = {
        tier: tuple(piece.faster(speed).seen_by(parallel) for piece in cut)
        for tier, cut in apart(paths).items()
    }
    return Streams(
        model=experiment.model, parallel=parallel, precision=precision, places=places, ring=memory.ring,
        paths=paths, pieces=pieces,
    )  # fmt: skip


def _check(experiment: Experiment, key: tuple[str, str]) -> None:
    """Refuse what takes a layer's weights at other times than once, whole, in the order of the layers."""
    error, rule = experiment.document.error, "weights outside main memory do not go with"
    if experiment.spec.parallel.batches > 1:
        raise error(key, f"{rule} parts of a batch that take turns (parallel.batches)")
    if experiment.system.attention is not None:
        raise error(key, f"{rule} attention on other devices (system.attention)")
    if experiment.spec.composition is not None:
        raise error(key, "the models of a composition are brought whole; say composition.tiers instead")
