"""Operators as cases of studies: numbers, changes by path, mistakes."""

import pytest

from codesign.base.document import Document
from codesign.base.errors import ConfigError
from codesign.study.evaluate import run_study
from codesign.study.library import load_study
from codesign.study.operators import evaluate
from codesign.study.spec import read_study
from hwmodels.cycle.pim import gemm, load_unit

PIM = {"operator": "pim", "unit": {"from": "duplex_logic"}, "m": 1, "n": 4096, "k": 4096}


def test_a_product_on_pim_is_the_cycle_models():
    found = evaluate(PIM, {"m": 3})["summary"]
    assert found["seconds"] == gemm(load_unit("duplex_logic"), 3, 4096, 4096).seconds
    assert evaluate({**PIM, "unit": "duplex_logic"}, {"m": 3})["summary"] == found


def test_changes_reach_the_unit_and_its_part():
    base = evaluate(PIM, {})["summary"]
    slower = evaluate(PIM, {"unit.clock": "65 MHz"})["summary"]
    paced = evaluate(PIM, {"unit.timing.nCCDL": 8})["summary"]
    assert slower["peak_flop_rate"] == pytest.approx(base["peak_flop_rate"] / 10)
    assert paced["bandwidth"] == base["bandwidth"] / 2
    assert base == evaluate(PIM, {})["summary"]


def test_a_product_on_a_device_takes_its_cost_models_time():
    gemm_case = {"operator": "gemm", "device": {"from": "h100"}, "cost_model": "roofline", "m": 1, "n": 64,
                 "k": 32}  # fmt: skip
    found = evaluate(gemm_case, {})["summary"]
    faster = evaluate(gemm_case, {"device.memory.hbm.bandwidth": "6.7 TB/s"})["summary"]
    assert found["flop"] == 2 * 64 * 32
    assert faster["memory_s"] < found["memory_s"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"operator": "pin"}, "did you mean 'pim'"),
        ({"operator": 3}, "is no name"),
        ({"m": 0}, "greater than 0"),
        ({"unit.timing.nCCDX": 3}, "did you mean 'nCCD"),
        ({"unit.timing.nCCDL": 0}, "positive"),
        ({"unit.from": "duplex_logik"}, "did you mean 'duplex_logic'"),
        ({"unit": 3}, "with `from`"),
        ({"size": 3}, "size"),
    ],
)
def test_mistakes_are_told(changes, words):
    with pytest.raises(ConfigError, match=words):
        evaluate(PIM, changes)


def test_a_study_may_compare_vectors():
    figure = {"name": "f", "value": "sum(a.seconds <= b.seconds)", "over": ["g"], "theirs": 3, "tolerance": 0,
              "source": "none"}  # fmt: skip
    study = {
        "name": "s", "title": "t", "paper": "p", "reference": "arithmetic", "base": PIM, "figures": [figure],
        "cases": {"a": {}, "b": {"n": 8192}}, "grids": {"g": {"axes": [{"m": [1, 2, 3]}]}},
    }  # fmt: skip
    assert run_study(read_study(Document(study, "s")), workers=1).outcomes[0].ours == 3


def test_the_18_published_products_are_within_their_tolerance():
    found = run_study(load_study("pim-microbench"), workers=1).outcomes
    published = [one for one in found if one.spec.name.startswith("energy-delay-area")]
    assert len(published) == 18
    assert all(one.passed for one in published)
    missed = [one.spec.name for one in found if not one.passed]
    assert all(name.startswith("without the fitted constant") for name in missed)
