"""Predictors and caches at work: causality, limits, bounds, what a mistake costs."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import codesign
from codesign.base.errors import ConfigError
from codesign.lower.fetching import Foreseeing, Held, next_positions
from codesign.lower.foresight import profile_ids, usage
from codesign.policies.expert_predictors import PREDICTORS, Accuracy, NextLayer, Oracle, PathTable, Popularity
from ext.cache import expert_cache

LEARNED = (NextLayer(), PathTable(), PathTable(depth=3), Popularity())
MODEL = {"from": "mixtral-8x7b", "num_hidden_layers": 6}
MARKOV = {"generator": "synthetic", "popularity": {"zipf": 0.3}, "affinity": 0.9}


def base(cache, routing=MARKOV, **more):
    return {
        "model": MODEL,
        "system": {"from": "workstation", "device": "h100"},
        "memory": {"experts": "ddr"},
        "policies": {"expert_cache": cache},
        "workload": {
            "requests": {"count": 2, "batch": True, "prompt_tokens": 4, "output_tokens": 24},
            "routing": routing,
        },
        **more,
    }


def details(cache, **more):
    return codesign.simulate(base(cache, **more)).details["expert_cache"]


def routes(rng, tokens, layers=5, n_experts=8, k=2):
    return np.argsort(rng.random((tokens, layers, n_experts)), axis=2)[:, :, :k].astype(np.int16)


@pytest.mark.parametrize("predictor", LEARNED)
@pytest.mark.parametrize("lead", [1, 2])
def test_a_learned_prediction_looks_at_earlier_layers_alone(predictor, lead):
    rng = np.random.default_rng(lead)
    guesser = predictor.learn(routes(rng, 300), 8, lead)
    ids = routes(rng, 40)
    named = guesser.guess(ids, rng)
    for m in range(ids.shape[1]):
        other = ids.copy()
        other[:, max(0, m - lead + 1) :] = routes(rng, 40)[:, max(0, m - lead + 1) :]
        np.testing.assert_array_equal(guesser.guess(other, rng)[:, m], named[:, m])
    assert (named[:, :lead] == -1).all()
    assert named.max() < 8


def test_a_path_that_decides_is_learned_and_popularity_cannot():
    rng = np.random.default_rng(3)
    follow = rng.permutation(64).reshape(8, 8) % 8  # of the last two layers: each expert equally popular

    def draw(tokens):
        ids = np.zeros((tokens, 5, 1), np.int16)
        ids[:, :2] = rng.integers(0, 8, (tokens, 2, 1))
        for m in range(2, 5):
            ids[:, m, 0] = follow[ids[:, m - 2, 0], ids[:, m - 1, 0]]
        return ids

    def right(predictor):
        known, new = draw(4000), draw(500)
        return float((predictor.learn(known, 8, 1).guess(new, rng)[:, 2:, 0] == new[:, 2:, 0]).mean())

    assert right(PathTable(depth=2)) == 1.0
    assert right(Popularity()) < 0.4
    assert right(NextLayer()) < right(PathTable(depth=2))


@given(accuracy=st.sampled_from([0.0, 0.5, 0.9, 1.0]), seed=st.integers(0, 99))
@settings(max_examples=20, deadline=None)
def test_the_stated_accuracy_is_kept(accuracy, seed):
    rng = np.random.default_rng(seed)
    ids = routes(rng, 800)
    named = Accuracy(accuracy).learn(ids[:0], 8, 1).guess(ids, rng)
    assert float((named == ids).mean()) == pytest.approx(accuracy, abs=0.03)  # 6 sigma: 0.034
    assert ((named >= 0) & (named < 8)).all()


def test_an_oracle_with_room_is_always_ready():
    found = details({"name": "lru", "slots": 8, "prefetch": {"predictor": "oracle", "before": True}})
    assert found["corrections"] == found["wasted"] == 0
    assert found["ready_rate"] == 1.0


def test_nothing_waits_for_what_is_known_before_if_the_bandwidth_suffices():
    cache = {"name": "lru", "slots": 8, "prefetch": {"predictor": "oracle", "before": True, "lead": 3}}
    fast = {"speed": {"fetch_bandwidth": 1e5, "fetch_latency": 1e5}}
    resident = base(None, **fast)
    del resident["memory"]
    known, held = codesign.simulate(base(cache, **fast)), codesign.simulate(resident)
    assert known.details["expert_cache"]["foretold"] > 0
    assert sum(known.details["path_s"].get("fetch", {}).values()) < 1e-5 * known.summary["simulated_s"]
    assert known.summary["simulated_s"] == pytest.approx(held.summary["simulated_s"], rel=0.05)


@pytest.mark.parametrize("before", [False, True])
def test_a_prediction_takes_its_time(before):
    runs = [
        codesign.simulate(
            base(
                {"name": "lru", "slots": 0, "buffers": 8, "prefetch": {
                    "predictor": "oracle", "before": before, "cost": cost}}
            )
        )
        for cost in ("0 s", "1 ms")
    ]  # fmt: skip
    slower_s = runs[1].summary["simulated_s"] - runs[0].summary["simulated_s"]
    steps = len(runs[0].iterations["start_s"])
    assert slower_s == pytest.approx(
        1e-3 * steps * (1 if before else 5), rel=0.2
    )  # 5 of 6 layers are foretold


@pytest.mark.parametrize("slots", [1, 3])
def test_no_policy_hits_more_than_belady(slots):
    names = ("lru", "lfu", "fifo", "random", "frequency_distance", "score")
    for scope in ("layer", "global"):
        best = details({"name": "belady", "slots": slots, "scope": scope})["hits"]
        assert all(details({"name": name, "slots": slots, "scope": scope})["hits"] <= best for name in names)


def test_belady_needs_a_future_that_does_not_depend_on_time():
    experiment = base({"name": "belady", "slots": 2})
    requests = {"count": 40, "arrivals": "poisson", "rate": "30 /s", "prompt_tokens": 4, "output_tokens": 9}
    experiment["workload"]["requests"] = requests
    with pytest.raises(ConfigError, match="depends on time"):
        codesign.simulate(experiment)


def test_pinned_experts_are_the_most_used_of_the_profile():
    skewed = {"generator": "synthetic", "popularity": {"zipf": 1.5}}
    pinned = details({"name": "pinned", "slots": 4}, routing=skewed)
    assert pinned["hit_rate"] > 0.6
    experiment = codesign.load_experiment(base({"name": "pinned", "slots": 4}, routing=skewed))
    counts = usage(profile_ids(experiment, None, 2000), 8)
    assert counts.sum() == 2000 * 6 * 2


def test_learned_predictors_beat_popularity_where_layers_follow_each_other():
    ready = {
        name: details({"name": "lru", "slots": 2, "buffers": 8, "prefetch": {"predictor": name}})[
            "ready_rate"
        ]
        for name in ("popularity", "next_layer", "oracle")
    }
    assert ready["popularity"] < ready["next_layer"] < ready["oracle"]


def test_a_profile_of_other_routing_foretells_less():
    cache = {"name": "lru", "slots": 2, "buffers": 8}
    near = details({**cache, "prefetch": {"predictor": "next_layer"}})
    far = details({**cache, "prefetch": {"predictor": "next_layer", "profile": "uniform"}})
    assert far["foretold"] < near["foretold"]
    assert far["wasted"] > near["wasted"]


def test_a_better_predictor_wastes_less_and_corrects_less():
    runs = [
        details({"name": "lru", "slots": 2, "buffers": 8, "prefetch": {"accuracy": a}}) for a in (0.5, 0.8, 1)
    ]
    for worse, better in pairwise(runs):
        assert better["wasted"] < worse["wasted"]
        assert better["corrections"] < worse["corrections"]


@given(seed=st.integers(0, 999), lead=st.integers(1, 4), slots=st.integers(0, 5), most=st.integers(1, 4))
@settings(max_examples=40, deadline=None)
def test_every_use_is_held_foretold_or_corrected_once(seed, lead, slots, most):
    rng = np.random.default_rng(seed)
    own = np.tile(np.arange(8), (5, 1))
    cache = Foreseeing(
        expert_cache(5, 8, slots), own, np.arange(5) >= lead, lead=lead, slots=slots, buffers=2, most=most
    )
    for _ in range(4):
        layers, experts = (np.ascontiguousarray(a) for a in np.nonzero(rng.random((5, 8)) < 0.4))
        foretold = rng.integers(0, 3, (5, 8))
        fetches = cache.step(layers, experts, foretold)
        used = {*zip(layers.tolist(), experts.tolist(), strict=True)}
        early, wasted, late = (
            {*zip(*(a.tolist() for a in part), strict=True)} for part in vars(fetches).values()
        )
        assert early <= used
        assert late <= used
        assert not early & late
        assert not wasted & used
        assert all(sum(m == layer for m, _ in early | wasted) <= most for layer in range(5))
        assert all(m >= lead and foretold[m, e] > 0 for m, e in early | wasted)


def test_next_positions():
    np.testing.assert_array_equal(next_positions(np.array([4, 7, 4, 4])), [2, 2**31 - 1, 3, 2**31 - 1])


def test_held_lets_nothing_in():
    kernel = Held(np.array([[True, False]]))
    assert len(kernel.load(0, np.array([1]))) == 0
    assert kernel.contains(0, np.array([0, 1])).tolist() == [True, False]


def test_an_oracle_names_what_comes():
    ids = routes(np.random.default_rng(0), 3)
    assert Oracle().learn(ids, 8, 1).guess(ids, np.random.default_rng(0)) is ids
    assert set(PREDICTORS.names()) == {"accuracy", "next_layer", "oracle", "path_table", "popularity"}


@pytest.mark.parametrize(
    ("prefetch", "words"),
    [
        ({"predictor": "path_tabel"}, "did you mean 'path_table'"),
        ({"accuracy": 0.9, "predictor": "oracle"}, "either 'accuracy' or"),
        ({}, "either 'accuracy' or"),
        ({"predictor": "next_layer", "profile": {"generator": "zip"}}, "zip"),
    ],
)
def test_mistakes_are_told(prefetch, words):
    with pytest.raises(ConfigError, match=words):
        codesign.simulate(base({"name": "lru", "slots": 2, "prefetch": prefetch}))


def test_an_unknown_predictor_is_refused_when_the_file_is_read():
    with pytest.raises(ConfigError, match="did you mean 'oracle'"):
        codesign.load_experiment(base({"name": "lru", "slots": 2, "prefetch": {"predictor": "oracel"}}))
