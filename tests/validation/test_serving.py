"""Measured serving points as experiments: what is split, left out and counted; errors meet their goals."""

from __future__ import annotations

from pathlib import Path

import pytest

from codesign.base.errors import ConfigError
from codesign.validation import engine_fit, serving

DATA = Path(__file__).parents[3] / "shared" / "data" / "measured"
needs_data = pytest.mark.skipif(
    not (DATA / serving.TABLE).exists(), reason=f"no {DATA / serving.TABLE}: measured data are not here"
)


@needs_data
def test_fitted_and_unseen_rows_share_no_configuration() -> None:
    rows = serving.read_rows(DATA)
    fitted = {serving.configuration(row) for row in rows if serving.is_fitted(row)}
    unseen = {serving.configuration(row) for row in serving.unseen_rows(DATA, None)}
    assert fitted
    assert unseen
    assert not fitted & unseen
    models = {serving.MODELS[row["model_path"]] for row in serving.unseen_rows(DATA, None)}
    assert models > set(serving.FITTED_MODELS)  # models that no constant saw are predicted too


@needs_data
def test_a_fit_takes_calibration_rows_of_its_engine_alone() -> None:
    rows = engine_fit.calibration_rows("trtllm", DATA, 10)
    assert rows
    assert all(serving.is_fitted(row) and row["backend"] == "trtllm" for row in rows)
    with pytest.raises(ConfigError, match="sglang"):
        engine_fit.calibration_rows("sglnag", DATA)


@needs_data
def test_a_fit_never_ends_worse_than_it_began() -> None:
    rows = engine_fit.calibration_rows("trtllm", DATA, 200)[:1]
    start = {name: grid[1] for name, (_, grid) in engine_fit.GRIDS.items()}
    constants, loss = engine_fit.fit("trtllm", rows, start)
    assert set(constants) == set(engine_fit.GRIDS)
    assert loss <= engine_fit.loss("trtllm", engine_fit.written(start), rows)


@needs_data
def test_no_result_of_a_row_enters_its_experiment() -> None:
    row = dict(serving.unseen_rows(DATA, None)[0])
    before = serving.experiment_of(row)
    row |= {"silicon_ttft_ms": 1.0, "silicon_tpot_ms": 1.0}
    assert serving.experiment_of(row) == before


@needs_data
def test_few_rows_are_left_out_each_with_its_reason() -> None:
    counts = serving.counts(DATA)
    left_out = sum(counts["left_out"].values())
    assert left_out + counts["fitted"] + counts["predicted"] == len(serving.read_rows(DATA))
    assert left_out < 0.05 * len(serving.read_rows(DATA))


@needs_data
def test_unseen_rows_meet_the_goals() -> None:
    """A thin sample of all engines and models; `codesign validate serving --points 0` shows all."""
    rows = {row["name"] + " " + row["metric"]: row for row in serving.run(DATA, limit=60)}
    assert rows["all ttft"]["n"] >= 50
    for metric in ("ttft", "tpot"):
        assert rows[f"all {metric}"]["error"] <= serving.GOALS[metric]
    assert rows["models never fitted tpot"]["error"] <= serving.GOALS["tpot"]
    assert rows["all throughput"]["error"] < 0.10


@needs_data
@pytest.mark.slow
def test_all_unseen_rows_meet_the_goals() -> None:
    rows = {row["name"] + " " + row["metric"]: row for row in serving.run(DATA, limit=None)}
    assert rows["all ttft"]["error"] <= serving.GOALS["ttft"]
    assert rows["all tpot"]["error"] <= serving.GOALS["tpot"]
    assert rows["other configurations of fitted models tpot"]["error"] <= serving.GOALS["tpot"]
    assert rows["models never fitted tpot"]["error"] <= serving.GOALS["tpot"]


def test_fitted_constants_are_listed_with_their_sources() -> None:
    found = {constant["name"]: constant for constant in serving.fitted_constants()}
    assert "vllm: engine.per_sequence" in found
    assert "vllm: memory.utilization" not in found  # an estimate
    assert all("fitted" in constant["source"] for constant in found.values())


def test_a_missing_table_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"e2e_serving\.parquet: no such file"):
        serving.read_rows(tmp_path)


def test_summary_of_errors() -> None:
    found = serving.summarise([-0.1, 0.2, 0.3])
    assert found["median"] == found["bias"] == 0.2
    assert found["mean"] == pytest.approx(0.2)
    assert found["p90"] == 0.3
