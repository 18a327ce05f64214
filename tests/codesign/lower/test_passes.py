"""Each pass keeps its law: ranks and memory add up, exchanges balance, the graph is a graph."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import codesign
from codesign.lower.parallel import Parallel
from codesign.lower.plan import build_plan
from codesign.lower.residency import layer_bytes, stage_layers
from codesign.policies.dispatch import Direct
from codesign.policies.placement import PLACEMENTS


def plan_of(model="mixtral-8x7b", parallel=None, system="dgx-h100", **more):
    return build_plan(
        codesign.load_experiment(
            {
                "model": model,
                "system": system,
                "parallel": parallel or {},
                "workload": {"requests": {"count": 1, "batch": True, "prompt_tokens": 1, "output_tokens": 1}},
                **more,
            }
        )
    )


DEGREES = [
    {"tensor": 8}, {"tensor": 2, "expert": 4}, {"tensor": 1, "expert": 8},
    {"tensor": 4, "expert": 2, "data": 2},
    {"tensor": 2, "expert": 2, "data": 2, "pipeline": 2}, {"tensor": 2, "pipeline": 4},
]  # fmt: skip


@pytest.mark.parametrize("parallel", DEGREES, ids=str)
def test_ranks_are_tensor_x_data_and_expert_x_expert_tensor(parallel):
    p = plan_of(parallel=parallel).parallel
    assert p.tensor * p.data == p.expert * p.expert_tensor == p.ranks
    assert p.devices * p.replicas <= 8


@pytest.mark.parametrize("parallel", DEGREES, ids=str)
def test_weights_of_all_devices_add_up(parallel):
    """Experts and matrices once over a tensor (expert) group; attention once more for each data group."""
    plan = plan_of(parallel=parallel)
    model, p = plan.model, plan.parallel
    layers = sum(layer_bytes(layer, model.hidden_size, p, plan.precision) for layer in model.layers) * p.ranks
    routers = sum(layer.moe.router_parameters(model.hidden_size) for layer in model.layers) * 2.0
    moe = sum(layer.moe.parameters(model.hidden_size) for layer in model.layers) * 2.0
    rest = model.layer_parameters * 2.0 - moe
    assert layers == pytest.approx(rest * p.data + (moe - routers) + routers * p.ranks, rel=1e-12)
    ends = (model.embedding_parameters + model.lm_head_parameters) * 2.0 / p.tensor
    assert plan.residency.weight_bytes * p.pipeline * p.ranks >= layers
    assert plan.residency.weight_bytes <= layers / p.ranks / p.pipeline * 1.2 + ends * 1.01


@given(layers=st.integers(1, 200), stages=st.integers(1, 20))
def test_stages_partition_the_layers(layers, stages):
    ranges = stage_layers(layers, stages)
    assert [i for stage in ranges for i in stage] == list(range(layers))
    assert max(map(len, ranges)) - min(map(len, ranges)) <= 1


@pytest.mark.parametrize("name", PLACEMENTS.names())
@given(
    layers=st.integers(1, 4), per_group=st.integers(1, 9), groups=st.integers(1, 16), seed=st.integers(0, 99)
)
@settings(max_examples=25, deadline=None)
def test_any_placement_gives_every_group_the_same_number(name, layers, per_group, groups, seed):
    placement = PLACEMENTS.get(name)()
    placed = placement.place(layers, per_group * groups, groups, seed)
    for layer in placed:
        assert np.bincount(layer, minlength=groups).tolist() == [per_group] * groups


@given(
    tensor=st.sampled_from([1, 2, 4]), data=st.sampled_from([1, 2, 4]),
    expert_tensor=st.sampled_from([1, 2, 4]), per_node=st.sampled_from([1, 2, 4, 16]), seed=st.integers(0, 9),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_what_is_sent_is_received(tensor, data, expert_tensor, per_node, seed):
    ranks = tensor * data
    if ranks % expert_tensor:
        return
    parallel = Parallel(
        tensor=tensor, data=data, expert=ranks // expert_tensor, expert_tensor=expert_tensor, pipeline=1,
        replicas=1, devices_per_node=per_node,
    )  # fmt: skip
    send, recv = Direct().weights(parallel, 0)
    pair = np.random.default_rng(seed).integers(0, 50, (parallel.data, parallel.expert))
    for link in range(2):
        sent = sum(send[link, r] @ pair[r // tensor] for r in range(ranks))
        received = sum(recv[link, r] @ pair[:, r // expert_tensor] for r in range(ranks))
        assert sent == pytest.approx(received)
    if per_node >= ranks:
        assert not send[1].any()


@pytest.mark.parametrize("parallel", DEGREES, ids=str)
def test_the_graph_is_in_program_order(parallel):
    graph = plan_of(parallel=parallel).graph
    n = len(graph)
    tasks = np.repeat(np.arange(n), np.diff(graph.pred_ptr))
    assert (graph.pred < tasks).all()
    assert graph.resource.max() < len(graph.resources)
    assert graph.row.max() < plan_of(parallel=parallel).layout.n_rows


@pytest.mark.parametrize("parallel", DEGREES, ids=str)
def test_every_rank_computes_every_layer_of_its_stage(parallel):
    plan = plan_of(parallel=parallel)
    graph, p, lay = plan.graph, plan.parallel, plan.layout
    experts = (graph.row >= lay.expert_row) & (graph.row < lay.dispatch_row)
    for device in range(p.devices):
        stage = stage_layers(32, p.pipeline)[device // p.ranks]
        layers = graph.layer[experts & (graph.device == device)]
        assert sorted(layers.tolist()) == list(stage)


def one_token_s(model, **more):
    """Time of a request of one token that gives one token, on one device, by roofline."""
    result = codesign.simulate(
        {
            "model": model,
            "system": {"from": "workstation", "device": "h100"},
            "cost_model": "roofline",
            "workload": {
                "requests": {"count": 1, "batch": True, "prompt_tokens": 1, "output_tokens": 1},
                "routing": "uniform",
            },
            **more,
        }
    )
    return result.summary["simulated_s"]


def test_one_token_on_one_device_takes_the_closed_form():
    """Every operator of one token is bound by memory: bytes over bandwidth, summed by hand."""
    from workloads.models import load

    model = load({"from": "llama-2-7b", "num_hidden_layers": 2})
    h, v, w, layers = model.hidden_size, model.vocab_size, 11008, 2
    matrices = layers * (4 * h * h + 3 * h * w) + h * v
    vectors = layers * (2 * 4 * h + 2 * 3 * h + 3 * w) + 2 * h + 4 * h + 2 * v
    flow = layers * ((h + 3 * h) + (h + h) + (h + 2 * w) + (w + h)) + h + v  # operands of the products
    attention = layers * (2 * h + 2 * h)  # one cached key and value; query and output
    system = codesign.load_experiment("examples/llama-3.1-70b-dense.yaml").system
    bandwidth = system.device.memory["hbm"].bandwidth
    expected = 2.0 * (matrices + vectors + flow + attention) / bandwidth
    found = one_token_s({"from": "llama-2-7b", "num_hidden_layers": 2})
    assert found == pytest.approx(expected, rel=1e-9)


def test_an_expert_layer_of_one_token_reads_top_k_experts():
    from workloads.models import load

    def total(k):
        return one_token_s({"from": "mixtral-8x7b", "num_hidden_layers": 1, "num_experts_per_tok": k})

    model = load("mixtral-8x7b")
    expert = model.layers[0].moe.expert_parameters(model.hidden_size)
    bandwidth = (
        codesign.load_experiment("examples/llama-3.1-70b-dense.yaml").system.device.memory["hbm"].bandwidth
    )
    step = total(3) - total(2)
    assert step == pytest.approx(total(4) - total(3), rel=1e-9)
    assert step == pytest.approx(2.0 * expert / bandwidth, rel=0.002)  # and the token's own vectors
