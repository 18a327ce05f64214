"""All passes together: the plan of one engine, built once for an experiment."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from codesign.lower.exchange import DISPATCHES
from codesign.lower.graph import GraphBuilder, TaskGraph
from codesign.lower.kv import KvShape, kv_shape
from codesign.lower.machine import Machine
from codesign.lower.operators import Operators
from codesign.lower.parallel import Parallel, resolve_parallel
from codesign.lower.placement import PLACEMENTS
from codesign.lower.precision import Precision, resolve_precision
from codesign.lower.residency import Residency, residency
from ext.iteration import Layout
from hwmodels.costs import ExpertTables
from hwmodels.spec import PRECISION_BYTES
from workloads.models import Model, MoE

if TYPE_CHECKING:
    from codesign.experiment import Experiment

MAX_TABLE_TOKENS = 4096  # of one expert; more is extrapolated with the last slope
_COST_MODELS = {"roofline": "roofline", "event": "analytical", "cycle": "cycle"}


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What the passes decided for one engine."""

    model: Model
    parallel: Parallel
    precision: Precision
    residency: Residency
    kv: KvShape
    machine: Machine
    operators: Operators
    graph: TaskGraph
    layout: Layout


def build_plan(experiment: Experiment) -> Plan:
    """Run the passes.

    Raises
    ------
    ConfigError     degrees, types or policies that do not suit the model or the machine
    CapacityError   the model does not fit
    """
    from codesign.serve.policies import build_policies

    spec, model, system = experiment.spec, experiment.model, experiment.system
    parallel = resolve_parallel(spec.parallel, model, system, experiment.document)
    precision = resolve_precision(spec.precision, model, experiment.document)
    batching = build_policies(experiment).batching
    fit = residency(model, system, parallel, precision, spec.memory, batching.max_tokens)
    machine = Machine(system, cost_model_of(experiment), spec.speed)
    operators = Operators(model, parallel, precision, machine)
    engine = spec.engine
    with_overhead = bool(engine.step or engine.per_sequence or engine.per_token)
    graph = GraphBuilder(model, parallel, operators, with_overhead).build()
    return Plan(
        model=model, parallel=parallel, precision=precision, residency=fit,
        kv=kv_shape(model, parallel, precision.kv_bytes, spec.memory.block_tokens), machine=machine,
        operators=operators, graph=graph,
        layout=_layout(
            experiment, parallel, precision, machine, graph, len(operators.classes) + with_overhead
        ),
    )  # fmt: skip


def cost_model_of(experiment: Experiment) -> Any:
    """Return the cost model that the experiment names, or the one of its fidelity."""
    return experiment.spec.cost_model or _COST_MODELS[experiment.spec.fidelity]


def _layout(
    experiment: Experiment,
    parallel: Parallel,
    precision: Precision,
    machine: Machine,
    graph: TaskGraph,
    n_classes: int,
) -> Layout:
    model, p = experiment.model, parallel
    moes = [moe for layer in model.layers if (moe := layer.moe)]
    n_experts, exchanged = model.n_experts, p.data > 1
    placement = PLACEMENTS.build(experiment.part("policies", "placement"))
    placed = placement.place(len(moes), n_experts, p.expert, experiment.seed)
    send, recv = DISPATCHES.build(experiment.part("policies", "dispatch")).weights(p, 0)
    latency_s, per_byte = machine.exchange(p.ranks)
    shapes = list(dict.fromkeys(moes))
    tables = [_expert_tables(moe, model, p, precision, machine) for moe in shapes]
    ranks = np.arange(p.ranks)
    return Layout(
        row=graph.row, resource=graph.resource, pred_ptr=graph.pred_ptr, pred=graph.pred,
        discipline=np.zeros(len(graph.resources), np.int32), row_kind=graph.row_kind, n_data=p.data,
        n_classes=n_classes, n_groups=p.expert, n_ranks=p.ranks, n_layers=len(moes), n_experts=n_experts,
        expert_group=np.ascontiguousarray(placed.reshape(len(moes), n_experts)),
        table_of=np.array([shapes.index(moe) for moe in moes], dtype=np.int32),
        work=_stack([t.work_of_n for t in tables]), moved=_stack([t.bytes_of_n for t in tables]),
        coefficients=np.array([_coefficients(t) for t in tables]).reshape(len(tables), 7),
        send=send, recv=recv, data_group=(ranks // p.tensor).astype(np.int32),
        rank_group=(ranks // p.expert_tensor).astype(np.int32), latency_s=latency_s,
        seconds_per_byte=per_byte, exchanged=exchanged,
        token_bytes=model.hidden_size
        * np.array([PRECISION_BYTES[precision.dispatch], PRECISION_BYTES[precision.combine]]),
    )  # fmt: skip


def _expert_tables(
    moe: MoE, model: Model, parallel: Parallel, precision: Precision, machine: Machine
) -> ExpertTables:
    width = moe.expert.intermediate_size // parallel.expert_tensor
    return machine.costs.expert_tables(
        moe.latent_size or model.hidden_size, width, moe.expert.gated, precision.experts,
        precision.activations, MAX_TABLE_TOKENS,
    )  # fmt: skip


def _stack(tables: list[Any]) -> Any:
    return np.stack(tables) if tables else np.zeros((0, MAX_TABLE_TOKENS + 1))


def _coefficients(t: ExpertTables) -> tuple[float, ...]:
    return (
        t.seconds_per_work, t.head_s, t.seconds_per_byte, t.launch_s, t.active_s, t.power, t.flop_per_token,
    )  # fmt: skip
