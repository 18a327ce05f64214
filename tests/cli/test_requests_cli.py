"""`codesign requests`: stats, generate, convert, fit; what they print, write and refuse."""

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from codesign.base.errors import ConfigError
from codesign.cli.requests import requests as command
from workloads.requests import Requests, build_requests
from workloads.requests.source import open_stream
from workloads.requests.stats import describe, fano_factor, rank_correlation
from workloads.requests.traces import read_trace
from workloads.requests.write import write_requests

DATA = Path(__file__).parents[2] / "../shared/data/requests"
needs_data = pytest.mark.skipif(not DATA.exists(), reason="../shared/data is absent")


def run(*arguments):
    found = CliRunner().invoke(
        command, [str(a) for a in arguments], catch_exceptions=False, standalone_mode=False
    )
    assert not found.exception, found.exception
    return found.stdout


def test_stats_print_one_json_object():
    found = json.loads(run("stats", "azure-conv-2023", "--count", 500, "--rate", "2 /s", "--json"))
    assert found["requests"] == 500
    assert found["rate_per_s"] == pytest.approx(2, rel=0.3)
    assert set(found["prompt_tokens"]) == {"total", "mean", "min", "p50", "p90", "p99", "max"}
    assert found["prefix"] is None
    assert "gaps.cv" in run("stats", "azure-conv-2023", "--count", 500)


@needs_data
def test_stats_of_the_code_trace_show_its_bursts():
    found = json.loads(run("stats", DATA / "AzureLLMInferenceTrace_code_2023_first60pct.csv.gz", "--json"))
    assert found["gaps"]["cv"] == pytest.approx(13.6, abs=0.1)
    assert found["gaps"]["fano"]["10"] > 50


@pytest.mark.parametrize("suffix", [".csv", ".csv.gz", ".jsonl", ".jsonl.gz"])
def test_what_generate_writes_is_read_back(tmp_path, suffix):
    out = tmp_path / f"out{suffix}"
    run("generate", "azure-code-2023", "--count", 200, "--seed", 4, "-o", out)
    drawn = build_requests({"dataset": "azure-code-2023", "count": 200}, seed=4)
    again = read_trace(out).requests
    start = 0.0 if "csv" in suffix else drawn.arrival_s[0]
    np.testing.assert_allclose(again.arrival_s, drawn.arrival_s - start, rtol=0, atol=1e-9)
    np.testing.assert_array_equal(again.prompt_tokens, drawn.prompt_tokens)
    first = out.read_bytes()
    run("generate", "azure-code-2023", "--count", 200, "--seed", 4, "-o", out)
    assert out.read_bytes() == first


@needs_data
def test_the_mooncake_trace_survives_conversion(tmp_path):
    original = DATA / "mooncake_synthetic_trace.jsonl.gz"
    run("convert", original, "-o", tmp_path / "m.csv.gz")
    one, two = read_trace(original).requests, read_trace(tmp_path / "m.csv.gz").requests
    for name in ("arrival_s", "prompt_tokens", "output_tokens", "prefix_ptr", "prefix_ids", "block_tokens"):
        np.testing.assert_array_equal(getattr(one, name), getattr(two, name))
    prefix = describe(two)["prefix"]
    assert prefix["block_hit_rate"] == pytest.approx(0.6396, abs=1e-4)


def test_labels_survive_the_csv(tmp_path):
    given = Requests(
        [0.1, 1 / 3, 2.0], [30, 40, 50], [1, 2, 3], conversation=[0, -1, 0], tenant=[0, 1, -1],
        prefix_ptr=[0, 2, 2, 5], prefix_ids=[7, 8, 7, 8, 9], block_tokens=16, tenant_names=("a,b", "c"),
    )  # fmt: skip
    assert write_requests(given, tmp_path / "x.csv") == ()
    again = read_trace(tmp_path / "x.csv").requests
    assert given.equals(again.at(again.arrival_s, name="requests", source="<python>"))
    assert write_requests(given, tmp_path / "x.jsonl") == ("conversation", "tenant")


def test_fit_writes_a_dataset_and_tells_how_good_it_is(tmp_path):
    run("generate", "azure-conv-2023", "--count", 3000, "-o", tmp_path / "t.csv")
    told = json.loads(run("fit", tmp_path / "t.csv", "-o", tmp_path / "mine.yaml", "--json"))
    assert told["prompt_ks"] < 0.02
    assert told["gap_cv_fitted"] == pytest.approx(told["gap_cv"], rel=0.02)
    assert len(open_stream(str(tmp_path / "mine.yaml"))) == 3000
    assert len(open_stream(str(tmp_path / "mine.yaml"), count=10)) == 10


def test_fit_describes_clients(tmp_path):
    header = "client_id,window_start_s,rate_rps,interarrival_cv,family,param1,param2\n"
    (tmp_path / "c.csv").write_text(header + "1,0,3,1,Gamma,1,1\n2,0,1,1,Weibull,0.5,1\n")
    np.savez(tmp_path / "l.npz", input=[[5, 1.0], [900, 3.0]], output=[[1, 1.0], [2, 1.0]])
    out = tmp_path / "mix.yaml"
    told = json.loads(run("fit", tmp_path / "c.csv", "--lengths", tmp_path / "l.npz", "-o", out, "--json"))
    assert told["clients"] == 2
    drawn = describe(open_stream(str(out), count=4000))
    assert drawn["tenants"]["client 0"] == pytest.approx(0.75, abs=0.03)
    assert drawn["prompt_tokens"]["p50"] == 900


def test_an_experiment_file_is_a_source(tmp_path):
    run("generate", "azure-conv-2023", "--count", 30, "-o", tmp_path / "t.csv")
    (tmp_path / "e.yaml").write_text("model: x\nworkload:\n  requests: {trace: t.csv}\n")
    assert len(open_stream(str(tmp_path / "e.yaml"))) == 30
    assert len(open_stream(str(tmp_path / "e.yaml"), count=7)) == 7
    (tmp_path / "e.yaml").write_text("workload:\n  requests:\n    trase: t.csv\n")
    with pytest.raises(ConfigError, match=r"e.yaml:3: workload.requests.trase: unknown key.*'trace'"):
        open_stream(str(tmp_path / "e.yaml"))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("stats", "absent.csv"), "no such trace file"),
        (("stats", "absent.yaml"), "no such"),
        (("stats", "azure-conv-2023", "--rate", "5"), "no unit"),
        (("generate", "azure-conv-2023", "-o", "x.txt"), r"written as \.csv"),
        (("generate", "azure-conv-2023", "-o", "absent/x.csv"), "cannot be written"),
        (("convert", "/", "-o", "x.csv"), "is a directory"),
    ],
)
def test_wrong_input_is_one_error(tmp_path, monkeypatch, arguments, said):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=said):
        CliRunner().invoke(command, arguments, catch_exceptions=False, standalone_mode=False)
    assert not list(tmp_path.iterdir())


# the statistics themselves


def test_a_regular_stream_has_no_variation_and_a_poisson_stream_has_one():
    form = {"count": 20_000, "prompt_tokens": 5, "output_tokens": 5, "rate": "10 /s"}
    regular = describe(build_requests(form | {"arrivals": "constant"}, seed=1))
    poisson = describe(build_requests(form, seed=1))
    assert regular["gaps"]["cv"] == pytest.approx(0, abs=1e-9)
    assert regular["gaps"]["fano"]["10"] < 0.02
    assert poisson["gaps"]["cv"] == pytest.approx(1, abs=0.05)
    assert poisson["gaps"]["fano"]["1"] == pytest.approx(1, abs=0.1)
    assert poisson["rank_correlation"] is None


def test_the_fano_factor_counts_empty_windows():
    times = np.array([0.1, 0.2, 0.3, 7.5])
    counts = np.histogram(times, np.arange(0, 8))[0]
    assert fano_factor(times, 7.9, 1.0) == pytest.approx(counts.var() / counts.mean())
    assert fano_factor(times, 3.0, 1.0) is None


def test_ties_share_their_rank():
    from scipy.stats import spearmanr

    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 6, 400), rng.integers(0, 9, 400)
    assert rank_correlation(a, a + b) == pytest.approx(spearmanr(a, a + b)[0])
