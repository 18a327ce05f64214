"""Preempted sequences: computed again, or kept in another tier and brought back."""

import copy

import numpy as np
import pytest

import codesign
from codesign.base.errors import CapacityError, ConfigError
from codesign.lower.plan import build_plan

LAYERS, COUNT, PROMPT, OUTPUT = 6, 24, 480, 200
BLOCK = 16 * LAYERS * 2 * 8 * 128 * 2  # bytes


def base(preemption="recompute", room=0.8, **more):
    """A device that holds the prompts of all and, with less than a whole `room`, not all of their outputs."""
    experiment = {
        "model": {"from": "llama-3.1-8b", "num_hidden_layers": LAYERS},
        "system": {"from": "workstation", "device": "a40"},
        "cost_model": "roofline",
        "memory": {"utilization": 1.0},
        "workload": {
            "requests": {"count": COUNT, "batch": True, "prompt_tokens": PROMPT, "output_tokens": OUTPUT},
        },
        "policies": {"preemption": preemption, "batching": {"name": "chunked_prefill", "token_budget": 4096}},
        **more,
    }
    loaded = codesign.load_experiment(
        {**experiment, "policies": {**experiment["policies"], "preemption": "recompute"}}
    )
    plan, main = build_plan(loaded), loaded.system.device.main_memory
    need = room * COUNT * plan.kv.sequence_bytes(plan.kv.blocks(PROMPT + OUTPUT))
    system = copy.deepcopy(experiment["system"])
    device = system["device"] if isinstance(system["device"], dict) else {"from": system["device"]}
    capacity = {"capacity": f"{plan.residency.resident_bytes + need:.0f} B"}
    system["device"] = {**device, "memory": {main: capacity}}
    return {**experiment, "system": system}


SWAP = {"name": "swap", "tier": "ddr"}


@pytest.fixture(scope="module")
def runs():
    return {name: codesign.simulate(base(p)) for name, p in (("recompute", "recompute"), ("swap", SWAP))}


def test_both_ways_preempt_and_give_every_token(runs):
    for run in runs.values():
        assert run.details["preemptions"] > 0
        assert run.summary["requests"]["completed"] == COUNT
        assert run.summary["output_tokens"] == COUNT * OUTPUT
        assert all(run.conservation.values())


def test_what_is_swapped_is_not_computed_again(runs):
    prefilled = {name: int(run.iterations["prefill_tokens"].sum()) for name, run in runs.items()}
    assert prefilled["swap"] == COUNT * PROMPT < prefilled["recompute"]
    assert int(runs["swap"].iterations["decodes"].sum()) == COUNT * (OUTPUT - 1)


def test_what_goes_out_comes_back_and_is_whole_blocks(runs):
    moved = runs["swap"].details["tiers"]["ddr"]
    assert moved["swapped_kv_written_bytes"] == moved["swapped_kv_read_bytes"] > 0
    assert moved["swapped_kv_read_bytes"] % BLOCK == 0
    assert runs["recompute"].details["tiers"] is None
    assert runs["swap"].energy_j["fetch"] > 0


def test_a_preempted_sequence_goes_on_at_the_same_place(runs):
    """The token positions that are decoded are those of a run with memory for all."""
    roomy = codesign.simulate(base(room=2.0))
    assert roomy.details["preemptions"] == 0
    assert int(roomy.iterations["decodes"].sum()) == int(runs["swap"].iterations["decodes"].sum())
    assert (runs["swap"].requests["longest_gap_s"].max()) > roomy.requests["longest_gap_s"].max()
    assert np.isfinite(runs["swap"].requests["finished_s"]).all()


def test_without_pressure_a_policy_changes_nothing():
    times = [codesign.simulate(base(p, room=2.0)).summary for p in ("recompute", SWAP)]
    assert times[0] == times[1]


def test_a_faster_link_makes_swapping_better_and_a_slow_one_worse(runs):
    spans = []
    for bandwidth in ("1 GB/s", "32 GB/s", "1 TB/s"):
        host = {"links": {"pcie": {"bandwidth": bandwidth}}}
        system = {**base()["system"], "host": host}
        spans.append(codesign.simulate(base(SWAP, system=system)).summary["simulated_s"])
    assert spans[0] > spans[1] > spans[2]
    assert spans[0] > runs["recompute"].summary["simulated_s"] > spans[2]


def test_what_does_not_fit_the_other_tier_is_computed_again(runs):
    some = codesign.simulate(base({**SWAP, "capacity": "30 MB"}))
    prefilled = int(some.iterations["prefill_tokens"].sum())
    assert prefilled > COUNT * PROMPT
    assert some.details["tiers"]["ddr"]["swapped_kv_read_bytes"] > 0
    none = codesign.simulate(base({**SWAP, "capacity": "1 kB"}))
    assert none.requests["finished_s"] == pytest.approx(runs["recompute"].requests["finished_s"])


@pytest.mark.parametrize("name", ["prefill_first", "static", "chunked_prefill"])
@pytest.mark.parametrize("parallel", [{"replicas": 1}, {"tensor": 2, "pipeline": 2}])
def test_every_batching_and_plan_ends_and_executors_agree(name, parallel):
    node = {"from": "dgx-h100", "devices_per_node": 4, "device": "h100"}
    policies = {"preemption": SWAP, "batching": {"name": name}}
    both = [
        codesign.simulate(base(system=node, parallel=parallel, policies=policies, executor=executor))
        for executor in ("compiled", "simpy")
    ]
    assert both[0].summary == both[1].summary
    assert both[0].details == both[1].details
    assert both[0].summary["requests"]["completed"] == COUNT
    assert both[0].details["preemptions"] > 0


@pytest.mark.parametrize(
    ("preemption", "more", "error", "words"),
    [
        ({"name": "swap"}, {}, ConfigError, "tier"),
        ({"name": "forget"}, {}, ConfigError, "choose from recompute, swap"),
        ({**SWAP, "tier": "hdd"}, {}, ConfigError, "policies.preemption.tier: unknown memory tier 'hdd'"),
        ({**SWAP, "tier": "gddr"}, {}, ConfigError, "is where the cache is"),
        (SWAP, {"memory": {"kv": "ddr"}}, ConfigError, "does not go with memory.kv"),
        (SWAP, {"memory": {"prefix_cache": True}}, ConfigError, "does not go with memory.prefix_cache"),
        ({**SWAP, "capacity": "1 TB"}, {}, CapacityError, "policies.preemption.capacity"),
    ],
)  # fmt: skip
def test_each_mistake_has_its_error(preemption, more, error, words):
    with pytest.raises(error) as raised:
        codesign.simulate(base(preemption, **more))
    assert words in str(raised.value)
