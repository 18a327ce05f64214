"""How fast design spaces are explored: closed forms, simulated points, and the machinery around them."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter, process_time
from typing import Any

Row = dict[str, Any]
EXPERIMENT: dict[str, Any] = {
    "model": "mixtral-8x7b", "system": "dgx-h100", "parallel": {"tensor": 2, "expert": 4},
    "workload": {
        "requests": {"count": 8, "concurrency": 8, "prompt_tokens": 64, "output_tokens": 198},
        "routing": {"generator": "zipf", "exponent": 0.4},
    },
}  # fmt: skip
HBM = "system.device.memory.hbm"
COUNT = "workload.requests.count"


class Nothing:
    """An evaluator that does nothing, to see what the machinery costs."""

    def __init__(self, setup: Any) -> None:
        self.numbers = {f"metric.{i}": 1.0 / (i + 1) for i in range(60)}

    def __call__(self, task: Any) -> Any:
        from codesign.explore.evaluate import OK, Outcome

        return Outcome(task.id, OK, self.numbers)


def row(name: str, value: float, unit: str, goal: str = "") -> Row:
    """Return a figure."""
    return {"name": f"explore: {name}", "value": float(value), "unit": unit, "goal": goal}


@contextmanager
def all_cores() -> Any:
    """Let workers have every core again (the benchmarks stay on one)."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, range(os.cpu_count() or 1))
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def of_closed_form() -> list[Row]:
    """Evaluate 192,000 points in arrays."""
    from codesign.explore.columns import evaluate
    from codesign.explore.plan import plan_sweep

    axes = {
        "parallel.tensor": [1, 2, 4, 8], "parallel.expert": [2, 4, 8],
        f"{HBM}.bandwidth": {"low": "2 TB/s", "high": "8 TB/s", "steps": 100},
        f"{HBM}.capacity": {"low": "80 GB", "high": "192 GB", "steps": 20},
        "workload.requests.output_tokens": [64, 128, 256, 512, 1024, 2048, 4096, 333],
    }  # fmt: skip
    plan = plan_sweep({"experiment": {**EXPERIMENT, "fidelity": "roofline"}, "axes": axes})
    begun = perf_counter()
    n = evaluate(plan).num_rows
    return [row("closed form in arrays", n / (perf_counter() - begun), "points/s", ">= 50000")]


def of_events() -> list[Row]:
    """Run simulated points of about 200 iterations in this process."""
    from codesign.explore.api import sweep

    axes = {f"{HBM}.bandwidth": {"low": "2 TB/s", "high": "8 TB/s", "steps": 30}}
    sweep({"experiment": EXPERIMENT, "axes": {"seed": [7]}}, workers=0)
    begun = process_time()  # of this core, also where others use it
    found = sweep({"experiment": EXPERIMENT, "axes": axes}, workers=0)
    spent_s = process_time() - begun
    iterations = found.table.column("iterations").to_pylist()
    return [
        row("event", len(found) / spent_s, "points/s per core", ">= 25"),
        row("event, iterations of a point", sum(iterations) / len(iterations), ""),
    ]


def of_machinery(points: int = 10_000) -> list[Row]:
    """Run, resume and export a sweep of points that cost nothing."""
    from codesign.explore.api import sweep
    from codesign.explore.results import Sweep

    source = {"experiment": EXPERIMENT, "axes": {COUNT: list(range(1, points + 1))}}
    nothing = "benchmarks.explore:Nothing"
    with TemporaryDirectory() as folder, all_cores():
        begun = perf_counter()
        sweep(source, folder, workers=2, evaluator=nothing)
        whole_s = perf_counter() - begun
        begun = perf_counter()
        sweep(source, folder, workers=2, evaluator=nothing, resume=True)
        resumed_s = perf_counter() - begun
        opened = Sweep.open(folder)
        begun = perf_counter()
        opened.export(Path(folder))
        exported_s = perf_counter() - begun
    return [
        row("sweep machinery", 1e3 * whole_s / points, "ms per point", "<= 1"),
        row("resume of 10,000 points", resumed_s, "s", "<= 2"),
        row("export of 10,000 points", exported_s, "s", "<= 2"),
        row("memory of a sweep of 10,000 points", _memory_of(points), "GiB", "<= 1"),
    ]


def _memory_of(points: int) -> float:
    """Return the peak memory of a process that sweeps, in GiB."""
    script = f"from benchmarks.explore import alone; alone({points})"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return float(done.stdout)


def alone(points: int) -> None:
    """Sweep in this process; write its peak memory."""
    from codesign.explore.api import sweep

    source = {"experiment": EXPERIMENT, "axes": {COUNT: list(range(1, points + 1))}}
    with TemporaryDirectory() as folder:
        sweep(source, folder, workers=1, evaluator="benchmarks.explore:Nothing")
    sys.stdout.write(str(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20))


def of_workers() -> list[Row]:
    """Compare two workers with one on simulated points; means something on two idle cores only."""
    from codesign.explore.executors import Processes
    from codesign.explore.plan import plan_sweep

    axes = {f"{HBM}.bandwidth": {"low": "2 TB/s", "high": "8 TB/s", "steps": 60}}
    plan = plan_sweep({"experiment": EXPERIMENT, "axes": axes})
    seconds = {}
    with all_cores():
        for workers in (1, 2):
            executor = Processes(plan.setup, workers)
            tasks = list(plan.tasks())
            list(executor.run(tasks[: 4 * workers]))  # warm
            begun = perf_counter()
            list(executor.run(tasks))
            seconds[workers] = perf_counter() - begun
            executor.close()
    return [row("two workers", seconds[1] / seconds[2], "x one", ">= 1.8")]


def run() -> list[Row]:
    """Measure all of it."""
    return of_closed_form() + of_events() + of_machinery() + of_workers()
