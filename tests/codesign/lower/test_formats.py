"""Experts stored one by one: bits kept, plain precision as a limit, twins, decoding, capacity, energy."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import codesign
from codesign.base.errors import CapacityError, ConfigError
from codesign.experiment.merging import MergedStream, leaders
from codesign.lower.plan import build_plan
from codesign.policies.expert_bits import Lp, Popular, Random, solve
from ext.iteration import Iteration, reference

LAYERS, EXPERTS = 3, 8
LP = {"name": "lp", "average": 2.5, "choices": [1, 2, 3]}
PIM = {
    "tier": "hbm", "level": "logic_die", "bandwidth": "13.4 TB/s", "peak_flop_rate": "107 TFLOP/s",
    "launch_overhead": "1 us", "energy_per_byte": "1.81 pJ/bit", "energy_per_flop": "0.23 pJ/FLOP",
}  # fmt: skip


def base(experts=None, **more):
    precision = {"weights": "bf16", **({} if experts is None else {"experts": experts})}
    return {
        "model": {"from": "mixtral-8x7b", "num_hidden_layers": LAYERS},
        "system": {"from": "dgx-h100", "devices_per_node": 2, "device": {"pim": PIM}},
        "parallel": {"tensor": 2, "expert": 2},
        "precision": precision,
        "workload": {
            "requests": {"count": 8, "batch": True, "prompt_tokens": 40, "output_tokens": 20},
            "routing": {"generator": "synthetic", "popularity": {"zipf": 1.0}},
        },
        **more,
    }


def plan_of(*args, **more):
    return build_plan(codesign.load_experiment(base(*args, **more)))


def summary(*args, **more):
    return codesign.simulate(base(*args, **more)).summary


@given(seed=st.integers(0, 2**32 - 1), at_least=st.integers(0, 1))
@settings(max_examples=25, deadline=None)
def test_the_program_finds_the_best_of_all_allocations(seed, at_least):
    rng = np.random.default_rng(seed)
    choices, weights = np.array([1.0, 2.0, 3.0]), rng.random(5)
    total = float(rng.integers(6, 15))
    errors = 0.25**choices
    found = solve(weights, errors, choices, total, at_least)
    legal = [
        bits for bits in product(choices, repeat=5)
        if sum(bits) == total and (len(set(bits)) == 3 or not at_least)
    ]  # fmt: skip
    if not legal:  # at_least cannot be met with this total: as without
        legal = [bits for bits in product(choices, repeat=5) if sum(bits) == total]
    best = min(float(weights @ 0.25 ** np.array(bits)) for bits in legal)
    assert found.sum() == total
    assert weights @ 0.25**found == pytest.approx(best, rel=1e-9)


@pytest.mark.parametrize("policy", [Lp, Popular, Random])
@given(average=st.floats(1, 3), seed=st.integers(0, 2**16))
@settings(max_examples=15, deadline=None)
def test_the_average_is_kept_in_every_layer(policy, average, seed):
    shares = np.random.default_rng(seed).dirichlet(np.ones(EXPERTS), LAYERS)
    bits = policy(average=average).allocate(shares, seed)
    assert bits.sum(axis=1).tolist() == [np.floor(average * EXPERTS + 1e-9)] * LAYERS
    assert set(bits.ravel()) <= {1.0, 2.0, 3.0}


def test_popular_experts_have_more_bits_than_others():
    shares = np.random.default_rng(3).dirichlet(np.ones(EXPERTS), LAYERS)
    for policy in (Lp(average=2.0), Popular(average=2.0)):
        bits = np.take_along_axis(policy.allocate(shares, 1), np.argsort(shares, axis=1), axis=1)
        assert (np.diff(bits, axis=1) >= 0).all()


def test_an_average_below_the_choices_is_refused():
    with pytest.raises(ConfigError, match=r"precision.experts.bits: average = 0.5"):
        plan_of({"bits": {**LP, "average": 0.5}})


@pytest.mark.parametrize(
    ("bits", "name"), [(16, "bf16"), (8, "fp8"), ([4] * LAYERS, "int4"), ([[4] * EXPERTS] * LAYERS, "int4")]
)
def test_equal_bits_are_plain_precision(bits, name):
    ours, plain = codesign.simulate(base({"bits": bits})), codesign.simulate(base(name))
    for key, value in plain.summary.items():
        close = isinstance(value, (float, dict))  # sums in another order
        assert ours.summary[key] == (pytest.approx(value, rel=1e-12) if close else value)
    for key, value in plain.memory.items():
        assert ours.memory[key] == pytest.approx(value, rel=1e-12)
    assert ours.energy_j == pytest.approx(plain.energy_j, rel=1e-12)


def test_bytes_and_average_follow_the_bits():
    plan, whole = plan_of({"bits": LP, "overhead_bits": 0.25}), plan_of("bf16")
    assert plan.formats.average_bits() == 2.5
    assert plan.expert_bytes.sum() == pytest.approx(whole.expert_bytes.sum() * 2.75 / 16)
    freed = whole.residency.weight_bytes - plan.residency.weight_bytes
    held = [rows.sum() for rows in (whole.expert_bytes, plan.expert_bytes)]
    assert freed == pytest.approx((held[0] - held[1]) / 2, rel=0.05)  # two groups; the fullest counts


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=20, deadline=None)
@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("units", [None, "min_time"])
def test_twins_agree_on_mixed_formats(seed, fused, units):
    rng = np.random.default_rng(seed)
    bits = rng.choice([1.0, 2.0, 3.0, 16.0], (LAYERS, EXPERTS)).tolist()
    plan = plan_of({"bits": bits, "decode": {"rate": "3 TB/s", "fused": fused}}, policies={"units": units})
    lay = plan.layout
    plain, fast = reference.Iteration(lay), Iteration(lay)
    for iteration in (plain, fast):
        iteration.portion[:] = np.random.default_rng(seed).integers(0, lay.n_portions, lay.variant.shape)
    ids = np.argsort(rng.random((30, LAYERS, EXPERTS)), axis=2)[:, :, :2].astype(np.int16)
    parts = rng.random((lay.n_static, plain.path_parts.shape[1])) * 1e-4
    ptr = np.array([0, 30], np.int32)
    assert plain.run(ids, ptr, parts, 0.0) == fast.run(ids, ptr, parts, 0.0)
    for name in ("row_s", "sums", "path_parts", "straggle_s", "tally", "portion_tally"):
        np.testing.assert_array_equal(getattr(plain, name), getattr(fast, name), err_msg=name)


def test_a_decode_rate_bounds_the_speed_of_small_weights():
    """QMoE's shape: time is the larger of bytes over bandwidth and values over the decode rate."""
    small = {"bits": 0.8, "decode": {"rate": "1 TB/s"}}
    model = {"cost_model": "roofline", "system": {"from": "dgx-h100", "devices_per_node": 1}, "parallel": {}}
    plan = plan_of(small, **model)
    values = 3 * 4096 * 14336
    expected = values * 2 / 1e12 + 2 * values / 989.4e12
    iteration = Iteration(plan.layout)
    ids = np.tile(np.array([[0, -1]], np.int16), (1, LAYERS, 1))
    iteration.run(ids, np.array([0, 1], np.int32), np.zeros((plan.layout.n_static, 14)), 0.0)
    assert iteration.row_s[plan.layout.expert_row] == pytest.approx(expected, rel=1e-3)


def test_decoding_costs_time_and_energy_and_its_absence_nothing():
    free, fused = codesign.simulate(base({"bits": 2})), {"bits": 2, "decode": {"rate": "0.5 TB/s"}}
    slow = codesign.simulate(base(fused))
    apart = codesign.simulate(base({"bits": 2, "decode": {"rate": "0.5 TB/s", "fused": False}}))
    by_token = codesign.simulate(base({"bits": 2, "decode": {"rate": "0.5 TB/s", "per": "token"}}))
    times = [run.summary["simulated_s"] for run in (free, slow, apart)]
    assert times == sorted(times)
    assert by_token.summary["simulated_s"] > slow.summary["simulated_s"]
    assert "decode" not in free.energy_j
    assert slow.energy_j["decode"] == pytest.approx(apart.energy_j["decode"])
    assert by_token.energy_j["decode"] > slow.energy_j["decode"] > 0
    assert apart.details["path_s"]["experts"]["vector"] > 0


def test_a_rate_and_the_work_that_takes_so_long_are_the_same():
    rate = {"bits": 2, "decode": {"rate": "1.338 TB/s"}}
    work = {"bits": 2, "decode": {"flop_per_value": 100}}  # of 66.9 TFLOP/s: 669e9 values of two bytes
    assert summary(rate)["simulated_s"] == pytest.approx(summary(work)["simulated_s"], rel=1e-9)


@pytest.mark.parametrize("fused", [True, False])
def test_faster_decoding_is_what_the_elasticity_says(fused):
    experts = {"bits": 2, "decode": {"rate": "0.2 TB/s", "fused": fused}}
    part = "compute" if fused else "vector"
    model = {"cost_model": "roofline"}
    run = codesign.simulate(base(experts, **model))
    faster = codesign.simulate(base(experts, speed={part: 1.001}, **model))
    gain = run.summary["simulated_s"] / faster.summary["simulated_s"] - 1
    assert gain == pytest.approx(-0.001 * run.elasticities[part], rel=0.02)


def test_low_rank_has_fewer_bytes_and_products():
    plan, whole = plan_of({"rank": 1024}), plan_of("bf16")
    share = 1024 * (4096 + 14336) / (4096 * 14336)
    assert plan.expert_bytes == pytest.approx(whole.expert_bytes * share)
    assert plan.layout.work == pytest.approx(whole.layout.work * share)
    with pytest.raises(ConfigError, match="at most the 4096"):
        plan_of({"rank": 5000})


def test_merged_experts_lie_once_and_are_computed_once():
    plan = plan_of({"merge": 2})
    assert ((plan.expert_bytes > 0).sum(axis=1) == 2).all()
    experiment = codesign.load_experiment(base({"merge": 2}))
    spans = np.zeros(1, np.int64), np.zeros(1, np.int64), np.array([200], np.int64)
    ids = experiment.routing().draw(*spans)
    for m in range(LAYERS):
        assert set(ids[:, m].ravel()) <= {-1, *np.flatnonzero(plan.expert_bytes[m])}
    used = ids[(ids >= 0).all(axis=2)]
    assert len(used) == 0 or (used[..., 0] != used[..., 1]).all()
    assert (ids >= 0).any(axis=2).all()
    merged, plain = codesign.simulate(base({"merge": 2})), codesign.simulate(base())
    assert merged.memory["weight_bytes"] < plain.memory["weight_bytes"]
    assert merged.cost["counters"]["flop"] < plain.cost["counters"]["flop"]
    assert summary({"merge": EXPERTS}) == summary()


def test_leaders_lead_themselves():
    lead = leaders(np.random.default_rng(1).dirichlet(np.ones(16), 4), 5)
    for row in lead:
        assert (row[row] == row).all()
        assert len(set(row)) == 5
    stream = MergedStream(codesign.load_experiment(base()).routing(), lead[:LAYERS, :EXPERTS] % EXPERTS)
    assert stream.top_k == 2


def test_bits_of_merged_experts_average_over_those_that_are_kept():
    plan = plan_of({"merge": 4, "bits": {**LP, "average": 2.0}})
    whole = plan_of("bf16")
    assert plan.expert_bytes.sum(axis=1) == pytest.approx(whole.expert_bytes[:, 0] * 4 * 2 / 16)


def test_fewer_bits_are_fetched_and_fit_where_others_do_not():
    tier = {"memory": {"experts": "ddr"}, "policies": {"expert_cache": {"name": "lru", "slots": 2}}}
    few = codesign.simulate(base({"bits": LP}, **tier)).details["expert_cache"]
    all_bits = codesign.simulate(base(**tier)).details["expert_cache"]
    assert few["hits"] == all_bits["hits"]
    assert 1 / 16 < few["fetched_bytes"] / all_bits["fetched_bytes"] < 3 / 16
    tight = {"system": {"from": "workstation", "device": "rtx-4090"}, "parallel": {}}
    large = {"model": "mixtral-8x7b", **tight}
    with pytest.raises(CapacityError):
        plan_of(**large)
    assert plan_of({"bits": LP, "overhead_bits": 0.2}, **large).residency.kv_bytes > 0


@pytest.mark.parametrize(
    ("experts", "rule"),
    [
        ({"bits": 2, "decode": {}}, "either rate or flop_per_value"),
        ({"bits": 2, "decode": {"rate": "1 TB/s", "per": "token", "fused": False}}, "once: per expert"),
        ({"bits": [1, 2]}, "one for each of 3 layers"),
        ({"bits": -1}, "from 0.01 to 64"),
        ({"bits": {"name": "lq", "average": 2}}, "did you mean"),
        ({"merge": 9}, "a layer has 8 experts"),
        ("int5", "choose from native"),
    ],
)
def test_mistakes_are_told(experts, rule):
    with pytest.raises(ConfigError, match=rule):
        plan_of(experts)


def test_other_matrices_are_decoded_too_if_they_are_narrow():
    decode = {"rate": "1 TB/s", "fused": False}

    def attention(**precision):
        run = codesign.simulate({**base(), "precision": precision})
        return sum(run.details["path_s"]["attention"].values()), run.cost["counters"]["flop"]

    plain, flop = attention(weights="int4")
    apart, more_flop = attention(weights="int4", decode=decode)
    steps = 20  # prefill and 19 decodes
    values = 4096 * 4096 * 2 + 2 * 4096 * 1024
    assert apart - plain == pytest.approx(steps * LAYERS * values / 2 * 2 / 1e12, rel=1e-6)
    assert more_flop > flop
    assert attention(weights="bf16", decode=decode) == attention(weights="bf16")
    assert attention(weights="int4", decode={"rate": "1000 TB/s"})[0] == pytest.approx(plain)
