"""The calibration recovers what was planted, and leaves alone what the rows say nothing about."""

import numpy as np
import pytest
import yaml

from hwmodels.calibration.__main__ import bare, write
from hwmodels.calibration.fit import Rows, Target, fit, layered, median_error
from hwmodels.calibration.plan import PLANS, plan_of
from hwmodels.costs.machine import CONSTANTS_FILE, Constants
from hwmodels.costs.rows import Group, batch_of, complete, warm_machine
from hwmodels.costs.tables import TABLES
from hwmodels.load import load_device


def target(planted):
    rng = np.random.default_rng(0)
    shapes = {name: 2.0 ** rng.integers(4, 13, 300) for name in ("m", "n", "k")}
    columns = complete("gemm", shapes)
    machine, system = warm_machine(load_device("h100"))
    batch = batch_of(Group("gemm", {"dtype": "", "kernel": "", "framework": ""}, np.arange(300)), columns,
                     machine, system)  # fmt: skip
    machine.sections["gemm"] = planted
    return Target("gemm", TABLES["gemm"], [Rows(batch, TABLES["gemm"].run(batch).seconds(), "hopper")])


def test_planted_constants_are_found():
    constants = dict(warm_machine(load_device("h100"))[0].sections["gemm"])
    planted = {**constants, "memory_efficiency": 0.6, "launch_factor": 2.0}
    rows = target(planted)
    free = {name: PLANS["gemm"].free[name] for name in ("memory_efficiency", "launch_factor", "copies")}
    found = fit(rows, constants, free, 0.01)
    assert found["memory_efficiency"] == pytest.approx(0.6, rel=0.02)
    assert found["launch_factor"] == pytest.approx(2.0, rel=0.02)
    assert median_error(rows, found) < 0.005


def test_what_the_rows_do_not_show_stays():
    constants = dict(warm_machine(load_device("h100"))[0].sections["gemm"])
    found = fit(target(constants), constants, {"quantise_launch": (0.05, 10.0)}, 0.2)
    assert found["quantise_launch"] == pytest.approx(constants["quantise_launch"], rel=1e-3)


def test_an_architecture_stands_before_the_shared_constant():
    assert layered({"a": 1.0, "a@ada": 2.0, "b": 3.0}, "ada") == {"a": 2.0, "b": 3.0}
    assert layered({"a": 1.0, "a@ada": 2.0}, "hopper") == {"a": 1.0}


def test_every_section_has_a_source_and_stays_in_its_bounds():
    data = yaml.safe_load(CONSTANTS_FILE.read_text())
    constants = Constants(data)
    assert set(constants.sections) == set(data["sources"])
    for name in constants.sections:
        if name == "elementwise":
            continue
        for architecture in ("ampere", "hopper", "ada", "blackwell", "unheard of"):
            values = constants.section(name, architecture)
            for constant, (low, high) in plan_of(name).free.items():
                assert low * 0.999 <= values[constant] <= high * 1.001, (name, constant)


def test_aliases_point_at_sections():
    constants = Constants(yaml.safe_load(CONSTANTS_FILE.read_text()))
    for targets in constants.aliases.values():
        assert set(targets.values()) <= set(constants.sections)


def test_leaving_out_starts_from_nothing_fitted_to_a_device():
    left = bare(yaml.safe_load(CONSTANTS_FILE.read_text()))
    assert not [name for name in left if "/" in name]
    assert all(set(values) == {"default"} for name, values in left.items()
               if name not in ("aliases", "architectures", "sources"))  # fmt: skip


def test_the_file_is_written_as_it_is_read(tmp_path):
    data = yaml.safe_load(CONSTANTS_FILE.read_text())
    write(data, {}, tmp_path / "constants.yaml")
    assert (tmp_path / "constants.yaml").read_text() == CONSTANTS_FILE.read_text()
