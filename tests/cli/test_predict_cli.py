"""codesign predict: the same rows out, predictions or reasons, errors that name the mistake."""

import json

import numpy as np
import pyarrow as pa
import pytest
from click.testing import CliRunner
from pyarrow import csv, parquet

from codesign.base.errors import ConfigError
from codesign.cli.predict import predict
from hwmodels.load import load_device


def run(*arguments):
    return CliRunner().invoke(predict, [str(each) for each in arguments], catch_exceptions=False)


def gemm_table(**columns):
    base = {"m": [1, 64, 4096], "n": [4096] * 3, "k": [4096] * 3, "dtype": ["bfloat16"] * 3}
    return pa.table({**base, **columns})


def test_csv_keeps_rows_and_columns_and_adds_times(tmp_path):
    csv.write_csv(gemm_table(note=["a", "b", "c"]), tmp_path / "in.csv")
    result = run("gemm", tmp_path / "in.csv", "--device", "h200", "-o", tmp_path / "out.csv")
    assert result.exit_code == 0
    out = csv.read_csv(tmp_path / "out.csv")
    assert out.column_names == ["m", "n", "k", "dtype", "note", "predicted_us", "reason"]
    assert out["note"].to_pylist() == ["a", "b", "c"]
    device = load_device("h200")
    expected = [device.gemm_time(m, 4096, 4096) * 1e6 for m in (1, 64, 4096)]
    assert out["predicted_us"].to_pylist() == pytest.approx(expected, rel=1e-9)


def test_rows_that_are_not_covered_are_empty_and_say_why(tmp_path):
    table = gemm_table(m=[0, 8, 8], dtype=["bfloat16", "fp8", "mystery"])
    parquet.write_table(table, tmp_path / "in.parquet")
    arguments = ("gemm", tmp_path / "in.parquet", "--device", "a100", "-o", tmp_path / "out.parquet")
    shown = json.loads(run(*arguments, "--json").output)
    assert (shown["rows"], shown["covered"]) == (3, 0)
    out = parquet.read_table(tmp_path / "out.parquet")
    assert out["predicted_us"].to_pylist() == [None, None, None]
    reasons = out["reason"].to_pylist()
    assert reasons[0] == "m must be positive"
    assert reasons[1] == "the device does not multiply fp8"
    assert "mystery" in reasons[2]


SHAPES = {
    "moe": {"num_tokens": [1, 512], "hidden_size": [4096] * 2, "inter_size": [1536] * 2, "topk": [8] * 2,
            "num_experts": [128] * 2, "tp": [1] * 2, "ep": [1, 8],
            "distribution": ["power_law_1.2", "balanced"]},
    "attention_prefill": {"batch": [1, 4], "seq_len": [128, 4096], "heads": [32] * 2, "kv_heads": [8] * 2,
                          "head_dim": [128] * 2, "window_size": [0, 1024]},
    "attention_decode": {"batch": [1, 64], "kv_len": [128, 4096], "heads": [32] * 2, "kv_heads": [8] * 2,
                         "head_dim": [128] * 2},
    "mla": {"batch": [1, 64], "seq_len": [1, 1], "kv_len": [4096] * 2, "heads": [128] * 2,
            "op": ["mla_decode", "mla_gen_pre"]},
    "collectives": {"op": ["all_reduce", "alltoall"], "num_gpus": [8, 4], "nodes": [1, 1],
                    "bytes": [2**24, 2**28]},
}  # fmt: skip


@pytest.mark.parametrize("operator", SHAPES)
@pytest.mark.parametrize("device", ["h200", "b200", "l40s"])
def test_every_operator_is_predicted_without_naming_a_kernel(tmp_path, operator, device):
    parquet.write_table(pa.table(SHAPES[operator]), tmp_path / "in.parquet")
    run(operator, tmp_path / "in.parquet", "--device", device, "-o", tmp_path / "out.parquet")
    out = parquet.read_table(tmp_path / "out.parquet")
    times = np.array(out["predicted_us"].to_pylist(), dtype=float)
    assert out["reason"].to_pylist() == [None, None]
    assert (times > 1.0).all()
    assert (times < 1e5).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("gem", "in.csv", "--device", "h100", "-o", "out.csv"), "did you mean 'gemm'"),
        (("gemm", "none.csv", "--device", "h100", "-o", "out.csv"), "no such file"),
        (("gemm", "in.csv", "--device", "h100", "-o", "out.txt"), "a .csv or a .parquet"),
        (("gemm", "in.csv", "--device", "h10", "-o", "out.csv"), "h100"),
        (("moe", "in.csv", "--device", "h100", "-o", "out.csv"), "column 'num_tokens' is missing"),
    ],
)
def test_mistakes_are_named(tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    csv.write_csv(gemm_table(), tmp_path / "in.csv")
    with pytest.raises(ConfigError, match=message):
        run(*arguments)


def test_words_where_numbers_belong_are_refused(tmp_path):
    csv.write_csv(gemm_table(m=["one", "2", "3"]), tmp_path / "in.csv")
    with pytest.raises(ConfigError, match="column 'm' holds something that is not a number"):
        run("gemm", tmp_path / "in.csv", "--device", "h100", "-o", tmp_path / "out.csv")
