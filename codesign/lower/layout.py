"""Pass: placement, exchange and cost tables of the experts, as the arrays that an iteration runs on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from codesign.base.errors import InvariantError
from codesign.lower.formats import Format, Formats
from codesign.lower.graph import TaskGraph
from codesign.lower.machine import Machine
from codesign.lower.parallel import Parallel
from codesign.lower.pim import PimCosts
from codesign.lower.portions import Portions
from codesign.lower.precision import Precision
from codesign.policies.dispatch import DISPATCHES
from codesign.policies.placement import PLACEMENTS
from ext.graph.reference import FIRST_COME
from ext.iteration import Layout
from ext.iteration.layout import (
    BYTES_PER_EXPERT,
    BYTES_PER_TOKEN,
    DECODE_FLOP_PER_EXPERT,
    DECODE_FLOP_PER_TOKEN,
    DECODE_S,
    FLOP_PER_TOKEN,
    N_COEFFICIENTS,
    SECONDS_PER_WORK,
)
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
    formats: Formats, graph: TaskGraph, placed: NDArray[np.int16],
) -> Layout:  # fmt: skip
    """Return what stays the same from one iteration to the next."""
    model, p = experiment.model, parallel
    moes = [moe for layer in model.layers if (moe := layer.moe)]
    send, recv = DISPATCHES.build(experiment.part("policies", "dispatch")).weights(p, 0)
    latency_s, per_byte = machine.exchange(p.ranks)
    work, moved, coefficients, table_of = _tables(moes, model, p, precision, machine, portions, formats)
    if experiment.spec.policies.expert_order == "token_major":
        moved, coefficients = _token_major(moved, coefficients)
    ranks = np.arange(p.ranks)
    vector_bytes = [PRECISION_BYTES[precision.dispatch], PRECISION_BYTES[precision.combine]]
    return Layout(
        row=graph.row, resource=graph.resource, pred_ptr=graph.pred_ptr, pred=graph.pred,
        discipline=_disciplines(graph), row_kind=graph.row_kind, n_data=p.data,
        n_classes=graph.n_classes, n_groups=p.expert, n_ranks=p.ranks, n_layers=len(moes),
        n_experts=model.n_experts,
        expert_group=placed,
        table_of=table_of,
        variant=np.ascontiguousarray(formats.variant),
        portion_parts=portions.part_indices, n_fetches=portions.n_fetches, work=work,
        moved=moved, coefficients=coefficients, send=send, recv=recv,
        data_group=(ranks // p.tensor).astype(np.int32),
        rank_group=(ranks // p.expert_tensor).astype(np.int32), latency_s=latency_s,
        seconds_per_byte=per_byte, exchanged=p.data > 1,
        token_bytes=model.hidden_size * np.array(vector_bytes),
    )  # fmt: skip


def _token_major(moved: F64, coefficients: F64) -> tuple[F64, F64]:
    """Let every token read its expert's weights again: no token waits for others of its expert.

    Law: n tokens of an expert move n times what one moves.
    """
    each = coefficients.copy()
    each[:, BYTES_PER_TOKEN] += each[:, BYTES_PER_EXPERT]
    each[:, BYTES_PER_EXPERT] = 0.0
    return np.outer(moved[:, 1], np.arange(moved.shape[1])), each


def place_experts(experiment: Experiment, groups: int) -> NDArray[np.int16]:
    """Return int16[L, E]: the expert group of each expert, as the placement policy says."""
    model = experiment.model
    placement = PLACEMENTS.build(experiment.part("policies", "placement"))
    n_layers = len(model.moe_layers)
    placed = placement.place(n_layers, model.n_experts, groups, experiment.seed)
    return np.ascontiguousarray(placed.reshape(n_layers, model.n_experts))


def _tables(
    moes: list[MoE],
    model: Model,
    parallel: Parallel,
    precision: Precision,
    machine: Machine,
    portions: Portions,
    formats: Formats,
) -> tuple[F64, F64, F64, NDArray[np.int32]]:
    """Return work, bytes, coefficients by table, and the table of each layer and portion (of variant 0)."""
    kinds = list(dict.fromkeys(zip(moes, formats.layers, strict=True)))
    beside = {portions.pim: machine.pim, portions.near: portions.beside}
    units = {part: unit for part, unit in beside.items() if part >= 0}
    made = [(moe, format) for moe, layer in kinds for format in layer]
    rows = [_xpu_row(*each, model, parallel, precision, machine) for each in made]
    rows += [_pim_row(*each, model, parallel, precision, unit) for unit in units.values() for each in made]
    table_of = np.zeros((len(moes), len(portions.parts)), np.int32)
    for m, kind in enumerate(zip(moes, formats.layers, strict=True)):
        table_of[m] = kinds.index(kind) * formats.n_variants
        for i, part in enumerate(units):
            table_of[m, part] += (i + 1) * len(kinds) * formats.n_variants
    if not rows:
        empty = np.zeros((0, MAX_TABLE_TOKENS + 1))
        return empty, empty, np.zeros((0, N_COEFFICIENTS)), table_of
    work, moved, coefficients = zip(*rows, strict=True)
    return np.stack(work), np.stack(moved), np.array(coefficients), table_of


def _disciplines(graph: TaskGraph) -> NDArray[np.int32]:
    """Return how each resource serves its tasks: in order, or (a channel) whoever comes first."""
    discipline = np.zeros(len(graph.resources), np.int32)
    discipline[len(discipline) - graph.n_shared :] = FIRST_COME
    return discipline


def _shape(moe: MoE, model: Model, parallel: Parallel) -> tuple[int, int, bool]:
    """Return (hidden, width on one rank, gated) of an expert."""
    width = moe.expert.intermediate_size // parallel.expert_tensor
    return moe.latent_size or model.hidden_size, width, moe.expert.gated


def _xpu_row(
    moe: MoE, stored: Format, model: Model, parallel: Parallel, precision: Precision, machine: Machine
) -> TableRow:
    """Return what an expert costs: by the kernel of its type, or by that of wide weights and its decoding."""
    plain = stored == Format(stored.bits, 8.0 * precision.expert_bytes)
    weights = precision.experts if plain else _kernel_type(stored, precision)
    shape = _shape(moe, model, parallel)
    tables = machine.costs.expert_tables(*shape, weights, precision.activations, MAX_TABLE_TOKENS)
    row = tables.work_of_n, tables.bytes_of_n, coefficients_of(tables)
    whole = stored_values(moe, model, parallel)
    if plain:
        return row
    share = stored.share(moe.latent_size or model.hidden_size, moe.expert.intermediate_size)
    extra_bytes = whole * (share * stored.stored_bits / 8.0 - PRECISION_BYTES[weights])
    return _decoded(_reshaped(row, share, extra_bytes), stored, whole * share, precision, machine)


def _kernel_type(stored: Format, precision: Precision) -> str:
    """Return the weights' type of the kernel that multiplies an expert: wide where they come decoded."""
    wide = stored.decode is not None or stored.bits >= 8.0 * PRECISION_BYTES[precision.activations]
    return precision.activations if wide else "int4"


def stored_values(moe: MoE, model: Model, parallel: Parallel) -> float:
    """Count the values of one expert's whole matrices on one rank."""
    hidden, width, _ = _shape(moe, model, parallel)
    return float(hidden * width * moe.expert.matrices)


def _reshaped(row: TableRow, share: float, extra_bytes: float) -> TableRow:
    """Return a row with `share` of the products, and so many bytes of weights more."""
    work, moved, c = row[0] * share, row[1].copy(), list(row[2])
    moved[1:] += extra_bytes
    c[FLOP_PER_TOKEN] *= share
    c[BYTES_PER_EXPERT] += extra_bytes
    return work, moved, c


def _decoded(
    row: TableRow, stored: Format, values: float, precision: Precision, machine: Machine
) -> TableRow:
    """Return a row with the work of decoding an expert's `values`.

    Fused, it is work of the product's kernel: done beside the reads of memory, once or for each token.
    """
    if stored.decode is None:
        return row
    work, moved, c = row
    seconds, flop = machine.decode(stored.decode, precision.activation_bytes)
    each = stored.decode.per == "token"
    c[DECODE_FLOP_PER_TOKEN if each else DECODE_FLOP_PER_EXPERT] = values * flop
    if not stored.decode.fused:
        c[DECODE_S] = values * seconds
        return work, moved, c
    times = np.arange(len(work)) if each else np.minimum(np.arange(len(work)), 1)
    return work + times * (values * seconds / c[SECONDS_PER_WORK]), moved, c


def _pim_row(
    moe: MoE, stored: Format, model: Model, parallel: Parallel, precision: Precision, pim: PimCosts | None
) -> TableRow:
    if pim is None:
        raise InvariantError("experts are computed by a unit that is there", "layout", "none")
    values = stored_values(moe, model, parallel)
    share = stored.share(moe.latent_size or model.hidden_size, moe.expert.intermediate_size)
    row_bytes = values * share * stored.stored_bits / 8.0
    decode_flop = pim.decode_flop(stored.decode, precision.activation_bytes) * values * share
    per_token = stored.decode is not None and stored.decode.per == "token"
    row = pim.expert_rows(
        *_shape(moe, model, parallel), row_bytes, MAX_TABLE_TOKENS, share,
        (decode_flop * (not per_token), decode_flop * per_token),
    )  # fmt: skip
    row[2][DECODE_FLOP_PER_TOKEN if per_token else DECODE_FLOP_PER_EXPERT] = decode_flop
    return row


def coefficients_of(t: ExpertTables) -> list[float]:
    """Return a row of `Layout.coefficients`; bytes are split into the weights' and each token's."""
    per_token = float(t.bytes_of_n[2] - t.bytes_of_n[1])
    return [
        t.seconds_per_work, t.head_s, t.seconds_per_byte, t.launch_s, t.active_s, t.power, t.flop_per_token,
        per_token, float(t.bytes_of_n[1]) - per_token, 0.0, 0.0, 0.0,
    ]  # fmt: skip
