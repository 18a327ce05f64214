"""Which points a sweep has: grids, lists side by side, samples, conditions, derived fields, refusals."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codesign.base.errors import ConfigError
from codesign.explore.plan import plan_sweep
from codesign.explore.sampling import unit_cube

BANDWIDTH = "system.device.memory.hbm.bandwidth"


def points(source: dict[str, Any], **options: Any) -> list[dict[str, Any]]:
    return list(plan_sweep(source, **options).design.walk())


def test_a_grid_is_the_product_of_its_axes_in_order(experiment):
    found = points({"experiment": experiment, "axes": {"parallel.expert": [4, 8], "seed": [1, 2, 3]}})
    assert [(p["parallel.expert"], p["seed"]) for p in found] == [(e, s) for e in (4, 8) for s in (1, 2, 3)]


def test_ranges_keep_their_unit_and_both_ends(experiment):
    axis = {"low": "2 TB/s", "high": "8 TB/s", "steps": 3, "scale": "log"}
    assert [p[BANDWIDTH] for p in points({"experiment": experiment, "axes": {BANDWIDTH: axis}})] == [
        "2.0 TB/s", "4.0 TB/s", "8.0 TB/s",
    ]  # fmt: skip


def test_zipped_paths_go_side_by_side(experiment):
    pairs = {"parallel.tensor": [1, 2, 4], "parallel.expert": [8, 4, 8]}
    found = points({"experiment": experiment, "zip": [pairs], "axes": {"seed": [1, 2]}})
    assert len(found) == 6
    assert {(p["parallel.tensor"], p["parallel.expert"]) for p in found} == {(1, 8), (2, 4), (4, 8)}


@pytest.mark.parametrize("method", ["random", "sobol", "lhs"])
def test_a_sample_is_inside_its_ranges_and_the_same_again(experiment, method):
    over = {
        BANDWIDTH: {"low": "2 TB/s", "high": "8 TB/s"},
        "workload.requests.count": {"low": 1, "high": 9, "integer": True},
        "parallel.expert": [4, 8],
    }
    source = {"experiment": experiment, "sample": {"method": method, "points": 33, "over": over}}
    found = points(source)
    assert found == points(source)
    assert len(found) == 33
    assert all(2.0 <= float(p[BANDWIDTH].removesuffix(" TB/s")) <= 8.0 for p in found)
    assert {p["workload.requests.count"] for p in found} <= set(range(1, 10))
    assert {p["parallel.expert"] for p in found} == {4, 8}


@settings(max_examples=30, deadline=None)
@given(n=st.integers(1, 40), d=st.integers(1, 4), seed=st.integers(0, 2**32))
def test_a_latin_hypercube_has_one_point_in_each_slice(n, d, seed):
    cube = unit_cube("lhs", n, d, seed)
    assert cube.shape == (n, d)
    assert all(sorted(np.floor(column * n).astype(int)) == list(range(n)) for column in cube.T)


@settings(max_examples=20, deadline=None)
@given(m=st.integers(0, 6), d=st.integers(1, 4), seed=st.integers(0, 2**32))
def test_sobol_points_are_balanced(m, d, seed):
    n = 2**m
    cube = unit_cube("sobol", n, d, seed)
    assert all(sorted(np.floor(column * n).astype(int)) == list(range(n)) for column in cube.T)


def test_an_axis_with_a_condition_collapses_where_it_fails(experiment):
    axes = {
        "system": ["dgx-h100", "dgx-a100"],
        "precision.weights": {"values": ["bf16", "fp8"], "when": "system.device.name == 'h100'"},
    }
    found = points({"experiment": experiment, "axes": axes})
    assert found == [
        {"system": "dgx-h100", "precision.weights": "bf16"},
        {"system": "dgx-h100", "precision.weights": "fp8"},
        {"system": "dgx-a100"},
    ]


def test_only_if_pim_is_present(experiment):
    axes = {"seed": {"values": [1, 2], "when": "system.device.pim"}, "parallel.expert": [4, 8]}
    assert len(points({"experiment": experiment, "axes": axes})) == 2


def test_derived_fields_follow_the_axes_and_the_experiment(experiment):
    source = {
        "experiment": experiment,
        "axes": {"parallel.tensor": [1, 2, 4]},
        "derived": {
            "parallel.expert": "8 // parallel.tensor",
            BANDWIDTH: {"value": "system.device.memory.hbm.bandwidth * 2", "unit": "B/s"},
        },
    }
    found = points(source)
    assert [p["parallel.expert"] for p in found] == [8, 4, 2]
    assert {p[BANDWIDTH] for p in found} == {"6704000000000.0 B/s"}


def test_input_constraints_leave_points_out(experiment):
    source = {
        "experiment": experiment,
        "axes": {"parallel.tensor": [1, 2, 4], "parallel.expert": [2, 4, 8]},
        "constraints": {"inputs": ["parallel.tensor * parallel.expert <= 8", "system.devices_per_node > 4"]},
    }
    plan = plan_sweep(source, check=False)
    assert len(list(plan.design.walk())) == 6
    assert plan.design.excluded == 3


def test_replicates_share_their_seeds_across_points(experiment):
    plan = plan_sweep({"experiment": experiment, "axes": {"parallel.expert": [4, 8]}, "replicates": 3})
    tasks = list(plan.tasks())
    assert [task.seed for task in tasks] == [1, 2, 3, 1, 2, 3]
    assert len({task.id for task in tasks}) == 6


def test_the_name_of_a_point_is_its_content(experiment):
    def ids(**changes: Any) -> list[str]:
        source = {"experiment": {**experiment, **changes}, "axes": {"parallel.expert": [4, 8]}}
        return [task.id for task in plan_sweep(source).tasks()]

    assert ids() == ids(name="another title")
    assert not set(ids()) & set(ids(memory={"utilization": 0.8}))


@pytest.mark.parametrize(
    ("sweep", "text"),
    [
        ({"axes": {"parallel.tensr": [1, 2]}}, "did you mean 'tensor'"),
        ({"axes": {"polcies.placement": ["random"]}}, "did you mean 'policies'"),
        ({"axes": {"system.device.memory.hbm.bandwith": ["2 TB/s"]}}, "did you mean 'bandwidth'"),
        ({"axes": {"model.num_experts_per_tokn": [2]}}, "num_experts_per_tok"),
        ({"axes": {"workload.requests.cout": [2]}}, "did you mean 'count'"),
        ({"axes": {"system": ["dgx-h10"]}}, "did you mean 'dgx-h100'"),
        ({"axes": {BANDWIDTH: ["2 TBs", "3 TBs"]}}, "did you mean 'TB/s'"),
        ({"axes": {"parallel.tensor": []}}, "has no values"),
        ({"axes": {}}, "needs axes, zip or sample"),
        ({"axes": {"parallel.tensor": 3}}, "an axis is a list"),
        ({"zip": [{"parallel.tensor": [1, 2], "parallel.expert": [8]}]}, "equally many values"),
        ({"zip": [{"parallel.tensor": []}]}, "has no values"),
        ({"axes": {"seed": [1]}, "zip": [{"seed": [1]}]}, "seed is given twice"),
        ({"axes": {"seed": [1]}, "set": {"seed": 2}}, "seed is given twice"),
        ({"axes": {"parallel": [{"tensor": 1}], "parallel.tensor": [2]}}, "contradict each other"),
        ({"axes": {"workload.requests.trace": ["a"], "workload.requests.dataset": ["b"]}}, "contradict"),
        ({"axes": {f"speed.{p}": list(range(1, 101)) for p in "abcdef"}}, "1,000,000,000,000 points"),
        ({"axes": {"seed": {"low": 1, "high": 5}}}, "needs steps"),
        ({"axes": {BANDWIDTH: {"low": "2 TB/s", "high": 8, "steps": 2}}}, "same unit"),
        ({"axes": {"seed": {"low": 5, "high": 1, "steps": 2}}}, "low must not exceed high"),
        ({"axes": {"seed": [1]}, "constraints": {"inputs": ["seed <="]}}, "is not a formula"),
        ({"axes": {"seed": [1]}, "constraints": {"inputs": ["open('x')"]}}, "unknown function 'open'"),
        ({"axes": {"seed": [1]}, "constraints": {"inputs": ["peak_powr_w <= 9 kW"]}}, "'peak_power_w'?"),
        ({"axes": {"seed": [1]}, "constraints": {"inputs": ["parallel.tensr < 9"]}}, "'parallel.tensor'?"),
        ({"axs": {"seed": [1]}}, "did you mean 'axes'"),
        ({"sample": {"method": "sobl", "points": 3, "over": {"seed": [1]}}}, "did you mean 'sobol'"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_refused_before_anything_runs(experiment, sweep, text):
    with pytest.raises(ConfigError) as caught:
        plan_sweep({"experiment": experiment, **sweep})
    assert text in str(caught.value)


def test_a_misspelt_path_is_placed_in_the_file(tmp_path, experiment):
    import yaml

    (tmp_path / "e.yaml").write_text(yaml.safe_dump(experiment))
    (tmp_path / "s.yaml").write_text("experiment: e.yaml\naxes:\n  seed: [1]\n  parallel.tensr: [1, 2]\n")
    with pytest.raises(ConfigError, match=r"s\.yaml:4: parallel\.tensr: .*tensor"):
        plan_sweep(tmp_path / "s.yaml")


def test_a_value_that_suits_no_point_alone_may_suit_with_another_axis(experiment):
    source = {"experiment": experiment, "zip": [{"parallel.tensor": [8], "parallel.expert": [8]}]}
    assert len(points(source)) == 1
