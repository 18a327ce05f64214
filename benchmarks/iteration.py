"""Speed of one engine's iteration: routing counted, experts costed, graph run, critical path kept."""

from __future__ import annotations

from statistics import median
from time import perf_counter
from typing import Any

import numpy as np

import codesign
from codesign.execute import iteration_class
from codesign.lower.plan import Plan, build_plan
from ext.iteration import PARTS

CASES = {
    "Mixtral-8x7B": ("mixtral-8x7b", "dgx-h100", 50_000),
    "DeepSeek-V3": ("deepseek-v3", "hgx-h200", 15_000),
}


def plan_of(model: str, system: str) -> tuple[Plan, Any]:
    """Return the plan of eight data-parallel, expert-parallel ranks, and the model's routing."""
    experiment = codesign.load_experiment(
        {
            "model": model,
            "system": system,
            "parallel": {"tensor": 1, "expert": 8},
            "precision": {"weights": "fp8"},
            "workload": {"requests": {"count": 1, "batch": True, "prompt_tokens": 1, "output_tokens": 1}},
        }
    )
    return build_plan(experiment), experiment.routing()


def inputs(plan: Plan, routing: Any, tokens: int) -> tuple[Any, Any, Any]:
    """Return routing, group pointer and static parts of an iteration."""
    ids = routing.draw(np.arange(tokens), np.full(tokens, 99), np.ones(tokens, np.int64))
    group_ptr = np.linspace(0, tokens, plan.layout.n_data + 1).astype(np.int32)
    return ids, group_ptr, np.full((plan.layout.n_static, len(PARTS)), 1e-6)


def seconds(work: Any, repeats: int) -> float:
    """Return the median seconds of a call."""
    times = []
    for _ in range(repeats):
        begun = perf_counter()
        work()
        times.append(perf_counter() - begun)
    return median(times)


def run() -> list[dict[str, Any]]:
    """Measure; each entry has name, value, unit and goal."""
    rows = []
    for name, (model, system, goal) in CASES.items():
        plan, routing = plan_of(model, system)
        batch = inputs(plan, routing, 64)
        engine = iteration_class("compiled")(plan.layout)
        fast = seconds(lambda e=engine, b=batch: e.run(*b, 0.0), 2000)
        slow_engine = iteration_class("simpy")(plan.layout)
        slow = seconds(lambda e=slow_engine, b=batch: e.run(*b, 0.0), 3)
        rows += [
            {"name": f"{name}: decode iterations of 64 on 8 devices ({len(plan.graph)} tasks)",
             "value": 1.0 / fast, "unit": "1/s", "goal": f">= {goal}"},
            {"name": f"{name}: compiled over SimPy", "value": slow / fast, "unit": "x", "goal": ">= 200"},
        ]  # fmt: skip
    return rows + [prefill()]


def prefill() -> dict[str, Any]:
    """Compare an iteration of 8,192 prompt tokens with the bare histogram of its routing."""
    plan, routing = plan_of(*CASES["Mixtral-8x7B"][:2])
    batch = inputs(plan, routing, 8192)
    engine = iteration_class("compiled")(plan.layout)
    ids = batch[0]
    keys = (ids.astype(np.int64) + plan.layout.n_experts * np.arange(ids.shape[1])[None, :, None]).ravel()
    bins = plan.layout.n_experts * ids.shape[1]
    histogram = seconds(lambda: np.bincount(keys, minlength=bins), 30)
    whole = seconds(lambda: engine.run(*batch, 0.0), 30)
    name = "Mixtral-8x7B: iteration of 8,192 prompt tokens over numpy.bincount of its routing"
    return {"name": name, "value": whole / histogram, "unit": "x", "goal": "<= 2"}
