"""The three knobs of synthetic routing do what they say, apart from each other."""

import numpy as np
import pytest

from codesign.base.document import parse_yaml
from codesign.base.errors import ConfigError
from workloads.routing import build_routing
from workloads.routing.popularity import Skew, gini, loads, ranked
from workloads.routing.slots import SlotTable
from workloads.routing.synthetic import copying_shares


def drawn(tokens=200, requests=250, **settings):
    shape = {"moe_layers": range(4), "n_experts": 32, "top_k": 1, "seed": 3} | settings.pop("shape", {})
    stream = build_routing({"generator": "synthetic", **settings}, **shape)
    ids = stream.draw(np.arange(requests), np.zeros(requests, np.int64), np.full(requests, tokens))
    return stream, ids.reshape(requests, tokens, *ids.shape[1:])


@pytest.mark.parametrize(
    ("affinity", "locality"), [(0.0, 0.0), (0.4, 0.2), (0.7, 0.6), (0.0, 0.9), (1.0, 0.0)]
)
def test_repeats_and_follows_have_the_set_shares(affinity, locality):
    # 50,000 correlated draws a layer; worst deviation at locality .9 is .0065: bound .03 is 4.6 of them
    stream, ids = drawn(popularity="uniform", affinity=affinity, locality=locality)
    ids = ids[..., 0]
    kept = (ids[:, 1:] == ids[:, :-1]).mean(axis=(0, 1))
    followed = np.array([(stream.maps[i][ids[..., i - 1]] == ids[..., i]).mean() for i in range(1, 4)])
    np.testing.assert_allclose(kept, locality + (1 - locality) / 32, atol=0.02)
    np.testing.assert_allclose(followed, affinity + (1 - affinity) / 32, atol=0.02)


def test_reuse_falls_geometrically_with_distance():
    _, ids = drawn(popularity="uniform", affinity=0.5, locality=0.8)
    for lag in (1, 2, 4, 8):
        same = (ids[:, lag:] == ids[:, :-lag]).mean()
        assert abs(same - (0.8**lag + (1 - 0.8**lag) / 32)) < 0.02


@pytest.mark.parametrize("knobs", [(0.0, 0.0), (0.6, 0.0), (0.0, 0.6), (0.5, 0.5)])
def test_affinity_and_locality_leave_popularity_as_it_is(knobs):
    stream, ids = drawn(affinity=knobs[0], locality=knobs[1], popularity={"zipf": 0.8})
    for layer in range(4):
        share = np.bincount(ids[..., layer, 0].ravel(), minlength=32) / ids[..., 0, 0].size
        wanted = stream.popularity[layer] / stream.popularity[layer].sum()
        assert np.abs(share - wanted).max() < 0.02


@pytest.mark.parametrize(("experts", "k", "wanted"), [(8, 2, 0.3), (32, 4, 0.4), (128, 8, 0.6)])
def test_a_wanted_gini_comes_out(experts, k, wanted):
    shape = {"n_experts": experts, "top_k": k}
    _, ids = drawn(popularity={"gini": wanted}, affinity=0.0, locality=0.0, shape=shape)
    found = [gini(np.bincount(ids[:, :, i].ravel(), minlength=experts)) for i in range(4)]
    assert abs(np.mean(found) - wanted) < 0.02


def test_layers_differ_in_their_popular_experts():
    stream, _ = drawn(popularity={"zipf": 1.0}, requests=1)
    assert len({tuple(row) for row in stream.popularity}) == 4


def test_grouped_maps_lead_into_one_group():
    shape = {"n_group": 4, "topk_group": 2, "top_k": 3}
    stream, _ = drawn(shape=shape, requests=1)
    for layer in range(1, 4):
        groups = (stream.maps[layer] // 8).reshape(4, 8)
        assert (groups == groups[:, :1]).all()


@pytest.mark.parametrize("affinity", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("locality", [0.0, 0.5, 1.0])
def test_shares_are_possible_for_every_pair(affinity, locality):
    keep, follow = copying_shares(affinity, locality)
    assert keep >= 0
    assert follow >= 0
    assert keep + follow <= 1 + 1e-12


def test_loads_sum_to_k_and_follow_popularity():
    shares = ranked(Skew(zipf=0), 10, 3)
    np.testing.assert_allclose(loads(shares, 3), 0.3)
    assert loads(np.array([0.7, 0.1, 0.1, 0.1]), 2).sum() == pytest.approx(2)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("popularity: {zipf: 0.8, gini: 0.1}", r"m.yaml:2: popularity.*a popularity is 'uniform', \{zipf"),
        ("popularity: {zpif: 0.8}", r"m.yaml:2: popularity.*zpif"),
        (
            "popularity: {gini: 0.99}",
            r"m.yaml:1: popularity: gini = 0.99: top-1 of 4 experts reaches at most",
        ),
        ("affinity: 1.5", "m.yaml:2: affinity = 1.5"),
        ("localty: 0.5", "did you mean 'locality'"),
    ],
)
def test_wrong_knobs_are_refused(text, reason):
    with pytest.raises(ConfigError, match=reason):
        build_routing(
            parse_yaml("generator: synthetic\n" + text, "m.yaml"), moe_layers=range(2), n_experts=4, top_k=1
        )


def test_a_full_slot_table_drops_the_longest_undrawn():
    table = SlotTable(3)
    slots, fresh = table.find(np.array([7, 8, 9]))
    assert [r for r, _ in fresh] == [7, 8, 9]
    table.find(np.array([7]))
    again, fresh = table.find(np.array([10]))
    assert again[0] == slots[1]
    assert fresh == [(10, slots[1])]
    table.drop(7)
    assert table.find(np.array([11]))[0][0] == slots[0]
    assert table.size == 3


@pytest.mark.parametrize(
    ("router", "mean"),
    [
        ("top_k", 2.0),
        ({"name": "null_experts", "k": 3, "null": 8}, None),
        ({"name": "top_p", "p": 0.4}, None),
    ],
)
def test_any_router_gives_a_stream_with_its_number_of_experts(router, mean):
    settings = {"generator": "router", "router": router}
    stream = build_routing(settings, moe_layers=range(3), n_experts=8, top_k=2, seed=1)
    ids = stream.draw(np.arange(4), np.zeros(4, np.int64), np.full(4, 100))
    used = (ids >= 0).sum(axis=2)
    assert ids.max() < 8
    assert ids.shape == (400, 3, stream.top_k)
    if mean is not None:
        assert used.mean() == mean
    else:
        assert len(set(used.ravel().tolist())) > 1
    other = build_routing(settings, moe_layers=range(3), n_experts=8, top_k=2, seed=1)
    np.testing.assert_array_equal(other.draw(np.array([2]), np.array([50]), np.array([9])), ids[250:259])


def test_a_router_that_lets_tokens_compete_gives_no_stream():
    with pytest.raises(ConfigError, match="lets the tokens of a batch compete"):
        build_routing(
            {"generator": "router", "router": "expert_choice"}, moe_layers=(0,), n_experts=8, top_k=2
        )
    with pytest.raises(ConfigError, match="unknown router"):
        build_routing({"generator": "router", "router": "topk"}, moe_layers=(0,), n_experts=8, top_k=2)
