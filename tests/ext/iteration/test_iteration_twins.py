"""The compiled iteration equals its plain twin to the last bit, and what it counts is conserved."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import codesign
from codesign.lower.plan import build_plan
from ext.iteration import PARTS, TALLY, layout, reference

compiled = pytest.importorskip("ext.iteration._iteration")

PLANS = {
    "tensor": {"tensor": 4},
    "tensor and experts": {"tensor": 4, "expert": 4},
    "data and experts": {"tensor": 1, "expert": 4, "data": 4},
    "two expert groups": {"tensor": 2, "expert": 2, "data": 2},
    "pipeline": {"tensor": 1, "expert": 2, "data": 2, "pipeline": 2},
}


def small_experiment(parallel, **more):
    """Three layers of Mixtral on two nodes of two devices: links and network are both crossed."""
    return codesign.load_experiment(
        {
            "model": {"from": "mixtral-8x7b", "num_hidden_layers": 3},
            "system": {"from": "dgx-h100", "nodes": 2, "devices_per_node": 2},
            "parallel": parallel,
            "workload": {
                "requests": {"count": 1, "prompt_tokens": 8, "output_tokens": 8, "batch": True},
                "routing": "uniform",
            },
            **more,
        }
    )


def random_batch(plan, rng, tokens):
    lay = plan.layout
    ids = np.argsort(rng.random((tokens, lay.n_layers, lay.n_experts)), axis=2)[:, :, :2].astype(np.int16)
    ids[rng.random(ids.shape) < 0.1] = -1
    cuts = np.sort(rng.integers(0, tokens + 1, lay.n_data - 1))
    group_ptr = np.array([0, *cuts, tokens], dtype=np.int32)
    parts = rng.random((lay.n_static, len(PARTS))) * 1e-4 * (rng.random((lay.n_static, 1)) < 0.9)
    return np.ascontiguousarray(ids), group_ptr, parts


STATE = (
    "row_s", "counts", "pair", "sums", "volume", "finish_s", "cause", "free_s", "busy_s", "path_parts",
    "straggle_s", "tally",
)  # fmt: skip


@pytest.mark.parametrize("parallel", PLANS.values(), ids=PLANS)
@given(seed=st.integers(0, 2**32 - 1), tokens=st.integers(0, 40))
@settings(max_examples=15, deadline=None)
def test_compiled_equals_plain(parallel, seed, tokens):
    plan = build_plan(small_experiment(parallel))
    plain, fast = reference.Iteration(plan.layout), compiled.Iteration(plan.layout)
    rng = np.random.default_rng(seed)
    start_s = 0.0
    for _ in range(3):  # graphs are open: state carries over
        batch = random_batch(plan, rng, tokens)
        ends = plain.run(*batch, start_s), fast.run(*batch, start_s)
        assert ends[0] == ends[1]
        for name in STATE:
            np.testing.assert_array_equal(getattr(plain, name), getattr(fast, name), err_msg=name)
        assert plain.path_length == fast.path_length
        assert plain.path[: plain.path_length].tolist() == fast.path[: fast.path_length].tolist()
        start_s += (ends[0] - start_s) * rng.random()


@pytest.mark.parametrize("parallel", PLANS.values(), ids=PLANS)
def test_what_is_counted_is_conserved(parallel):
    plan = build_plan(small_experiment(parallel))
    engine = compiled.Iteration(plan.layout)
    rng = np.random.default_rng(7)
    ids, group_ptr, parts = random_batch(plan, rng, 300)
    end_s = engine.run(ids, group_ptr, parts, 1.0)
    tally = dict(zip(TALLY, engine.tally, strict=True))
    assert tally["routed"] == tally["executed"] == (ids >= 0).sum() == engine.counts.sum()
    assert tally["link_sent"] == pytest.approx(tally["link_received"], rel=1e-12)
    assert tally["network_sent"] == pytest.approx(tally["network_received"], rel=1e-12)
    assert engine.path_parts.sum() == pytest.approx(end_s - 1.0, rel=1e-12)
    assert engine.busy_s.max() <= end_s - 1.0


def test_a_token_is_dispatched_once_to_a_group_that_holds_two_of_its_experts():
    plan = build_plan(small_experiment(PLANS["two expert groups"]))
    lay = plan.layout
    ids = np.zeros((1, lay.n_layers, 2), np.int16)
    ids[:, :, 1] = 1  # experts 0 and 1 are both in group 0
    counts, pair = (np.zeros(s, np.int32) for s in ((3, 8), (3, 2, 2)))
    used = compiled.count(ids, np.array([0, 1, 1], np.int32), lay.expert_group, 2, counts, pair, True)
    assert used == 6
    assert pair.tolist() == [[[1, 0], [0, 0]]] * 3


@given(
    seed=st.integers(0, 2**32 - 1), tokens=st.integers(0, 600),
    n_groups=st.sampled_from([1, 2, 8, 9, 16, 40]), k=st.sampled_from([1, 2, 3, 4, 8]),
)  # fmt: skip
@settings(max_examples=25, deadline=None)
def test_counting_twins_agree_for_many_groups_and_full_lanes(seed, tokens, n_groups, k):
    rng = np.random.default_rng(seed)
    n_experts, n_layers = 40, 2
    ids = rng.integers(-1, n_experts, (tokens, n_layers, k)).astype(np.int16)
    group = rng.integers(0, n_groups, (n_layers, n_experts)).astype(np.int16)
    ptr = np.array([0, tokens // 3, tokens], np.int32)
    results = []
    for twin in (reference.count, compiled.count):
        counts, pair = np.ones((n_layers, n_experts), np.int32), np.ones((n_layers, 2, n_groups), np.int32)
        results.append((twin(ids, ptr, group, n_groups, counts, pair, True), counts.tolist(), pair.tolist()))
    assert results[0] == results[1]


@pytest.mark.parametrize("power", [1.0, 2.0, 3.0, 4.0, 5.5, float("inf")])
def test_shares_are_the_derivatives_of_the_norm(power):
    a, b, h = 3e-4, 2e-4, 1e-6
    table = layout._norm_with_one(np.linspace(0.0, 1.0, layout.NORM_STEPS + 1), power)
    share = reference._share(a, b, power)
    exact = max(a, b) if np.isinf(power) else (a**power + b**power) ** (1 / power)
    assert reference.norm(a, b, power, table) == pytest.approx(exact, rel=1e-7)
    assert reference.norm(b, a, power, table) == reference.norm(a, b, power, table)
    slope = reference.norm(a * (1 + h), b, power, table) - reference.norm(a, b, power, table)
    assert share == pytest.approx(slope / (exact * h), abs=1e-3)
    assert share + reference._share(b, a, power) == pytest.approx(1.0)


def test_layout_orders_experts_by_group():
    plan = build_plan(small_experiment(PLANS["two expert groups"], policies={"placement": "round_robin"}))
    lay = plan.layout
    assert lay.order[0].tolist() == [0, 2, 4, 6, 1, 3, 5, 7]
    assert lay.order_ptr[0].tolist() == [0, 4, 8]
    assert lay.n_rows == lay.barrier_row + 1
    assert set(layout.KINDS) >= {"experts", "dispatch", "combine"}
