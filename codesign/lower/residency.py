"""Pass 3: what each device must hold, and what is left for the KV cache."""

from __future__ import annotations

from dataclasses import dataclass

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


@dataclass(frozen=True, kw_only=True)
class Residency:
    """Bytes of the fullest device of an engine.

    `kv_bytes` is what a data group's KV cache may take on one of its devices.
    """

    weight_bytes: float
    activation_bytes: float
    kv_bytes: float
    capacity_bytes: float

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
) -> Residency:
    """Work out what the fullest device holds.

    Parameters
    ----------
    cache : ExpertCache   what is held of experts that live in another tier; None: all experts live here
    stored : StoredExperts    where experts are not all of one size
    batch_tokens : int    the most tokens of a data group in one iteration: what activations are sized for

    Raises
    ------
    CapacityError   weights and activations alone exceed the memory, with the numbers
    """
    tier = system.device.memory[system.device.main_memory]
    usable = tier.capacity * memory.utilization
    stages = stage_layers(len(model.layers), parallel.pipeline)
    weights = max(
        _stage_bytes(model, parallel, precision, stages, s, cache, stored) for s in range(parallel.pipeline)
    )
    if cache is not None:
        _check_tier(model, system, parallel, precision, memory, stored)
    activations = _activation_bytes(model, parallel, precision, batch_tokens)
    left = usable - weights - activations
    if left <= 0:
        raise CapacityError(
            f"{model.name} does not fit: a device of {system.name} needs {_gb(weights)} for weights and"
            f" {_gb(activations)} for activations, and has {_gb(usable)} of {_gb(tier.capacity)}"
            f" (memory.utilization {memory.utilization:g}): use more devices (tensor, expert, pipeline),"
            " fewer bits (precision.weights), or a smaller batch"
        )
    return Residency(
        weight_bytes=weights, activation_bytes=activations, kv_bytes=left, capacity_bytes=tier.capacity
    )


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
    ends = model.embedding_parameters if stage == 0 else 0
    if stage == parallel.pipeline - 1:
        ends += (
            model.lm_head_parameters
            if stage == 0 or not model.tied_embeddings
            else model.embedding_parameters
        )
    return total + (ends + model.other_parameters) / parallel.tensor * precision.embedding_bytes


def layer_bytes(layer: Layer, hidden: int, parallel: Parallel, precision: Precision) -> float:
    """Return the bytes of one layer's weights on one rank."""
    t = parallel.tensor
    attention = layer.attention_parameters(hidden) + layer.norm_parameters(hidden)
    total = attention / t * precision.dense_bytes
    if layer.dense:
        total += layer.dense.parameters(hidden) / t * precision.dense_bytes
    if layer.moe:
        moe = layer.moe
        total += _routed_bytes(layer, hidden, parallel, precision)
        beside = moe.shared_parameters(hidden) / t + moe.router_parameters(hidden)
        total += beside * precision.dense_bytes
    return total


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


def _check_tier(
    model: Model, system: System, parallel: Parallel, precision: Precision, memory: MemorySpec,
    stored: StoredExperts | None,
) -> None:  # fmt: skip
    """Refuse experts that do not fit the tier in which they are to live."""
    tier = tiers_of(system)[memory.experts or system.device.main_memory]
    layers = sum(_routed_bytes(layer, model.hidden_size, parallel, precision) for layer in model.layers)
    if stored is not None:
        layers = stored.of_layers(0, len(stored.groups))
    need = layers / parallel.pipeline * min(sharers(system, tier), parallel.devices)
    if need > tier.capacity:
        raise CapacityError(
            f"{model.name} does not fit: its experts need {_gb(need)} of {memory.experts}, which has"
            f" {_gb(tier.capacity)}: use fewer bits (precision.weights), more nodes, or a larger tier"
        )


def _activation_bytes(model: Model, parallel: Parallel, precision: Precision, tokens: int) -> float:
    """Residual, its copy, and the widest intermediate of a layer; logits of one batch of sequences."""
    width = 4.0 * model.hidden_size
    for layer in model.layers:
        if layer.dense:
            width = max(width, 2.0 * layer.dense.intermediate_size / parallel.tensor + 2 * model.hidden_size)
        if layer.moe:
            # of the data groups' tokens, each expert group receives its share of the k copies
            share = layer.moe.top_k * parallel.data / parallel.expert
            inner = 2.0 * layer.moe.expert.intermediate_size / parallel.expert_tensor
            width = max(width, share * (model.hidden_size + inner) + 2 * model.hidden_size)
    logits = min(tokens, 1024) * model.vocab_size / parallel.tensor * 4.0
    return tokens * width * precision.activation_bytes + logits
