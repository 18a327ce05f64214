"""Parts of a batch whose activations and caches lie elsewhere: bytes, slots by hand, capacity, mistakes."""

from functools import partial

import numpy as np
import pytest
from tier_cases import LAYERS, NODE, PCIE, POOL, away

import codesign
from codesign.base.errors import CapacityError, ConfigError
from codesign.explore.steady_state import engine_of
from codesign.lower.plan import build_plan

COUNT, PROMPT, OUTPUT = 24, 128, 3
HIDDEN, ENTRY = 4096, 2 * 8 * 128 * 2.0  # values of a token; bytes of its keys and values in a layer
TOKENS = COUNT * (PROMPT + OUTPUT - 1)  # of all iterations
BATCHING = {"batching": {"name": "prefill_first", "max_batched_tokens": COUNT * PROMPT}}
base = partial(
    away, {"count": COUNT, "prompt_tokens": PROMPT, "output_tokens": OUTPUT}, policies=BATCHING
)  # fmt: skip
ACTIVATIONS, KV = {"activations": "ddr"}, {"kv": "ddr"}


def parted(memory, parts, slots=2, **more):
    return base({**memory, "ring": {"layers": slots}}, parallel={"batches": parts}, **more)


def link(bandwidth):
    """A workstation whose link is its only bound: no latencies, and memory that keeps up."""
    return {
        "from": "workstation", "device": "a40",
        "host": {
            "memory": {"ddr": {"bandwidth": "1000 TB/s", "latency": "0 s"}},
            "links": {"pcie": {"bandwidth": bandwidth, "latency": "0 s"}},
        },
    }  # fmt: skip


def first_step(experiment):
    """Return the tasks of the first iteration, all prompts, which is long enough to be seen."""
    return codesign.simulate(experiment, tasks=1).tasks


def durations(table, resource, *kinds):
    """Return the seconds of the tasks of a layer on a resource, in their order, and when they end."""
    mask = (table["resource"] == resource) & np.isin(table["kind"], kinds) & (table["layer"] >= 0)
    return table["duration_s"][mask], (table["start_s"] + table["duration_s"])[mask]


def turns_of(table, parts):
    """Return what each turn computes, reads and writes, (layers, parts) seconds, and when all is computed."""
    work, ends = durations(table, "gpu0.compute", "attention", "dense_ffn")
    computes = work.reshape(LAYERS, parts, 2).sum(axis=2)
    reads, _ = durations(table, "gpu0.ddr>device", "fetch")
    writes, _ = durations(table, "gpu0.device>ddr", "fetch")
    reads, writes = reads.reshape(LAYERS - 1, parts), writes.reshape(LAYERS - 1, parts)
    return computes, reads, writes, ends[-1]


def by_hand(computes, reads, writes, embeds, slots):
    """The recursion of turns: a slot is left when its activations are back, or the last layer is done."""
    parts = computes.shape[1]
    k = min(slots, parts)
    computed = link_in = link_out = 0.0
    written, left = {}, {}
    for n in range(computes.size):
        layer, part = divmod(n, parts)
        ready = left.get(n - k, 0.0)
        if layer:
            link_in = max(link_in, ready, written[n - parts]) + reads[layer - 1, part]
            ready = link_in
        computed = max(computed, ready) + computes[layer, part] + (0.0 if layer else embeds[part])
        left[n] = computed
        if layer < LAYERS - 1:
            link_out = max(link_out, computed) + writes[layer, part]
            left[n] = written[n] = link_out
    return computed


@pytest.mark.parametrize("parts", [1, 2, 5])
@pytest.mark.parametrize("slots", [1, 2, 3])
@pytest.mark.parametrize("bandwidth", ["1 GB/s", "8 GB/s", "1 TB/s"])
def test_turns_go_through_their_slots_as_by_hand(parts, slots, bandwidth):
    table = first_step(parted(ACTIVATIONS, parts, slots, system=link(bandwidth)))
    computes, reads, writes, end_s = turns_of(table, parts)
    looked_up = (table["resource"] == "gpu0.compute") & (table["layer"] < 0) & (table["kind"] == "head")
    embeds = table["duration_s"][looked_up][:parts]
    took_s = by_hand(computes, reads, writes, embeds, slots)
    assert end_s - table["start_s"].min() == pytest.approx(took_s, rel=1e-9)


@pytest.mark.parametrize("slots", [1, 2, 3])
@pytest.mark.parametrize("bandwidth", ["0.5 GB/s", "8 GB/s", "1 TB/s"])
def test_a_turn_takes_the_larger_of_compute_transfers_and_its_share_of_their_sum(slots, bandwidth):
    """The law of the ring, from one step to one with more layers: what the fill takes drops out."""

    def step_s(layers):
        model = {"from": "llama-3.1-8b", "num_hidden_layers": layers}
        table = first_step(parted(ACTIVATIONS, 6, slots, system=link(bandwidth), model=model))
        return table["start_s"].max() - table["start_s"].min(), table

    (long_s, table), (short_s, _) = step_s(8), step_s(4)
    work, _ = durations(table, "gpu0.compute", "attention", "dense_ffn")
    (read, *_), _ = durations(table, "gpu0.ddr>device", "fetch")
    (write, *_), _ = durations(table, "gpu0.device>ddr", "fetch")
    compute = work.sum() / (8 * 6)
    law = max(compute, read, write, (compute + read + write) / slots)
    assert (long_s - short_s) / (4 * 6) == pytest.approx(law, rel=0.01)


@pytest.mark.parametrize("share", [1.0, 0.25])
@pytest.mark.parametrize("parts", [1, 3])
def test_each_layer_but_one_writes_the_batch_and_the_next_reads_it(parts, share):
    run = codesign.simulate(parted({"activations": {"tier": "ddr", "share": share}}, parts))
    moved = run.details["tiers"]["ddr"]
    each_way = share * TOKENS * (LAYERS - 1) * HIDDEN * 2.0
    assert moved == {"activations_read_bytes": each_way, "activations_written_bytes": each_way}
    assert run.cost["counters"]["fetched_bytes"] == 2 * each_way


def test_with_a_batch_in_one_part_nothing_hides_the_way_there_and_back():
    whole, sent = (codesign.simulate(base(memory, system=link("32 GB/s"))) for memory in ({}, ACTIVATIONS))
    ways_s = 2 * (LAYERS - 1) * COUNT * PROMPT * HIDDEN * 2.0 / PCIE
    waited_s = sent.summary["ttft_s"]["p50"] - whole.summary["ttft_s"]["p50"]
    assert waited_s == pytest.approx(ways_s, rel=1e-9)


@pytest.mark.parametrize("memory", [{"activations": "gddr"}, {"kv": "gddr"}])
@pytest.mark.parametrize("parts", [1, 3])
def test_what_lies_in_main_memory_by_name_changes_nothing(memory, parts):
    runs = [codesign.simulate(parted(place, parts)).to_dict() for place in ({}, memory)]
    assert runs[0] | {"provenance": {}} == runs[1] | {"provenance": {}}


@pytest.mark.parametrize("share", [1.0, 0.5])
@pytest.mark.parametrize(("parts", "slots", "here"), [(1, 2, 1), (4, 1, 1 / 4), (4, 2, 1 / 2), (4, 9, 1)])
def test_main_memory_holds_the_parts_in_flight(parts, slots, here, share):
    fits = [
        build_plan(codesign.load_experiment(parted(memory, parts, slots))).residency
        for memory in ({}, {"activations": {"tier": "ddr", "share": share}})
    ]
    spared = share * (1 - here) * COUNT * PROMPT * HIDDEN * 2.0
    assert fits[0].activation_bytes - fits[1].activation_bytes == spared
    assert fits[1].kv_bytes - fits[0].kv_bytes == pytest.approx(spared, rel=1e-6)


def test_a_part_at_a_time_needs_less_than_the_whole_batch():
    """Residuals of the rest wait; four and more vectors a token are of the part that is computed."""
    whole, part = (build_plan(codesign.load_experiment(parted({}, n))).residency for n in (1, 4))
    width = 2 * 14336 + 2 * HIDDEN
    assert whole.activation_bytes - part.activation_bytes == 3 / 4 * COUNT * PROMPT * (width - HIDDEN) * 2.0


def test_experts_take_the_whole_batch_and_spare_nothing():
    model = {"from": "qwen3-30b-a3b", "num_hidden_layers": 2}
    fits = [
        build_plan(codesign.load_experiment(parted(memory, 4, model=model))).residency
        for memory in ({}, ACTIVATIONS)
    ]
    assert fits[0].activation_bytes == fits[1].activation_bytes


def test_activations_take_their_room_in_the_tier():
    tier = {"memory": {"ddr": {"capacity": "1 GB"}}}
    system = {**base()["system"], "host": tier}
    memory = {**KV, "utilization": 0.9}
    rooms = [
        build_plan(codesign.load_experiment(parted(more, 2, system=system))).residency.kv_bytes
        for more in (memory, {**memory, **ACTIVATIONS})
    ]
    assert rooms[0] - rooms[1] == pytest.approx(COUNT * PROMPT * HIDDEN * 2.0, rel=1e-9)


def test_a_batch_too_large_for_main_memory_fits_with_its_waiting_parts_elsewhere():
    tight = {"from": "workstation", "device": {"from": "a40", "memory": {"gddr": {"capacity": "7.2 GB"}}}}
    requests = {"count": 256, "prompt_tokens": 512, "output_tokens": 2}
    policies = {"batching": {"name": "prefill_first", "max_batched_tokens": 256 * 512}}
    case = partial(away, requests, system=tight, policies=policies, parallel={"batches": 16})
    with pytest.raises(CapacityError, match="GB for activations"):
        codesign.simulate(case(KV))
    run = codesign.simulate(case({**KV, **ACTIVATIONS}))
    assert run.summary["requests"]["completed"] == 256
    assert run.iterations["tokens"].max() == 256 * 512


@pytest.mark.parametrize("share", [1.0, 0.5])
def test_parts_of_the_cache_move_what_the_whole_would(share):
    moved = [
        codesign.simulate(parted({"kv": {"tier": "ddr", "share": share}}, parts)).details["tiers"]["ddr"]
        for parts in (1, 5)
    ]
    assert moved[0] == moved[1]
    layers = COUNT * LAYERS * ENTRY * share
    assert moved[1]["kv_written_bytes"] == layers * (PROMPT + OUTPUT - 1)


@pytest.mark.parametrize("parts", [2, 3])
@pytest.mark.parametrize("slots", [1, 2, 4])
@pytest.mark.parametrize("bandwidth", ["2 GB/s", "10 GB/s", "1 TB/s"])
def test_parts_of_the_cache_go_through_their_slots_as_by_hand(parts, slots, bandwidth):
    table = codesign.simulate(
        parted(KV, parts, slots, system=link(bandwidth)), tasks=1, first_task_iteration=2
    ).tasks
    computes, ends = durations(table, "gpu0.compute", "attention", "dense_ffn")
    loads, _ = durations(table, "gpu0.ddr>device", "fetch")
    looked_up = (table["resource"] == "gpu0.compute") & (table["layer"] < 0) & (table["kind"] == "head")
    link_s, now, left = 0.0, 0.0, [0.0] * slots
    for n, (attend, feed) in enumerate(computes.reshape(-1, 2)):
        link_s = max(link_s, left[n]) + loads[n]
        embed_s = table["duration_s"][looked_up][n] if n < parts else 0.0
        now = max(now + embed_s, link_s) + attend
        left.append(now)
        now += feed
    assert ends[-1] - table["start_s"].min() == pytest.approx(now, rel=1e-9)


def test_main_memory_holds_only_the_parts_of_the_cache_in_the_ring():
    main = build_plan(codesign.load_experiment(parted({}, 4))).residency.kv_bytes
    for slots, share in ((1, 0.5), (2, 0.25), (3, 0.5)):
        place = {"kv": {"tier": "ddr", "share": share}}
        fit = build_plan(codesign.load_experiment(parted(place, 4, slots))).residency
        here = fit.kv_bytes - fit.kv_elsewhere_bytes + slots / (4 * LAYERS) * fit.kv_elsewhere_bytes
        assert here == pytest.approx(main, rel=1e-12)


MIX = {"from": "deepseek-v2-lite", "num_hidden_layers": 3}
CACHE = {**BATCHING, "expert_cache": {"name": "lru", "slots": 4}}
BOTH = {**KV, **ACTIVATIONS}
CASES = [
    parted({**BOTH, "weights": "ddr"}, 3),
    parted({**BOTH, "weights": {"tier": "ddr", "share": 0.8}}, 1),
    base({**BOTH, "activations": "nvme"}, parallel={"batches": 2}),
    base({**BOTH, "weights": "ddr"}, system=NODE, parallel={"tensor": 4, "batches": 2}),
    base(KV, system=NODE, parallel={"tensor": 2, "pipeline": 2, "batches": 3}, engine={"step": "1 ms"}),
    base({**BOTH, "weights": "ddr"}, model=MIX, policies=CACHE, parallel={"batches": 2}),
    base(
        {**BOTH, "weights": "ddr"}, model=MIX, system=NODE, policies=CACHE,
        parallel={"data": 2, "expert": 2, "batches": 3},
    ),
    parted({**ACTIVATIONS, "embedding": "ddr"}, 40),  # more parts than sequences
]  # fmt: skip


@pytest.mark.parametrize("experiment", CASES)
def test_executors_agree_and_links_carry_no_more_than_they_can(experiment):
    runs = [codesign.simulate({**experiment, "executor": name}) for name in ("compiled", "simpy")]
    assert runs[0].to_dict() | {"provenance": {}} == runs[1].to_dict() | {"provenance": {}}
    assert all(share <= 1 + 1e-9 for share in runs[0].utilization.values())
    assert runs[0].summary["requests"]["completed"] == COUNT


@pytest.mark.parametrize("slots", [1, 2])
@pytest.mark.parametrize("model", ["llama-3.1-8b", "qwen3-30b-a3b"])
def test_no_turn_begins_before_its_activations_are_back(model, slots):
    """With experts, all parts of a layer come before any goes."""
    model = {"from": model, "num_hidden_layers": 3}
    table = first_step(parted(ACTIVATIONS, 3, slots, model=model))
    start_s, end_s = table["start_s"], table["start_s"] + table["duration_s"]
    reads = (table["resource"] == "gpu0.ddr>device") & (table["layer"] >= 0)
    attends = (table["resource"] == "gpu0.compute") & (table["kind"] == "attention") & (table["layer"] > 0)
    assert np.array_equal(table["layer"][reads], table["layer"][attends])
    assert (start_s[attends] >= end_s[reads] - 1e-12).all()


@pytest.mark.parametrize("ranks", [1, 4])
def test_tensor_ranks_move_their_part_and_gather_the_rest(ranks):
    run = codesign.simulate(base(ACTIVATIONS, system=NODE, parallel={"tensor": ranks, "batches": 2}))
    assert run.details["tiers"]["ddr"]["activations_read_bytes"] == TOKENS * (LAYERS - 1) * HIDDEN * 2.0
    here = codesign.simulate(base({}, system=NODE, parallel={"tensor": ranks, "batches": 2}))
    busy_s = [r.utilization["gpu0.link"] * r.summary["simulated_s"] for r in (here, run)]
    assert (busy_s[1] > 1.01 * busy_s[0]) == (ranks > 1)


@pytest.mark.parametrize(
    ("memory", "more", "error", "words"),
    [
        ({"activations": "hdd"}, {}, ConfigError, "memory.activations: unknown memory tier 'hdd'"),
        ({"activations": {"tier": "ddr", "share": 0.0}}, {}, ConfigError, "memory.activations.share"),
        (ACTIVATIONS, {"fidelity": "roofline"}, ConfigError, "memory.activations: is beyond the closed form"),
        (ACTIVATIONS, {"system": {"from": "workstation", "attention": POOL}}, ConfigError,
         "all parts of a batch are under way at once"),
        (ACTIVATIONS, {"system": NODE, "parallel": {"pipeline": 2}}, ConfigError, "parallel.pipeline"),
        (ACTIVATIONS, {"composition": {"models": 2, "tiers": ["ddr"]}}, ConfigError, "memory.activations"),
        (ACTIVATIONS, {"system": {"from": "workstation", "device": "a40", "host": {
            "memory": {"ddr": {"capacity": "10 MB"}}}}}, CapacityError, "activations need 0.0 GB of ddr"),
    ],
)  # fmt: skip
def test_each_mistake_has_its_error(memory, more, error, words):
    run = engine_of if more.get("fidelity") == "roofline" else codesign.simulate
    with pytest.raises(error) as raised:
        run(codesign.load_experiment(base(memory, **more)))
    assert words in str(raised.value)
