"""Speed of routing streams and of expert caches, on one core: CPU time, best of several runs."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from ext.cache import StackDistances, cache_kernels
from workloads.routing import build_routing
from workloads.routing.fits import adapt_fit, read_preset
from workloads.routing.latent import LatentStream
from workloads.routing.stats import RoutingStats
from workloads.routing.stream import RoutingShape
from workloads.routing.trace import Block, Header
from workloads.routing.writing import write_blocks

MIXTRAL = {"moe_layers": range(32), "n_experts": 8, "top_k": 2}
DEEPSEEK = {"moe_layers": range(58), "n_experts": 256, "top_k": 8, "n_group": 8, "topk_group": 4}
SYNTHETIC = {"generator": "synthetic", "popularity": {"zipf": 0.8}, "affinity": 0.4, "locality": 0.2}


def best(function: Callable[[], object], runs: int = 5) -> float:
    """Return the least CPU seconds of some runs, after one that is not counted."""
    function()
    times = []
    for _ in range(runs):
        start = time.process_time()
        function()
        times.append(time.process_time() - start)
    return max(min(times), 1e-9)


def row(name: str, value: float, unit: str, goal: str = "") -> dict[str, Any]:
    """Return one row of the report."""
    return {"name": name, "value": float(f"{value:.4g}"), "unit": unit, "goal": goal}


def span_rate(stream: Any, tokens: int) -> float:
    """Return tokens per second of one long span."""
    out = np.empty((tokens, stream.n_layers, stream.top_k), np.int16)
    where = np.zeros(1, np.int64), np.zeros(1, np.int64), np.array([tokens])
    return tokens / best(lambda: stream.draw(*where, out))


def decode_time(stream: Any, requests: int = 64, steps: int = 20) -> float:
    """Return seconds of one decode batch: one next token of each of some requests."""
    ids, ones = np.arange(requests), np.ones(requests, np.int64)
    out = np.empty((requests, stream.n_layers, stream.top_k), np.int16)
    stream.draw(ids, np.zeros_like(ids), ones * 50)
    position = [50]

    def run() -> None:
        for _ in range(steps):
            stream.draw(ids, ones * position[0], ones, out)
            position[0] += 1

    return best(run) / steps


def fitted(shape: dict[str, Any]) -> LatentStream:
    """Return the fitted generator, bent to a shape."""
    router = RoutingShape(
        tuple(shape["moe_layers"]), shape["n_experts"], shape["top_k"], shape.get("n_group", 1),
        shape.get("topk_group", 1), "sigmoid" if "n_group" in shape else "softmax",
    )  # fmt: skip
    return LatentStream(adapt_fit(read_preset("gpt-oss-20b"), router, 0).model, 0)


def streams() -> list[dict[str, Any]]:
    """Measure the generators, in long spans and in decode batches."""
    zipf = {"generator": "zipf", "exponent": 0.8}
    rows = []
    for name, shape, least, fit_least in (
        ("Mixtral shape", MIXTRAL, 900_000, 300_000), ("DeepSeek-V3 shape", DEEPSEEK, 130_000, 20_000)
    ):  # fmt: skip
        tokens = 4000 if shape is MIXTRAL else 800
        independent, copying, latent = (
            build_routing(zipf, **shape), build_routing(SYNTHETIC, **shape), fitted(shape)
        )  # fmt: skip
        rows += [
            row(f"independent skewed, {name}", span_rate(independent, tokens), "tokens/s", f">= {least}"),
            row(f"fitted, {name}", span_rate(latent, tokens), "tokens/s", f">= {fit_least}"),
            row(f"synthetic, {name}", span_rate(copying, tokens), "tokens/s"),
            row(f"decode batch of 64, independent, {name}", decode_time(independent) * 1e3, "ms", "<= 1"),
            row(f"decode batch of 64, synthetic, {name}", decode_time(copying) * 1e3, "ms"),
            row(f"decode batch of 64, fitted, {name}", decode_time(latent) * 1e3, "ms"),
        ]
    return rows


def caches() -> list[dict[str, Any]]:
    """Measure the expert caches on a stream of gpt-oss shape, half of the experts held."""
    stream = build_routing(SYNTHETIC, moe_layers=range(24), n_experts=32, top_k=4)
    ids = stream.draw(np.zeros(1, np.int64), np.zeros(1, np.int64), np.array([20_000]))
    kernels = cache_kernels()
    uses = kernels.next_uses(ids, 32)
    depths = StackDistances(24, 32)
    rate = ids.size / best(lambda: depths.add(ids)) / 1e6
    rows = [row("LRU, all capacities at once", rate, "million accesses/s", ">= 100")]
    for policy, goal in (("lru", ""), ("lfu", ">= 40"), ("belady", ">= 25")):

        def run(policy: str = policy) -> None:
            cache = kernels.ExpertCache(24, 32, 16, policy=policy)
            cache.access_tokens(ids, uses if policy == "belady" else None)

        rows.append(row(f"{policy} cache, half held", ids.size / best(run) / 1e6, "million accesses/s", goal))
    return rows


def statistics() -> list[dict[str, Any]]:
    """Measure the gathering of statistics."""
    ids = build_routing(SYNTHETIC, **MIXTRAL).draw(
        np.zeros(1, np.int64), np.zeros(1, np.int64), np.array([50_000])
    )
    sequence = np.repeat(np.arange(100), 500)

    def run() -> None:
        RoutingStats(32, 8, 2).add(ids, sequence)

    return [row("statistics, Mixtral shape", len(ids) / best(run, 3), "tokens/s")]


_REPLAYED = """
import resource, sys
import numpy as np
from workloads.routing import build_routing
settings = {"generator": "trace", "path": sys.argv[1]}
replay = build_routing(settings, moe_layers=range(32), n_experts=8, top_k=2)
draw = np.random.default_rng(0)
for step in range(200):
    replay.draw(draw.integers(0, 2**40, 256), np.full(256, step), np.ones(256, np.int64))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def peak_of_replay(folder: Path, tokens: int) -> float:
    """Return the peak MiB of a process that replays decode batches of a recording, Mixtral shape."""
    source, path = build_routing({"generator": "zipf"}, **MIXTRAL), folder / "t.npz"
    step, one = 2**17, np.zeros(1, np.int64)
    ids = source.draw(one, one, np.array([step]))
    header = Header(8, 2, tuple(range(32)))
    numbers = (np.arange(i, i + step) // 300 for i in range(0, tokens, step))
    write_blocks(path, header, tokens, (Block(ids, number, number * 0) for number in numbers))
    command = [sys.executable, "-c", _REPLAYED, str(path)]
    return int(subprocess.run(command, check=True, capture_output=True).stdout) / 2**10


def memory() -> list[dict[str, Any]]:
    """Measure the memory of replay from disk: it must not grow with the recording."""
    with TemporaryDirectory() as folder:
        short, long = (peak_of_replay(Path(folder), tokens) for tokens in (2**22, 3 * 2**22))
    return [
        row("replay of 4 million tokens, peak memory", short, "MiB", "<= 1024"),
        row("replay of 12 million tokens, peak memory", long, "MiB", "<= 1024"),
        row("replay, memory for each further million tokens", (long - short) / 8, "MiB", "<= 5"),
    ]


def run() -> list[dict[str, Any]]:
    """Return all figures beside their goals."""
    return streams() + caches() + statistics() + memory()
