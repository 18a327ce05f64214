"""Studies: formulas, grids, verdicts, laws of the runner, and the shipped files."""

import json

import numpy as np
import pytest
from click.testing import CliRunner

from codesign.base.document import Document
from codesign.base.errors import ConfigError
from codesign.cli.study import study as command
from codesign.study.evaluate import Outcome, run_study
from codesign.study.library import load_study, names
from codesign.study.measures import measure
from codesign.study.runs import needed, run_all
from codesign.study.spec import FigureSpec, GridSpec, read_study
from codesign.study.table import markdown, tally

SMALL = {
    "name": "small",
    "title": "two sizes",
    "paper": "none",
    "reference": "arithmetic",
    "base": {
        "model": {"from": "mixtral-8x7b", "num_hidden_layers": 2},
        "system": {"from": "dgx-h100", "devices_per_node": 1},
        "workload": {"requests": {"count": 4, "batch": True, "prompt_tokens": 16, "output_tokens": 4}},
    },
    "cases": {"plain": {}, "eager": {"engine.step": "10 ms"}},
    "grids": {"lengths": {"axes": [{"workload.requests.output_tokens": [4, 8, 16]}], "reduced": [0, 2]}},
    "constants": {"two": {"value": 2.0, "source": "arithmetic", "fitted": True}},
    "figures": [
        {"name": "tokens", "value": "sum(plain.output_tokens)", "over": ["lengths"], "theirs": 80,
         "tolerance": 0, "source": "4 x (4 + 16)", "kind": "identity"},
        {"name": "slower", "value": "two * mean(eager.simulated_s / plain.simulated_s)", "over": ["lengths"],
         "theirs": 1e9, "tolerance": 0.1, "source": "none"},
        {"name": "alone", "value": "plain.fits", "theirs": 1, "tolerance": 0, "source": "none"},
        {"name": "full", "value": "sum(plain.output_tokens)", "over": ["lengths"], "theirs": 112,
         "tolerance": 0, "source": "4 x 28", "full_only": True},
    ],
}  # fmt: skip


def small(**changes):
    return read_study(Document({**SMALL, **changes}, "small.yaml"))


def by_name(outcome):
    return {figure["name"]: figure for figure in outcome.to_dict()["figures"]}


def test_formulas_read_cases_over_the_points_of_their_grids():
    found = by_name(run_study(small(), workers=1))
    assert found["tokens"]["ours"] == 80
    assert found["tokens"]["verdict"] == "pass"
    assert found["slower"]["ours"] > 2
    assert found["slower"]["verdict"] == "fail"
    assert "full" not in found


def test_full_grids_run_every_point():
    assert by_name(run_study(small(), full=True, workers=1))["full"]["ours"] == 112


def test_each_experiment_runs_once():
    study = small()
    wanted = needed(study, study.figures, full=True)
    # two cases at three points; the base alone is none of them by its overrides
    assert len(wanted) == 2 * 3 + 1


def test_workers_change_nothing():
    study = small()
    wanted = needed(study, study.figures, full=False)
    assert run_all(wanted, workers=1) == run_all(wanted, workers=2)


def test_seeds_give_an_interval():
    figure = {**SMALL["figures"][1], "seeds": 3}
    (outcome,) = run_study(small(figures=[figure]), workers=1).outcomes
    assert outcome.interval is not None
    assert outcome.interval < 0.1 * outcome.ours


def test_a_run_without_room_does_not_fit():
    figure = {"name": "f", "value": "big.fits", "theirs": 0, "tolerance": 0, "source": "none"}
    found = run_study(small(cases={"big": {"model": "mixtral-8x22b"}}, figures=[figure]), workers=1)
    assert found.outcomes[0].ours == 0


def test_axes_multiply_and_lists_are_one_axis():
    grid = GridSpec(set={"a": 0}, axes=[{"b": [1, 2], "c": [3, 4]}, [{"d": 5}, {"d": 6, "a": 7}]])
    assert grid.points(full=True) == [
        {"a": 0, "b": 1, "c": 3, "d": 5}, {"a": 7, "b": 1, "c": 3, "d": 6},
        {"a": 0, "b": 2, "c": 4, "d": 5}, {"a": 7, "b": 2, "c": 4, "d": 6},
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("ours", "tolerance", "absolute", "passed"),
    [
        (2.3, 0.15, False, True),
        (2.31, 0.15, False, False),
        (2.3, 0.31, True, True),
        (np.nan, 9, False, False),
    ],
)
def test_a_figure_passes_within_its_tolerance(ours, tolerance, absolute, passed):
    spec = FigureSpec(name="f", value="1", theirs=2.0, tolerance=tolerance, absolute=absolute, source="s")
    assert Outcome(spec, ours, None).passed is passed


@pytest.mark.parametrize(
    ("value", "over", "words"),
    [
        ("plan.output_tokens", [], "did you mean 'plain'"),
        ("plain.output_tokens", ["length"], "did you mean 'lengths'"),
        ("open('x')", [], "unknown function"),
        ("plain", [], "unknown case"),
    ],
)
def test_mistakes_are_told_before_anything_runs(value, over, words):
    figure = {"name": "f", "value": value, "over": over, "theirs": 1, "tolerance": 0, "source": "s"}
    with pytest.raises(ConfigError, match=words):
        small(figures=[figure])


def test_a_formula_that_gives_many_numbers_is_refused():
    figure = {**SMALL["figures"][0], "value": "plain.output_tokens"}
    with pytest.raises(ConfigError, match="reduce them"):
        run_study(small(figures=[figure]), workers=1)


def test_an_unknown_measure_is_told():
    with pytest.raises(ConfigError, match="no number 'speed'"):
        measure({"summary": {"tokens": 1}}, "speed")


@pytest.mark.parametrize("name", names())
def test_shipped_studies_are_sound(name):
    study = load_study(name)
    kinds = [figure.spec.kind for figure in study.figures]
    assert study.spec.name == name
    assert len({figure.spec.name for figure in study.figures}) == len(study.figures)
    assert 4 * len(study.spec.fitted_constants) < max(5, kinds.count("predicted"))
    assert any(figure.spec.name.startswith("ablation") for figure in study.figures) or name == "edgemoe"


def test_the_ring_is_the_larger_of_compute_and_load():
    outcome = run_study(load_study("semoe-ring"), workers=1)
    assert all(found.passed for found in outcome.outcomes)


def test_the_command_prints_the_promised_json_and_fails_only_when_strict(tmp_path):
    path = tmp_path / "small.yaml"
    path.write_text(json.dumps(SMALL))
    page = tmp_path / "studies.md"
    got = CliRunner().invoke(command, ["run", str(path), "--json", "--workers", "1", "--markdown", str(page)])
    assert got.exit_code == 0
    (found,) = json.loads(got.output)["studies"]
    assert {"name", "figures", "fitted_constants"} <= set(found)
    assert {"name", "ours", "theirs", "tolerance", "verdict", "source", "kind"} <= set(found["figures"][0])
    assert [item["name"] for item in found["fitted_constants"]] == ["two"]
    assert page.read_text() == markdown([found])
    assert "**fail**" in page.read_text()
    assert tally([found]).startswith("2 of 3")
    strict = CliRunner().invoke(command, ["run", str(path), "--strict", "--workers", "1"])
    assert strict.exit_code == 1


def test_studies_are_listed():
    got = CliRunner().invoke(command, ["list", "--json"])
    assert {row["name"] for row in json.loads(got.output)["studies"]} == set(names())
