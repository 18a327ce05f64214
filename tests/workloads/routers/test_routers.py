"""The contract of every registered router, and the property that each is known for."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codesign.base.document import Document
from codesign.base.errors import ConfigError
from workloads.routers import ROUTERS, Context, GateShape, executed_flop
from workloads.routers.base import softmax
from workloads.routers.dynamic import NullExperts, TopP, ZeroComputation, top_p_temperature
from workloads.routers.structured import LatencyAware, Merged, PerLayer, ProductKey, merge_by_use
from workloads.routers.token_choice import ExpertChoice, GroupLimited, SharedFineGrained, Switch, TopK

SETTINGS = {
    "group_limited": {"k": 3, "n_group": 4, "topk_group": 2},
    "merged": {"groups": [0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3, -1, -1, -1, -1]},
    "latency_aware": {"latency_s": list(range(1, 17))},
    "null_experts": {"k": 3, "null": 4},
    "fixed_projection": {"k": 2, "n_experts": 16},
    "product_key": {"k": 4},
}


def built(name):
    return ROUTERS.build(Document({"name": name, **SETTINGS.get(name, {})}))


def scores_of(name, tokens, seed=0, ties=False):
    width = {"big_small_skip": 3, "model_router": 5, "cascade": 2}.get(name, 16)
    scores = np.random.default_rng(seed).standard_normal((tokens, width))
    return np.round(scores) if ties else scores


@pytest.mark.parametrize("name", ROUTERS.names())
@settings(max_examples=25, deadline=None)
@given(st.integers(0, 40), st.integers(0, 99), st.booleans(), st.integers(0, 3))
def test_the_contract_of_every_router(name, tokens, seed, ties, layer):
    router, scores = built(name), scores_of(name, tokens, seed, ties)
    context = Context(layer=layer, labels=np.arange(tokens) % 3, before=scores[:, ::-1].copy())
    choice = router.route(scores, context)
    assert choice.experts.dtype == np.int32
    assert choice.experts.shape == choice.weights.shape == choice.free.shape
    assert len(choice.experts) == tokens
    assert (choice.experts >= -1).all()
    assert np.isfinite(choice.weights).all()
    assert (choice.weights >= 0).all()
    unused = (choice.experts < 0) & (choice.free == 0)
    assert (choice.weights[unused] == 0).all()
    for row in choice.experts:
        used = row[row >= 0]
        assert len(set(used.tolist())) == len(used)
    again = router.route(scores, context)
    np.testing.assert_array_equal(again.experts, choice.experts)


@pytest.mark.parametrize("name", ROUTERS.names())
def test_the_cost_of_every_router_grows_with_tokens_in_flop_only_with_weights_read_once(name):
    router = built(name)
    one, two = (router.cost(GateShape(t, 512, 16)) for t in (10, 20))
    assert two.flop == pytest.approx(2 * one.flop)
    assert two.weight_bytes == one.weight_bytes
    assert two.activation_bytes == pytest.approx(2 * one.activation_bytes)


def test_every_router_says_its_source():
    for name in ROUTERS.names():
        assert "20" in (ROUTERS.get(name).__doc__ or ""), name


def test_a_wrong_setting_is_refused():
    with pytest.raises(ConfigError, match=r"unknown router 'topk'.*did you mean 'top_k'"):
        ROUTERS.build(Document({"name": "topk"}))
    with pytest.raises(ConfigError, match="k = 0"):
        ROUTERS.build(Document({"name": "top_k", "k": 0}))


def test_top_k_takes_the_best_and_renormalises():
    scores = np.array([[0.0, 3.0, 1.0, 2.0]])
    plain = TopK(2, renormalise=False).route(scores)
    assert plain.experts.tolist() == [[1, 3]]
    np.testing.assert_allclose(plain.weights, softmax(scores)[:, [1, 3]], rtol=1e-6)
    assert TopK(2).route(scores).weights.sum() == pytest.approx(1)
    assert TopK(2, scoring="sigmoid", bias=(9.0, 0, 0, 0)).route(scores).experts.tolist() == [[0, 1]]


def test_switch_drops_what_overflows():
    choice = Switch(capacity_factor=1.0).route(np.tile([2.0, 1.0], (10, 1)))
    assert (choice.experts[:, 0] == [0] * 5 + [-1] * 5).all()


def test_expert_choice_balances_exactly():
    choice = ExpertChoice(2.0).route(scores_of("expert_choice", 64))
    counts = np.bincount(choice.experts[choice.experts >= 0], minlength=16)
    assert (counts == 8).all()


def test_group_limited_tokens_stay_in_their_groups():
    choice = GroupLimited(k=4, n_group=8, topk_group=2).route(
        np.random.default_rng(1).standard_normal((99, 64))
    )
    assert max(len(set((row // 8).tolist())) for row in choice.experts) <= 2


def test_shared_experts_serve_every_token():
    choice = SharedFineGrained(k=3, shared=2).route(scores_of("", 20))
    assert (choice.experts[:, 3:] == [16, 17]).all()


@given(st.floats(0.05, 1.0), st.integers(0, 50))
@settings(max_examples=30, deadline=None)
def test_top_p_uses_as_few_as_reach_p(p, seed):
    scores = scores_of("", 30, seed)
    choice = TopP(p).route(scores)
    values = softmax(scores)
    for row, value in zip(choice.experts, values, strict=True):
        taken = value[row[row >= 0]]
        assert taken.sum() >= p - 1e-9
        assert taken.sum() - taken.min() < p + 1e-9


def test_top_p_reaches_the_published_mean_by_entropy_and_varies_by_layer_and_token():
    # mean 1.76 experts of Mixtral's 8 at p = .4; bottom layers spread more (Huang et al., 2024)
    scores = np.random.default_rng(0).standard_normal((4000, 8))
    factor = top_p_temperature(scores, 0.4, 1.76)
    choice = TopP(0.4).route(scores * factor)
    assert choice.load == pytest.approx(1.76, abs=0.03)
    per_token = (choice.experts >= 0).sum(axis=1)
    assert set(per_token.tolist()) >= {1, 2, 3}
    flat, sharp = (TopP(0.4).route(scores * factor * x).load for x in (0.6, 1.6))
    assert sharp < 1.76 < flat


MIXTRAL = {"hidden": 4096, "ffn": 14336, "kv": 1024, "layers": 32, "vocabulary": 32000}


def mixtral_flop(choice, context_tokens):
    """FLOP of one forward pass per token, counted operator by operator."""
    m, tokens = MIXTRAL, len(choice.experts)
    attention = 2 * m["hidden"] * (2 * m["hidden"] + 2 * m["kv"]) + 4 * context_tokens * m["hidden"]
    router = 2 * m["hidden"] * 8
    head = 2 * m["hidden"] * m["vocabulary"]
    experts = executed_flop(choice, 3 * 2 * m["hidden"] * m["ffn"])
    return tokens * (m["layers"] * (attention + router) + head) + m["layers"] * experts


@pytest.mark.parametrize("bias", [-1.0, 0.0, 0.4])
def test_null_experts_cut_flop_by_the_published_law(bias):
    # FLOP cut = 0.8815 (1 - load / 2) on six data sets (AdaMoE, table 1), prompts of some hundred tokens
    scores = np.random.default_rng(2).standard_normal((3000, 16))
    choice = NullExperts(k=3, null=8, true_bias=bias).route(scores)
    full = TopK(2).route(scores[:, :8])
    cut = 1 - mixtral_flop(choice, 150) / mixtral_flop(full, 150)
    assert cut == pytest.approx(0.8815 * (1 - choice.load / 2), abs=0.003)


@pytest.mark.parametrize(("null", "k"), [(8, 3), (32, 6)])
def test_balanced_null_experts_have_the_load_of_chance(null, k):
    # 20,000 tokens, deviation of the mean below .007; bound .03
    scores = np.random.default_rng(3).standard_normal((20_000, 8 + null))
    assert NullExperts(k=k, null=null).route(scores).load == pytest.approx(8 * k / (8 + null), abs=0.03)


@pytest.mark.parametrize("tau", [0.1, 0.5, 1.0])
def test_zero_computation_experts_take_their_share(tau):
    # top-1 of Gumbel scores: the share of FFN experts is tau N / (tau N + Z) exactly; deviation .0035
    scores = np.random.default_rng(4).gumbel(size=(20_000, 12))
    router = ZeroComputation(k=1, zero=1, copy=1, constant=2, tau=tau)
    choice = router.route(scores)
    assert choice.load == pytest.approx(tau * 8 / (tau * 8 + 4), abs=0.02)
    assert ((choice.free > 0) == (choice.experts < 0)).all()
    assert set(choice.free[choice.free > 0].tolist()) == {1, 2, 3}


def test_the_gating_residual_carries_the_layer_before():
    scores, before = (np.random.default_rng(s).standard_normal((50, 12)) for s in (5, 6))
    near = ZeroComputation(residual=1e6).route(scores, Context(before=before))
    alone = ZeroComputation().route(before)
    np.testing.assert_array_equal(near.experts, alone.experts)


def test_a_pre_gated_token_takes_one_path_and_a_random_one_does_not():
    scores = scores_of("", 50)
    pre, random = built("pre_gated"), built("random")
    pre_layers = [pre.route(scores, Context(layer=i)).experts for i in range(3)]
    assert all((p == pre_layers[0]).all() for p in pre_layers)
    paths = [random.route(scores, Context(layer=i)).experts for i in range(3)]
    assert (paths[0] != paths[1]).any()
    np.testing.assert_array_equal(paths[0], random.route(scores[::-1], Context(layer=0)).experts)


def test_random_routing_is_even():
    # 32,000 draws over 16: bound 6 deviations of a binomial, false alarm below 1e-7
    ids = built("random").route(np.zeros((32_000, 16))).experts[:, 0]
    assert np.abs(np.bincount(ids, minlength=16) - 2000).max() < 6 * np.sqrt(2000)


def test_recurrent_routing_with_full_memory_repeats_the_layer_before():
    scores, before = scores_of("", 30, 1), scores_of("", 30, 2)
    router = ROUTERS.build(Document({"name": "recurrent", "memory": 1.0}))
    np.testing.assert_array_equal(
        router.route(scores, Context(before=before)).experts, TopK(2).route(before).experts
    )


def test_labels_of_conditioned_routing_use_different_experts():
    router = ROUTERS.build(Document({"name": "conditioned", "labels": 4, "own": 4, "k": 2}))
    label = np.arange(80) % 4
    choice = router.route(scores_of("", 80), Context(labels=label))
    assert (choice.experts // 4 == label[:, None]).all()


def test_dense_mixture_uses_all_with_weights_of_one():
    choice = built("dense").route(scores_of("", 7))
    assert choice.load == 16
    np.testing.assert_allclose(choice.weights.sum(axis=1), 1, rtol=1e-6)


def test_layers_have_their_own_counts_and_adapters_their_flop():
    router = PerLayer((2, 4, 8), k=2, rank=16)
    assert [int(router.route(scores_of("", 400), Context(layer=i)).experts.max()) + 1 for i in (0, 1, 5)] == [
        2,
        4,
        8,
    ]
    assert router.adapter_flop(4096, 14336) == 2 * 16 * (4096 + 14336)


@given(st.integers(2, 9), st.integers(1, 6), st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_product_keys_find_the_best_of_all_pairs(n, k, seed):
    k = min(k, n)
    scores = np.random.default_rng(seed).standard_normal((5, 2 * n))
    choice = ProductKey(k).route(scores)
    every = (scores[:, :n, None] + scores[:, None, n:]).reshape(5, -1)
    found = np.take_along_axis(every, choice.experts.astype(np.int64), axis=1)
    np.testing.assert_allclose(found, -np.sort(-every, axis=1)[:, :k])


def test_product_keys_reach_262144_experts_at_the_cost_of_1024_keys():
    choice = ProductKey(8).route(np.random.default_rng(0).standard_normal((40, 1024)))
    assert choice.experts.max() > 200_000
    assert ProductKey(8).cost(GateShape(1, 1000, 262_144)).flop == 2 * 1000 * 1024


def test_latency_aware_experts_finish_together():
    latency = np.array([3.0, 1.0, 2.0])
    choice = LatencyAware((3.0, 1.0, 2.0)).route(np.random.default_rng(0).standard_normal((301, 3)))
    time = np.bincount(choice.experts[:, 0], minlength=3) * latency
    assert time.max() - time.min() <= 2 * latency.max()


def test_merged_experts_keep_every_tokens_weight_in_fewer_experts():
    scores = scores_of("", 200)
    groups = merge_by_use(np.bincount(TopK(2).route(scores).experts.ravel(), minlength=16), 4)
    choice = Merged(groups).route(scores)
    assert choice.experts.max() == 3
    np.testing.assert_allclose(choice.weights.sum(axis=1), 1, rtol=1e-6)
    assert choice.load < 2
    pruned = Merged((0, 1, *[-1] * 14), k=2).route(scores)
    assert set(pruned.experts.ravel().tolist()) == {0, 1}


def test_a_skip_costs_nothing_and_a_small_expert_its_share():
    router = built("big_small_skip")
    choice = router.route(np.eye(3))
    assert executed_flop(choice, 800.0 * router.expert_shares()) == 900.0


def test_a_model_router_has_the_mean_parameters_of_its_mix():
    router = built("model_router")
    choice = router.route(np.eye(5)[[0, 0, 1]])
    assert router.mean_parameters(choice, [7e9, 70e9, 0, 0, 0]) == pytest.approx(28e9)


def test_a_cascade_asks_the_strong_model_for_the_unsure_only():
    choice = built("cascade").route(np.zeros((4, 2)), Context(confidence=np.array([0.9, 0.5, 0.49, 0.1])))
    assert choice.experts.tolist() == [[0, -1], [0, -1], [0, 1], [0, 1]]
