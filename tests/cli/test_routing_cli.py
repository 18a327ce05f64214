"""`codesign routing`: from a recorded file to statistics, a fit, a stream, another format."""

import json

import numpy as np
import pytest
from click.testing import CliRunner

from codesign.base.errors import ConfigError
from codesign.cli.routing import routing
from workloads.routing import build_routing


def run(*arguments):
    result = CliRunner().invoke(routing, [str(a) for a in arguments])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


@pytest.fixture(scope="module")
def trace(tmp_path_factory):
    path = tmp_path_factory.mktemp("routing") / "trace.npz"
    stream = build_routing(
        {"generator": "synthetic", "locality": 0.3, "affinity": 0.5},
        moe_layers=range(3),
        n_experts=8,
        top_k=2,
    )
    lengths = np.full(30, 90)
    ids = stream.draw(np.arange(30), np.zeros(30, np.int64), lengths)
    np.savez(path, experts=ids, num_experts=np.array(8), sequence=np.repeat(np.arange(30), lengths))
    return path


def test_stats_prints_the_agreed_json(trace):
    found = json.loads(run("stats", trace, "--json").stdout)
    top = ["gini", "overlap", "lru_hit", "belady_hit", "active_experts", "affinity"]
    assert list(found) == [*top, "tokens", "layers", "experts", "top_k"]
    assert list(found["gini"]) == ["mean", "per_layer"]
    assert list(found["overlap"]) == ["1", "2", "4", "8", "16", "32", "64"]
    assert list(found["lru_hit"]) == list(found["belady_hit"]) == ["0.25", "0.5", "0.75"]
    assert list(found["active_experts"]["contiguous"]) == ["8", "16", "32"]
    assert list(found["active_experts"]["random"]) == ["8", "32", "128"]
    assert list(found["affinity"]) == ["mutual_information_ratio", "set_hit", "static_hit"]
    assert (found["tokens"], found["layers"], found["experts"], found["top_k"]) == (2700, 3, 8, 2)
    assert all(found["lru_hit"][c] <= found["belady_hit"][c] for c in found["lru_hit"])
    assert "LRU hit rate" in run("stats", trace).stdout


def test_fit_generate_stats_and_convert_follow_each_other(trace, tmp_path):
    fit, out, other = tmp_path / "fit.json", tmp_path / "out.npz", tmp_path / "out.parquet"
    told = json.loads(run("fit", trace, "-o", fit, "--iterations", 1, "--json").stdout)
    assert told["tokens"] == 2700
    assert json.loads(run("generate", fit, "--tokens", 3000, "-o", out, "--json").stdout)["tokens"] == 3000
    assert run("convert", out, "-o", other).exit_code == 0
    first, second = (json.loads(run("stats", f, "--json").stdout) for f in (out, other))
    assert first == second
    assert (first["tokens"], first["experts"]) == (3000, 8)


def test_wrong_input_is_refused_by_place_and_reason(trace, tmp_path):
    (tmp_path / "bad.npz").write_bytes(trace.read_bytes()[:3000])
    for arguments in (
        ["stats", tmp_path / "bad.npz"],
        ["fit", tmp_path / "bad.npz", "-o", tmp_path / "f.json"],
    ):
        with pytest.raises(ConfigError, match=r"bad\.npz"):
            run(*arguments)
    with pytest.raises(ConfigError, match=r"written as \.npz or \.parquet"):
        run("convert", trace, "-o", tmp_path / "x.csv")
    with pytest.raises(ConfigError, match="no such fit file"):
        run("generate", tmp_path / "none.json", "--tokens", 5, "-o", tmp_path / "x.npz")
    assert run("generate", "x.json", "--tokens", 0, "-o", tmp_path / "x.npz").exit_code == 2
