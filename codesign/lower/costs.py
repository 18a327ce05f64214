"""Pass 7: what a batch's operators cost: the static rows of an iteration, and their counters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from codesign.experiment.schema import EngineSpec
from codesign.lower.kv import View, view_of
from codesign.lower.plan import Plan
from ext.iteration import PARTS
from workloads.models import Attention

F64 = NDArray[np.float64]
_N_PARTS = len(PARTS)
_ENGINE = PARTS.index("engine")
_MEMO_LIMIT = 65536


@dataclass(slots=True)
class Batch:
    """One data group's part of an iteration.

    `entries[v]` is the number of cached entries that all decoding sequences read under view v.
    """

    tokens: int = 0
    outputs: int = 0  # tokens whose logits are needed
    sequences: int = 0
    decodes: int = 0
    entries: Sequence[int] = ()
    chunks: list[tuple[int, int]] = field(default_factory=list)  # (tokens, context at their end)


class BatchCosts:
    """Costs of batches on a plan, remembered by number of tokens.

    Attributes
    ----------
    views : tuple of View     distinct ways that the model's attention looks back
    static_parts : float64[D * C, PARTS]    of the last batch: what `ext.iteration.Iteration.run` takes
    counters : float64[4]     FLOPs, memory, link and network bytes of all batches, experts apart
    """

    def __init__(self, plan: Plan, engine: EngineSpec) -> None:
        self.plan, self.engine = plan, engine
        operators = plan.operators
        self.attentions: list[tuple[Attention, int]] = list(operators.attention_class.items())
        self.views: tuple[View, ...] = tuple(dict.fromkeys(view_of(a) for a, _ in self.attentions))
        self._view = [self.views.index(view_of(a)) for a, _ in self.attentions]
        self.n_classes = plan.layout.n_classes
        self.static_parts = np.zeros((plan.layout.n_static, _N_PARTS))
        self.counters = np.zeros(4)
        self._tasks = self._count_tasks()
        self._by_tokens: dict[int, tuple[F64, F64]] = {}
        self._by_outputs: dict[int, tuple[F64, F64]] = {}
        self._outputs_rows = [i for i, c in enumerate(operators.classes) if c.by == "outputs"]
        self._with_overhead = self.n_classes > len(operators.classes)

    def _count_tasks(self) -> list[int]:
        """Count the tasks of each class for one data group: its layers times its ranks."""
        graph, layout = self.plan.graph, self.plan.layout
        rows = graph.row[graph.row < layout.n_static] % layout.n_classes
        per_class = np.bincount(rows, minlength=layout.n_classes) // max(1, layout.n_data)
        return [int(n) for n in per_class]

    def fill(self, batches: Sequence[Batch]) -> None:
        """Work out the static rows of an iteration of one batch for each data group.

        Notes
        -----
        Law: `counters` grow by what every rank executes, each layer counted.
        """
        for d, batch in enumerate(batches):
            first = d * self.n_classes
            block = self.static_parts[first : first + self.n_classes]
            parts, counters = self._tokens(batch.tokens)
            block[:] = parts
            self.counters += counters
            if batch.tokens:
                self._fill_outputs(block, batch.outputs)
                self._fill_attention(block, batch)
                if self._with_overhead:
                    block[-1, _ENGINE] = self._overhead_s(batch)

    def _tokens(self, tokens: int) -> tuple[F64, F64]:
        known = self._by_tokens.get(tokens)
        if known is None:
            rows = [i for i, c in enumerate(self.plan.operators.classes) if c.by == "tokens"]
            known = self._class_rows(rows, tokens)
            if len(self._by_tokens) >= _MEMO_LIMIT:
                self._by_tokens.clear()
            self._by_tokens[tokens] = known
        return known

    def _class_rows(self, rows: list[int], count: int) -> tuple[F64, F64]:
        parts, counters = np.zeros((self.n_classes, _N_PARTS)), np.zeros(4)
        machine, classes = self.plan.machine, self.plan.operators.classes
        for i in rows if count else ():
            if self._tasks[i]:
                cost = classes[i].cost(count)
                parts[i] = machine.parts(cost)
                counters += machine.counters(cost) * self._tasks[i]
        return parts, counters

    def _fill_outputs(self, block: F64, outputs: int) -> None:
        known = self._by_outputs.get(outputs)
        if known is None:
            known = self._by_outputs[outputs] = self._class_rows(self._outputs_rows, outputs)
        block[self._outputs_rows] = known[0][self._outputs_rows]
        self.counters += known[1]

    def _fill_attention(self, block: F64, batch: Batch) -> None:
        operators, machine = self.plan.operators, self.plan.machine
        for (attention, index), view in zip(self.attentions, self._view, strict=True):
            costs = [operators.prefill(attention, tokens, context) for tokens, context in batch.chunks]
            if batch.decodes:
                costs.append(operators.decode(attention, batch.decodes, batch.entries[view]))
            for cost in costs:
                block[index, : len(cost.parts)] += cost.parts
                self.counters += machine.counters(cost) * self._tasks[index]

    def _overhead_s(self, batch: Batch) -> float:
        engine = self.engine
        seconds = engine.step + engine.per_sequence * batch.sequences + engine.per_token * batch.tokens
        return seconds / self.plan.machine.speed.get("engine", 1.0)
