"""Energy per token: the whole simulator against the devices' meters in ML.ENERGY (H100, vLLM).

A row becomes a closed loop of ``avg_batch_size`` sequences.  The rows do not tell the prompts' lengths:
`PROMPT_TOKENS` stands for those of short chats.  Rows of more requests at once than memory holds, of tasks
with images, and of models that are not in the library are left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from codesign.validation.serving import summarise

Row = Mapping[str, Any]
TABLE = Path("measured") / "energy_mlenergy.parquet"
MODELS = {
    "Qwen/Qwen3-8B": "qwen3-8b",
    "Qwen/Qwen3-14B": "qwen3-14b",
    "Qwen/Qwen3-32B": "qwen3-32b",
    "meta-llama/Llama-3.1-8B-Instruct": "llama-3.1-8b",
    "meta-llama/Llama-3.1-70B-Instruct": "llama-3.1-70b",
}
TASK = "lm-arena-chat"
PROMPT_TOKENS = 150  # estimate: single-turn questions of a chat arena
WAVES = 3
GOAL = 0.20


def read_rows(data: Path) -> list[Row]:
    """Read the rows of text chats whose model the library has, one of each configuration."""
    import pyarrow.parquet as pq

    import workloads.models

    known = {model for model in MODELS if MODELS[model] in workloads.models.names()}
    rows: list[Row] = pq.read_table(data / TABLE).to_pylist()
    return [row for row in rows if row["task"] == TASK and row["model_id"] in known]


def experiment_of(row: Row) -> dict[str, Any]:
    """Return the experiment of a row."""
    clients = max(1, round(row["avg_batch_size"]))
    requests = {"count": WAVES * clients, "concurrency": clients, "prompt_tokens": PROMPT_TOKENS,
                "output_tokens": max(2, round(row["avg_output_len"]))}  # fmt: skip
    weights = "fp8" if row["weight_precision"] == "fp8" else "bf16"
    return {
        "model": MODELS[row["model_id"]],
        "system": "dgx-h100",
        "engine": "vllm",
        "parallel": {"tensor": int(row["num_gpus"]), "replicas": 1},
        "precision": {"weights": weights, "activations": weights, "kv": "bf16"},
        "workload": {"requests": requests},
    }


def simulate_row(row: Row) -> tuple[float, float]:
    """Return joules per output token and average watts of the devices, hosts apart."""
    from codesign.api import simulate

    result = simulate(experiment_of(row))
    joules = result.energy_j["total"] - result.energy_j.get("host", 0.0)
    return joules / result.summary["output_tokens"], joules / result.summary["simulated_s"]


def run(data: Path = Path("../shared/data"), limit: int | None = 40) -> list[dict[str, Any]]:
    """Simulate the rows; return errors of energy per token and of average power, as `serving.run`."""
    rows = read_rows(data)
    rows = rows[:: max(1, len(rows) // limit)] if limit else rows
    found = [simulate_row(row) for row in rows]
    measured = [(row["energy_per_token_joules"], row["avg_power_watts"]) for row in rows]
    tables = []
    for i, (name, goal) in enumerate((("energy per token", GOAL), ("average power", None))):
        errors = [ours[i] / theirs[i] - 1.0 for ours, theirs in zip(found, measured, strict=True)]
        total = summarise(errors)
        tables.append({"name": name, "error": total.pop("median"), "goal": goal, **total})
    return tables
