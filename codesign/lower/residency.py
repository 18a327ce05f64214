"""Pass 3: what each device must hold, and what is left for the KV cache."""

from __future__ import annotations

from dataclasses import dataclass

from codesign.base.errors import CapacityError
from codesign.experiment.schema import MemorySpec
from codesign.lower.parallel import Parallel
from codesign.lower.precision import Precision
from hwmodels.spec import System
from workloads.models import Layer, Model


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
) -> Residency:
    """Work out what the fullest device holds.

    Parameters
    ----------
    batch_tokens : int    the most tokens of a data group in one iteration: what activations are sized for

    Raises
    ------
    CapacityError   weights and activations alone exceed the memory, with the numbers
    """
    tier = system.device.memory[system.device.main_memory]
    usable = tier.capacity * memory.utilization
    stages = stage_layers(len(model.layers), parallel.pipeline)
    weights = max(_stage_bytes(model, parallel, precision, stages, s) for s in range(parallel.pipeline))
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
    model: Model, parallel: Parallel, precision: Precision, stages: list[range], stage: int
) -> float:
    layers = [model.layers[i] for i in stages[stage]]
    total = sum(layer_bytes(layer, model.hidden_size, parallel, precision) for layer in layers)
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
        routed = moe.n_experts * moe.expert_parameters(hidden) / parallel.ranks
        beside = moe.shared_parameters(hidden) / t + moe.router_parameters(hidden)
        total += routed * precision.expert_bytes + beside * precision.dense_bytes
    return total


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
