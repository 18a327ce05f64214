"""Laws that every cost model keeps: parts sum to the time and are its derivatives; nothing is negative."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codesign.base.errors import ConfigError
from codesign.base.units import SI
from hwmodels.costs import COST_MODELS, PARTS, build_cost_model
from hwmodels.load import load_device
from hwmodels.spec import Link

DEVICES = {name: load_device(name) for name in ("h100", "l40s")}
LINK = Link(bandwidth=SI(450e9), latency=SI(6e-6), energy_per_byte=SI(1e-11))
NIC = Link(bandwidth=SI(50e9), latency=SI(12e-6), energy_per_byte=SI(2e-11))
MODELS = ("analytical", "roofline")
OPERATORS = {
    "gemm": lambda m, a, b: m.gemm(a, 128 * b, 4096),
    "gemm_fp8": lambda m, a, b: m.gemm(a, 128 * b, 4096, "fp8", "fp8"),
    "gemm_int4": lambda m, a, b: m.gemm(a, 128 * b, 4096, "int4", "bf16"),
    "experts": lambda m, a, b: m.experts(np.array([a, 0, b, 3 * a]), 2048, 768),
    "attention_prefill": lambda m, a, b: m.attention_prefill(a, a + 64 * b, 32, 8, 128, 128),
    "attention_window": lambda m, a, b: m.attention_prefill(a, a + 64 * b, 32, 8, 128, 128, "fp8", 256),
    "attention_decode": lambda m, a, b: m.attention_decode(b, a * b, 32, 8, 128, 128),
    "mla_prefill": lambda m, a, b: m.mla_prefill(a, a + 64 * b, 16, 1, 192, 128),
    "mla_decode": lambda m, a, b: m.mla_decode(b, a * b, 128, 1, 192, 128),
    "elementwise": lambda m, a, b: m.elementwise(1e3 * a, 1e4 * b),
    "all_reduce": lambda m, a, b: m.collective("all_reduce", 1e3 * a, 2 + b % 7, LINK),
    "all_to_all_nodes": lambda m, a, b: m.collective("all_to_all", 1e4 * a, 16, LINK, NIC, 8),
    "all_gather_nodes": lambda m, a, b: m.collective("all_gather", 1e4 * a, 16, LINK, NIC, 8),
    "send": lambda m, a, b: m.collective("send", 1e4 * a, 2, LINK),
}  # fmt: skip
sizes = st.integers(1, 9000)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("operator", OPERATORS)
@given(a=sizes, b=st.integers(1, 80), name=st.sampled_from(sorted(DEVICES)))
@settings(max_examples=15, deadline=None)
def test_parts_are_the_derivatives_of_the_duration(model, operator, a, b, name):
    run, device = OPERATORS[operator], DEVICES[name]
    cost = run(build_cost_model(model, device), a, b)
    assert min(cost.parts) >= 0
    assert cost.duration_s > 0
    assert math.isclose(sum(cost.parts), cost.duration_s)
    if model == "roofline":
        return  # its maximum has a corner; the next test covers it
    step = 1e-5
    for part, seconds in zip(PARTS, cost.parts, strict=True):
        slow = run(build_cost_model(model, device, {part: math.exp(-step)}), a, b).duration_s
        fast = run(build_cost_model(model, device, {part: math.exp(step)}), a, b).duration_s
        slope = (slow - fast) / (2 * step)
        assert math.isclose(slope, seconds, rel_tol=1e-3, abs_tol=1e-4 * cost.duration_s)


@pytest.mark.parametrize("operator", OPERATORS)
@given(a=sizes, b=st.integers(1, 80))
@settings(max_examples=10, deadline=None)
def test_roofline_has_one_part_and_the_whole_machine_scales(operator, a, b):
    device, run = DEVICES["h100"], OPERATORS[operator]
    cost = run(build_cost_model("roofline", device), a, b)
    assert sum(part > 0 for part in cost.parts) == 1
    twice = run(build_cost_model("roofline", device, dict.fromkeys(PARTS, 2.0)), a, b)
    assert math.isclose(twice.duration_s, cost.duration_s / 2)


@pytest.mark.parametrize("operator", [name for name in OPERATORS if "nodes" not in name])
@given(a=sizes, b=st.integers(1, 80))
@settings(max_examples=20, deadline=None)
def test_the_roofline_is_a_lower_bound(operator, a, b):
    run, device = OPERATORS[operator], DEVICES["h100"]
    bound = run(build_cost_model("roofline", device), a, b).duration_s
    assert run(build_cost_model("analytical", device), a, b).duration_s >= bound * 0.999


def test_roofline_by_hand():
    model = build_cost_model("roofline", DEVICES["h100"])
    compute, memory = model.gemm(4096, 4096, 4096), model.gemm(1, 4096, 4096)
    assert compute.duration_s == compute.part_s("compute") == 2 * 4096**3 / 989.4e12
    moved = 4096 * 4096 * 2 + 2 * 4096 * 2
    assert memory.duration_s == memory.part_s("memory") == moved / 3352e9
    reduce = model.collective("all_reduce", 8e9, 8, LINK)
    assert math.isclose(reduce.duration_s, 2 * 7 / 8 * 8e9 / 450e9)


@pytest.mark.parametrize("model", MODELS)
def test_nothing_costs_nothing(model):
    built = build_cost_model(model, DEVICES["h100"])
    assert built.gemm(0, 128, 128).duration_s == 0
    assert built.experts(np.zeros(8, int), 128, 128).duration_s == 0
    assert built.collective("all_reduce", 0.0, 8, LINK).duration_s == 0
    assert built.collective("all_reduce", 1e6, 1, None).duration_s == 0
    assert built.elementwise(0.0).duration_s == 0


@pytest.mark.parametrize("model", MODELS)
def test_mixed_lengths_are_exact(model):
    built = build_cost_model(model, DEVICES["h100"])
    assert built.attention_decode(2, 300, 32, 8, 128, 128) == built.attention_decode(
        2, 100 + 200, 32, 8, 128, 128
    )


@pytest.mark.parametrize("model", MODELS)
@given(counts=st.lists(st.integers(0, 6000), min_size=1, max_size=8))
@settings(max_examples=20, deadline=None)
def test_tables_agree_with_counts_beyond_their_end(model, counts):
    built = build_cost_model(model, DEVICES["h100"])
    rows = np.array([counts])
    short = built.expert_tables(2048, 768, max_tokens=8192).costs(rows).at(0)
    whole = built.experts(rows[0], 2048, 768)
    assert math.isclose(short.duration_s, whole.duration_s, rel_tol=1e-12)


@pytest.mark.parametrize("model", MODELS)
def test_an_exchange_is_latency_plus_bytes(model):
    built = build_cost_model(model, DEVICES["h100"])
    latency_s, per_byte_s = built.alltoall_coefficients(LINK, 8)
    assert latency_s >= 0
    assert per_byte_s >= 1 / LINK.bandwidth


def test_mistakes_are_named():
    device = DEVICES["h100"]
    with pytest.raises(ConfigError, match="did you mean 'analytical'"):
        build_cost_model("analytic", device)
    with pytest.raises(ConfigError, match="unknown part"):
        build_cost_model("analytical", device, {"memry": 2.0})
    with pytest.raises(ConfigError, match=r"unknown calibration constant .*did you mean 'gemm\."):
        build_cost_model({"name": "analytical", "constants": {"gemm.split_cycels": 1.0}}, device)
    with pytest.raises(ConfigError, match="did you mean 'all_reduce'"):
        build_cost_model("roofline", device).collective("allreduce", 1e6, 8, LINK)
    with pytest.raises(ConfigError, match="no inter_node link"):
        build_cost_model("analytical", device).collective("all_reduce", 1e6, 16, LINK, None, 8)
    with pytest.raises(ConfigError, match="precision"):
        build_cost_model("analytical", device).gemm(8, 8, 8, "bf17", "bf16")


def test_registry_lists_the_models():
    assert set(MODELS) <= set(COST_MODELS.names())


def test_a_device_gives_times_directly():
    device = load_device("h200")
    assert (
        device.gemm_time(512, 4096, 4096)
        == build_cost_model({"name": "analytical", "warm": True}, device).gemm(512, 4096, 4096).duration_s
    )
    assert device.gemm_time(8, 4096, 4096, weights="int4") < device.gemm_time(8, 4096, 4096)
    assert device.attention_decode_time(8, 32768, 32, 8, 128) < device.attention_prefill_time(
        8192, 32768, 32, 8, 128
    )
    assert device.collective_time("all_gather", 1e9, 8, LINK) > 7 / 8 * 1e9 / LINK.bandwidth
    assert device.experts_time([3, 0, 9], 2048, 768) > 0


@pytest.mark.parametrize("model", [{"name": "roofline", "link_latency": True}, "analytical"])
def test_every_hop_of_a_ring_has_the_latency(model):
    ring = LINK.model_copy(update={"algorithm": "ring"})
    cost = build_cost_model(model, DEVICES["h100"])
    for ranks in (2, 4, 8):
        hops = {"all_reduce": 2 * (ranks - 1), "all_gather": ranks - 1, "reduce_scatter": ranks - 1}
        for op, count in hops.items():
            latency_s = cost.collective(op, 1e3, ranks, ring).parts[PARTS.index("link_latency")]
            assert math.isclose(latency_s, count * LINK.latency, rel_tol=0.01)
        direct, straight = (cost.collective("all_to_all", 1e3, ranks, link) for link in (ring, LINK))
        assert direct.parts == straight.parts
