"""Pass: weights, caches and activations that live in another tier, and come to main memory layer by layer.

A stage's layers take turns in the ring's slots: what a layer needs is brought when the layer that had its
slot is done, each kind of tensor as one transfer that its operator waits for; so is the output head.  Rows
of the embedding that a batch asks for are gathered where they live and come in one.  Of the KV cache comes
what was cached before the step; the step's own entries are sent there when their layer has made them.
Of activations goes what a layer hands to the next, and comes back before that begins.

Caches and activations come by parts of the batch (``parallel.batches``), if it has any: every layer takes one
part after the other (`codesign.lower.blocks`), and in the slots are, of them, single parts' layers.

Law: with one transfer a layer, equal layers and two slots or more, a step of n layers takes
``n max(compute, load) + min(compute, load)``: the larger of the two, and the filling of the ring.  The same
holds of n parts' layers.  Source of the order: the block schedule of Sheng et al., FlexGen, section 4.1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from itertools import product
from typing import TYPE_CHECKING, NamedTuple

from codesign.experiment.schema import PlaceSpec, RingSpec
from codesign.lower.kv import entry_bytes
from codesign.lower.machine import FetchCost
from codesign.lower.operators import Operators, Transfer, nothing
from codesign.lower.parallel import Parallel
from codesign.lower.precision import Precision
from codesign.lower.residency import end_bytes, parts_of_layer, stage_layers
from codesign.lower.tiers import Path, apart, find_path, find_way_back, legs, n_legs
from codesign.policies.preemption import PREEMPTIONS
from hwmodels.costs import Cost
from workloads.models import Attention, Layer, Model

if TYPE_CHECKING:
    from codesign.experiment import Experiment

OF_LAYERS = ("attention", "dense", "shared")  # contents that layers have, in the order of their use
CONTENTS = (*OF_LAYERS, "embedding", "kv", "activations")
BY_TOKENS = ("embedding", "kv", "activations")  # what comes by parts of the batch
CHANGED = ("kv", "swap", "activations")  # what is also written where it lives
HEAD = -1  # what stands for embedding and output head among layers
_TO = "to "  # before the name of a tier: the way there


class Kind(NamedTuple):
    """What is moved: for layers of which shape, and for which part of the batch."""

    content: str
    of: Layer | Attention | None = None
    part: int = 0
    written: bool = False  # to where it lives; else read from there


@dataclass(frozen=True, kw_only=True)
class Streams:
    """What is brought to each rank of a plan; nothing, if `places` is empty.

    Attributes
    ----------
    places : mapping      content -> where it lives, if not in main memory; the head with the embedding
    paths : mapping       tier -> the way from there
    pieces : mapping      these and the ways there, cut where others use a part of them
    batches : int         parts of a batch whose layers take turns
    swap_bytes : float    of each device that preempted sequences may take where ``swap`` is
    rows : dict           kind -> classes of `Operators`, one for each leg of the way
    """

    model: Model
    parallel: Parallel
    precision: Precision
    places: Mapping[str, PlaceSpec]
    ring: RingSpec
    paths: Mapping[str, Path]
    pieces: Mapping[str, tuple[Path, ...]]
    batches: int = 1
    swap_bytes: float = 0.0
    rows: dict[Kind, list[int]] = field(default_factory=dict)

    def share(self, content: str) -> float:
        """Return the share of a content that lives elsewhere."""
        place = self.places.get(content)
        return place.share if place else 0.0

    def way(self, kind: Kind) -> tuple[Path, ...]:
        """Return the pieces of the way that a kind of tensor comes, or goes."""
        tier = self.places[kind.content].tier
        return self.pieces[_TO + tier if kind.written else tier]

    @cached_property
    def parts(self) -> int:
        """Parts of the batch by which caches and activations come."""
        return self.batches if "kv" in self.places or "activations" in self.places else 1

    @property
    def in_blocks(self) -> bool:
        """Whether each layer takes one part of the batch after the other."""
        return self.parts > 1 or "activations" in self.places

    @property
    def in_flight(self) -> int:
        """Parts of the batch whose activations are in memory or on their way at once.

        All, where they stay in main memory, and with experts, which take the whole batch.
        """
        stay = "activations" not in self.places or self.model.moe_layers
        return self.parts if stay else min(self.ring.layers, self.parts)

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
        """Return the bytes of weights that are brought for a layer (or HEAD), on one rank, by content."""
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
        found = [i for i in self.stages[stage] if self.order(i)]
        last = stage == self.parallel.pipeline - 1
        return found + [HEAD] * (last and bool(self.needs(HEAD)))

    def cached(self, index: int) -> Attention | None:
        """Return the attention of a layer whose cache lives elsewhere, in part or whole."""
        attention = self.model.layers[index].attention if index != HEAD else None
        moved = attention and "kv" in self.places and attention.kv_values_per_token
        return attention if moved else None

    def order(self, unit: int) -> list[Kind]:
        """Return all that is brought for a layer (or HEAD) as a whole, in the order of its use."""
        layer = self.model.layers[unit] if unit != HEAD else None
        kinds = [Kind(content, layer) for content in self.needs(unit)]
        if self.parts == 1 and (attention := self.cached(unit)) is not None:
            kinds.insert(sum(kind.content == "attention" for kind in kinds), Kind("kv", attention))
        return kinds

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
        """Give all that is moved: weights of each shape of layer, rows of the embedding, the head; both ways,
        what changes."""
        for group in self.model.groups():
            moved = [self.needs(i) for i in group.indices if self.needs(i)]
            yield from (Kind(name, group.layer) for name in (moved[0] if moved else ()))
        if "embedding" in self.places:
            yield from (Kind("embedding", part=part) for part in range(self.parts))
            yield Kind("head")
        for content in (content for content in CHANGED if content in self.places):
            shapes = self.caches() if content == "kv" else [None]
            for of, part in product(shapes, range(self.parts if content in BY_TOKENS else 1)):
                yield Kind(content, of, part)
                yield Kind(content, of, part, written=True)

    def caches(self) -> list[Attention]:
        """Return the shapes of attention whose cache lives elsewhere, in part or whole."""
        layers = range(len(self.model.layers))
        return list(dict.fromkeys(found for i in layers if (found := self.cached(i)) is not None))

    def cache_bytes(self, attention: Attention) -> float:
        """Return the bytes of one token in one layer's cache that live elsewhere, on one rank."""
        return entry_bytes(attention, self.parallel.tensor, self.precision.kv_bytes) * self.share("kv")

    def cache_room(self, main_bytes: float, tier_bytes: float) -> float:
        """Return what caches may take on a device: in both tiers, each holding its share.

        Beside its own share main memory holds, in the ring, that of the largest layers' caches, or of some
        parts of them.

        Parameters
        ----------
        main_bytes : float    left in main memory
        tier_bytes : float    left for a device in the other tier
        """
        share, slots = self.share("kv"), self.ring.layers
        if not share:
            return main_bytes
        in_ring = 0.0
        for layers in self.stages:
            caches = [self.cache_bytes(found) for i in layers if (found := self.cached(i)) is not None]
            sizes = [size for size in caches for _ in range(self.parts)]  # as they share out all caches
            most = max((sum(sizes[i : i + slots]) for i in range(len(sizes))), default=0.0)
            in_ring = max(in_ring, most / sum(sizes) if sizes else 0.0)
        return min(main_bytes / (1.0 - share + share * in_ring), tier_bytes / share)

    def add_rows(self, operators: Operators) -> None:
        """Add the classes of the transfers, a row for each leg, to the operators of a rank."""
        for kind in self.kinds():
            content, legs_of_way = kind.content, range(n_legs(self.way(kind)))
            name = "swapped_kv" if content == "swap" else content
            moved = Transfer(self.places[content].tier, name, kind.written)
            costs: list[Callable[[int], Cost]] = [partial(self._cost, kind, leg) for leg in legs_of_way]
            if content in ("kv", "swap"):  # `codesign.lower.costs` fills these
                costs = [nothing for _ in legs_of_way]
            by = "outputs" if content == "head" else "tokens"
            parts = self.parts if content in BY_TOKENS else 1
            self.rows[kind] = operators.add_transfer(moved, costs, by, kind.part, parts)

    def hidden_bytes(self, tokens: int) -> float:
        """Return the bytes of a layer's output that live elsewhere, of one rank.

        Between layers the tensor ranks hold it dealt out, as they hand it to the next stage.
        """
        values = tokens * self.model.hidden_size / self.parallel.tensor
        return values * self.precision.activation_bytes * self.share("activations")

    def tokens_away(self, tokens: int) -> float:
        """Return of how many of a batch's tokens main memory holds no activations, at the least."""
        here = self.in_flight * -(-tokens // self.parts)
        return self.share("activations") * max(0, tokens - here)

    def _cost(self, kind: Kind, leg: int, tokens: int) -> Cost:
        """Cost one leg of what an iteration of `tokens` tokens is brought."""
        count, calls = self._load(kind, tokens)
        way = self.way(kind)
        seconds = list(legs(way, count, calls))[leg]
        return FetchCost.of(*seconds, way[0].source, way[0].moved(count))

    def _load(self, kind: Kind, tokens: int) -> tuple[float, int]:
        """Return bytes on one rank, and in how many calls: a matrix is one, vectors of tokens are one."""
        content, layer = kind.content, kind.of
        if content == "head":
            return self._head_bytes, 1
        if content == "activations":
            return self.hidden_bytes(tokens), 1
        if not isinstance(layer, Layer):
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
    """Return the key which says that a content lives outside main memory; None: it does not.

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
    preemption = PREEMPTIONS.build(experiment.part("policies", "preemption"))
    if preemption.tier is not None:
        _check_swap(experiment, preemption.tier)
        places["swap"] = PlaceSpec(tier=preemption.tier)
        paths[preemption.tier] = find_path(experiment.system, preemption.tier, _swap_place(experiment))
    ways = dict(paths)
    for content in (content for content in CHANGED if content in places):
        tier = places[content].tier
        ways[_TO + tier] = find_way_back(experiment.system, tier)
    pieces = {
        name: tuple(piece.faster(speed).seen_by(parallel) for piece in cut)
        for name, cut in apart(ways).items()
    }
    return Streams(
        model=experiment.model, parallel=parallel, precision=precision, places=places, ring=memory.ring,
        paths=paths, pieces=pieces, batches=experiment.spec.parallel.batches,
        swap_bytes=preemption.capacity or float("inf"),
    )  # fmt: skip


def _swap_place(experiment: Experiment) -> str:
    key = ("policies", "preemption", "tier")
    return f"{experiment.document.where(key)}: {'.'.join(key)}"


def _check_swap(experiment: Experiment, tier: str) -> None:
    """Refuse caches that are not a sequence's own blocks in main memory."""
    spec, key = experiment.spec, ("policies", "preemption")
    main, error = experiment.system.device.main_memory, experiment.document.error
    if tier == main:
        raise error((*key, "tier"), "is where the cache is; name another tier", tier)
    away = {
        "memory.kv": spec.memory.kv is not None and spec.memory.kv.tier != main,
        "memory.prefix_cache": spec.memory.prefix_cache,
        "system.attention": experiment.system.attention is not None,
        "composition": spec.composition is not None,
    }
    for name in (name for name, given in away.items() if given):
        raise error(key, f"swap moves a sequence's own blocks of main memory; it does not go with {name}")


def _check(experiment: Experiment, key: tuple[str, str]) -> None:
    """Refuse what is kept or brought in another way."""
    error, content = experiment.document.error, key[-1]
    with_pool = {
        "kv": "the devices of system.attention keep the cache, and read it where it is",
        "activations": "with system.attention all parts of a batch are under way at once, and none waits",
    }
    if experiment.system.attention is not None and content in with_pool:
        raise error(key, with_pool[content])
    if content == "activations" and experiment.spec.parallel.pipeline > 1:
        raise error(key, "stay in main memory with parallel.pipeline: a stage hands on the whole batch")
    if experiment.spec.composition is not None:
        raise error(key, "the models of a composition are brought whole; say composition.tiers instead")
    if content == "kv" and any(a.recurrent for layer in experiment.model.layers if (a := layer.attention)):
        raise error(key, "recurrent state is kept in main memory, and this model has some")
