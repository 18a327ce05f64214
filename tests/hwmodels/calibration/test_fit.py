"""The calibration recovers what was planted, and leaves alone what the rows say nothing about."""

import numpy as np
import pytest
import yaml

from hwmodels.calibration.__main__ import count, write
from hwmodels.calibration.fit import Rows, Target, fit, layered, median_error
from hwmodels.calibration.plan import PLANS, bare, plan_of
from hwmodels.calibration.select import Selection
from hwmodels.costs.machine import CONSTANTS_FILE, Constants
from hwmodels.costs.rows import Group, batch_of, complete, warm_machine
from hwmodels.costs.tables import TABLES
from hwmodels.load import load_device


def target(planted, noise=0.0):
    rng = np.random.default_rng(0)
    shapes = {name: 2.0 ** rng.integers(4, 13, 300) for name in ("m", "n", "k")}
    columns = complete("gemm", shapes)
    machine, system = warm_machine(load_device("h100"))
    batch = batch_of(Group("gemm", {"dtype": "", "kernel": "", "framework": ""}, np.arange(300)), columns,
                     machine, system)  # fmt: skip
    machine.sections["gemm"] = planted
    seconds = TABLES["gemm"].run(batch).seconds() * np.exp(noise * rng.standard_normal(300))
    return Target("gemm", TABLES["gemm"], [Rows(batch, seconds, "hopper")])


def test_planted_constants_are_found():
    constants = dict(warm_machine(load_device("h100"))[0].sections["gemm"])
    planted = {**constants, "memory_efficiency": 0.6, "start_cycles": 2000.0}
    rows = target(planted)
    free = {name: PLANS["gemm"].free[name] for name in ("memory_efficiency", "start_cycles", "copies")}
    found = fit(rows, constants, free, 0.01)
    assert found["memory_efficiency"] == pytest.approx(0.6, rel=0.02)
    assert found["start_cycles"] == pytest.approx(2000.0, rel=0.02)
    assert median_error(rows, found) < 0.005


def test_what_the_rows_do_not_show_stays():
    constants = dict(warm_machine(load_device("h100"))[0].sections["gemm"])
    found = fit(target(constants), constants, {"quantise_launch": (0.05, 10.0)}, 0.2)
    assert found["quantise_launch"] == pytest.approx(constants["quantise_launch"], rel=1e-3)


def test_an_architecture_stands_before_the_shared_constant():
    assert layered({"a": 1.0, "a@ada": 2.0, "b": 3.0}, "ada") == {"a": 2.0, "b": 3.0}
    assert layered({"a": 1.0, "a@ada": 2.0}, "hopper") == {"a": 1.0}


def test_few_constants_leave_what_is_inherited():
    constants = dict(warm_machine(load_device("h100"))[0].sections["gemm"])
    rows = target({**constants, "memory_efficiency": 0.55, "start_cycles": 2500.0}, 0.05)
    own = Selection(rows, constants, PLANS["gemm"].free, 0.2, 0.02).run()
    assert set(own) == {"memory_efficiency", "start_cycles"}
    assert own["start_cycles"] == pytest.approx(2500.0, rel=0.05)
    assert Selection(target(constants, 0.05), constants, PLANS["gemm"].free, 0.2, 0.02).run() == {}


def test_an_own_constant_stands_before_those_inherited_by_an_architecture():
    search = Selection(None, {"a": 1.0, "a@ada": 2.0, "b": 3.0}, {}, 0.2, 0.02)
    assert search.constants({"a": 5.0}) == {"a": 5.0, "b": 3.0}
    assert search.constants({"a@hopper": 5.0}) == {"a": 1.0, "a@ada": 2.0, "a@hopper": 5.0, "b": 3.0}


FITTED = yaml.safe_load(CONSTANTS_FILE.read_text())


def test_every_section_has_a_source_and_stays_in_its_bounds():
    constants = Constants(FITTED)
    assert set(constants.sections) == set(FITTED["sources"])
    for name in constants.sections:
        if name == "elementwise":
            continue
        for architecture in ("ampere", "hopper", "ada", "blackwell", "unheard of"):
            values = constants.section(name, architecture)
            for constant, (low, high) in plan_of(name).free.items():
                assert low * 0.999 <= values[constant] <= high * 1.001, (name, constant)


def test_constants_are_far_fewer_than_what_they_explain():
    assert count(FITTED) < 780  # of some 1,500,000 rows


def test_aliases_point_at_sections():
    constants = Constants(FITTED)
    for architecture in ("ampere", "hopper", "blackwell", "unheard of"):
        assert set(constants.aliases) <= set(constants.resolve(architecture))


def test_a_section_inherits_from_all_above_it():
    known = Constants({
        "architectures": {"new": "old"},
        "op": {"default": {"a": 1.0, "b": 1.0}, "old": {"a": 2.0}},
        "op/family/kernel": {"default": {"b": 5.0}},
    })  # fmt: skip
    assert known.section("op/family/kernel", "new") == {"a": 2.0, "b": 5.0}
    assert known.section("op/family/kernel", "other") == {"a": 1.0, "b": 5.0}


def test_leaving_out_starts_from_nothing_fitted_to_a_device():
    left = bare(FITTED, TABLES)
    assert not [name for name in left if "/" in name and name not in ("aliases", "architectures", "sources")]
    assert left["gemm"] == {"default": PLANS["gemm"].start}
    assert bare(FITTED, ["moe"])["gemm"] == FITTED["gemm"]
    assert "mla_decode/trtllm" not in bare(FITTED, ["mla"])


def test_the_file_is_written_as_it_is_read(tmp_path):
    data = FITTED
    write(data, {}, tmp_path / "constants.yaml")
    assert (tmp_path / "constants.yaml").read_text() == CONSTANTS_FILE.read_text()
