"""The H100's power constants against measured average power (ML.ENERGY), and their refit.

Counters are first order: weights and KV once a step, two FLOP per active parameter and token, all time
busy.  What is fitted: idle + other power, and joules per byte; joules per FLOP are set (see the file).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from hwmodels.load import load_device
from hwmodels.spec import Device

DATA = Path(__file__).parents[2].parent / "shared/data/measured/energy_mlenergy.parquet"
PROMPT_TOKENS = {"lm-arena-chat": 250, "gpqa": 250}  # not in the data: an assumption
# dense: parameters (1e9), KV bytes a token in bf16 (layers x KV heads x head size x 2 x 2)
DENSE = {
    "Qwen/Qwen3-8B": (8.2, 147456), "Qwen/Qwen3-14B": (14.8, 163840), "Qwen/Qwen3-32B": (32.8, 262144),
    "meta-llama/Llama-3.1-8B-Instruct": (8.03, 131072), "meta-llama/Llama-3.1-70B-Instruct": (70.6, 327680),
    "meta-llama/Llama-3.3-70B-Instruct": (70.6, 327680),
    "meta-llama/Llama-3.1-405B-Instruct": (405.8, 516096),
}  # fmt: skip
# MoE, by part of the name: dense parameters (1e9), MoE layers, experts, k, parameters of one expert, KV bytes
MOE = {
    "Llama-4-Scout": (12.2, 48, 16, 1, 0.126, 196608), "Llama-4-Maverick": (14.2, 24, 128, 1, 0.126, 196608),
    "Qwen3-30B-A3B-Instruct": (1.5, 48, 128, 8, 0.00472, 98304),
    "Qwen3-30B-A3B-Thinking": (1.5, 48, 128, 8, 0.00472, 98304),
}  # fmt: skip
SKEW = 0.85  # experts that a step of few tokens touches, against uniform routing


def read_and_active(row: dict[str, Any]) -> tuple[float, float, float] | None:
    """Return parameters (1e9) that a step reads, parameters active for a token, KV bytes a token."""
    name, batch = row["model_id"], row["avg_batch_size"]
    if name in DENSE:
        return DENSE[name][0], DENSE[name][0], DENSE[name][1]
    for part, (dense, layers, experts, k, size, kv) in MOE.items():
        if part in name:
            touched = experts * (1 - (1 - k / experts) ** batch) * SKEW
            touched = experts if batch >= 8 * experts / k else touched
            return dense + layers * touched * size, dense + layers * k * size, kv
    return None


def rates(row: dict[str, Any]) -> tuple[float, float] | None:
    """Return (bytes/s, bf16-equivalent FLOP/s) of one GPU; None for rows outside the tables."""
    found = read_and_active(row)
    if found is None or row["task"] not in PROMPT_TOKENS or not row["output_throughput_tokens_per_sec"]:
        return None
    read, active, kv = found
    tokens, batch = row["output_throughput_tokens_per_sec"], row["avg_batch_size"]
    out = row["avg_output_len"]
    prompt, gpus = PROMPT_TOKENS[row["task"]], row["num_gpus"]
    width = 1 if row["weight_precision"] == "fp8" else 2
    step_bytes = read * 1e9 * width + batch * (prompt + out / 2) * kv
    flop_rate = 2e9 * active * tokens * (1 + prompt / out) * width / 2
    return tokens / batch * step_bytes / gpus, flop_rate / gpus


@pytest.fixture(scope="module")
def measured() -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    if not DATA.exists():
        pytest.skip(f"{DATA.parent} is absent")
    import pyarrow.parquet as pq

    rows = [(row["avg_power_watts"] / row["num_gpus"], found)
            for row in pq.read_table(DATA).to_pylist() if (found := rates(row))]  # fmt: skip
    watts = np.array([power for power, _ in rows])
    table = np.array([found for _, found in rows])
    return watts, table[:, 0], table[:, 1]


def constants(device: Device) -> tuple[float, float, float]:
    """Return (W, J/B, J/FLOP) of a device's file."""
    power, compute = device.power, device.compute
    return power.idle + power.other, device.memory["hbm"].energy_per_byte, compute.energy_per_flop["bf16"]


def test_the_file_meets_measured_power_within_ten_per_cent_at_the_median(measured: Any) -> None:
    watts, byte_rate, flop_rate = measured
    device = load_device("h100")
    base, per_byte, per_flop = constants(device)
    predicted = np.minimum(base + per_byte * byte_rate + per_flop * flop_rate, device.power.peak)
    error = np.abs(predicted / watts - 1)
    assert len(watts) == 133
    assert np.median(error) <= 0.10
    assert np.quantile(error, 0.9) <= 0.25


def test_a_refit_gives_the_numbers_of_the_file(measured: Any) -> None:
    watts, byte_rate, flop_rate = measured
    base, per_byte, per_flop = constants(load_device("h100"))
    design = np.stack([np.ones_like(watts), byte_rate / 1e12], axis=1) / watts[:, None]
    (refit_base, refit_byte), *_ = np.linalg.lstsq(design, (watts - per_flop * flop_rate) / watts, rcond=None)
    assert refit_base == pytest.approx(base, rel=0.03)
    assert refit_byte == pytest.approx(per_byte * 1e12, rel=0.03)
