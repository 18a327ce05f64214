"""Channels that several devices fetch over: no more than their rate, whoever fetches."""

import pytest

import codesign
from codesign.lower.parallel import Parallel
from codesign.lower.plan import build_plan
from codesign.lower.tiers import Channel, Path, find_path

NOTHING_HELD = {"name": "lru", "slots": 0, "chunks": 2}


def base(devices, sharers=8, **more):
    tier = {"kind": "nvme", "capacity": "4 TB", "bandwidth": "10 GB/s", "latency": "0 s", "efficiency": 1.0}
    link = {"source": "nvme", "target": "ddr", "bandwidth": "80 GB/s", "latency": "0 s", "efficiency": 1.0}
    return {
        "model": {"from": "mixtral-8x7b", "num_hidden_layers": 2},
        "system": {
            "from": "dgx-h100", "devices_per_node": devices,
            "host": {"memory": {"nvme": {**tier, "shared_by": sharers}}, "links": {"nvme": link}},
        },
        "parallel": {"tensor": devices, "expert": devices},
        "memory": {"experts": "nvme"},
        "policies": {"expert_cache": NOTHING_HELD},
        "workload": {
            "requests": {"count": 64, "batch": True, "prompt_tokens": 8, "output_tokens": 4},
            "routing": "uniform",
        },
        **more,
    }  # fmt: skip


def bandwidth_s(devices, sharers=8, **more):
    run = codesign.simulate(base(devices, sharers, **more))
    return run.details["path_s"]["fetch"]["fetch_bandwidth"], run


@pytest.mark.parametrize("devices", [2, 4, 8])
def test_devices_on_one_channel_take_turns_and_each_its_own_none(devices):
    alone, _ = bandwidth_s(1)
    shared, run = bandwidth_s(devices)
    own, _ = bandwidth_s(devices, sharers=1)
    assert shared == pytest.approx(alone, rel=0.02)  # the bytes are dealt to them, the channel is one
    assert own == pytest.approx(alone / devices, rel=0.02)
    moved = run.details["expert_cache"]["fetched_bytes"]
    assert moved <= 10e9 * run.summary["simulated_s"] * (1 + 1e-9)
    assert moved == pytest.approx(10e9 * shared, rel=0.02)


def test_two_channels_of_a_node_serve_half_of_it_each():
    assert bandwidth_s(8, sharers=4)[0] == pytest.approx(bandwidth_s(8)[0] / 2, rel=0.02)


def test_a_channel_that_cannot_be_filled_changes_nothing():
    plan = build_plan(codesign.load_experiment(base(2)))
    assert plan.graph.n_shared == 1
    experiment = codesign.load_experiment(base(2)).replace({"memory.experts": "ddr"})
    assert build_plan(experiment).graph.n_shared == 0  # two ports are slower than the memory behind them


def test_executors_agree_on_shared_channels():
    runs = [codesign.simulate(base(4, executor=name)) for name in ("compiled", "simpy")]
    assert runs[0].summary == runs[1].summary
    assert runs[0].utilization == runs[1].utilization


def path(sharers=8, rate=100.0):
    return Path("ddr", 60.0, 0.0, 0.0, 0.0, Channel("ddr", rate, sharers))


def parallel(devices, replicas=1):
    return Parallel(
        tensor=devices, data=1, expert=1, expert_tensor=devices, pipeline=1, replicas=replicas,
        devices_per_node=8,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("devices", "replicas", "port", "channel"),
    [
        (1, 1, 60, None),
        (1, 2, 50, None),
        (1, 8, 12.5, None),
        (2, 1, 60, 100),
        (2, 4, 25, 25),
        (8, 1, 60, 100),
    ],
)
def test_what_an_engine_sees(devices, replicas, port, channel):
    seen = path().seen_by(parallel(devices, replicas))
    assert seen.bytes_per_s == port
    assert (seen.channel.bytes_per_s if seen.channel else None) == channel


def test_a_host_memory_is_one_for_all_devices_unless_it_says_otherwise():
    experiment = {**base(1), "system": {"from": "workstation", "device": "h100"}}
    system = codesign.load_experiment(experiment).system
    assert find_path(system, "ddr").channel is None
    four = system.model_copy(update={"devices_per_node": 4})
    assert find_path(four, "ddr").channel.sharers == 4
