"""Elasticities are derivatives: they equal finite differences where the critical path does not switch."""

from itertools import pairwise

import pytest

import codesign

STEP = 1e-4


def experiment(**changes):
    return {
        "model": {"from": "mixtral-8x7b", "num_hidden_layers": 4},
        "system": {"from": "dgx-h100", "nodes": 2, "devices_per_node": 2},
        "parallel": {"tensor": 1, "expert": 4, "data": 4},
        "workload": {
            "requests": {"count": 16, "batch": True, "prompt_tokens": 700, "output_tokens": 12},
            "routing": "zipf",
        },
        "engine": {"step": "0.2 ms"},
        **changes,
    }


def busy_s(result):
    return sum(result.breakdown_s.values()) - result.breakdown_s["idle"]


def check(result, part, changed, rel=0.02):
    slope = (busy_s(changed) - busy_s(result)) / busy_s(result) / STEP
    assert result.elasticities[part] == pytest.approx(slope, rel=rel, abs=2e-5), part


@pytest.mark.parametrize("cost_model", ["analytical", "roofline"])
def test_elasticities_equal_finite_differences(cost_model):
    base = experiment(cost_model=cost_model)
    result = codesign.simulate(base)
    assert sum(result.elasticities.values()) == pytest.approx(-1.0, rel=1e-9)
    for part in result.elasticities:
        check(result, part, codesign.simulate({**base, "speed": {part: 1 + STEP}}))


def faster(system):
    """Parts, and the fields of the hardware file that speed them up by STEP."""
    up = 1 + STEP
    return {
        "memory": ("system.device.memory.hbm.bandwidth", system.device.memory["hbm"].bandwidth * up, "B/s"),
        "network_bandwidth": ("system.inter_node.bandwidth", system.inter_node.bandwidth * up, "B/s"),
        "link_bandwidth": ("system.intra_node.bandwidth", system.intra_node.bandwidth * up, "B/s"),
    }


@pytest.mark.parametrize(("part", "nodes"), [("memory", 2), ("network_bandwidth", 2), ("link_bandwidth", 1)])
def test_elasticities_tell_what_another_hardware_file_would_do(part, nodes):
    system = {"from": "dgx-h100", "nodes": nodes, "devices_per_node": 4 // nodes}
    base = codesign.load_experiment(experiment(system=system))
    path, value, unit = faster(base.system)[part]
    check(codesign.simulate(base), part, codesign.simulate(base.replace({path: f"{value!r} {unit}"})))


def test_breakdown_sums_to_the_simulated_time():
    result = codesign.simulate(experiment())
    assert sum(result.breakdown_s.values()) == pytest.approx(result.summary["simulated_s"], rel=1e-9)
    assert result.breakdown_s["waiting"] > 0
    assert {"attention", "experts", "dispatch", "combine", "waiting"} <= set(result.breakdown_s)


def test_advice_names_the_strongest_lever_first():
    from codesign.explain.advice import advise

    result = codesign.simulate(experiment())
    levers = advise(result.to_dict())
    strongest = min(result.elasticities, key=result.elasticities.get)
    assert levers[0].resource == strongest
    assert all(a.elasticity <= b.elasticity for a, b in pairwise(levers))
