"""Expert caches over slower tiers and PIM co-processing: conservation, limits, ablation, perturbation."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import codesign
from codesign.base.errors import ConfigError
from codesign.lower.plan import build_plan
from codesign.lower.portions import by_bundle
from codesign.lower.tiers import find_path
from codesign.policies.units import CoProcess, MinTime, UnitTimes
from codesign.serve.cluster import Cluster
from codesign.serve.tasklog import TaskLog
from ext.iteration import Iteration, reference

PIM = {
    "tier": "hbm", "level": "logic_die", "bandwidth": "13.4 TB/s", "peak_flop_rate": "107 TFLOP/s",
    "launch_overhead": "1 us", "energy_per_byte": "1.81 pJ/bit", "energy_per_flop": "0.23 pJ/FLOP",
}  # fmt: skip
LAYERS = 3


def base(**more):
    return {
        "model": {"from": "mixtral-8x7b", "num_hidden_layers": LAYERS},
        "system": {"from": "dgx-h100", "devices_per_node": 2, "device": {"pim": PIM}},
        "parallel": {"tensor": 2, "expert": 2},
        "workload": {
            "requests": {"count": 8, "batch": True, "prompt_tokens": 40, "output_tokens": 20},
            "routing": "zipf",
        },
        **more,
    }


def cached(slots=2, **more):
    return base(memory={"experts": "ddr"}, policies={"expert_cache": {"name": "lru", "slots": slots, **more}})


def finished(experiment):
    experiment = codesign.load_experiment(experiment)
    plan = build_plan(experiment)
    cluster = Cluster(experiment, plan, experiment.requests(), TaskLog(plan.graph))
    cluster.run()
    return cluster


def test_every_use_is_a_hit_or_a_fetch():
    cluster = finished(cached())
    (assigner,) = cluster.assigners
    tally = assigner.caches.tally
    assert tally.hits > 0
    assert tally.corrections > 0
    assert tally.foretold == tally.wasted == 0
    assert assigner.fetched_bytes == pytest.approx(tally.corrections * cluster.plan.expert_bytes[0])
    assert assigner.wasted_bytes == 0


def test_wrong_predictions_cost_their_bytes():
    cluster = finished(cached(prefetch={"accuracy": 0.7}))
    (assigner,) = cluster.assigners
    tally, each = assigner.caches.tally, cluster.plan.expert_bytes[0]
    assert assigner.wasted_bytes == pytest.approx(tally.wasted * each)
    assert tally.wasted > 0
    assert tally.foretold > 0
    assert assigner.fetched_bytes == pytest.approx((tally.foretold + tally.corrections + tally.wasted) * each)


def test_a_perfect_prediction_wastes_nothing_and_hides_time():
    lazy, early = codesign.simulate(cached()), codesign.simulate(cached(prefetch={"accuracy": 1.0}))
    assert early.details["expert_cache"]["wasted_bytes"] == 0
    uses = [
        run.details["expert_cache"]["hits"] + run.details["expert_cache"]["misses"] for run in (lazy, early)
    ]
    assert uses[0] == uses[1]
    assert early.summary["simulated_s"] < lazy.summary["simulated_s"]


def test_a_cache_that_holds_all_misses_each_expert_once():
    held, resident = codesign.simulate(cached(slots=8)), codesign.simulate(base())
    assert held.details["expert_cache"]["misses"] <= LAYERS * 8
    first_fetches = held.details["path_s"]["fetch"]
    gap = held.summary["simulated_s"] - resident.summary["simulated_s"]
    assert gap == pytest.approx(sum(first_fetches.values()), rel=0.2)


def test_more_slots_never_miss_more():
    misses = [codesign.simulate(cached(slots=n)).details["expert_cache"]["misses"] for n in (0, 1, 2, 3, 4)]
    assert all(b <= a for a, b in pairwise(misses))


def test_twice_the_links_halve_the_bandwidth_share_of_a_fetch_bound_run():
    experiment = codesign.load_experiment(cached(slots=0))
    slow = codesign.simulate(experiment)
    fast = codesign.simulate(experiment.replace({"speed.fetch_bandwidth": 2.0}))
    saved = slow.summary["simulated_s"] - fast.summary["simulated_s"]
    assert saved == pytest.approx(slow.details["path_s"]["fetch"]["fetch_bandwidth"] / 2, rel=0.05)


def test_pim_that_is_not_used_changes_nothing():
    without = codesign.simulate(base())
    unused = codesign.simulate(base(policies={"units": "xpu"}))
    assert unused.summary["simulated_s"] == without.summary["simulated_s"]


def test_co_processing_is_no_slower_than_one_unit_after_the_other():
    times = {
        name: codesign.simulate(base(policies={"units": {"name": name, "attention": "xpu"}})).summary[
            "simulated_s"
        ]
        for name in ("xpu", "min_time", "co_process")
    }
    assert times["co_process"] <= times["min_time"] < times["xpu"]


def test_a_slower_pim_helps_less():
    ratio = []
    for factor in (1.0, 0.5, 0.25):
        run = codesign.simulate(
            base(policies={"units": "co_process"}, speed={"pim_memory": factor, "pim_compute": factor})
        )
        ratio.append(run.summary["simulated_s"])
    assert ratio[0] < ratio[1] <= ratio[2]


@given(tokens=st.lists(st.integers(0, 60), min_size=1, max_size=12), fast=st.floats(0.1, 5))
@settings(max_examples=60, deadline=None)
def test_the_split_ends_both_units_soonest(tokens, fast):
    n = np.sort(np.array(tokens))[None, None, :]
    alone = (n > 0) * (3.0 + 0.01 * n)
    xpu = np.concatenate((np.cumsum(alone[..., ::-1], axis=-1)[..., ::-1], np.zeros((1, 1, 1))), axis=-1)
    pim = (n > 0) * np.maximum(1.0, n / 10) / fast
    times = UnitTimes(xpu, pim, alone, 0.05)
    chosen = CoProcess().to_pim(times)[0, 0]
    taken = pim[0, 0][chosen].sum()
    makespan = max(taken + 0.05 * (taken > 0), alone[0, 0][~chosen].sum())
    for k in range(len(tokens) + 1):
        first = pim[0, 0, :k].sum()
        assert makespan <= max(first + 0.05 * (first > 0), xpu[0, 0, k]) + 1e-12
    assert (MinTime().to_pim(times)[0, 0] == (pim[0, 0] < alone[0, 0])).all()


@given(tokens=st.lists(st.integers(0, 60), min_size=1, max_size=12), bundles=st.integers(1, 12))
@settings(max_examples=60, deadline=None)
def test_a_bundle_of_banks_feeds_one_unit(tokens, bundles):
    n, bundles = np.array(tokens)[None, None, :], min(bundles, len(tokens))
    order, ends = by_bundle(n, bundles)
    lies_in = order[0, 0] % bundles
    totals = [sum(tokens[b::bundles]) for b in range(bundles)]
    assert sorted(order[0, 0]) == list(range(len(tokens)))
    assert [totals[b] for b in dict.fromkeys(lies_in)] == sorted(totals)
    moved = np.take_along_axis(n, order, axis=-1).astype(float)
    alone = (moved > 0) * (3.0 + 0.01 * moved)
    xpu = np.concatenate((np.cumsum(alone[..., ::-1], axis=-1)[..., ::-1], np.zeros((1, 1, 1))), axis=-1)
    chosen = CoProcess().to_pim(UnitTimes(xpu, alone / 4, alone, 0.0, ends))[0, 0]
    assert not set(lies_in[chosen]) & set(lies_in[~chosen])
    if bundles == len(tokens):
        assert (order[0, 0] == np.argsort(tokens, kind="stable")).all()
        assert ends.all()


def test_fewer_bundles_never_let_both_units_end_sooner():
    times = []
    for bundles in (1, 2, 4):
        run = base(policies={"units": {"name": "co_process", "attention": "xpu"}}, parallel={"tensor": 2})
        run["system"] = {
            "from": "dgx-h100",
            "devices_per_node": 2,
            "device": {"pim": {**PIM, "bundles": bundles}},
        }
        times.append(codesign.simulate(run).summary["simulated_s"])
    assert times[2] <= times[1] <= times[0]
    assert times[2] < times[0]


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=10, deadline=None)
def test_twins_agree_with_portions_and_fetches(seed):
    experiment = cached(prefetch={"accuracy": 0.5})
    experiment["policies"]["units"] = "co_process"
    plan = build_plan(codesign.load_experiment(experiment))
    lay, rng = plan.layout, np.random.default_rng(seed)

    def assign(iteration):
        draws = np.random.default_rng(seed + 1)
        iteration.portion[:] = draws.integers(0, lay.n_portions, iteration.portion.shape)
        iteration.fetch_s[:] = draws.random(iteration.fetch_s.shape) * 1e-4

    twins = [reference.Iteration(lay, assign=assign), Iteration(lay, assign=assign)]
    ids = np.argsort(rng.random((30, LAYERS, 8)), axis=2)[:, :, :2].astype(np.int16)
    parts = rng.random((lay.n_static, 14)) * 1e-4
    for start_s in (0.0, 1e-3):
        ends = [t.run(np.ascontiguousarray(ids), np.array([0, 30], np.int32), parts, start_s) for t in twins]
        assert ends[0] == ends[1]
        for name in ("row_s", "sums", "finish_s", "path_parts", "straggle_s", "tally", "portion_tally"):
            np.testing.assert_array_equal(getattr(twins[0], name), getattr(twins[1], name), err_msg=name)


def test_paths_multiply_no_bandwidth():
    system = codesign.load_experiment(base()).system
    ddr, nvme = find_path(system, "ddr"), find_path(system, "nvme")
    pcie = system.host.links["pcie"]
    assert ddr.bytes_per_s <= pcie.bandwidth * pcie.efficiency
    assert nvme.bytes_per_s < ddr.bytes_per_s
    assert nvme.latency_s > ddr.latency_s
    assert nvme.seconds(1.0, 1)[0] == pytest.approx(4096 / nvme.bytes_per_s)  # a whole granule


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"memory": {"experts": "ddr"}}, "policies.expert_cache"),
        ({"memory": {"experts": "dddr"}}, "did you mean 'ddr'"),
        ({"policies": {"expert_cache": {"name": "lru", "slots": 2}}}, "memory.experts"),
        ({"memory": {"experts": "ddr"}, "policies": {"expert_cache": {"name": "lru"}}}, "slots"),
        ({"system": "dgx-h100", "policies": {"units": "co_process"}}, "no PIM"),
        ({"policies": {"units": "coprocess"}}, "did you mean 'co_process'"),
    ],
)  # fmt: skip
def test_mistakes_are_told(changes, words):
    with pytest.raises(ConfigError, match=words):
        codesign.load_experiment(base(**changes))


CPU = {
    "tier": "ddr", "level": "beside", "bandwidth": "80 GB/s", "peak_flop_rate": "2 TFLOP/s",
    "launch_overhead": "20 us", "energy_per_byte": "20 pJ/bit", "energy_per_flop": "5 pJ/FLOP",
}  # fmt: skip


def beside(misses, prompt=4, slots=2, output=12, **unit):
    """Return the run of one request at a time on a desktop whose processor computes experts, too."""
    host = {"units": {"cpu": {**CPU, **unit}}}
    return codesign.simulate({
        "model": {"from": "mixtral-8x7b", "num_hidden_layers": LAYERS},
        "system": {"from": "workstation", "device": "rtx-pro-6000", "host": host},
        "memory": {"experts": "ddr"},
        "policies": {"expert_cache": {"name": "pinned", "slots": slots, "misses": misses, "chunks": 1}},
        "workload": {
            "requests": {"count": 2, "concurrency": 1, "prompt_tokens": prompt, "output_tokens": output},
            "routing": "uniform",
        },
    })  # fmt: skip


def test_experts_computed_where_they_lie_are_read_there_and_not_fetched():
    near, fetched = beside("near"), beside("fetch")
    expert_bytes = 3 * 4096 * 14336 * 2.0
    missed = near.details["expert_cache"]["corrections"]
    assert near.details["expert_cache"]["hit_rate"] == fetched.details["expert_cache"]["hit_rate"]
    assert near.details["expert_cache"]["fetched_bytes"] == 0
    assert near.cost["counters"]["near_bytes"] == pytest.approx(missed * expert_bytes, rel=1e-3)
    assert near.energy_j["near"] > 0
    assert near.cost["counters"]["fetched_bytes"] == 0
    assert fetched.cost["counters"]["fetched_bytes"] == pytest.approx(missed * expert_bytes)
    assert fetched.cost["counters"]["near_bytes"] == 0


def test_a_token_takes_what_the_processor_reads():
    slow, fast = (beside("near", slots=0, bandwidth=f"{rate} GB/s") for rate in (40, 80))
    read_s = 3 * 4096 * 14336 * 2.0 * 2 * LAYERS / 40e9
    saved = slow.summary["tpot_s"]["mean"] - fast.summary["tpot_s"]["mean"]
    assert saved == pytest.approx(read_s / 2, rel=0.01)


def test_few_tokens_are_computed_beside_memory_and_many_are_worth_a_fetch():
    few = {name: beside(name).summary["ttft_s"]["mean"] for name in ("fetch", "near", "min_time")}
    many = {
        name: beside(name, 2000, output=1).summary["ttft_s"]["mean"] for name in ("fetch", "near", "min_time")
    }
    assert few["near"] < few["fetch"]
    assert many["near"] > many["fetch"]
    assert few["min_time"] <= 1.001 * min(few.values())
    assert many["min_time"] <= 1.001 * min(many.values())


def test_both_at_once_end_no_later_than_either():
    for prompt in (4, 64, 512):
        both, *alone = (
            beside(name, prompt, slots=0, output=1).summary["ttft_s"]["mean"]
            for name in ("co_process", "near", "fetch")
        )
        assert both <= 1.001 * min(alone)


def test_what_is_held_needs_no_one_beside_it():
    held, near = beside("fetch", slots=8), beside("near", slots=8)
    assert near.summary["tpot_s"]["mean"] == held.summary["tpot_s"]["mean"]


def test_a_tier_without_a_unit_computes_nothing():
    with pytest.raises(ConfigError, match=r"nothing computes beside ddr.*system\.host\.units"):
        beside("near", tier="nvme")


def test_devices_of_a_node_share_its_processor():
    times = []
    for devices in (1, 2):
        run = base(memory={"experts": "ddr"}, parallel={"tensor": devices, "expert": devices})
        run["policies"] = {"expert_cache": {"name": "pinned", "slots": 0, "misses": "near"}}
        run["system"] = {
            "from": "dgx-h100", "devices_per_node": devices, "host": {"units": {"cpu": CPU}}
        }  # fmt: skip
        run["workload"]["requests"] = {"count": 1, "batch": True, "prompt_tokens": 40, "output_tokens": 8}
        times.append(codesign.simulate(run).summary["tpot_s"]["mean"])
    assert times[1] == pytest.approx(times[0], rel=0.05)
