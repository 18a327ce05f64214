"""Pass 3: what each device must hold, and what is left for the KV cache."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from codesign.base.errors import CapacityError
from codesign.experiment.schema import MemorySpec
from codesign.lower.parallel import Parallel
from codesign.lower.precision import Precision
from codesign.lower.tiers import sharers, tiers_of
from codesign.policies.expert_cache import ExpertCache, Ring
from hwmodels.spec import System
from workloads.models import Layer, Model, MoE

if TYPE_CHECKING:
    from codesign.lower.streams import Streams


@dataclass(frozen=True, kw_only=True)
class Residency:
    """Bytes of the fullest device of an engine.

    `kv_bytes` is what a data group's KV cache may take for one of its devices; of it `kv_elsewhere_bytes` lie
    in another tier.
    """

    weight_bytes: float
    activation_bytes: float
    kv_bytes: float
    capacity_bytes: float
    kv_elsewhere_bytes: float = 0.0
    swap_bytes: float = 0.0  # for the caches of preempted sequences of a device, in another tier

    @property
    def resident_bytes(self) -> float:
        """Weights and activations."""
        return self.weight_bytes + self.activation_bytes


@dataclass(frozen=True)
class StoredExperts:
    """Bytes of routed experts that differ: of each MoE layer's in a group, (L, G), and of its largest."""

    groups: NDArray[np.float64]
    largest: NDArray[np.float64]

    def of_layers(self, first: int, count: int) -> float:
        """Return the bytes of some MoE layers in the group that holds the most."""
        return float(self.groups[first : first + count].sum(axis=0).max()) if count else 0.0


def stored_experts(
    expert_bytes: NDArray[np.float64], placed: NDArray[np.int16], parallel: Parallel
) -> StoredExperts:
    """Sum the bytes of each expert, (L, E), by the group that holds it, int16[L, E]."""
    groups = np.zeros((len(placed), parallel.expert))
    for m, row in enumerate(placed):
        groups[m] = np.bincount(row, expert_bytes[m], minlength=parallel.expert)
    return StoredExperts(groups, expert_bytes.max(axis=1, initial=0.0))


def stage_layers(n_layers: int, stages: int) -> list[range]:
    """Deal layers to stages as evenly as can be, the first stages taking the odd ones."""
    size, rest = divmod(n_layers, stages)
    starts = [stage * size + min(stage, rest) for stage in range(stages + 1)]
    return [range(starts[i], starts[i + 1]) for i in range(stages)]


def residency(
    model: Model,
    system: System,
    parallel: Parallel,
    precision: Precision,
    memory: MemorySpec,
    batch_tokens: int,
    cache: ExpertCache | None = None,
    stored: StoredExperts | None = None,
    streams: Streams | None = None,
) -> Residency:
    """Work out what the fullest device holds.

    Parameters
    ----------
    cache : ExpertCache   what is held of experts that live in another tier; None: all experts live here
    stored : StoredExperts    where experts are not all of one size
    streams : Streams     what else lives in another tier, and the slots that it passes through
    batch_tokens : int    the most tokens of a data group in one iteration: what activations are sized for

    Raises
    ------
    CapacityError   weights and activations alone exceed the memory, with the numbers
    """
    tier = system.device.memory[system.device.main_memory]
    usable = tier.capacity * memory.utilization
    stages = stage_layers(len(model.layers), parallel.pipeline)
    weights = max(
        _stage_bytes(model, parallel, precision, stages, s, cache, stored, streams)
        for s in range(parallel.pipeline)
    )
    experts = _experts_bytes(model, parallel, precision, stored) if cache is not None else 0.0
    elsewhere = stored_in_tiers(system, parallel, memory, experts, streams, batch_tokens)
    _check_tiers(model, system, elsewhere, streams)
    activations = _activation_bytes(model, parallel, precision, batch_tokens, streams)
    left = usable - weights - activations
    if left <= 0:
        raise CapacityError(
            f"{model.name} does not fit: a device of {system.name} needs {_gb(weights)} for weights and"
            f" {_gb(activations)} for activations, and has {_gb(usable)} of {_gb(tier.capacity)}"
            f" (memory.utilization {memory.utilization:g}): use more devices (tensor, expert, pipeline),"
            " fewer bits (precision.weights), or a smaller batch"
        )
    room, swap = (_room(what, system, parallel, memory, elsewhere, streams) for what in ("kv", "swap"))
    kv = streams.cache_room(left, room) if streams else left
    if streams and swap < streams.swap_bytes < inf:
        raise CapacityError(
            f"policies.preemption.capacity = {_gb(streams.swap_bytes)} for each device: the tier has"
            f" {_gb(swap)} left for it"
        )
    return Residency(
        weight_bytes=weights, activation_bytes=activations, kv_bytes=kv, capacity_bytes=tier.capacity,
        kv_elsewhere_bytes=kv * streams.share("kv") if streams else 0.0,
        swap_bytes=min(swap, streams.swap_bytes) if streams else 0.0,
    )  # fmt: skip


def _gb(count: float) -> str:
    return f"{count / 1e9:.1f} GB"


def _stage_bytes(
    model: Model,
    parallel: Parallel,
    precision: Precision,
    stages: list[range],
    stage: int,
    cache: ExpertCache | None,
    stored: StoredExperts | None,
    streams: Streams | None,
) -> float:
    layers = [model.layers[i] for i in stages[stage]]
    hidden = model.hidden_size
    total = sum(layer_bytes(layer, hidden, parallel, precision) for layer in layers)
    if cache is not None or stored is not None:
        total -= sum(_routed_bytes(layer, hidden, parallel, precision) for layer in layers)
        first = sum(i < stages[stage].start for i in model.moe_layers)
        count = sum(layer.moe is not None for layer in layers)
        if cache is not None:
            sizes = [expert_bytes(layer.moe, hidden, parallel, precision) for layer in layers if layer.moe]
            if stored is not None:
                sizes = stored.largest[first : first + count].tolist()
            total += _cached_bytes(layers, parallel, cache, sizes)
        elif stored is not None:
            total += stored.of_layers(first, count)
    ends = end_bytes(model, parallel, precision, stage, parallel.pipeline)
    return total + sum(ends.values()) - (streams.held_less(stage) if streams else 0.0)


def layer_bytes(layer: Layer, hidden: int, parallel: Parallel, precision: Precision) -> float:
    """Return the bytes of one layer's weights on one rank."""
    return sum(parts_of_layer(layer, hidden, parallel, precision).values())


def parts_of_layer(layer: Layer, hidden: int, parallel: Parallel, precision: Precision) -> dict[str, float]:
    """Return the bytes of one layer's weights on one rank, by what they are for."""
    t, size = parallel.tensor, precision.dense_bytes
    attention = layer.attention_parameters(hidden) + layer.norm_parameters(hidden)
    parts = {"attention": attention / t * size}
    if layer.dense:
        parts["dense"] = layer.dense.parameters(hidden) / t * size
    if layer.moe:
        parts["experts"] = _routed_bytes(layer, hidden, parallel, precision)
        parts["shared"] = layer.moe.shared_parameters(hidden) / t * size
        parts["router"] = layer.moe.router_parameters(hidden) * size
    return parts


def end_bytes(
    model: Model, parallel: Parallel, precision: Precision, stage: int, stages: int
) -> dict[str, float]:
    """Return the bytes of what a stage holds beside its layers, on one rank.

    A head that is tied to the embedding is stored once more only where the two stand in different stages.
    """
    first, last = stage == 0, stage == stages - 1
    head = model.lm_head_parameters if first or not model.tied_embeddings else model.embedding_parameters
    counts = {"embedding": model.embedding_parameters * first, "head": head * last}
    counts["other"] = model.other_parameters
    return {part: count / parallel.tensor * precision.embedding_bytes for part, count in counts.items()}


def expert_bytes(moe: MoE, hidden: int, parallel: Parallel, precision: Precision) -> float:
    """Return the bytes of one routed expert on one rank."""
    return moe.expert_parameters(hidden) / parallel.expert_tensor * precision.expert_bytes


def _routed_bytes(layer: Layer, hidden: int, parallel: Parallel, precision: Precision) -> float:
    if layer.moe is None:
        return 0.0
    return layer.moe.n_experts / parallel.expert * expert_bytes(layer.moe, hidden, parallel, precision)


def _cached_bytes(layers: list[Layer], parallel: Parallel, cache: ExpertCache, sizes: list[float]) -> float:
    """Return the bytes of the cache's slots, and of the buffers that the missed experts stream through.

    `sizes` are of each MoE layer's largest expert: any of them may come to lie in a slot.
    """
    if not sizes:
        return 0.0
    held = cache.slots * (max(sizes) if cache.scope == "global" else sum(sizes))
    if isinstance(cache, Ring):  # so many layers take turns
        experts = max(layer.moe.n_experts for layer in layers if layer.moe) / parallel.expert
        return held + min(cache.layers, len(sizes)) * max(sizes) * max(0.0, experts - cache.slots)
    return held + cache.buffers * max(sizes)


def _experts_bytes(
    model: Model, parallel: Parallel, precision: Precision, stored: StoredExperts | None
) -> float:
    """Return the bytes of all routed experts on a rank of each stage together."""
    if stored is not None:
        return stored.of_layers(0, len(stored.groups))
    return sum(_routed_bytes(layer, model.hidden_size, parallel, precision) for layer in model.layers)


def _room(
    content: str, system: System, parallel: Parallel, memory: MemorySpec, elsewhere: dict[str, float],
    streams: Streams | None,
) -> float:  # fmt: skip
    """Return what the tier of a cache has left beside weights, for one of the devices that share it."""
    place = streams.places.get(content) if streams else None
    if place is None:
        return 0.0
    tier = tiers_of(system)[place.tier]
    left = tier.capacity * memory.utilization - elsewhere[place.tier]
    if left <= 0:
        raise CapacityError(
            f"memory: nothing is left for the KV cache in {place.tier}: {_lives_in(place.tier, streams)} take"
            f" {_gb(elsewhere[place.tier])} of its {_gb(tier.capacity)}, of which memory.utilization"
            f" {memory.utilization:g} may be used: use a larger tier, more nodes or fewer bits"
        )
    return left / min(sharers(system, tier), parallel.devices * parallel.replicas)


def _check_tiers(model: Model, system: System, elsewhere: dict[str, float], streams: Streams | None) -> None:
    """Refuse what does not fit the tier in which it is to live."""
    for name, need in elsewhere.items():
        tier = tiers_of(system)[name]
        if need > tier.capacity:
            raise CapacityError(
                f"{model.name} does not fit: its {_lives_in(name, streams)} need {_gb(need)} of {name}, which"
                f" has {_gb(tier.capacity)}: use fewer bits (precision.weights), more nodes, a smaller batch,"
                " or a larger tier"
            )


def _lives_in(tier: str, streams: Streams | None) -> str:
    """Name what lives in a tier beside caches."""
    weights = "weights" if streams and streams.stored(tier) else "experts"
    place = streams.places.get("activations") if streams else None
    return f"{weights} and activations" if place and place.tier == tier else weights


def stored_in_tiers(
    system: System, parallel: Parallel, memory: MemorySpec, experts: float, streams: Streams | None,
    batch_tokens: int,
) -> dict[str, float]:  # fmt: skip
    """Return the bytes of weights and activations in one instance of each other tier, by its name.

    Devices that share a tier keep their own experts and activations there; of what all data groups have in
    common, one copy.
    """
    found: dict[str, float] = {}
    tiers = tiers_of(system)
    if experts:
        name = memory.expert_tier or system.device.main_memory
        devices = min(sharers(system, tiers[name]), parallel.devices)
        found[name] = experts / parallel.pipeline * devices
    if streams is None:
        return found
    for name in streams.paths:
        devices = min(sharers(system, tiers[name]), parallel.tensor * parallel.pipeline)
        found[name] = found.get(name, 0.0) + streams.stored(name) / parallel.pipeline * devices
    if (place := streams.places.get("activations")) is not None:
        devices = min(sharers(system, tiers[place.tier]), parallel.devices * parallel.replicas)
        found[place.tier] += streams.hidden_bytes(batch_tokens) * devices
    return found


def _activation_bytes(
    model: Model, parallel: Parallel, precision: Precision, tokens: int, streams: Streams | None
) -> float:
    """Residual, its copy, and the widest intermediate of a layer; logits of one batch of sequences.

    Of parts of a batch one is computed at a time, while the residuals of others wait, here or elsewhere;
    layers of experts take all tokens.
    """
    hidden, part = model.hidden_size, -(-tokens // (streams.batches if streams else 1))
    width, width_of_all = 4.0 * hidden, 0.0
    for layer in model.layers:
        if layer.dense:
            width = max(width, 2.0 * layer.dense.intermediate_size / parallel.tensor + 2 * hidden)
        if layer.moe:
            # of the data groups' tokens, each expert group receives its share of the k copies
            share = layer.moe.top_k * parallel.data / parallel.expert
            inner = 2.0 * layer.moe.expert.intermediate_size / parallel.expert_tensor
            width_of_all = max(width_of_all, share * (hidden + inner) + 2 * hidden)
    waiting = (tokens - part - (streams.tokens_away(tokens) if streams else 0.0)) * hidden
    logits = min(tokens, 1024) * model.vocab_size / parallel.tensor * 4.0
    return max(part * width + waiting, tokens * width_of_all) * precision.activation_bytes + logits
