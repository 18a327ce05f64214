"""All passes together: the plan of one engine, built once for an experiment."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from codesign.base.errors import ConfigError
from codesign.experiment.schema import EngineSpec
from codesign.lower.attention_pool import AttentionPool
from codesign.lower.blocks import BlocksBuilder
from codesign.lower.foresight import build_predictor
from codesign.lower.formats import Formats, build_formats
from codesign.lower.graph import GraphBuilder, TaskGraph
from codesign.lower.kv import KvShape, kv_shape
from codesign.lower.layout import build_layout, place_experts
from codesign.lower.machine import Machine
from codesign.lower.operators import Operators
from codesign.lower.parallel import Parallel, resolve_parallel
from codesign.lower.pim import BesideCosts
from codesign.lower.portions import Portions, build_portions
from codesign.lower.precision import Precision, resolve_precision
from codesign.lower.residency import Residency, StoredExperts, residency, stored_experts
from codesign.lower.streams import Streams, away_key, build_streams
from codesign.lower.turns import TurnsBuilder
from codesign.policies.expert_cache import EXPERT_CACHES
from codesign.policies.units import UNITS
from ext.iteration import Layout
from hwmodels.costs import COST_MODELS
from hwmodels.spec import Pim
from workloads.models import Model

if TYPE_CHECKING:
    from codesign.experiment import Experiment

_COST_MODELS = {"roofline": "roofline", "event": "analytical", "cycle": "cycle"}


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What the passes decided for one engine; `expert_bytes` is of each expert on one rank, (L, E)."""

    model: Model
    parallel: Parallel
    precision: Precision
    formats: Formats
    residency: Residency
    kv: KvShape
    machine: Machine
    operators: Operators
    portions: Portions
    streams: Streams
    graph: TaskGraph
    layout: Layout
    expert_bytes: NDArray[np.float64]


def build_plan(experiment: Experiment) -> Plan:
    """Run the passes.

    Raises
    ------
    ConfigError     degrees, types, tiers or policies that do not suit the model or the machine
    CapacityError   the model does not fit
    """
    from codesign.policies import build_policies

    spec, model, system = experiment.spec, experiment.model, experiment.system
    parallel = resolve_parallel(spec.parallel, model, system, experiment.document)
    precision = resolve_precision(spec.precision, model, experiment.document)
    batching = build_policies(experiment).batching
    streams = build_streams(experiment, parallel, precision)
    portions = portions_of(experiment, streams)
    moes = [moe for layer in model.layers if (moe := layer.moe)]
    formats = build_formats(experiment, precision)
    expert_bytes = formats.expert_bytes(moes, model.hidden_size, parallel)
    placed = place_experts(experiment, parallel.expert)
    stored = stored_experts(expert_bytes, placed, parallel) if spec.precision.by_expert else None
    fit = residency(
        model, system, parallel, precision, spec.memory, batching.max_tokens, portions.cache, stored, streams
    )
    engine = spec.engine
    machine = Machine(system, cost_model_of(experiment), spec.speed, engine.all_reduce)
    operators = Operators(model, parallel, precision, machine, portions.attention_unit)
    fit = _share_out(experiment, operators, parallel, fit)
    streams.add_rows(operators)
    builder = _builder(operators, streams)
    graph = builder(model, parallel, operators, _host_rows(engine), portions, streams).build()
    return Plan(
        model=model, parallel=parallel, precision=precision, formats=formats, residency=fit,
        kv=kv_shape(model, parallel, precision.kv_bytes, spec.memory.block_tokens), machine=machine,
        operators=operators, portions=portions, streams=streams, graph=graph,
        layout=build_layout(experiment, parallel, precision, machine, portions, formats, graph, placed),
        expert_bytes=expert_bytes,
    )  # fmt: skip


def _builder(operators: Operators, streams: Streams) -> type[GraphBuilder]:
    """Choose the order of a batch's parts."""
    if streams.in_blocks:
        return BlocksBuilder
    return TurnsBuilder if operators.pool or len(operators.turns) > 1 else GraphBuilder


def _share_out(experiment: Experiment, operators: Operators, parallel: Parallel, fit: Residency) -> Residency:
    """Part the batch, and give attention and its cache to a pool, if the system has one."""
    spec, pool = experiment.spec, experiment.system.attention
    operators.take_turns(spec.parallel.batches)
    operators.queries_per_read = spec.policies.queries_per_read
    if pool is None:
        return fit
    if operators.attention_unit != "xpu":
        raise experiment.document.error(("policies", "units"), "attention is computed by system.attention")
    operators.attend_elsewhere(AttentionPool(pool, operators, parallel, cost_model_of(experiment)))
    share = AttentionPool.memory_per_rank(pool, parallel)
    return replace(fit, kv_bytes=share * spec.memory.utilization)


def _host_rows(engine: EngineSpec) -> int:
    """Return how many rows the host has: none, the work before an iteration, and launching beside it."""
    if engine.launch_layer:
        return 2
    return int(bool(engine.step or engine.per_sequence or engine.per_token))


def stored_by_expert(
    experiment: Experiment, parallel: Parallel, precision: Precision
) -> StoredExperts | None:
    """Return the bytes of routed experts if ``precision.experts`` makes them differ from plain ones."""
    if not experiment.spec.precision.by_expert:
        return None
    model = experiment.model
    moes = [moe for layer in model.layers if (moe := layer.moe)]
    sizes = build_formats(experiment, precision).expert_bytes(moes, model.hidden_size, parallel)
    return stored_experts(sizes, place_experts(experiment, parallel.expert), parallel)


def cost_model_of(experiment: Experiment) -> Any:
    """Return the cost model that the experiment names, or its fidelity's, with the engine's kernels."""
    named = experiment.spec.cost_model or _COST_MODELS[experiment.spec.fidelity]
    settings = {"name": named} if isinstance(named, str) else dict(named)
    kernels = experiment.spec.engine.kernels
    if kernels is None or not hasattr(COST_MODELS.get(settings["name"]), "kernels"):
        return named
    return {"kernels": kernels, **settings}


def portions_of(experiment: Experiment, streams: Streams | None = None) -> Portions:
    """Read the policies that part a layer's experts by tier and unit."""
    key, policies = away_key(experiment, "experts"), experiment.spec.policies
    main = experiment.system.device.main_memory
    tier = experiment.spec.memory.expert_tier
    cache = units = None
    if key is not None:
        if policies.expert_cache is None:
            raise experiment.document.error(
                key, f"experts outside {main} need policies.expert_cache, as {{name: lru,"
                " slots: 4}: experts held there for each layer", tier,
            )  # fmt: skip
        cache = EXPERT_CACHES.build(experiment.part("policies", "expert_cache"))
        if cache.prefetch is not None:
            build_predictor(experiment, cache.prefetch)  # refuses a wrong one before anything runs
    elif policies.expert_cache is not None:
        rule = f"the experts live in {main}: nothing is cached; name another tier with memory.experts"
        raise experiment.document.error(("policies", "expert_cache"), rule)
    if policies.units is not None:
        units = UNITS.build(experiment.part("policies", "units"))
        if experiment.system.device.pim is None:
            name = experiment.system.device.name
            raise ConfigError(
                f"{experiment.document.where(('policies', 'units'))}: policies.units: {name} has no PIM unit;"
                " describe one under system.device.pim"
            )
    way = streams.pieces[tier] if streams is not None and key and tier else ()
    beside = None
    if cache is not None and cache.misses != "fetch":
        beside = BesideCosts(_unit_beside(experiment, tier or main), way, experiment.spec.speed)
    return build_portions(cache, way, units, beside)


def _unit_beside(experiment: Experiment, tier: str) -> Pim:
    """Return the unit of the host that computes beside a tier.

    Raises
    ------
    ConfigError   there is none
    """
    for unit in experiment.system.host.units.values():
        if unit.tier == tier:
            return unit
    rule = f"nothing computes beside {tier}; describe a unit under system.host.units, with its tier"
    raise experiment.document.error(("policies", "expert_cache", "misses"), rule)
