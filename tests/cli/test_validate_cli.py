"""codesign validate on a small table: figures, split, goals; a missing folder is named."""

import json

import numpy as np
import pyarrow as pa
import pytest
from click.testing import CliRunner
from pyarrow import parquet

from codesign.base.errors import ConfigError
from codesign.cli.validate import validate
from hwmodels.load import load_device


@pytest.fixture
def folder(tmp_path):
    """Measured tables that the model meets exactly, but for every second row: 10 % slower."""
    device, shapes = load_device("h100"), [(m, 4096, 1024) for m in range(1, 200)]
    times = np.array([device.gemm_time(*shape) for shape in shapes]) * 1e6
    times[::2] /= 1.1
    m, n, k = zip(*shapes, strict=True)
    table = {"gpu": ["h100_sxm"] * len(m), "m": m, "n": n, "k": k, "dtype": ["bfloat16"] * len(m),
             "latency_us": times}  # fmt: skip
    parquet.write_table(pa.table(table), tmp_path / "gemm.parquet")
    return tmp_path


def test_json_has_the_split_and_the_figures(folder):
    result = CliRunner().invoke(validate, ["gemm", "--data", str(folder), "--json"], catch_exceptions=False)
    shown = json.loads(result.output)
    assert "hash of the shape" in shown["split"]
    total = shown["rows"][-1]
    assert total["rows"] == total["covered"] < 199  # unseen shapes alone
    assert total["p90"] == pytest.approx(0.1)
    assert 0 < total["mean"] < 0.1
    assert total["roofline_median"] > total["median"]
    assert total["noise_median"] is None


def test_the_table_says_whether_goals_are_met_and_plots_are_written(folder, tmp_path):
    arguments = ["gemm", "--data", str(folder), "-o", str(tmp_path / "plots")]
    result = CliRunner().invoke(validate, arguments, catch_exceptions=False)
    assert "goal 8%" in result.output
    assert (tmp_path / "plots" / "gemm_error.png").is_file()


def test_a_missing_table_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"moe\.parquet: no such file"):
        CliRunner().invoke(validate, ["moe", "--data", str(tmp_path)], catch_exceptions=False)
