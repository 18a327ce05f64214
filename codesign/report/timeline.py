"""The tasks of a run as a Chrome / Perfetto trace: one track for each resource."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

_SHOWN = ("iteration", "engine", "resource", "kind", "layer", "start_s", "duration_s", "critical")


def trace_events(tasks: Mapping[str, Any]) -> dict[str, Any]:
    """Return the trace (Chrome Trace Event Format, JSON object form; times in microseconds).

    Processes are engines, threads are resources; a task on the critical path says so.

    Law: as many complete events (``ph: X``) as tasks, and their durations sum to the tasks'.
    """
    resources = list(dict.fromkeys(tasks["resource"].tolist()))
    thread = {name: i for i, name in enumerate(resources)}
    events: list[dict[str, Any]] = []
    for engine in np.unique(tasks["engine"]).tolist():
        events.append(_name("process_name", engine, 0, f"engine {engine}"))
        events += [_name("thread_name", engine, i, name) for name, i in thread.items()]
    columns = [tasks[key].tolist() for key in _SHOWN]
    for iteration, engine, resource, kind, layer, start_s, duration_s, critical in zip(*columns, strict=True):
        events.append(
            {
                "name": kind if layer < 0 else f"{kind} {layer}", "cat": kind, "ph": "X", "pid": engine,
                "tid": thread[resource], "ts": start_s * 1e6, "dur": duration_s * 1e6,
                "args": {"iteration": iteration, "layer": layer, "critical": critical},
            }
        )  # fmt: skip
    return {"traceEvents": events, "displayTimeUnit": "ms"}


def _name(what: str, process: int, thread: int, name: str) -> dict[str, Any]:
    return {"name": what, "ph": "M", "pid": process, "tid": thread, "args": {"name": name}}
