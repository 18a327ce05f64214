"""The KV cache in another tier: bytes read and written, the ring, capacity of both tiers, mistakes."""

from functools import partial

import numpy as np
import pytest
from tier_cases import LAYERS, NODE, PCIE, POOL, away

import codesign
from codesign.base.errors import CapacityError, ConfigError
from codesign.explore.steady_state import engine_of
from codesign.lower.plan import build_plan

COUNT, PROMPT, OUTPUT = 16, 512, 8
ENTRY = 2 * 8 * 128 * 2.0  # bytes of a token in a layer: keys and values of eight heads
base = partial(
    away, {"count": COUNT, "prompt_tokens": PROMPT, "output_tokens": OUTPUT},
    policies={"batching": {"name": "prefill_first", "max_batched_tokens": COUNT * PROMPT}},
)  # fmt: skip


@pytest.mark.parametrize("share", [1.0, 0.5])
def test_every_entry_is_written_once_and_read_in_every_later_step(share):
    run = codesign.simulate(base({"kv": {"tier": "ddr", "share": share}}))
    moved = run.details["tiers"]["ddr"]
    layers = COUNT * LAYERS * ENTRY * share
    assert moved["kv_written_bytes"] == layers * (PROMPT + OUTPUT - 1)
    assert moved["kv_read_bytes"] == layers * sum(PROMPT + step for step in range(OUTPUT - 1))
    assert sum(moved.values()) == run.cost["counters"]["fetched_bytes"]


def test_a_chunk_reads_what_the_chunks_before_it_left():
    batching = {"name": "chunked_prefill", "token_budget": 128}
    requests = {"count": 1, "batch": True, "prompt_tokens": PROMPT, "output_tokens": 1}
    run = codesign.simulate(
        base({"kv": "ddr"}, policies={"batching": batching}, workload={"requests": requests})
    )
    moved = run.details["tiers"]["ddr"]
    assert moved["kv_written_bytes"] == PROMPT * LAYERS * ENTRY
    assert moved["kv_read_bytes"] == (128 + 256 + 384) * LAYERS * ENTRY


def test_a_cache_in_main_memory_by_name_changes_nothing():
    assert codesign.simulate(base({"kv": "gddr"})).summary == codesign.simulate(base()).summary


@pytest.mark.parametrize("slots", [1, 2, 3])
def test_layers_of_the_cache_go_through_the_ring_as_by_hand(slots):
    table = codesign.simulate(
        base({"kv": "ddr", "ring": {"layers": slots}}), tasks=1, first_task_iteration=3
    ).tasks
    seconds, layer, fetched = table["duration_s"], table["layer"], table["kind"] == "fetch"
    coming = fetched & (table["resource"] == "gpu0.ddr>device")
    computed = np.isin(table["kind"], ("attention", "dense_ffn"))
    loads, computes = (np.bincount(layer[mask], seconds[mask], LAYERS) for mask in (coming, computed))
    link_s = done_s = 0.0
    ends = [0.0] * slots
    for load_s, compute_s in zip(loads, computes, strict=True):
        link_s = max(link_s, ends[-slots]) + load_s
        done_s = max(done_s, link_s) + compute_s
        ends.append(done_s)
    ends_s = table["start_s"] + seconds
    assert ends_s[computed].max() - table["start_s"].min() == pytest.approx(done_s, rel=1e-9)
    leaving = fetched & (table["resource"] == "gpu0.device>ddr")
    assert np.count_nonzero(leaving) == LAYERS
    made = ends_s[table["kind"] == "attention"]
    assert (table["start_s"][leaving] >= made - 1e-15).all()


def test_a_step_waits_for_the_link_to_bring_the_cache():
    run = codesign.simulate(base({"kv": "ddr"}))
    least_s = COUNT * PROMPT * LAYERS * ENTRY / PCIE
    computed_s = codesign.simulate(base()).summary["tbt_s"]["p50"]
    assert least_s <= run.summary["tbt_s"]["p50"] <= 1.03 * least_s + computed_s  # calls; not all overlaps
    assert all(share <= 1 + 1e-9 for share in run.utilization.values())


def test_weights_and_cache_take_turns_on_their_link():
    run = codesign.simulate(base({"weights": "ddr", "kv": "ddr"}))
    read = sum(n for key, n in run.details["tiers"]["ddr"].items() if key.endswith("_read_bytes"))
    busy_s = run.utilization["gpu0.ddr>device"] * run.summary["simulated_s"]
    assert busy_s == pytest.approx(read / PCIE, rel=1e-2)
    written = run.details["tiers"]["ddr"]["kv_written_bytes"]
    busy_s = run.utilization["gpu0.device>ddr"] * run.summary["simulated_s"]
    calls_s = COUNT * LAYERS * OUTPUT * 1.59e-6  # one for each sequence, layer and step: link and memory
    assert busy_s == pytest.approx(written / PCIE + calls_s, rel=1e-3)


def small(memory, **more):
    """A device with room for the weights and little else."""
    return base(memory, system={"from": "workstation", "device": {
        "from": "a40", "memory": {"gddr": {"capacity": "7 GB"}}}}, **more)  # fmt: skip


def test_both_tiers_hold_their_share_and_the_ring():
    main = build_plan(codesign.load_experiment(small({}))).residency.kv_bytes
    for share in (0.25, 0.5, 1.0):
        fit = build_plan(codesign.load_experiment(small({"kv": {"tier": "ddr", "share": share}}))).residency
        in_ring = 2 / LAYERS * fit.kv_elsewhere_bytes
        assert fit.kv_bytes - fit.kv_elsewhere_bytes + in_ring == pytest.approx(main, rel=1e-12)
        assert fit.kv_elsewhere_bytes == pytest.approx(share * fit.kv_bytes, rel=1e-12)


def test_a_tier_that_is_too_small_bounds_the_cache():
    host = {"memory": {"ddr": {"capacity": "1 GB"}}}
    experiment = base({"kv": "ddr", "utilization": 0.8}, system={**base()["system"], "host": host})
    assert build_plan(codesign.load_experiment(experiment)).residency.kv_bytes == 0.8e9


def test_more_room_makes_larger_batches():
    workload = {"requests": {"count": 24, "batch": True, "prompt_tokens": 2048, "output_tokens": 64}}
    runs = [codesign.simulate(small(memory, workload=workload)) for memory in ({}, {"kv": "ddr"})]
    decodes = [int(run.iterations["decodes"].max()) for run in runs]
    assert decodes[0] < decodes[1] == 24
    assert runs[0].memory["kv_peak_bytes"] <= runs[0].memory["kv_bytes"]
    assert runs[1].memory["kv_peak_bytes"] > runs[0].memory["kv_bytes"]


MLA = {"from": "deepseek-v2-lite", "num_hidden_layers": 3}
CACHE = {"expert_cache": {"name": "lru", "slots": 4}}
CASES = [
    base({"kv": {"tier": "ddr", "share": 0.7}, "weights": "ddr"}),
    base({"kv": "ddr"}, system=NODE, parallel={"tensor": 4}),
    base({"kv": "ddr"}, system=NODE, parallel={"tensor": 2, "pipeline": 2}, engine={"step": "1 ms"}),
    base(
        {"kv": "ddr", "weights": "nvme"},
        model=MLA,
        system=NODE,
        parallel={"data": 4, "expert": 4},
        policies=CACHE,
    ),
    base({"kv": "ddr"}, parallel={"batches": 2}),
    base({"kv": "ddr", "prefix_cache": True}, model={"from": "gpt-oss-20b", "num_hidden_layers": 4}),
]


@pytest.mark.parametrize("experiment", CASES)
def test_executors_agree_and_channels_carry_no_more_than_they_can(experiment):
    runs = [codesign.simulate({**experiment, "executor": name}) for name in ("compiled", "simpy")]
    assert runs[0].to_dict() | {"provenance": {}} == runs[1].to_dict() | {"provenance": {}}
    assert all(share <= 1 + 1e-9 for share in runs[0].utilization.values())
    assert runs[0].summary["requests"]["completed"] == COUNT


def test_reads_and_writes_of_a_node_share_the_controller_of_its_memory():
    host = {"memory": {"ddr": {"bandwidth": "64 GB/s", "efficiency": 1.0}}}
    run = codesign.simulate(base({"kv": "ddr"}, system={**NODE, "host": host}, parallel={"tensor": 4}))
    moved = run.details["tiers"]["ddr"]
    assert moved["kv_written_bytes"] == COUNT * (PROMPT + OUTPUT - 1) * LAYERS * ENTRY
    busy_s = run.utilization["channel0"] * run.summary["simulated_s"]
    assert busy_s == pytest.approx(sum(moved.values()) / 64e9, rel=1e-6)


@pytest.mark.parametrize(
    ("memory", "more", "error", "words"),
    [
        ({"kv": "hdd"}, {}, ConfigError, "memory.kv: unknown memory tier 'hdd'"),
        ({"kv": "l2"}, {}, ConfigError, "no link leads there from 'l2'"),
        ({"kv": {"tier": "ddr", "share": 0.0}}, {}, ConfigError, "memory.kv.share"),
        ({"kv": "ddr"}, {"fidelity": "roofline"}, ConfigError, "memory.kv: is beyond the closed form"),
        ({"kv": "ddr"}, {"system": {"from": "workstation", "attention": POOL}}, ConfigError,
         "the devices of system.attention keep the cache"),
        ({"kv": "ddr"}, {"model": "jamba-mini-1.6"}, ConfigError, "recurrent state"),
        ({"kv": "ddr", "weights": "ddr", "utilization": 0.1}, {"model": "llama-3.1-8b"}, CapacityError,
         "nothing is left for the KV cache in ddr"),
    ],
)  # fmt: skip
def test_each_mistake_has_its_error(memory, more, error, words):
    run = engine_of if more.get("fidelity") == "roofline" else codesign.simulate
    with pytest.raises(error) as raised:
        run(codesign.load_experiment(base(memory, **more)))
    assert words in str(raised.value)
