"""Records the tasks of the first iterations, for the timeline."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from codesign.lower.graph import TaskGraph
from ext.iteration import KINDS


class TaskLog:
    """Tasks that hold a resource, of the iterations ``first ... first + count - 1``.

    Law: tasks on one resource do not overlap; each starts when its predecessors are done or later.
    """

    def __init__(self, graph: TaskGraph, first: int = 0, count: int = 0) -> None:
        self.graph, self.first, self.count = graph, first, count
        self.seen = 0
        self._parts: list[dict[str, NDArray[Any]]] = []
        self._held = np.flatnonzero(graph.resource >= 0)

    @property
    def wants_more(self) -> bool:
        """Tell whether an iteration still to come is recorded."""
        return self.seen < self.first + self.count

    def add(self, number: int, engine: int, iteration: Any) -> None:
        """Record the iteration that `iteration` has just run."""
        self.seen = number + 1
        if number < self.first:
            return
        held, graph = self._held, self.graph
        duration = iteration.row_s[graph.row[held]]
        critical = np.zeros(len(graph), dtype=bool)
        critical[iteration.path[: iteration.path_length]] = True
        n = len(held)
        self._parts.append(
            {
                "iteration": np.full(n, number, np.int32), "engine": np.full(n, engine, np.int32),
                "resource": graph.resource[held], "kind": graph.row_kind[graph.row[held]],
                "layer": graph.layer[held], "start_s": iteration.finish_s[held] - duration,
                "duration_s": duration, "critical": critical[held],
            }
        )  # fmt: skip

    def table(self) -> dict[str, Any]:
        """Return the tasks as columns; kinds and resources by name."""
        if not self._parts:
            return {}
        columns = {key: np.concatenate([part[key] for part in self._parts]) for key in self._parts[0]}
        kinds, names = np.array(KINDS), np.array(self.graph.resources)
        columns["kind"], columns["resource"] = kinds[columns["kind"]], names[columns["resource"]]
        return columns
