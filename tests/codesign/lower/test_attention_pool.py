"""Attention on other devices, and parts of a batch that take turns: laws, capacity, price, mistakes."""

import numpy as np
import pytest

import codesign
from codesign.base.errors import ConfigError
from codesign.lower.attention_pool import part_of, part_of_batch
from codesign.lower.batch import Batch
from codesign.lower.plan import build_plan

LINK = {"bandwidth": "50 GB/s", "latency": "16.5 us", "energy_per_byte": "35 pJ/bit", "efficiency": 0.9}
POOL = {"device": "h20", "devices": 4, "link": LINK}


def experiment(model="llama-3-8b", pool=None, devices=2, **changes):
    base = {
        "model": model,
        "system": {"from": "dgx-h100", "devices_per_node": devices, **({"attention": pool} if pool else {})},
        "parallel": {"tensor": devices},
        "workload": {"requests": {"count": 48, "batch": True, "prompt_tokens": 512, "output_tokens": 12}},
    }  # fmt: skip
    return codesign.load_experiment(base, changes)


def run(**settings):
    return codesign.simulate(experiment(**settings))


def test_the_cache_lies_in_the_pool():
    plan = build_plan(experiment(pool=POOL))
    device = plan.operators.pool.pool.device
    assert plan.residency.kv_bytes == pytest.approx(2 * device.memory["hbm"].capacity * 0.9)
    half = build_plan(experiment(pool={**POOL, "devices": 2}))
    assert half.residency.kv_bytes == pytest.approx(plan.residency.kv_bytes / 2)


def test_bytes_of_queries_keys_values_and_results_cross_the_network():
    result = run(pool=POOL)
    tokens = 48 * (512 + 11)
    values = 2 * 4096 + 2 * 1024  # of both ranks together: q and the result, k and v
    assert result.cost["counters"]["network_bytes"] == pytest.approx(32 * tokens * values * 2)
    assert result.cost["devices"] == 6


def test_a_slower_network_makes_steps_slower_and_a_larger_pool_faster():
    tbt = [
        run(pool=pool).summary["tbt_s"]["p50"]
        for pool in (
            {**POOL, "link": {**LINK, "latency": "100 us"}}, POOL, {**POOL, "devices": 16},
        )
    ]  # fmt: skip
    assert tbt[0] - tbt[1] == pytest.approx(32 * 2 * 83.5e-6, rel=0.02)  # quantiles of gaps are of fine bins
    assert tbt[2] < tbt[1]


def test_the_price_is_of_both_kinds_of_devices():
    rents = {
        "system.device.price.rental": "11.06 USD/h",
        "system.attention.device.price.rental": "4.63 USD/h",
    }
    assert run(pool=POOL, **rents).cost["usd_per_hour"] == pytest.approx(2 * 11.06 + 4 * 4.63)


@pytest.mark.parametrize("executor", ["compiled", "simpy"])
@pytest.mark.parametrize("model", ["llama-3-8b", "mixtral-8x7b"])
def test_parts_that_take_turns_compute_the_same_and_all_of_it(model, executor):
    short = {"workload.requests.count": 6, "workload.requests.prompt_tokens": 64, "executor": executor}
    results = [
        run(model=model, pool=pool, **{"parallel.batches": parts, **short})
        for pool in (None, POOL) for parts in (1, 2, 3)
    ]  # fmt: skip
    assert {result.summary["output_tokens"] for result in results} == {72}
    plain = results[0].cost["counters"]["flop"]
    assert all(r.cost["counters"]["flop"] == pytest.approx(plain, rel=0.02) for r in results)


def test_both_executors_agree_on_turns():
    found = [
        run(pool=POOL, executor=executor, **{"parallel.batches": 2}).summary
        for executor in ("compiled", "simpy")
    ]
    assert found[0] == found[1]


def test_turns_hide_attention_elsewhere_behind_the_other_part():
    long = {"workload.requests.prompt_tokens": 4096, "workload.requests.count": 128}
    alone = run(pool=POOL, **long)
    turns = run(pool=POOL, **{"parallel.batches": 2, **long})
    assert turns.summary["tbt_s"]["p50"] < 0.9 * alone.summary["tbt_s"]["p50"]


def test_turns_read_the_weights_twice():
    one = run(**{"workload.requests.count": 2}).summary["tbt_s"]["p50"]
    two = run(**{"workload.requests.count": 2, "parallel.batches": 2}).summary["tbt_s"]["p50"]
    assert two > 1.5 * one


@pytest.mark.parametrize("parts", [1, 2, 3, 7])
def test_parts_sum_to_the_whole(parts):
    batch = Batch(
        tokens=17, outputs=9, sequences=10, decodes=8, singles=1, entries=[100, 64], chunks=[(5, 5), (3, 9)]
    )
    dealt = [part_of_batch(batch, i, parts) for i in range(parts)]
    for name in ("tokens", "outputs", "sequences", "decodes", "singles"):
        assert sum(getattr(part, name) for part in dealt) == getattr(batch, name)
    assert np.sum([part.entries for part in dealt], axis=0).tolist() == [100, 64]
    assert sum(tokens for part in dealt for tokens, _ in part.chunks) == 8
    assert sum(part_of(5, i, parts) for i in range(parts)) == 5


def test_pools_compose_from_the_library_and_tell_mistakes():
    with pytest.raises(ConfigError, match="did you mean 'h20'"):
        experiment(pool={**POOL, "device": "h2o"})
    with pytest.raises(ConfigError, match="attention is computed by"):
        experiment(
            pool=POOL,
            **{
                "system": {"from": "duplex-node", "devices_per_node": 2, "attention": POOL},
                "policies.units": "min_time",
            },
        )
    over = experiment(pool={**POOL, "device": {"from": "h20", "memory": {"hbm": {"capacity": "192 GB"}}}})
    assert over.system.attention.device.memory["hbm"].capacity == 192e9


def test_prompts_computed_elsewhere_take_one_token_each():
    settings = {"workload.requests.prefilled": True, "workload.requests.prompt_tokens": 2048}
    first = run(**settings)
    assert first.iterations["prefill_tokens"].sum() == 48
    assert (
        first.summary["ttft_s"]["p50"]
        < 0.1 * run(**{"workload.requests.prompt_tokens": 2048}).summary["ttft_s"]["p50"]
    )
