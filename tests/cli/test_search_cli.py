"""`codesign search`: what a user sees, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from codesign.cli.main import main

pytest.importorskip("optuna")
SHIPPED = Path(__file__).parents[2] / "examples" / "sweeps" / "memory-system.yaml"


def test_search_as_json_and_text(tmp_path, capsys):
    arguments = ["search", str(SHIPPED), "--trials", "16", "--fidelity", "roofline", "--workers", "0"]
    assert main([*arguments, "-o", str(tmp_path / "a"), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["objectives"] == ["usd_per_million_tokens", "tpot_s.mean", "energy_j_per_token"]
    assert sum(report["levels"]["roofline"].values()) == 16
    assert report["front"]
    assert main([*arguments, "-o", str(tmp_path / "b")]) == 0
    out = capsys.readouterr().out
    assert "the front, " in out
    assert main([*arguments, "-o", str(tmp_path / "b")]) == 2
    assert "--resume" in capsys.readouterr().err
    assert main([*arguments, "-o", str(tmp_path / "c"), "--sampler", "nsga"]) == 2
    assert "choose from nsga2, nsga3" in capsys.readouterr().err


@pytest.mark.parametrize("columns", ["60", "80", "240"])
def test_names_are_whole_at_any_width(tmp_path, capsys, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", columns)
    options = ["--trials", "16", "--fidelity", "roofline", "--workers", "0", "-o", str(tmp_path)]
    assert main(["search", str(SHIPPED), *options]) == 0
    out = capsys.readouterr().out
    for name in ("hbm.bandwidth", "batching.max_sequences", "usd_per_million_tokens", "energy_j_per_token"):
        assert name in out
    assert "…" not in out
    assert max(map(len, out.splitlines()[1:-1])) <= int(columns)
