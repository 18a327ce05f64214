"""How fast the executors of a task graph are: per iteration, per edge, per task, and against SimPy.

The graphs are those of a decode iteration with 43 tasks a layer on 8 devices (8 x 5, and 3 barriers): 32
layers as Mixtral-8x7B has, 58 as DeepSeek-V3 has MoE layers.
"""

from __future__ import annotations

from collections.abc import Callable
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np

from codesign.execute.simpy_executor import simpy_events
from ext.graph import critical_path, events, reference, sweep
from ext.graph.samples import Outcome, Sample, iteration_graph, random_graph

GRAPHS = {"1,376 tasks": (32, 5.2e-6), "2,494 tasks": (58, 9.0e-6)}
Row = dict[str, Any]


def row(name: str, value: float, unit: str, goal: str = "") -> Row:
    """Return a figure; a goal is ``<= number`` or ``>= number``, or nothing."""
    return {"name": f"graph: {name}", "value": float(value), "unit": unit, "goal": goal}


def median_s(call: Callable[[], Any], repeats: int) -> float:
    """Time a call: the median of some repeats, after one that does not count."""
    call()
    times = []
    for _ in range(repeats):
        start = perf_counter()
        call()
        times.append(perf_counter() - start)
    return median(times)


def in_place(graph: Sample, kernel: Callable[..., float], *, disciplines: bool) -> Callable[[], Any]:
    """Return a call that runs the graph again and again, without the cost of new arrays."""
    kinds = (graph.discipline,) if disciplines else ()
    head = (graph.row, graph.resource, *kinds, graph.pred_ptr, graph.pred, graph.row_s, graph.start_s)
    n, n_resources = len(graph.row), len(graph.free_s)
    free_s, busy_s, finish_s = np.zeros(n_resources), np.zeros(n_resources), np.zeros(n)
    cause = np.zeros(n, np.int32)

    def call() -> None:
        free_s[:] = 0.0
        kernel(*head, free_s, busy_s, finish_s, cause)

    return call


def path_of(outcome: Outcome) -> Callable[[], Any]:
    """Return a call that follows the critical path."""
    path = np.zeros(len(outcome.finish_s), np.int32)
    return lambda: critical_path(outcome.finish_s, outcome.cause, path)


def of_sweeps() -> list[Row]:
    """Time the longest-path sweep and the critical path."""
    rows = []
    for name, (n_layers, goal_s) in GRAPHS.items():
        graph = iteration_graph(n_layers)
        swept_s = median_s(in_place(graph, sweep, disciplines=False), 2000)
        path_s = median_s(path_of(graph.sweep(sweep)), 2000)
        rows.append(row(f"sweep, {name}", swept_s * 1e6, "us", f"<= {goal_s * 1e6:g}"))
        rows.append(row(f"sweep, {name}, per edge", swept_s / len(graph.pred) * 1e9, "ns"))
        rows.append(row(f"critical path, {name}", path_s * 1e6, "us"))
    return rows


def queue(n: int) -> Sample:
    """Return n independent tasks on one first-come resource."""
    return random_graph(0, n, [reference.FIRST_COME], degree=0.0, grid=False, barriers=0.0, earlier=False)


def of_events() -> list[Row]:
    """Time the event loop on queues and on the graph of an iteration, by discipline."""
    many = queue(2494)
    rows = [row("events, first-come queue", per_task_s(many) * 1e9, "ns/task", "<= 20")]
    for discipline, name in enumerate(("in-order", "first-come", "shared")):
        graph = iteration_graph(58, discipline=discipline)
        rows.append(row(f"events, iteration, {name}", per_task_s(graph) * 1e9, "ns/task"))
    return rows


def per_task_s(graph: Sample) -> float:
    """Time the event loop per task."""
    return median_s(in_place(graph, events, disciplines=True), 500) / len(graph.row)


def of_simpy() -> list[Row]:
    """Compare the compiled executors with the SimPy model, all states equal."""
    graph = iteration_graph(32)
    simpy_s = median_s(in_place(graph, simpy_events, disciplines=True), 7)
    swept_s = median_s(in_place(graph, sweep, disciplines=False), 1000)
    looped_s = median_s(in_place(graph, events, disciplines=True), 500)
    outcomes = [graph.sweep(sweep), graph.run(events), graph.run(simpy_events), graph.run(reference.events)]
    equal = len({outcome.to_bytes() for outcome in outcomes}) == 1
    return [
        row("SimPy, 1,376 tasks", simpy_s * 1e6 / len(graph.row), "us/task"),
        row("SimPy / sweep", simpy_s / swept_s, "x", ">= 200"),
        row("SimPy / events", simpy_s / looped_s, "x", ">= 200"),
        row("states of the four executors equal", equal, "", ">= 1"),
    ]


def run() -> list[Row]:
    """Measure all of it."""
    return of_sweeps() + of_events() + of_simpy()
