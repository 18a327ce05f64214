"""Pass 7: what a batch's operators cost: the static rows of an iteration, and their counters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from codesign.experiment.schema import EngineSpec
from codesign.lower.attention_pool import part_of, part_of_batch
from codesign.lower.batch import Batch
from codesign.lower.kv import View, view_of
from codesign.lower.machine import COUNTERS
from codesign.lower.operators import Transfer
from codesign.lower.plan import Plan
from codesign.lower.streams import Kind
from codesign.lower.tiers import legs
from ext.iteration import PARTS
from hwmodels.costs import PARTS as DEVICE_PARTS
from hwmodels.costs import Cost
from workloads.models import Attention

F64 = NDArray[np.float64]
_N_PARTS, _N_DEVICE = len(PARTS), len(DEVICE_PARTS)
_ENGINE, _PIM, _LAUNCH = PARTS.index("engine"), PARTS.index("pim_compute"), PARTS.index("launch")
_FLOP, _BYTES = COUNTERS.index("flop"), COUNTERS.index("memory_bytes")
_FETCH, _FETCHED = PARTS.index("fetch_bandwidth"), COUNTERS.index("fetched_bytes")
_NETWORK, _SENT = PARTS.index("network_bandwidth"), COUNTERS.index("network_bytes")
_PIM_FLOP, _PIM_BYTES = COUNTERS.index("pim_flop"), COUNTERS.index("pim_bytes")
_MEMO_LIMIT = 65536


@dataclass(slots=True)
class _Rows:
    """The static rows of a number of tokens and outputs, and how often they were executed."""

    parts: F64
    counters: F64
    uses: int = 0


class BatchCosts:
    """Costs of batches on a plan, remembered by number of tokens and outputs.

    Attributes
    ----------
    views : tuple of View     distinct ways that the model's attention looks back
    static_parts : float64[D * C, PARTS]    of the last batch: what `ext.iteration.Iteration.run` takes
    """

    def __init__(self, plan: Plan, engine: EngineSpec) -> None:
        self.plan, self.engine = plan, engine
        operators = plan.operators
        attentions = list(operators.attention_class.items())
        self.views: tuple[View, ...] = tuple(dict.fromkeys(view_of(a) for a, _ in attentions))
        self._attentions: list[tuple[Attention, int, int]] = [
            (attention, index, self.views.index(view_of(attention))) for attention, index in attentions
        ]
        self.n_classes = plan.layout.n_classes
        self.static_parts = np.zeros((plan.layout.n_static, _N_PARTS))
        self._blocks = list(self.static_parts.reshape(plan.layout.n_data, self.n_classes, _N_PARTS))
        self._tasks = self._count_tasks()
        self._known: dict[tuple[int, int], _Rows] = {}
        self._by_class: dict[tuple[int, int], tuple[F64, F64]] = {}
        self._n_counters = len(COUNTERS) + len(operators.transfers)
        self._attention = np.zeros(self._n_counters).tolist()
        self._fill = self._fill_attention if len(operators.turns) == 1 else self._fill_parts
        if operators.pool is not None:
            self._fill = self._fill_pool
        self._fill_own = self._fill
        if plan.streams.caches():
            self._fill = self._fill_cached
        elif "swap" in plan.streams.places:
            self._fill = self._fill_swapped
            self._cached_layers = max(  # of a device
                sum(bool(plan.model.layers[i].kv_values_per_token) for i in layers)
                for layers in plan.streams.stages
            )
        self._past = np.zeros(self._n_counters)  # of rows that were forgotten
        self._host = len(operators.classes)  # the host's first row, if it has any
        layers = len(plan.model.layers) / plan.parallel.pipeline
        self._launching_s = engine.launch_layer * layers / plan.machine.speed.get("engine", 1.0)

    @property
    def counters(self) -> F64:
        """COUNTERS of all batches, experts apart.

        Law: what every rank executed, each layer counted.
        """
        return self._all_counters()[: len(COUNTERS)]

    @property
    def moved_bytes(self) -> dict[Transfer, float]:
        """Bytes that all ranks moved between tiers, by `Operators.transfers`.

        Law: they sum to the counter ``fetched_bytes``.
        """
        moved = self._all_counters()[len(COUNTERS) :].tolist()
        return dict(zip(self.plan.operators.transfers, moved, strict=True))

    def _all_counters(self) -> F64:
        total: F64 = self._past + np.array(self._attention)
        for rows in self._known.values():
            total += rows.counters * rows.uses
        return total

    def _count_tasks(self) -> list[int]:
        """Count the tasks of each class for one data group: its layers times its ranks."""
        graph, layout = self.plan.graph, self.plan.layout
        rows = graph.row[graph.row < layout.n_static] % layout.n_classes
        per_class = np.bincount(rows, minlength=layout.n_classes) // max(1, layout.n_data)
        return [int(n) for n in per_class]

    def fill(self, batches: Sequence[Batch]) -> None:
        """Work out the static rows of an iteration of one batch for each data group."""
        for block, batch in zip(self._blocks, batches, strict=True):
            rows = self._known.get((batch.tokens, batch.outputs))
            if rows is None:
                rows = self._remember(batch.tokens, batch.outputs)
            rows.uses += 1
            block[:] = rows.parts
            if batch.tokens:
                self._fill(block, batch)
                if self.n_classes > self._host:
                    block[self._host, _ENGINE] = self._overhead_s(batch)
                if batch.chunks and self._launching_s:
                    block[-1, _ENGINE] = self._launching_s

    def _remember(self, tokens: int, outputs: int) -> _Rows:
        if len(self._known) >= _MEMO_LIMIT:
            self._past, self._attention = self._all_counters(), np.zeros(self._n_counters).tolist()
            self._known.clear()
        rows = _Rows(np.zeros((self.n_classes, _N_PARTS)), np.zeros(self._n_counters))
        for i, row_class in enumerate(self.plan.operators.classes):
            count = tokens if row_class.by == "tokens" else outputs
            if count and self._tasks[i]:
                parts, counters = self._class_cost(i, count)
                rows.parts[i] = parts
                rows.counters += counters
        self._known[tokens, outputs] = rows
        return rows

    def _class_cost(self, index: int, count: int) -> tuple[F64, F64]:
        known = self._by_class.get((index, count))
        if known is None:
            row_class, machine = self.plan.operators.classes[index], self.plan.machine
            cost, counters = row_class.cost(count), np.zeros(self._n_counters)
            counters[: len(COUNTERS)] = machine.counters(cost)
            if row_class.moves >= 0:
                moved = row_class.moves
                tier = self.plan.operators.transfers[moved].tier
                counters[_FETCHED] = counters[len(COUNTERS) + moved] = cost.bytes_of(tier)
            known = machine.parts(cost), counters * self._tasks[index]
            self._by_class[index, count] = known
        return known

    def _fill_parts(self, block: F64, batch: Batch) -> None:
        turns = self.plan.operators.turns
        for i, first in enumerate(turns):
            self._fill_attention(block, part_of_batch(batch, i, len(turns)), first)

    def _fill_pool(self, block: F64, batch: Batch) -> None:
        """Fill the rows of attention on other devices."""
        operators = self.plan.operators
        for attention, _, view in self._attentions:
            rows = operators.pool_rows[attention]
            for i, (send, attend, back) in enumerate(rows):
                part = part_of_batch(batch, i, len(rows))
                if part.tokens and operators.pool is not None:
                    cost = operators.pool.cost(attention, part, part.entries[view] if part.entries else 0)
                    block[send, _NETWORK : _NETWORK + 2] = cost.send
                    block[attend, :_N_DEVICE] = cost.attend
                    block[back, _NETWORK : _NETWORK + 2] = cost.back
                    for counter, count in zip((_FLOP, _BYTES, _SENT), cost.counted, strict=True):
                        self._attention[counter] += count * self._tasks[attend]

    def _fill_cached(self, block: F64, batch: Batch) -> None:
        """Fill the rows of attention, and of the caches that it reads from another tier and writes there.

        What was cached before is read, a sequence's part of a layer in one call; new entries are written.
        If they come by parts of the batch, they are dealt to these.
        """
        streams = self.plan.streams
        self._fill_own(block, batch)
        readers = batch.decodes + batch.singles
        for attention, _, view in self._attentions:
            past = [self.views[view].seen(context) - tokens for tokens, context in batch.chunks]
            entries = sum(max(0, count) for count in past)
            entries += (batch.entries[view] if readers else 0) - readers
            each = streams.cache_bytes(attention)
            read = sum(count > 0 for count in past) + readers
            for part in range(n := streams.parts):
                moved, calls = part_of(entries, part, n), part_of(read, part, n)
                self._move(block, Kind("kv", attention, part), moved * each, calls)
                moved, calls = part_of(batch.tokens, part, n), part_of(batch.sequences, part, n)
                self._move(block, Kind("kv", attention, part, written=True), moved * each, calls)

    def _fill_swapped(self, block: F64, batch: Batch) -> None:
        """Fill the rows of attention, and of caches that go out and come in before it.

        A block of a layer is a call.
        """
        self._fill_own(block, batch)
        for written, (count, blocks) in ((True, batch.swapped_out), (False, batch.swapped_in)):
            self._move(block, Kind("swap", written=written), float(count), blocks * self._cached_layers)

    def _move(self, block: F64, kind: Kind, count: float, calls: int) -> None:
        """Fill the rows of a transfer, and count its bytes."""
        rows, way = self.plan.streams.rows.get(kind, ()), self.plan.streams.way(kind)
        if not rows or count <= 0:
            return
        for row, seconds in zip(rows, legs(way, count, calls), strict=True):
            block[row, _FETCH : _FETCH + 2] = seconds
        moved = way[0].moved(count) * self._tasks[rows[0]]
        self._attention[_FETCHED] += moved
        self._attention[len(COUNTERS) + self.plan.operators.classes[rows[0]].moves] += moved

    def _fill_attention(self, block: F64, batch: Batch, first: int = 0) -> None:
        operators = self.plan.operators
        for attention, index, view in self._attentions:
            index += first
            for tokens, context in batch.chunks:
                self._add(block, index, operators.prefill(attention, tokens, context))
            readers = batch.decodes + batch.singles
            if not readers:
                continue
            cost = operators.decode(attention, readers, batch.entries[view])
            on_pim = operators.decode_on_pim(cost)
            if on_pim is None:
                self._add(block, index, cost)
            else:
                self._add_pim(block, index, cost, on_pim)

    def _add(self, block: F64, index: int, cost: Cost) -> None:
        block[index, :_N_DEVICE] += cost.parts
        tasks = self._tasks[index]
        self._attention[_FLOP] += cost.flop * tasks
        self._attention[_BYTES] += cost.bytes_of(self.plan.machine.main_memory) * tasks

    def _add_pim(self, block: F64, index: int, cost: Cost, seconds: tuple[float, float]) -> None:
        pim = self.plan.machine.require_pim()
        block[index, _PIM : _PIM + 2] += seconds
        block[index, _LAUNCH] += pim.launch_s
        tasks = self._tasks[index]
        self._attention[_PIM_FLOP] += cost.flop * tasks
        self._attention[_PIM_BYTES] += cost.bytes_of(self.plan.machine.main_memory) * tasks

    def _overhead_s(self, batch: Batch) -> float:
        engine = self.engine
        seconds = engine.step + engine.per_sequence * batch.sequences + engine.per_token * batch.tokens
        return seconds / self.plan.machine.speed.get("engine", 1.0)
