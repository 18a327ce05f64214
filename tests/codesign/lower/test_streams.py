"""Weights in other tiers: the law of the ring, bytes that add up, channels that are shared, mistakes."""

from functools import partial

import numpy as np
import pytest
from tier_cases import LAYERS, NODE, PCIE, POOL, away

import codesign
from codesign.base.errors import CapacityError, ConfigError
from codesign.explore.steady_state import engine_of
from codesign.lower.batch import Batch
from codesign.lower.costs import BatchCosts
from codesign.lower.plan import build_plan
from codesign.lower.tiers import apart, find_path
from ext.iteration import Iteration, reference

STEPS = 4
base = partial(away, {"count": 32, "prompt_tokens": 64, "output_tokens": STEPS})


def mixture(memory, **more):
    model = {"from": "deepseek-v2-lite", "num_hidden_layers": 4}
    policies = {"expert_cache": {"name": "lru", "slots": 4}}
    return base(memory, model=model, policies=policies, **more)


def step_s(experiment):
    return codesign.simulate(experiment).summary["tbt_s"]["p50"]


def tasks_of(experiment):
    """Return what the layers of one decode step load and compute, (L,) seconds, and when they end."""
    table = codesign.simulate(experiment, tasks=1, first_task_iteration=2).tasks
    seconds, layer = table["duration_s"], table["layer"]
    fetched = (table["kind"] == "fetch") & (layer >= 0)
    computed = np.isin(table["kind"], ("attention", "dense_ffn"))
    found = [np.bincount(layer[mask], seconds[mask], LAYERS) for mask in (fetched, computed)]
    ends = table["start_s"] + seconds
    return *found, ends[computed].max() - table["start_s"].min()


@pytest.mark.parametrize("slots", [2, 3])
@pytest.mark.parametrize("bandwidth", ["32 GB/s", "2 TB/s", "20 TB/s"])
def test_a_step_takes_the_larger_of_compute_and_load_and_the_fill(slots, bandwidth):
    """One transfer a layer that its first operator waits for; both end to end with the other beside it."""
    system = {
        "from": "workstation", "device": "a40",
        "host": {
            "memory": {"ddr": {"bandwidth": "100 TB/s", "latency": "0 s"}},
            "links": {"pcie": {"bandwidth": bandwidth, "latency": "0 s"}},
        },
    }  # fmt: skip
    memory = {"attention": "ddr", "ring": {"layers": slots}}
    loads, computes, took_s = tasks_of(base(memory, system=system))
    law = np.maximum(loads, computes).sum() + min(loads[0], computes[0])
    embed_s = 1e-6  # is looked up before, while the ring is filled
    assert took_s == pytest.approx(law, abs=embed_s)


def test_without_a_second_slot_nothing_overlaps():
    loads, computes, took_s = tasks_of(base({"attention": "ddr", "ring": {"layers": 1}}))
    assert took_s == pytest.approx((loads + computes).sum(), rel=1e-9)


def ring(loads, computes, slots):
    """The recursion by hand: a load begins when the link and the slot are free, a layer with its load."""
    link_s = done_s = 0.0
    ends = [0.0] * slots
    for load_s, compute_s in zip(loads, computes, strict=True):
        if load_s:
            link_s = max(link_s, ends[-slots]) + load_s
        done_s = max(done_s, link_s if load_s else 0.0) + compute_s
        if load_s:
            ends.append(done_s)
    return done_s


@pytest.mark.parametrize("slots", [1, 2, 4])
@pytest.mark.parametrize("pinned", [0, 2])
def test_layers_go_through_the_ring_as_by_hand(slots, pinned):
    memory = {"attention": "ddr", "ring": {"layers": slots, "pinned": pinned}}
    loads, computes, took_s = tasks_of(base(memory))
    assert np.count_nonzero(loads) == LAYERS - pinned
    assert took_s == pytest.approx(ring(loads, computes, slots), rel=1e-9)


def test_what_lives_in_main_memory_by_name_or_is_pinned_changes_nothing():
    resident = codesign.simulate(base())
    named = codesign.simulate(base({"weights": "gddr"}))
    pinned = codesign.simulate(base({"attention": "ddr", "dense": "ddr", "ring": {"pinned": LAYERS}}))
    assert named.summary == resident.summary
    assert pinned.summary == resident.summary
    assert pinned.memory["weight_bytes"] == resident.memory["weight_bytes"]


def test_bytes_read_from_each_tier_add_up():
    run = codesign.simulate(
        base({"weights": "nvme", "attention": "ddr", "embedding": {"tier": "ddr", "share": 0.5}})
    )
    model = codesign.load_experiment(base()).model
    layer, hidden = model.layers[0], model.hidden_size
    attention = layer.attention_parameters(hidden) + layer.norm_parameters(hidden)
    steps = len(run.iterations["start_s"])
    read = run.details["tiers"]
    assert read["nvme"] == {"dense_read_bytes": steps * LAYERS * 2.0 * layer.dense.parameters(hidden)}
    assert read["ddr"]["attention_read_bytes"] == pytest.approx(steps * LAYERS * 2.0 * attention, rel=1e-6)
    assert read["ddr"]["head_read_bytes"] == steps * model.embedding_parameters  # half of two bytes each
    tokens = run.iterations["tokens"].sum()
    assert read["ddr"]["embedding_read_bytes"] == tokens * hidden  # half of two bytes each
    total = sum(count for tier in read.values() for count in tier.values())
    assert total == pytest.approx(run.cost["counters"]["fetched_bytes"], rel=1e-12)
    system = codesign.load_experiment(base()).system
    joules = sum(sum(read[t].values()) * find_path(system, t).energy_j_per_byte for t in read)
    assert run.energy_j["fetch"] == pytest.approx(joules, rel=1e-12)


def test_tiers_share_the_link_they_meet_on_and_only_that():
    run = codesign.simulate(mixture({"weights": "ddr", "experts": "nvme"}))
    read = {tier: sum(counts.values()) for tier, counts in run.details["tiers"].items()}
    busy_s = {name: share * run.summary["simulated_s"] for name, share in run.utilization.items()}
    latency_s = 0.01 * run.summary["simulated_s"]
    assert busy_s["gpu0.ddr>device"] == pytest.approx((read["ddr"] + read["nvme"]) / PCIE, abs=latency_s)
    drive_s = read["nvme"] / 6.3e9
    assert drive_s <= busy_s["gpu0.nvme"] <= drive_s + 0.5 * run.summary["simulated_s"]  # and its latencies
    assert all(share <= 1 + 1e-9 for share in run.utilization.values())


def test_a_path_alone_is_one_piece_and_pieces_are_as_fast_as_the_path():
    system = codesign.load_experiment(base()).system
    ddr, nvme = find_path(system, "ddr"), find_path(system, "nvme")
    assert apart({"ddr": ddr}) == {"ddr": (ddr,)}
    cut = apart({"ddr": ddr, "nvme": nvme})
    for path in (ddr, nvme):
        pieces = cut[path.source]
        assert max(piece.seconds(1e9, 1)[0] for piece in pieces) == path.seconds(1e9, 1)[0]
        assert sum(piece.latency_s for piece in pieces) == path.latency_s
    assert {piece.port for piece in cut["ddr"]} < {piece.port for piece in cut["nvme"]}


@pytest.mark.parametrize("share", [0.25, 0.5])
def test_a_share_moves_its_share_of_bytes_and_leaves_the_rest(share):
    whole = codesign.simulate(base({"dense": "ddr"}))
    part = codesign.simulate(base({"dense": {"tier": "ddr", "share": share}}))
    moved = [run.details["tiers"]["ddr"]["dense_read_bytes"] for run in (whole, part)]
    assert moved[1] == share * moved[0]
    resident = codesign.simulate(base()).memory["weight_bytes"]
    spared = [resident - run.memory["weight_bytes"] for run in (whole, part)]
    assert spared[1] == pytest.approx(share * spared[0], rel=1e-12)


def test_memory_holds_the_ring_and_what_is_pinned():
    weights = [
        codesign.simulate(base({"dense": "ddr", "ring": {"layers": k, "pinned": p}})).memory["weight_bytes"]
        for k, p in ((2, 0), (3, 0), (2, 1), (LAYERS, 0))
    ]
    resident = codesign.simulate(base()).memory["weight_bytes"]
    layer = weights[1] - weights[0]
    assert weights[2] == weights[1]
    assert weights[3] == resident
    assert resident - weights[0] == (LAYERS - 2) * layer


def test_twice_the_link_halves_a_step_that_waits_for_it():
    slow = codesign.load_experiment(base({"weights": "ddr"}))
    assert step_s(slow.replace({"speed.fetch_bandwidth": 2.0})) == pytest.approx(step_s(slow) / 2, rel=0.02)


def test_decode_gives_no_more_tokens_than_the_link_brings_weights_for():
    run = codesign.simulate(base({"weights": "ddr"}))
    model = codesign.load_experiment(base()).model
    weights = 2.0 * (model.layer_parameters + model.embedding_parameters)
    assert 32 / run.summary["tbt_s"]["p50"] <= 32 * PCIE / weights
    assert 32 / run.summary["tbt_s"]["p50"] >= 0.95 * 32 * PCIE / weights


CASES = [
    base({"weights": "ddr"}),
    base({"weights": "ddr"}, system=NODE, parallel={"tensor": 2, "pipeline": 2}, engine={"step": "1 ms"}),
    mixture({"weights": "ddr", "experts": "nvme"}),
    mixture({"weights": "nvme"}, system=NODE, parallel={"data": 4, "expert": 4}),
    mixture(
        {"weights": "ddr", "experts": "nvme"}, system=NODE, parallel={"tensor": 2, "data": 2, "expert": 4}
    ),
]


@pytest.mark.parametrize("experiment", CASES)
def test_executors_agree(experiment):
    runs = [codesign.simulate({**experiment, "executor": name}) for name in ("compiled", "simpy")]
    assert runs[0].summary == runs[1].summary
    assert runs[0].utilization == runs[1].utilization
    assert runs[0].details == runs[1].details


TURNS = [
    {"parallel": {"batches": 2}},
    {"system": {**base()["system"], "attention": POOL}},
    {"system": {**base()["system"], "attention": POOL}, "parallel": {"batches": 3}},
]


@pytest.mark.parametrize("more", TURNS)
@pytest.mark.parametrize("make", [base, mixture])
def test_parts_of_a_batch_use_what_was_brought_once(make, more):
    """All parts of a batch, with attention here or elsewhere, use one load: a step moves the same bytes."""
    plain, parted = (
        codesign.simulate(make({"weights": "ddr"})),
        codesign.simulate(make({"weights": "ddr"}, **more)),
    )
    weights = [
        {key: count for key, count in run.details["tiers"]["ddr"].items() if not key.startswith("experts")}
        for run in (plain, parted)
    ]
    assert weights[0] == weights[1]
    assert parted.utilization["gpu0.copy"] <= 1 + 1e-9
    again = codesign.simulate(make({"weights": "ddr"}, **more, executor="simpy"))
    assert again.summary == parted.summary


@pytest.mark.parametrize("more", TURNS)
def test_a_step_of_parts_that_waits_for_its_weights_takes_their_load(more):
    weights_s = codesign.simulate(base({"weights": "ddr"}, **more), tasks=1, first_task_iteration=2).tasks
    moving = weights_s["kind"] == "fetch"
    load_s = weights_s["duration_s"][moving].sum()
    step = (weights_s["start_s"] + weights_s["duration_s"]).max() - weights_s["start_s"].min()
    assert load_s <= step <= 1.05 * load_s


def test_twins_agree_on_rows_of_transfers():
    experiment = codesign.load_experiment(CASES[1])
    plan = build_plan(experiment)
    costs = BatchCosts(plan, experiment.spec.engine)
    costs.fill([Batch(tokens=7, outputs=7, decodes=7, sequences=7, entries=[700])])
    ptr = np.array([0, 7], np.int32)
    twins = [make(plan.layout) for make in (Iteration, reference.Iteration)]
    ends = [twin.run(None, ptr, costs.static_parts, 0.0) for twin in twins]
    assert ends[0] == ends[1]
    for name in ("row_s", "busy_s", "finish_s", "path_parts"):
        assert np.array_equal(getattr(twins[0], name), getattr(twins[1], name)), name


def test_a_later_stage_brings_its_first_layers_while_others_compute():
    """Alone in two stages, a sequence waits for three layers of the first, and one of three of the second."""
    requests = {"workload": {"requests": {"count": 1, "batch": True, "prompt_tokens": 8, "output_tokens": 4}}}
    memory = {"attention": "ddr", "dense": "ddr"}
    one = step_s(base(memory, system=NODE, **requests))
    two = step_s(base(memory, system=NODE, parallel={"pipeline": 2}, **requests))
    assert two == pytest.approx(one * 4 / 6, rel=0.02)
    filled = step_s(
        base({**memory, "ring": {"layers": 3}}, system=NODE, parallel={"pipeline": 2}, **requests)
    )
    assert filled == pytest.approx(one * 3 / 6, rel=0.03)


@pytest.mark.parametrize(
    ("memory", "more", "error", "words"),
    [
        ({"weights": "hdd"}, {}, ConfigError, "memory.weights: unknown memory tier 'hdd'"),
        ({"attention": {"tier": "hdd"}}, {}, ConfigError, "memory.attention: unknown memory tier"),
        ({"weights": "l2"}, {}, ConfigError, "unknown way to gddr: no link leads there from 'l2'"),
        ({"gates": "ddr"}, {}, ConfigError, "memory.gates: unknown key"),
        ({"dense": {"tier": "ddr", "share": 1.5}}, {}, ConfigError, "memory.dense.share"),
        ({"ring": {"layers": 0}}, {}, ConfigError, "memory.ring.layers"),
        ({"weights": "ddr"}, {"fidelity": "roofline"}, ConfigError, "memory.weights: is beyond the closed"),
        ({"dense": "ddr"}, {"composition": {"models": 2, "tiers": ["ddr"]}}, ConfigError, "memory.dense"),
        ({"weights": "ddr"}, {"model": "llama-3.1-405b"}, CapacityError, "its weights need"),
        ({"weights": "ddr"}, {"model": "mixtral-8x7b"}, ConfigError, "need policies.expert_cache"),
    ],
)  # fmt: skip
def test_each_mistake_has_its_error(memory, more, error, words):
    run = engine_of if more.get("fidelity") == "roofline" else codesign.simulate
    with pytest.raises(error) as raised:
        run(codesign.load_experiment(base(memory, **more)))
    assert words in str(raised.value)
