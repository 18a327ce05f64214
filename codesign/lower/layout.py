"""Pass: placement, exchange and cost tables of the experts, as the arrays that an iteration runs on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from codesign.lower.graph import TaskGraph
from codesign.lower.machine import Machine
from codesign.lower.parallel import Parallel
from codesign.lower.portions import Portions
from codesign.lower.precision import Precision
from codesign.policies.dispatch import DISPATCHES
from codesign.policies.placement import PLACEMENTS
from ext.iteration import Layout
from ext.iteration.layout import N_COEFFICIENTS
from hwmodels.costs import ExpertTables
from hwmodels.spec import PRECISION_BYTES
from workloads.models import Model, MoE

if TYPE_CHECKING:
    from codesign.experiment import Experiment

F64 = NDArray[np.float64]
TableRow = tuple[F64, F64, list[float]]  # work, bytes, coefficients
MAX_TABLE_TOKENS = 4096  # of one expert; more is extrapolated with the last slope


def build_layout(
    experiment: Experiment, parallel: Parallel, precision: Precision, machine: Machine, portions: Portions,
    graph: TaskGraph,
) -> Layout:  # fmt: skip
    """Return what stays the same from one iteration to the next."""
    model, p = experiment.model, parallel
    moes = [moe for layer in model.layers if (moe := layer.moe)]
    placement = PLACEMENTS.build(experiment.part("policies", "placement"))
    placed = placement.place(len(moes), model.n_experts, p.expert, experiment.seed)
    send, recv = DISPATCHES.build(experiment.part("policies", "dispatch")).weights(p, 0)
    latency_s, per_byte = machine.exchange(p.ranks)
    work, moved, coefficients, table_of = _tables(moes, model, p, precision, machine, portions)
    ranks = np.arange(p.ranks)
    vector_bytes = [PRECISION_BYTES[precision.dispatch], PRECISION_BYTES[precision.combine]]
    return Layout(
        row=graph.row, resource=graph.resource, pred_ptr=graph.pred_ptr, pred=graph.pred,
        discipline=np.zeros(len(graph.resources), np.int32), row_kind=graph.row_kind, n_data=p.data,
        n_classes=graph.n_classes, n_groups=p.expert, n_ranks=p.ranks, n_layers=len(moes),
        n_experts=model.n_experts,
        expert_group=np.ascontiguousarray(placed.reshape(len(moes), model.n_experts)),
        table_of=table_of, portion_parts=portions.part_indices, n_fetches=portions.n_fetches, work=work,
        moved=moved, coefficients=coefficients, send=send, recv=recv,
        data_group=(ranks // p.tensor).astype(np.int32),
        rank_group=(ranks // p.expert_tensor).astype(np.int32), latency_s=latency_s,
        seconds_per_byte=per_byte, exchanged=p.data > 1,
        token_bytes=model.hidden_size * np.array(vector_bytes),
    )  # fmt: skip


def _tables(
    moes: list[MoE],
    model: Model,
    parallel: Parallel,
    precision: Precision,
    machine: Machine,
    portions: Portions,
) -> tuple[F64, F64, F64, NDArray[np.int32]]:
    """Return work, bytes, coefficients by table, and the table of each layer and portion."""
    shapes = list(dict.fromkeys(moes))
    rows = [_xpu_row(moe, model, parallel, precision, machine) for moe in shapes]
    if portions.pim >= 0:
        rows += [_pim_row(moe, model, parallel, precision, machine) for moe in shapes]
    table_of = np.zeros((len(moes), len(portions.parts)), np.int32)
    for m, moe in enumerate(moes):
        table_of[m] = shapes.index(moe)
        if portions.pim >= 0:
            table_of[m, portions.pim] += len(shapes)
    if not rows:
        empty = np.zeros((0, MAX_TABLE_TOKENS + 1))
        return empty, empty, np.zeros((0, N_COEFFICIENTS)), table_of
    work, moved, coefficients = zip(*rows, strict=True)
    return np.stack(work), np.stack(moved), np.array(coefficients), table_of


def _shape(moe: MoE, model: Model, parallel: Parallel) -> tuple[int, int, bool]:
    """Return (hidden, width on one rank, gated) of an expert."""
    width = moe.expert.intermediate_size // parallel.expert_tensor
    return moe.latent_size or model.hidden_size, width, moe.expert.gated


def _xpu_row(moe: MoE, model: Model, parallel: Parallel, precision: Precision, machine: Machine) -> TableRow:
    tables = machine.costs.expert_tables(
        *_shape(moe, model, parallel), precision.experts, precision.activations, MAX_TABLE_TOKENS
    )
    return tables.work_of_n, tables.bytes_of_n, coefficients_of(tables)


def _pim_row(moe: MoE, model: Model, parallel: Parallel, precision: Precision, machine: Machine) -> TableRow:
    pim = machine.require_pim()
    return pim.expert_rows(*_shape(moe, model, parallel), precision.experts, MAX_TABLE_TOKENS)


def coefficients_of(t: ExpertTables) -> list[float]:
    """Return a row of `Layout.coefficients`; bytes are split into the weights' and each token's."""
    per_token = float(t.bytes_of_n[2] - t.bytes_of_n[1])
    return [
        t.seconds_per_work, t.head_s, t.seconds_per_byte, t.launch_s, t.active_s, t.power, t.flop_per_token,
        per_token, float(t.bytes_of_n[1]) - per_token, 0.0, 0.0, 0.0,
    ]  # fmt: skip
