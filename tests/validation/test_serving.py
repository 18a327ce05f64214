"""Measured serving points as experiments: what is split, left out and counted; errors stay within bounds."""

from __future__ import annotations

from pathlib import Path

import pytest

from codesign.validation import serving

DATA = Path(__file__).parents[3] / "shared" / "data"
needs_data = pytest.mark.skipif(
    not (DATA / serving.TABLE).exists(), reason=f"no {DATA / serving.TABLE}: measured data are not here"
)


@needs_data
def test_halves_share_no_configuration() -> None:
    rows = serving.read_rows(DATA)
    fitted = {serving.configuration(row) for row in rows if serving.is_calibration(row)}
    unseen = {serving.configuration(row) for row in serving.unseen_rows(DATA, None)}
    assert fitted
    assert unseen
    assert not fitted & unseen


@needs_data
def test_no_result_of_a_row_enters_its_experiment() -> None:
    row = dict(serving.unseen_rows(DATA, None)[0])
    before = serving.experiment_of(row)
    row |= {"silicon_ttft_ms": 1.0, "silicon_tpot_ms": 1.0}
    assert serving.experiment_of(row) == before


@needs_data
def test_few_rows_are_left_out_each_with_its_reason() -> None:
    reasons = [serving.left_out(row) for row in serving.read_rows(DATA)]
    assert sum(bool(reason) for reason in reasons) < 0.05 * len(reasons)


@needs_data
def test_time_per_token_of_qwen_on_vllm() -> None:
    rows = [row for row in serving.unseen_rows(DATA, None) if _short_qwen(row)]
    points = [serving.simulate_row(row) for row in rows[:6]]
    assert serving.summarise([point.error("tpot") for point in points])["median"] < serving.GOALS["tpot"]
    assert serving.summarise([point.error("throughput") for point in points])["median"] < 0.1


def _short_qwen(row: serving.Row) -> bool:
    return serving.group_of(row) == "vllm qwen3-32b" and row["osl"] == 128 and row["batch_size"] <= 32


def test_summary_of_errors() -> None:
    found = serving.summarise([-0.1, 0.2, 0.3])
    assert found["median"] == found["bias"] == 0.2
    assert found["mean"] == pytest.approx(0.2)
    assert found["p90"] == 0.3
