"""`codesign sweep`: what a user sees, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from codesign.cli.main import main

EXPERIMENT = {
    "model": "mixtral-8x7b",
    "system": "dgx-h100",
    "parallel": {"tensor": 2, "expert": 4},
    "workload": {"requests": {"count": 4, "concurrency": 4, "prompt_tokens": 32, "output_tokens": 4}},
}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    place = tmp_path / "sweep.yaml"
    whole = {
        "experiment": EXPERIMENT,
        "axes": {"parallel.expert": [2, 4, 3]},
        "objectives": ["max output_tokens_per_s", "energy_j_per_token"],
    }
    place.write_text(yaml.safe_dump(whole))
    return place


def test_sweep_resume_and_json(file, tmp_path, capsys):
    out = str(tmp_path / "out")
    assert main(["sweep", str(file), "-o", out, "--workers", "0", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["counts"] == {"ok": 2, "refused": 1}
    assert "must divide" in report["errors"][0]["error"]
    assert {row["parallel.expert"] for row in report["front"]} <= {2, 4}
    assert Path(report["results"]).is_file()
    assert main(["sweep", str(file), "-o", out, "--workers", "0"]) == 2
    assert "--resume" in capsys.readouterr().err
    assert main(["sweep", str(file), "-o", out, "--workers", "0", "--resume"]) == 0
    assert "3 points: 2 ok, 1 refused" in capsys.readouterr().out


def test_a_wrong_sweep_is_one_line(file, tmp_path, capsys):
    file.write_text(file.read_text().replace("parallel.expert", "parallel.exprt"))
    assert main(["sweep", str(file), "-o", str(tmp_path / "out")]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert "did you mean 'expert'" in err
    assert main(["sweep", str(tmp_path / "none.yaml"), "-o", str(tmp_path / "out")]) == 2


def test_every_shipped_sweep_is_sound(capsys):
    from codesign.explore.plan import plan_sweep

    found = sorted((Path(__file__).parents[2] / "examples" / "sweeps").glob("*.yaml"))
    assert found
    for place in found:
        assert plan_sweep(place).size > 1
