"""Energy per token: the whole simulator against the devices' meters in ML.ENERGY (H100, vLLM).

A row becomes a closed loop of as many clients as its mean batch.  Throughput, counters and busy time are the
simulator's own; of the row's results only the mean batch and the mean output length enter, which say what was
asked.  The meters read the devices, so the host's share is left out.

What the rows do not say: how long the prompts are (`PROMPT_TOKENS`).

The device's constants (``power.idle + power.other`` and ``memory.hbm.energy_per_byte`` of h100.yaml) were
fitted to the average power of rows of this table, at measured rates.  So each family of models is also
predicted with both refitted on the others (`without_family`): that error is of rows that no constant of the
device has seen.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from codesign.validation.serving import MEASURED, rows_of, summarise

Row = Mapping[str, Any]
TABLE = "energy_mlenergy.parquet"
SYSTEM = "dgx-h100"
MODELS = {
    "Qwen/Qwen3-8B": "qwen3-8b",
    "Qwen/Qwen3-14B": "qwen3-14b",
    "Qwen/Qwen3-32B": "qwen3-32b",
    "Qwen/Qwen3-30B-A3B-Instruct-2507": "qwen3-30b-a3b",
    "Qwen/Qwen3-30B-A3B-Thinking-2507": "qwen3-30b-a3b",
    "Qwen/Qwen3-Coder-30B-A3B-Instruct": "qwen3-30b-a3b",
    "meta-llama/Llama-3.1-8B-Instruct": "llama-3.1-8b",
    "meta-llama/Llama-3.1-70B-Instruct": "llama-3.1-70b",
    "meta-llama/Llama-3.3-70B-Instruct": "llama-3.1-70b",
    "meta-llama/Llama-3.1-405B-Instruct-FP8": "llama-3.1-405b",
    "meta-llama/Llama-4-Scout-17B-16E-Instruct": "llama-4-scout",
    "meta-llama/Llama-4-Maverick-17B-128E-Instruct-FP8": "llama-4-maverick",
}
PROMPT_TOKENS = {
    "lm-arena-chat": 450,  # fitted to the output throughput of Qwen3-8B and Qwen3-32B (150 is 20 % too fast)
    "gpqa": 250,  # estimate: a question and four answers
}
WAVES, LONG_WAVES, LONG_OUTPUT_TOKENS = 3, 1, 2048
GOAL = 0.20
HELD_OUT = "device's constants refitted without the family"
FITTED_CONSTANTS = (
    {"name": "h100: power.idle + power.other", "source": "average power of 133 rows, see h100.yaml"},
    {"name": "h100: memory.hbm.energy_per_byte", "source": "average power of 133 rows, see h100.yaml"},
    {"name": "prompt tokens of lm-arena-chat", "source": "output throughput of Qwen3-8B and Qwen3-32B"},
)


@dataclass(frozen=True)
class Point:
    """One row, simulated.  Per output token: joules of its devices, base power's, memory's; seconds."""

    row: Row
    joules: float
    base_joules: float
    memory_joules: float
    device_s: float  # of all its devices

    @property
    def measured_joules(self) -> float:
        """Joules per output token at the meters."""
        return float(self.row["energy_per_token_joules"])

    @property
    def error(self) -> float:
        """Signed relative error of the energy per token."""
        return self.joules / self.measured_joules - 1.0

    @property
    def power_error(self) -> float:
        """Signed relative error of the devices' average power."""
        measured_w = float(self.row["avg_power_watts"]) / int(self.row["num_gpus"])
        return self.joules / self.device_s / measured_w - 1.0

    @property
    def rest_joules(self) -> float:
        """Joules per output token that are neither base power nor memory."""
        return self.joules - self.base_joules - self.memory_joules

    def error_with(self, base_w: float, memory: float) -> float:
        """Return the error of energy per token under another base power and `memory` times its energy."""
        joules = base_w * self.device_s + memory * self.memory_joules + self.rest_joules
        return joules / self.measured_joules - 1.0


def read_rows(data: Path) -> list[Row]:
    """Read the rows of language models from the folder of measurements (ConfigError: not there)."""
    return [row for row in rows_of(data / TABLE) if row["energy_per_token_joules"]]


def left_out(row: Row) -> str:
    """Return why a row is not simulated; empty if it is."""
    if row["task"] in ("image-chat", "video-chat"):
        return "images or videos in the prompts"
    if row["model_id"] not in MODELS:
        return "model not in the library"
    if row["task"] not in PROMPT_TOKENS:
        return "one model only: the length of its prompts cannot be told apart from its errors"
    if row["avg_batch_size"] < 0.9 * row["max_num_seqs"]:
        return "fewer sequences than asked for: memory was full, and the mean batch is a result"
    return ""


def family(row: Row) -> str:
    """Return the family of a row's model."""
    return "llama" if "Llama" in row["model_id"] else "qwen"


def experiment_of(row: Row) -> dict[str, Any]:
    """Return the experiment of a row."""
    clients = max(1, round(row["avg_batch_size"]))
    output = max(2, round(row["avg_output_len"]))
    waves = WAVES if output <= LONG_OUTPUT_TOKENS else LONG_WAVES
    requests = {"count": waves * clients, "concurrency": clients,
                "prompt_tokens": PROMPT_TOKENS[row["task"]], "output_tokens": output}  # fmt: skip
    weights = "fp8" if row["weight_precision"] == "fp8" else "bf16"
    return {
        "model": MODELS[row["model_id"]],
        "system": SYSTEM,
        "engine": "vllm",
        "parallel": {"tensor": int(row["num_gpus"]), "replicas": 1},
        "precision": {"weights": weights, "activations": weights, "kv": "bf16"},
        "workload": {"requests": requests},
    }


def simulate_row(row: Row) -> Point:
    """Run one row through the simulator."""
    from codesign.api import simulate
    from hwmodels.energy import host_idle_power_w
    from hwmodels.load import load_system

    system, result = load_system(SYSTEM), simulate(experiment_of(row))
    seconds, tokens = result.summary["simulated_s"], result.summary["output_tokens"]
    host_j = host_idle_power_w(system, row["num_gpus"]) * seconds
    base_j = result.energy_j["idle"] + result.energy_j["active"] - host_j
    memory_j = result.energy_j[system.device.main_memory]
    return Point(row, (result.energy_j["total"] - host_j) / tokens, base_j / tokens, memory_j / tokens,
                 row["num_gpus"] * seconds / tokens)  # fmt: skip


def refit(points: Sequence[Point]) -> tuple[float, float]:
    """Return (base watts of a device, factor on its joules a byte) that suit the points' energy best.

    Least squares of relative errors, neither below zero; energy per FLOP stays as the device's file has it.
    """
    import numpy as np

    design = np.array([[p.device_s, p.memory_joules] for p in points])
    scale = np.array([1.0 / p.measured_joules for p in points])
    wanted = 1.0 - scale * np.array([p.rest_joules for p in points])
    for columns in ([0, 1], [0]):
        found, *_ = np.linalg.lstsq(design[:, columns] * scale[:, None], wanted, rcond=None)
        if (found >= 0).all():
            break
    return float(found[0]), float(found[1]) if len(found) > 1 else 0.0


def without_family(points: Sequence[Point]) -> dict[str, tuple[tuple[float, float], list[float]]]:
    """Return, by family, what `refit` gives on all others' points, and the errors of its own with it."""
    found = {}
    for name in sorted({family(p.row) for p in points}):
        others = [p for p in points if family(p.row) != name]
        if others:
            constants = refit(others)
            found[name] = constants, [p.error_with(*constants) for p in points if family(p.row) == name]
    return found


def rows_to_predict(data: Path, limit: int | None = None) -> list[Row]:
    """Return the rows to simulate, evenly thinned to about `limit`."""
    rows = [row for row in read_rows(data) if not left_out(row)]
    rows.sort(key=lambda row: (row["model_id"], row["task"], row["num_gpus"], row["max_num_seqs"]))
    return rows[:: max(1, len(rows) // limit)] if limit else rows


def counts(data: Path) -> dict[str, Any]:
    """Return how many rows are predicted, and how many are left out for which reason."""
    found: dict[str, Any] = {"predicted": 0, "left_out": {}}
    for row in read_rows(data):
        reason = left_out(row)
        if reason:
            found["left_out"][reason] = found["left_out"].get(reason, 0) + 1
        else:
            found["predicted"] += 1
    return found


def predict(data: Path, limit: int | None = 40) -> list[Point]:
    """Simulate about `limit` rows (None: all; minutes)."""
    return [simulate_row(row) for row in rows_to_predict(data, limit)]


def report(points: Sequence[Point]) -> list[dict[str, Any]]:
    """Return errors as rows of a table, as `serving.report`: with the file's constants, and held out."""
    energy = [p.error for p in points]
    tables = [_row("all", "energy per token", energy, GOAL),
              _row("all", "average power", [p.power_error for p in points], None)]  # fmt: skip
    held_out = without_family(points)
    pooled = [error for _, errors in held_out.values() for error in errors]
    if pooled:
        tables.append(_row(HELD_OUT, "energy per token", pooled, GOAL))
    for name, ((base_w, memory), errors) in held_out.items():
        fitted = f"{base_w:.0f} W and {memory:.2f} times the energy a byte"
        tables.append(_row(f"{name}; of the others: {fitted}", "energy per token", errors, None))
    return tables + _by(points, lambda row: f"vllm {MODELS[row['model_id']]}")


def _by(points: Sequence[Point], group: Callable[[Row], str]) -> list[dict[str, Any]]:
    names = sorted({group(p.row) for p in points})
    return [
        _row(name, "energy per token", [p.error for p in points if group(p.row) == name], None)
        for name in names
    ]


def _row(name: str, metric: str, errors: Sequence[float], goal: float | None) -> dict[str, Any]:
    total = summarise(errors)
    rest = {key: total[key] for key in ("n", "mean", "p90", "bias")}
    return {"name": name, "metric": metric, "error": total["median"], "goal": goal, **rest}


def run(data: Path = MEASURED, limit: int | None = 40) -> list[dict[str, Any]]:
    """Simulate rows and return their errors: `predict`, then `report`."""
    return report(predict(data, limit))
