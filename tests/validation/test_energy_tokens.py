"""Measured energy per token as experiments: arithmetic, rows left out, errors that meet the goal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from codesign.validation import energy

DATA = Path(__file__).parents[3] / "shared" / "data" / "measured"
needs_data = pytest.mark.skipif(
    not (DATA / energy.TABLE).exists(), reason=f"no {DATA / energy.TABLE}: measured data are not here"
)


def point(model: str, base_w: float, seconds: float, rest_j: float, measured_j: float) -> energy.Point:
    row: dict[str, Any] = {"model_id": model, "energy_per_token_joules": measured_j, "num_gpus": 2,
                           "avg_power_watts": 2 * measured_j / seconds}  # fmt: skip
    base_j, memory_j = base_w * seconds, 0.5 + seconds
    return energy.Point(row, base_j + memory_j + rest_j, base_j, memory_j, seconds)


def test_errors_by_hand() -> None:
    found = point("Qwen/x", base_w=100.0, seconds=0.01, rest_j=0.49, measured_j=4.0)
    assert found.rest_joules == pytest.approx(0.49)
    assert found.error == pytest.approx(2.0 / 4.0 - 1)
    assert found.power_error == pytest.approx(2.0 / 4.0 - 1)
    assert found.error_with(300.0, 1.0) == pytest.approx(0.0)
    assert found.error_with(100.0, 0.0) == pytest.approx(1.49 / 4.0 - 1)


def made_with(model: str, base_w: float, memory: float) -> list[energy.Point]:
    """Points whose measured energy is that of a base power and a factor on the energy of memory."""
    shapes = ((0.01, 1.0), (0.02, 0.5), (0.1, 9.0))
    return [point(model, 100.0, s, r, base_w * s + memory * (0.5 + s) + r) for s, r in shapes]


def test_refit_finds_the_constants_that_made_the_points() -> None:
    assert energy.refit(made_with("Qwen/x", 250.0, 1.5)) == (pytest.approx(250.0), pytest.approx(1.5))
    assert energy.refit(made_with("Qwen/x", 250.0, -0.1))[1] == 0.0  # memory does not give energy


def test_a_family_is_predicted_with_the_constants_of_the_others() -> None:
    llama = made_with("meta-llama/Llama", 400.0, 1.0)
    found = energy.without_family(made_with("Qwen/x", 250.0, 1.0) + llama)
    assert found["llama"][0] == (pytest.approx(250.0), pytest.approx(1.0))
    assert found["llama"][1] == [pytest.approx(-150 * p.device_s / p.measured_joules) for p in llama]
    assert found["qwen"][0][0] == pytest.approx(400.0)
    assert energy.without_family(llama) == {}


@needs_data
def test_no_result_of_a_row_but_what_was_asked_enters_its_experiment() -> None:
    row = dict(energy.rows_to_predict(DATA)[0])
    before = energy.experiment_of(row)
    for name in row:
        if "energy" in name or "watts" in name or "throughput" in name or "itl" in name or "latency" in name:
            row[name] = 1.0
    assert energy.experiment_of(row) == before


@needs_data
def test_rows_are_predicted_or_left_out_with_a_reason() -> None:
    counts = energy.counts(DATA)
    assert counts["predicted"] + sum(counts["left_out"].values()) == len(energy.read_rows(DATA))
    assert counts["predicted"] > 100


@needs_data
def test_energy_per_token_meets_the_goal_held_out_too() -> None:
    """A thin sample of all models; `codesign validate energy --points 0` shows all."""
    rows = {row["name"]: row for row in energy.run(DATA, limit=18) if row["metric"] == "energy per token"}
    assert rows["all"]["error"] <= energy.GOAL
    assert rows[energy.HELD_OUT]["error"] <= energy.GOAL


@needs_data
@pytest.mark.slow
def test_all_rows_meet_the_goal() -> None:
    rows = {row["name"]: row for row in energy.run(DATA, limit=None) if row["metric"] == "energy per token"}
    assert rows["all"]["error"] <= energy.GOAL
    assert rows[energy.HELD_OUT]["error"] <= energy.GOAL
    families = [row for name, row in rows.items() if "of the others" in name]
    assert len(families) == 2
    assert all(row["error"] <= energy.GOAL for row in families)
