"""Compositions of expert models: capacity, conservation, caches as plain ones, one model as none."""

import numpy as np
import pytest

import codesign
from codesign.base.errors import CapacityError, ConfigError
from codesign.lower.composition import compose
from codesign.lower.plan import build_plan
from codesign.lower.tiers import find_path
from codesign.serve.composed import ComposedCluster
from codesign.serve.laws import check_laws
from codesign.serve.tasklog import TaskLog
from ext.cache import expert_cache
from workloads.requests.expert_models import draw_models, read_popularity


def base(models=6, slots=2, requests=None, policies=None, **composition):
    """Return small expert models on two devices, in host memory."""
    return {
        "model": {"from": "llama-2-7b", "num_hidden_layers": 2},
        "system": {"from": "dgx-a100", "devices_per_node": 2},
        "parallel": {"tensor": 2},
        "composition": {"models": models, "tiers": ["ddr"], **composition},
        "policies": {"model_cache": {"name": "lru", "slots": slots}, **(policies or {})},
        "workload": {
            "requests": {
                "count": 40, "rate": "200 1/s", "prompt_tokens": {"name": "normal", "mean": 60, "std": 20},
                "output_tokens": 6, **(requests or {}),
            },
        },
    }  # fmt: skip


def finished(document):
    experiment = codesign.load_experiment(document)
    plan = build_plan(experiment)
    cluster = ComposedCluster(experiment, plan, experiment.requests(), TaskLog(plan.graph))
    cluster.run()
    check_laws(cluster)
    return cluster


def coe(result):
    return result.details["composition"]


@pytest.mark.parametrize("policy", ["lru", "lfu", "fifo", "random"])
def test_models_held_are_those_of_a_plain_cache(policy):
    cluster = finished(base(policies={"model_cache": {"name": policy, "slots": 3}}, popularity={"zipf": 1.0}))
    (store,) = cluster.stores
    visits = np.array(store.visits)
    plain = expert_cache(1, 6, 3, policy=policy, seed=1)
    hit, _ = plain.access_many(np.zeros(len(visits), np.int64), visits)
    assert 0 < store.hits == int(hit.sum())
    assert store.misses == len(visits) - store.hits


def test_every_request_is_served_by_its_model():
    result = codesign.simulate(base(popularity={"zipf": 0.8}))
    assert result.summary["requests"]["completed"] == 40
    assert result.summary["output_tokens"] == 240
    assert set(result.requests["model"]) <= set(range(6))
    assert (result.requests["ttft_s"] > 0).all()


def test_bytes_and_seconds_of_a_fetch():
    experiment = codesign.load_experiment(base(slots=1, popularity="cyclic"))
    result, path = codesign.simulate(experiment), find_path(experiment.system, "ddr")
    one = build_plan(experiment).residency.weight_bytes
    found = coe(result)  # two devices, each through a PCIe port of its own that host memory outpaces
    assert found["fetched_bytes"] == pytest.approx(2 * one * found["fetches"])
    assert found["mean_fetch_s"] == pytest.approx(sum(path.seconds(one, 1)))
    assert result.energy_j["fetch"] == pytest.approx(found["fetched_bytes"] * path.energy_j_per_byte)
    assert result.breakdown_s["fetch"] == pytest.approx(found["waited_s"])
    assert result.elasticities["fetch_bandwidth"] < 0


def test_devices_share_the_channel_that_they_bring_models_over():
    document = base(slots=1, popularity="cyclic")
    alone = coe(codesign.simulate(document))["mean_fetch_s"]
    document["system"]["host"] = {"links": {"pcie": {"shared_by": 2}}}
    assert coe(codesign.simulate(document))["mean_fetch_s"] == pytest.approx(2 * alone, rel=1e-3)


def test_one_model_is_as_without_a_composition():
    # requests of one model join the running batch, as they always do
    alone = base(models=1, slots=1, warm=1)
    plain = {key: value for key, value in alone.items() if key not in ("composition", "policies")}
    with_it, without = codesign.simulate(alone), codesign.simulate(plain)
    assert with_it.summary["e2e_s"] == without.summary["e2e_s"]
    assert with_it.summary["simulated_s"] == without.summary["simulated_s"]
    assert coe(with_it)["misses"] == coe(with_it)["fetches"] == 0


def test_more_models_than_slots_in_turn_never_hit_and_as_many_always_do():
    cyclic = {"popularity": "cyclic", "warm": 60, "requests": {"batch": True, "rate": None, "count": 6}}
    assert coe(codesign.simulate(base(models=6, slots=5, **cyclic)))["hits"] == 0
    assert coe(codesign.simulate(base(models=6, slots=6, **cyclic)))["misses"] == 0


def test_uniform_hit_rate_is_slots_over_models():
    requests = {"count": 1500, "concurrency": 1, "rate": None, "prompt_tokens": 8, "output_tokens": 1}
    found = coe(codesign.simulate(base(models=10, slots=4, warm=100, requests=requests)))
    deviation = (0.4 * 0.6 / 1500) ** 0.5
    assert abs(found["hit_rate"] - 0.4) < 4 * deviation  # false alarm: 6e-5


def test_prefetch_hides_fetches_and_moves_the_same_bytes():
    many = {
        "popularity": "cyclic",
        "requests": {"batch": True, "rate": None, "count": 24, "output_tokens": 40},
    }
    lazy, early = (codesign.simulate(base(**many, prefetch=on)) for on in (False, True))
    assert coe(early)["fetched_bytes"] == coe(lazy)["fetched_bytes"]
    assert coe(early)["misses"] == coe(lazy)["misses"]
    assert coe(early)["waited_s"] < 0.7 * coe(lazy)["waited_s"]
    assert early.summary["simulated_s"] < lazy.summary["simulated_s"]


def test_held_first_switches_less_and_serves_all():
    many = {"models": 8, "requests": {"batch": True, "rate": None, "count": 60}, "popularity": "uniform"}
    oldest = codesign.simulate(base(**many))
    policies = {"switching": "held_first", "model_cache": {"name": "lru", "slots": 2}}
    held = codesign.simulate(base(**many, policies=policies))
    assert coe(held)["visits"] == coe(oldest)["visits"] == 8  # a batch of each model
    few = {**many, "requests": {"concurrency": 6, "rate": None, "count": 60}}
    assert (
        coe(codesign.simulate(base(**few, policies=policies)))["misses"]
        < coe(codesign.simulate(base(**few)))["misses"]
    )


def test_a_router_reads_each_request_first_and_takes_its_room():
    plain, routed = finished(base(slots=6)), finished(base(slots=6, router="llama-2-7b"))
    assert routed.composition.residency.weight_bytes > plain.composition.residency.weight_bytes
    assert routed.composition.residency.kv_bytes < plain.composition.residency.kv_bytes
    assert len(routed.parts) == 2  # the router is a whole Llama, the models have two layers
    assert routed.finished == 40
    assert routed.parts[1].costs.counters[0] > 0
    assert np.nanmean(routed.table[:, 2]) > np.nanmean(plain.table[:, 2])
    assert routed.shared.output_tokens == 240


def test_models_of_several_shapes():
    other = {"model": {"from": "mistral-7b", "num_hidden_layers": 3}, "count": 3}
    cluster = finished(base(models=3, slots=2, others=[other]))
    store = cluster.stores[0]
    assert cluster.composition.n_models == 6
    assert {cluster.composition.shape_of[m] for m in store.visits} == {0, 1}
    sizes = [plan.residency.weight_bytes for plan in cluster.composition.plans]
    assert cluster.composition.residency.weight_bytes == pytest.approx(2 * max(sizes))


def test_tiers_are_filled_in_order_and_refused_when_full():
    small = base(models=6, tiers=["ddr", "nvme"])
    small["system"]["host"] = {"memory": {"ddr": {"capacity": "4 GB"}}}
    experiment = codesign.load_experiment(small)
    made = compose(experiment, build_plan(experiment))
    size = made.bytes_of(0) * 2
    assert (made.tier_of == 0).sum() == int(4e9 // size)
    slow, fast = (next(m for m in range(6) if made.tier_of[m] == tier) for tier in (1, 0))
    assert made.fetch_s(slow)[0] > made.fetch_s(fast)[0]
    small["composition"]["tiers"] = ["ddr"]
    with pytest.raises(CapacityError, match=f"{int(4e9 // size)} of 6 expert models fit ddr"):
        codesign.load_experiment(small)


def test_as_many_slots_as_fit_and_all_where_models_live_in_main_memory():
    document = base()
    document["policies"] = {}
    document["composition"] |= {"models": 500, "kv_share": 0.25}
    experiment = codesign.load_experiment(document)
    made = compose(experiment, build_plan(experiment))
    tier = experiment.system.device.memory["hbm"]
    assert made.slots == int(
        (tier.capacity * 0.9 * 0.75 - made.residency.activation_bytes) // made.bytes_of(0)
    )
    document["composition"]["tiers"] = []
    with pytest.raises(CapacityError, match="500 models"):
        codesign.load_experiment(document)


def test_engines_share_the_models_or_hold_them_all():
    two = base(spread=True, popularity="cyclic")
    two["system"]["devices_per_node"] = 4
    cluster = finished(two)
    assert [set(store.visits) for store in cluster.stores] == [{0, 2, 4}, {1, 3, 5}]
    two["composition"]["spread"] = False
    assert all(len(store.visits) > 0 for store in finished(two).stores)
    two["policies"]["load_balance"] = "shared_queue"
    assert finished(two).finished == 40


def test_time_to_start_a_model_is_the_hosts():
    slow, fast = codesign.simulate(base(start="5 ms")), codesign.simulate(base())
    assert "overhead" not in fast.breakdown_s
    assert slow.breakdown_s["overhead"] == pytest.approx(5e-3 * coe(slow)["visits"])


def test_popularity_is_of_the_requests_alone():
    zipf = read_popularity({"zipf": 1.0})
    many, few = draw_models(4000, 20, zipf, 0.0, 7), draw_models(100, 20, zipf, 0.0, 7)
    assert (many[:100] == few).all()
    counts = np.sort(np.bincount(many, minlength=20))[::-1]
    assert counts[0] / counts[1] == pytest.approx(2.0, rel=0.2)
    again = draw_models(4000, 20, zipf, 0.9, 7)
    assert (np.diff(again) == 0).mean() > 0.9


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"composition": {"models": 2, "tiers": ["flash"]}}, "memory tier"),
        ({"composition": {"models": 2, "tiers": ["ddr", "hbm"]}}, "are not brought"),
        ({"composition": {"models": 2, "tiers": ["ddr"], "popularity": "often"}}, "a popularity is"),
        ({"composition": {"models": 2, "tiers": ["ddr"], "router": "lama-2-7b"}}, "llama-2-7b"),
        ({"policies": {"model_cache": "ring"}}, "holds no whole models"),
        ({"policies": {"model_cache": {"name": "lru", "slots": 2, "chunks": 3}}}, "not of whole models"),
        ({"policies": {"switching": "newest"}}, "switching"),
        ({"memory": {"prefix_cache": True}}, "take turns"),
        ({"parallel": {"tensor": 1, "pipeline": 2}}, "one batch at a time"),
    ],
)
def test_mistakes_are_told(change, told):
    with pytest.raises(ConfigError, match=told):
        codesign.load_experiment({**base(), **change})


def test_both_executors_agree():
    compiled = codesign.simulate(base(popularity={"zipf": 1.0}))
    simpy = codesign.simulate({**base(popularity={"zipf": 1.0}), "executor": "simpy"})
    assert simpy.summary == compiled.summary
    assert simpy.details["composition"] == compiled.details["composition"]


def test_a_run_can_be_replayed():
    result = codesign.simulate(base(popularity={"zipf": 1.0}, router="llama-2-7b"))
    assert result.replay().to_dict() == result.to_dict()


def test_models_with_experts_of_their_own_and_a_horizon():
    small = {"model": {"from": "llama-2-7b", "num_hidden_layers": 2}}
    document = base(
        models=2, slots=2, router="llama-2-7b", others=[small],
        requests={"rate": None, "concurrency": 5},
    )  # fmt: skip
    document["model"] = {"from": "mixtral-8x7b", "num_hidden_layers": 1}
    document["horizon"] = "0.25 s"
    cluster = finished(document)
    assert 0 < cluster.finished < 40
    assert len(cluster.parts) == 3
    routed = cluster.parts[0].engines[0].tally[0]
    assert routed > 0
    assert cluster.parts[1].engines[0].tally[0] == 0
