"""End to end: the whole simulator against measured serving points of vLLM, TensorRT-LLM and SGLang on H100.

Each measured row becomes an experiment: its model, its tensor-parallel degree, its engine's profile, and a
closed loop of so many requests as the benchmark ran.  Nothing of the row's result is used.

Profiles are fitted on two models (FITTED_MODELS), and of them on half of the configurations (`is_fitted`).
All other rows are predicted: these models' other configurations, and models that no constant ever saw.

What the rows do not say, and where it is taken from:

* requests: ten times the concurrency (the count that the benchmark scripts of both sources give).
* rows of the first source (``source_file=.../aic-...``) ran under a budget of isl + 1500 + concurrency tokens
  and with prompts and outputs of equal length (aiconfigurator's generator rules and benchmark command).
* rows of the second (``source_file=2026-..``) draw lengths between 80 and 100 % of the nominal ones.
* TensorRT-LLM's fp8 checkpoints keep an fp8 cache (their queues say so: bf16 would not hold the batches).
"""

from __future__ import annotations

import statistics
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from codesign.base.errors import ConfigError
from workloads.models import load

Row = Mapping[str, Any]
MEASURED = Path("../shared/data/measured")
TABLE = "e2e_serving.parquet"
MODELS = {
    "Qwen/Qwen3-32B": "qwen3-32b",
    "meta-llama/Llama-3.1-8B-Instruct": "llama-3.1-8b",
    "meta-llama/Llama-3.1-70B": "llama-3.1-70b",
    "openai/gpt-oss-120b": "gpt-oss-120b",
}
FITTED_MODELS = ("qwen3-32b", "llama-3.1-8b")
WAVES = 10  # requests per concurrent client
LONG_WAVES = 3  # simulated where outputs are long; the waves after the first stand for the rest
LONG_OUTPUT_TOKENS = 2048
METRICS = ("ttft", "tpot", "throughput")
GOALS = {"ttft": 0.20, "tpot": 0.12, "throughput": None}


@dataclass(frozen=True)
class Point:
    """One row, simulated.  Seconds; tokens per second."""

    row: Row
    measured: Mapping[str, float]
    simulated: Mapping[str, float]

    def error(self, metric: str) -> float:
        """Return the signed relative error of `metric` in METRICS."""
        return self.simulated[metric] / self.measured[metric] - 1.0


def read_rows(data: Path) -> list[Row]:
    """Read the measured rows from the folder of measurements (raises ConfigError if it is not there)."""
    return rows_of(data / TABLE)


def rows_of(place: Path) -> list[Row]:
    """Read a measured table.

    Raises
    ------
    ConfigError   no such file
    """
    import pyarrow.parquet as pq

    if not place.is_file():
        raise ConfigError(f"{place}: no such file; the measured tables are not here")
    rows: list[Row] = pq.read_table(place).to_pylist()
    return rows


@dataclass(frozen=True)
class Defect:
    """Rows of the table that contradict their neighbours, and how; '' of a field means any."""

    model_path: str
    backend: str
    reason: str

    def of(self, row: Row) -> bool:
        """Tell whether a row has this defect."""
        return row["model_path"] == self.model_path and self.backend in ("", row["backend"])


# What the table does not tell, found by comparing its rows with each other.
UNTOLD = (
    Defect(
        "openai/gpt-oss-120b", "trtllm",
        "47 to 60 ms a token whatever the batch, where vLLM needs 10: how it ran is not told",
    ),
)  # fmt: skip
DOUBTFUL_TTFT = (
    Defect(
        "meta-llama/Llama-3.1-8B-Instruct", "",
        "it grows in proportion to the *output* length and falls with concurrency (tp 1, 1024 tokens in, "
        "128 / 256 / 512 out, 8 clients: 191 / 318 / 550 ms; 16 clients: 144 / 195 / 308 ms), which no order "
        "of prefill and decode gives: about one request in ten waits for a whole generation",
    ),
)  # fmt: skip


def left_out(row: Row) -> str:
    """Return why a row is not simulated; empty if it is."""
    if row["mode"] != "agg":
        return "prefill and decode on separate pools"
    if int(row["batch_size"]) >= 512:
        return "512 clients, but faster tokens than 64 clients see: the engine's batch limit is not told"
    return next((defect.reason for defect in UNTOLD if defect.of(row)), "")


def doubtful_ttft(row: Row) -> bool:
    """Tell whether a row's time to first token contradicts its neighbours (DOUBTFUL_TTFT says how)."""
    return any(defect.of(row) for defect in DOUBTFUL_TTFT)


def configuration(row: Row) -> str:
    """Return what names a row's configuration: rows that repeat it share it."""
    keys = ("backend", "model_path", "precision", "tp_size", "isl", "osl", "batch_size", "moe_ep_size")
    return "/".join(str(row[key]) for key in keys)


def is_calibration(row: Row) -> bool:
    """Tell whether a row is of the half that engine profiles may be fitted on: split by configuration."""
    return zlib.crc32(configuration(row).encode()) % 2 == 0


def is_fitted(row: Row) -> bool:
    """Tell whether a row may enter the fit of a profile: of FITTED_MODELS, and of the calibration half."""
    return MODELS[row["model_path"]] in FITTED_MODELS and is_calibration(row)


def experiment_of(row: Row, engine: Any = None) -> dict[str, Any]:
    """Return the experiment of a row; `engine` replaces the profile's name (for fits)."""
    model, concurrency = MODELS[row["model_path"]], int(row["batch_size"])
    waves = WAVES if row["osl"] <= LONG_OUTPUT_TOKENS else LONG_WAVES
    experiment: dict[str, Any] = {
        "model": model,
        "system": "dgx-h100",
        "engine": engine or row["backend"],
        "parallel": {"tensor": int(row["tp_size"]), "replicas": 1},
        "precision": _precision(row),
        "workload": {"requests": {"count": waves * concurrency, "concurrency": concurrency, **_lengths(row)}},
    }
    if load(model).moe_layers:
        experiment["parallel"]["expert"] = int(row["moe_ep_size"] or 1)
        experiment["workload"]["routing"] = {"generator": "zipf", "exponent": 0.4}
    if not _drawn(row) and row["backend"] != "sglang":
        budget = row["isl"] + 1500 + concurrency
        experiment["policies"] = {
            "batching": {"name": "chunked_prefill", "token_budget": budget, "max_sequences": concurrency}
        }
    return experiment


def _drawn(row: Row) -> bool:
    """Tell whether a row's benchmark drew its lengths."""
    return str(row["silicon_data_source"]).startswith("source_file=20")


def _lengths(row: Row) -> dict[str, Any]:
    tokens = {"prompt_tokens": row["isl"], "output_tokens": row["osl"]}
    if not _drawn(row):
        return tokens
    return {key: {"name": "uniform", "min": int(0.8 * n), "max": n} for key, n in tokens.items()}


def _precision(row: Row) -> dict[str, str]:
    """Return a row's types; four-bit rows are weights as released, multiplied by bf16 activations."""
    kv = "fp8" if (row["precision"], row["backend"]) == ("fp8", "trtllm") else "bf16"
    weights, activations = {"fp8": ("fp8", "fp8"), "fp4": ("native", "bf16")}.get(
        row["precision"], ("bf16", "bf16")
    )
    return {"weights": weights, "activations": activations, "kv": kv}


def simulate_row(row: Row, engine: Any = None) -> Point:
    """Run one row through the simulator."""
    from codesign.api import simulate

    requests = simulate(experiment_of(row, engine)).requests
    ttft_s, tpot_s = row["silicon_ttft_ms"] / 1e3, row["silicon_tpot_ms"] / 1e3
    first = int(row["batch_size"])
    simulated = [_mean_of_waves(requests[name], first) for name in ("ttft_s", "tpot_s")]
    return Point(row, _with_throughput(row, ttft_s, tpot_s), _with_throughput(row, *simulated))


def _mean_of_waves(values: Any, first: int) -> float:
    """Return the mean over WAVES waves, of which the later are all as those after the first."""
    return float(values[:first].mean() + (WAVES - 1) * values[first:].mean()) / WAVES


def _with_throughput(row: Row, ttft_s: float, tpot_s: float) -> dict[str, float]:
    """Add output tokens per second: of so many clients, each busy for TTFT + (osl - 1) TPOT a request."""
    busy_s = ttft_s + (row["osl"] - 1) * tpot_s
    return {"ttft": ttft_s, "tpot": tpot_s, "throughput": row["batch_size"] * row["osl"] / busy_s}


def summarise(errors: Sequence[float]) -> dict[str, float]:
    """Return median, mean and P90 of absolute errors, and the bias (median of the signed ones)."""
    sizes = sorted(abs(error) for error in errors)
    return {
        "median": statistics.median(sizes),
        "mean": statistics.fmean(sizes),
        "p90": sizes[min(len(sizes) - 1, int(0.9 * len(sizes)))],
        "bias": statistics.median(errors),
        "n": len(sizes),
    }


def group_of(row: Row) -> str:
    """Return engine and model of a row."""
    return f"{row['backend']} {MODELS[row['model_path']]}"


def table(points: Iterable[Point], group: Callable[[Row], str] = group_of) -> list[dict[str, Any]]:
    """Return errors by group and metric: group, metric, median, mean, p90, bias, n."""
    grouped: dict[str, list[Point]] = {}
    for point in points:
        grouped.setdefault(group(point.row), []).append(point)
    return [
        {"group": name, "metric": metric, **summarise([point.error(metric) for point in members])}
        for name, members in sorted(grouped.items())
        for metric in METRICS
    ]


def outliers(points: Iterable[Point], metric: str, above: float) -> list[Point]:
    """Return the points whose error of `metric` exceeds `above`, worst first."""
    found = [point for point in points if abs(point.error(metric)) > above]
    return sorted(found, key=lambda point: -abs(point.error(metric)))


def unseen_rows(data: Path, limit: int | None = None) -> list[Row]:
    """Return rows that no engine profile was fitted on, one of each configuration, evenly thinned."""
    rows = {configuration(r): r for r in read_rows(data) if not left_out(r) and not is_fitted(r)}
    chosen = [rows[key] for key in sorted(rows)]
    step = max(1, len(chosen) // limit) if limit else 1
    return chosen[::step]


def counts(data: Path) -> dict[str, Any]:
    """Return how many measured rows are fitted, predicted, and left out for which reason."""
    found: dict[str, Any] = {"fitted": 0, "predicted": 0, "left_out": {}}
    for row in read_rows(data):
        reason = left_out(row)
        if reason:
            found["left_out"][reason] = found["left_out"].get(reason, 0) + 1
        else:
            found["fitted" if is_fitted(row) else "predicted"] += 1
    return found


def fitted_constants() -> list[dict[str, str]]:
    """Return the constants of all engine profiles that a fit gave: name, value, source."""
    from codesign import engines

    found = []
    for engine in engines.names():
        for name, value, source in engines.constants(engine):
            if source.startswith("fitted"):
                found.append({"name": f"{engine}: {name}", "value": value, "source": source})
    return found


def predict(data: Path, limit: int | None = 100) -> list[Point]:
    """Simulate about `limit` unseen rows (None: all; minutes)."""
    return [simulate_row(row) for row in unseen_rows(data, limit)]


def report(points: Sequence[Point]) -> list[dict[str, Any]]:
    """Return the errors of predicted rows as rows of a table.

    Returns
    -------
    list of dict    name, metric, error (median, absolute), goal (None: none set), n, mean, p90, bias:
                    of all points, of those by how new they are, of all but `doubtful_ttft`, of each group
    """
    sound = [point for point in points if not doubtful_ttft(point.row)]
    found = table(points, lambda _: "all") + table(points, _newness)
    found += [row for row in table(sound, lambda _: "all but doubtful rows") if row["metric"] == "ttft"]
    return [_named(row) for row in found + table(points)]


def _newness(row: Row) -> str:
    fitted = MODELS[row["model_path"]] in FITTED_MODELS
    return "other configurations of fitted models" if fitted else "models never fitted"


def _named(row: Mapping[str, Any]) -> dict[str, Any]:
    rest = {key: row[key] for key in ("n", "mean", "p90", "bias")}
    goal = GOALS[row["metric"]] if row["group"] == "all" else None
    return {"name": row["group"], "metric": row["metric"], "error": row["median"], "goal": goal, **rest}


def run(data: Path = MEASURED, limit: int | None = 100) -> list[dict[str, Any]]:
    """Simulate rows that nothing was fitted on, and return their errors: `predict`, then `report`."""
    return report(predict(data, limit))
