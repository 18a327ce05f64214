"""The closed form: arrays against single points, expectations against draws, and simulated engines."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import codesign
from codesign.base.errors import CodesignError, ConfigError
from codesign.base.random import stream
from codesign.explore.columns import evaluate
from codesign.explore.evaluate import build
from codesign.explore.expected import ExpectedLoads, expected_maximum
from codesign.explore.plan import plan_sweep
from codesign.explore.steady_state import metrics_of

HBM = "system.device.memory.hbm"
OVER: dict[str, Any] = {
    f"{HBM}.bandwidth": {"low": "1 TB/s", "high": "20 TB/s", "scale": "log"},
    f"{HBM}.capacity": {"low": "30 GB", "high": "288 GB"},
    f"{HBM}.energy_per_byte": {"low": "2 pJ/bit", "high": "20 pJ/bit"},
    "system.device.compute.peak_flop_rate.bf16": {
        "low": "100 TFLOP/s",
        "high": "4000 TFLOP/s",
    },
    "system.device.power.idle": {"low": "50 W", "high": "300 W"},
    "system.device.price.rental": {"low": "1 USD/h", "high": "9 USD/h"},
    "system.intra_node.bandwidth": {"low": "50 GB/s", "high": "1800 GB/s"},
    "system.inter_node.bandwidth": {"low": "10 GB/s", "high": "400 GB/s"},
    "workload.requests.prompt_tokens": {"low": 1, "high": 4000, "integer": True},
    "workload.requests.output_tokens": {"low": 1, "high": 900, "integer": True},
    "precision.weights": ["bf16", "fp8"],
    "policies.batching.max_sequences": [1, 8, 256],
}


def space(
    model: str, system: Any, parallel: list[dict[str, int]], requests: dict[str, Any]
) -> dict[str, Any]:
    whole = {
        "model": model, "system": system, "engine": {"step": "1 ms", "per_sequence": "3 us"},
        "workload": {
            "requests": {"count": 64, "prompt_tokens": 256, "output_tokens": 64, **requests},
            "routing": {"generator": "zipf", "exponent": 0.4},
        },
        "policies": {"batching": {"name": "chunked_prefill", "token_budget": 2048}},
        "fidelity": "roofline",
    }  # fmt: skip
    over = {**OVER, "parallel": parallel}
    return {"experiment": whole, "sample": {"method": "random", "points": 60, "over": over}}


TWO_NODES = {"from": "dgx-h100", "nodes": 2}
SPACES = {
    "mixtral": space("mixtral-8x7b", TWO_NODES, [{"tensor": 2, "expert": 4},
                     {"tensor": 1, "data": 8, "expert": 8}], {"concurrency": 64}),
    "mla, two nodes": space("deepseek-v3", TWO_NODES, [{"tensor": 1, "data": 16, "expert": 16},
                            {"tensor": 8, "expert": 2, "pipeline": 2}], {"batch": True}),
    "windows, a rate": space("gpt-oss-120b", TWO_NODES, [{"tensor": 1}, {"tensor": 4, "expert": 4}],
                             {"rate": "20 1/s"}),
    "dense": space("llama-3.1-70b", TWO_NODES, [{"tensor": 4}, {"tensor": 8, "pipeline": 2}],
                   {"rate": "2 1/s"}),
}  # fmt: skip


@pytest.mark.parametrize("name", list(SPACES))
def test_arrays_give_what_single_points_give(name):
    plan = plan_sweep(SPACES[name], check=False)
    rows = evaluate(plan).to_pylist()
    compared = 0
    for i, row in enumerate(rows):
        try:
            one = metrics_of(build(plan.setup, plan.design.point(i)))
        except CodesignError:
            assert row["error"]
            continue
        compared += 1
        for metric, value in one.items():
            assert row[metric] == (value if value is None else pytest.approx(value, rel=1e-12)), (i, metric)
    assert compared > len(rows) / 3


def test_a_sweep_at_roofline_is_the_closed_form(tmp_path):
    source = {**SPACES["mixtral"], "constraints": {"outputs": ["tpot_s.mean <= 20 ms"]}}
    found = codesign.sweep(source, tmp_path)
    rows = evaluate(SPACES["mixtral"]).to_pylist()
    for row, other in zip(found.table.to_pylist(), rows, strict=True):
        assert (row["status"] == "ok") == (other["error"] is None)
        if row["status"] == "ok":
            assert row["output_tokens_per_s"] == pytest.approx(other["output_tokens_per_s"], rel=1e-12)
            assert row["feasible"] == (row["tpot_s.mean"] <= 0.02)
    assert {row["feasible"] for row in found.rows} == {True, False}


def test_shares_sum_to_one_and_rates_agree():
    for row in evaluate(SPACES["mla, two nodes"]).to_pylist():
        if row["error"] is None:
            shares = sum(value for name, value in row.items() if name.startswith("share."))
            assert shares == pytest.approx(1.0, rel=1e-12)
            assert row["energy_j_per_token"] * row["output_tokens_per_s"] == pytest.approx(
                row["average_power_w"]
            )


def test_faster_parts_never_hurt_one_engine(experiment):
    axes = {f"{HBM}.bandwidth": {"low": "1 TB/s", "high": "30 TB/s", "steps": 40, "scale": "log"}}
    found = evaluate({"experiment": {**experiment, "fidelity": "roofline"}, "axes": axes})
    tokens = found.column("output_tokens_per_s").to_numpy()
    assert (np.diff(tokens) >= 0).all()


def test_shares_are_the_elasticities(experiment):
    """d ln seconds / d ln speed of a part == -share (finite difference, no corner of the maximum nearby)."""
    base = build(
        plan_sweep({"experiment": {**experiment, "fidelity": "roofline"}, "axes": {"seed": [1]}}).setup, {}
    )
    before = metrics_of(base)
    for part in ("memory", "compute", "link_bandwidth"):
        after = metrics_of(base.replace({f"speed.{part}": 1.0 + 1e-6}))
        slope = np.log(after["tpot_s.mean"] / before["tpot_s.mean"]) / np.log(1.0 + 1e-6)
        assert slope == pytest.approx(-before[f"share.{part}"], abs=1e-5)


@pytest.mark.parametrize(
    ("parallel", "concurrency"),
    [({"tensor": 2, "expert": 4}, 32), ({"tensor": 1, "data": 8, "expert": 8}, 256)],
)
def test_a_simulated_engine_at_saturation_is_near(parallel, concurrency):
    """Equal costs, drawn routing, real queues: tokens/s within 15 % (it is a closed form, not a bound)."""
    requests = {
        "count": 4 * concurrency,
        "concurrency": concurrency,
        "prompt_tokens": 64,
        "output_tokens": 64,
    }
    whole = {
        "model": "mixtral-8x7b", "system": "dgx-h100", "parallel": parallel, "fidelity": "roofline",
        "workload": {"requests": requests, "routing": "uniform"}, "policies": {"placement": "random"},
    }  # fmt: skip
    closed = metrics_of(codesign.load_experiment(whole))
    simulated = codesign.simulate(whole).summary
    assert simulated["tpot_s"]["mean"] == pytest.approx(closed["tpot_s.mean"], rel=0.15)


def drawn(
    chance_of: np.ndarray, k: int, tokens: int, groups: int, repeats: int
) -> tuple[float, float, float]:
    """Draw tokens that choose k experts each by Gumbel's top-k; return mean active, mean largest load."""
    draws = stream(1, "test")
    experts = len(chance_of)
    active, load = [], []
    for _ in range(repeats):
        keys = np.log(chance_of) + draws.gumbel(size=(tokens, experts))
        counts = np.bincount(np.argsort(-keys, axis=1)[:, :k].ravel(), minlength=experts)
        dealt = draws.permutation(experts) // (experts // groups)
        load.append(np.bincount(dealt, weights=counts, minlength=groups).max())
        active.append((counts > 0).sum())
    return float(np.mean(active)), float(np.mean(load)), float(np.std(load) / np.sqrt(repeats))


@pytest.mark.parametrize(("experts", "k", "groups"), [(8, 2, 4), (64, 6, 8), (128, 4, 16)])
@pytest.mark.parametrize("tokens", [4, 32, 256])
def test_expected_loads_are_near_the_drawn_ones(experts, k, groups, tokens):
    """Even popularity: active experts within 3 % (of 300 draws), the fullest group within 12 %."""
    loads = ExpectedLoads(np.full(experts, k / experts))
    active, load, _ = drawn(np.ones(experts), k, tokens, groups, 300)
    assert float(loads.active(tokens)) == pytest.approx(active, rel=0.03)
    assert float(loads.largest(tokens, groups)[0]) == pytest.approx(load, rel=0.12)


def test_popular_experts_make_groups_uneven():
    from workloads.routing.popularity import Skew, loads, ranked

    shares = ranked(Skew(zipf=0.8), 64, 4)
    expected = ExpectedLoads(loads(shares, 4))
    active, load, _ = drawn(shares, 4, 200, 8, 300)
    assert float(expected.active(200)) == pytest.approx(active, rel=0.02)
    assert float(expected.largest(200, 8)[0]) == pytest.approx(load, rel=0.12)


@settings(max_examples=100, deadline=None)
@given(
    experts=st.sampled_from([2, 8, 64, 256]),
    k=st.integers(1, 8),
    tokens=st.floats(0.1, 1e5),
    g=st.sampled_from([1, 2]),
)
def test_bounds_of_expected_loads(experts, k, tokens, g):
    k = min(k, experts)
    loads = ExpectedLoads(np.full(experts, k / experts))
    load, used = loads.largest(tokens, g)
    slots = tokens * k
    assert slots / g * (1 - 1e-12) <= load <= slots * (1 + 1e-12)
    assert 0 <= used <= min(experts / g, load) * (1 + 1e-12)
    assert loads.active(1) == pytest.approx(k)
    assert 1 - 1e-9 <= loads.reached(g) <= min(g, k) + 1e-9


@pytest.mark.parametrize(
    ("n", "value"), [(1, 0.0), (2, 1 / np.sqrt(np.pi)), (3, 1.5 / np.sqrt(np.pi)), (100, 2.50759)]
)
def test_the_expected_maximum_of_normals(n, value):
    assert expected_maximum(n) == pytest.approx(value, abs=1e-5)


def test_arrays_have_one_cost_model(experiment):
    whole = {**experiment, "fidelity": "roofline", "cost_model": "analytical"}
    found = evaluate({"experiment": whole, "axes": {f"{HBM}.bandwidth": ["2 TB/s"]}}).to_pylist()
    assert "cost model" in found[0]["error"]
    with pytest.raises(ConfigError, match=r"use codesign\.sweep"):
        evaluate({"experiment": whole, "axes": {"seed": [1]}, "derived": {"parallel.expert": "4"}})


@pytest.mark.parametrize(
    ("changes", "place"),
    [
        ({"memory.experts": "ddr", "policies.expert_cache": {"name": "lru", "slots": 1}}, "memory.experts"),
        ({"system": "duplex-node", "policies.units": "pim"}, "policies.units"),
    ],
)
def test_what_the_closed_form_leaves_out_is_refused(experiment, changes, place):
    base = {**experiment, "parallel": {"tensor": 4}, "fidelity": "roofline"}
    source = {"experiment": base, "set": changes, "axes": {"workload.requests.count": [8]}}
    found = codesign.sweep(source, workers=0)
    assert found.rows[0]["status"] == "refused"
    assert place in found.rows[0]["error"]
    assert "fidelity: event" in found.rows[0]["error"]


MODEL_AXES = {
    "model.n_routed_experts": [128, 256],
    "model.num_experts_per_tok": [4, 8],
    "model.n_shared_experts": [1, 2],
    "model.hidden_size": [4096, 7168],
    "model.moe_intermediate_size": [1024, 2048],
    "model.num_hidden_layers": [31, 61],
}


@pytest.mark.parametrize("path", list(MODEL_AXES))
def test_any_number_of_the_model_is_an_axis(path):
    """In arrays as point by point; more of anything takes longer to serve one batch."""
    base = {
        "model": "deepseek-v3", "system": {"from": "hgx-h200", "nodes": 2}, "fidelity": "roofline",
        "parallel": {"tensor": 1, "data": 16, "expert": 16},
        "precision": {"weights": "fp8", "activations": "fp8"},
        "workload": {"requests": {"count": 64, "concurrency": 64, "prompt_tokens": 256, "output_tokens": 32}},
    }  # fmt: skip
    table = evaluate({"experiment": base, "axes": {path: MODEL_AXES[path]}})
    assert table.column("error").to_pylist() == [None, None]
    few, many = table.column("tpot_s.mean").to_pylist()
    assert few < many
    for value, row in zip(MODEL_AXES[path], table.to_pylist(), strict=True):
        single = metrics_of(codesign.load_experiment({**base}, {path: value}))
        assert row["tpot_s.mean"] == pytest.approx(single["tpot_s.mean"], rel=1e-12)
        assert row["area_m2"] == pytest.approx(16 * 814e-6)
