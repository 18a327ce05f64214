"""codesign validate serving and energy: figures, counts, fitted constants, goals, plots; a missing folder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from codesign.base.errors import ConfigError
from codesign.cli.validate import validate
from codesign.validation import energy, serving

DATA = Path(__file__).parents[3] / "shared" / "data" / "measured"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason=f"no {DATA}: measured data are not here")


@needs_data
def test_json_has_what_was_fitted_and_what_is_predicted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "unseen_rows", _first(serving.unseen_rows))
    shown = json.loads(_run(["serving", "--json"]))
    assert shown["rows"] == []  # operators were not asked for
    part = shown["serving"]
    assert part["counts"]["fitted"] > 0
    assert part["counts"]["predicted"] > part["counts"]["fitted"]
    assert {row["metric"] for row in part["rows"]} == set(serving.METRICS)
    assert all(constant["value"] and constant["source"] for constant in part["fitted_constants"])


@needs_data
def test_the_table_names_counts_goals_and_plots(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(energy, "rows_to_predict", _first(energy.rows_to_predict))
    output = _run(["energy", "-o", str(tmp_path)])
    assert "rows predicted: " in output
    assert "fitted constants: 3" in output
    assert "energy per token (all): median" in output
    assert "goal 20%" in output
    assert (tmp_path / "energy_per_token.png").is_file()


@pytest.mark.parametrize("name", ["serving", "energy"])
def test_a_missing_table_is_named(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"\.parquet: no such file"):
        CliRunner().invoke(validate, [name, "--data", str(tmp_path)], catch_exceptions=False)


def _first(rows):  # type: ignore[no-untyped-def]
    return lambda data, limit=None: rows(data, limit)[:2]


def _run(arguments: list[str]) -> str:
    result = CliRunner().invoke(validate, [*arguments, "--data", str(DATA)], catch_exceptions=False)
    assert result.exit_code == 0
    return result.output
