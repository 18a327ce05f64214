"""Wall time of whole runs as a user starts them, in a fresh process, start-up included."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path
from time import perf_counter
from typing import Any

ROOT = Path(__file__).parent.parent
EXAMPLE = str(ROOT / "examples/mixtral-dgx-h100.yaml")
AZURE = ROOT.parent / "shared/data/requests/AzureLLMInferenceTrace_conv_2023_first60pct.csv.gz"
LLAMA = """
model: llama-2-7b
system: {from: workstation, device: a100}
workload:
  requests: {count: 10000, rate: 6.45 /s, arrivals: poisson, prompt_tokens: 512, output_tokens: 128}
policies: {batching: {name: chunked_prefill, token_budget: 512}}
"""


def command(*arguments: str) -> float:
    """Run `codesign` and return the seconds that it took.

    Raises
    ------
    CalledProcessError   the command failed
    """
    begun = perf_counter()
    subprocess.run([sys.executable, "-m", "codesign.cli.main", *arguments], check=True, capture_output=True)
    return perf_counter() - begun


def run() -> list[dict[str, Any]]:
    """Measure; each entry has name, value, unit and goal."""
    llama = ROOT / "build" / "llama.yaml"
    llama.parent.mkdir(exist_ok=True)
    llama.write_text(LLAMA)
    rows = [
        _row("codesign --help", min(command("--help") for _ in range(5)), 0.25),
        _row("1,000 requests as Azure's, Mixtral on 8 H100", command("run", EXAMPLE, "--json"), 3),
        _row(
            "10,000 requests, Llama-2-7B on one A100 (Vidur: 20.7 s)", command("run", str(llama), "--json"), 7
        ),
    ]
    if AZURE.exists():
        trace = command("run", EXAMPLE, "-s", f"workload.requests.trace={AZURE}", "--json")
        rows.append(_row("all 11,600 rows of Azure's conversations, Mixtral on 8 H100", trace, 30))
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    return [*rows, {"name": "peak memory of these runs", "value": peak, "unit": "MiB", "goal": "<= 1024"}]


def _row(name: str, value: float, goal: float) -> dict[str, Any]:
    return {"name": name, "value": value, "unit": "s", "goal": f"<= {goal:g}"}
