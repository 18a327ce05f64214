"""The compiled caches equal their plain twins, keep their laws, and agree with libCacheSim."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ext.cache import POLICIES, StackDistances, hit_counts, hit_rates, reference

compiled = pytest.importorskip("ext.cache.compiled", reason="the Cython kernels are not built")


@st.composite
def blocks(draw, tokens=30):
    shape = draw(st.integers(0, tokens)), draw(st.integers(1, 3)), draw(st.integers(1, 3))
    n_experts = draw(st.sampled_from([1, 2, 5, 17, 40, 300]))
    rng = np.random.default_rng(draw(st.integers(0, 999)))
    ids = np.minimum(rng.geometric(0.1, shape) - 1, n_experts - 1).astype(np.int16)
    ids[rng.random(shape) < draw(st.sampled_from([0.0, 0.3]))] = -1
    return ids, n_experts


@settings(max_examples=80, deadline=None)
@given(blocks(), st.sampled_from(POLICIES), st.integers(0, 9), st.booleans())
def test_the_compiled_cache_equals_the_reference(block, policy, capacity, shared):
    ids, n_experts = block
    layer, slot = np.nonzero((ids >= 0).reshape(-1, ids.shape[2]))
    experts = ids.reshape(-1, ids.shape[2])[layer, slot].astype(np.int64)
    layers, uses = layer % ids.shape[1], np.arange(len(experts), dtype=np.int64) * 7919 % 101
    found = []
    for kernels in (compiled, reference):
        cache = kernels.ExpertCache(ids.shape[1], n_experts, capacity, policy=policy, shared=shared, seed=4)
        results = [*cache.access_many(layers, experts, uses if policy == "belady" else None)]
        results.append(cache.load(0, np.arange(min(3, n_experts))))
        cache.drop(0, np.arange(0, n_experts, 2))
        results += [*cache.access_many(layers, experts), cache.hits, cache.misses, cache.evictions]
        results += [cache.resident(i) for i in range(ids.shape[1])]
        results.append(cache.contains(0, np.arange(n_experts)))
        found.append(results)
    for a, b in zip(*found, strict=True):
        np.testing.assert_array_equal(a, b)


@settings(max_examples=60, deadline=None)
@given(blocks(), st.integers(1, 4))
def test_compiled_depths_and_next_uses_equal_the_reference(block, pieces):
    ids, n_experts = block
    np.testing.assert_array_equal(compiled.next_uses(ids, n_experts), reference.next_uses(ids, n_experts))
    states = []
    for kernels in (compiled, reference):
        kind = np.uint8 if n_experts <= 256 else np.int16
        stacks = np.tile(np.arange(n_experts, dtype=kind), (ids.shape[1], 1))
        seen, histogram = np.zeros(ids.shape[1], np.int32), np.zeros((ids.shape[1], n_experts + 1), np.int64)
        for piece in np.array_split(ids, pieces):
            kernels.lru_depths(np.ascontiguousarray(piece), stacks, seen, histogram)
        states.append((stacks, seen, histogram))
    for a, b in zip(*states, strict=True):
        np.testing.assert_array_equal(a, b)


@settings(max_examples=60, deadline=None)
@given(blocks(), st.sampled_from(POLICIES))
def test_laws_of_every_policy(block, policy):
    ids, n_experts = block
    capacities = [0, 1, 3, n_experts]
    hits, accesses = hit_counts(ids, n_experts, capacities, policy)
    best, _ = hit_counts(ids, n_experts, capacities, "belady")
    assert (hits <= best).all()
    assert (hits[0] == 0).all()
    first = [len(set(ids[:, i][ids[:, i] >= 0].tolist())) for i in range(ids.shape[1])]
    np.testing.assert_array_equal(hits[-1], accesses - first)  # all fit: first uses alone miss
    cache = compiled.ExpertCache(ids.shape[1], n_experts, 3, policy=policy)
    cache.access_tokens(ids)
    held = [len(cache.resident(i)) for i in range(ids.shape[1])]
    assert max(held) <= 3
    np.testing.assert_array_equal(cache.misses - cache.evictions, held)
    np.testing.assert_array_equal(cache.hits + cache.misses, accesses)


@settings(max_examples=40, deadline=None)
@given(blocks(), st.integers(0, 20))
def test_stack_distances_equal_an_lru_cache(block, capacity):
    ids, n_experts = block
    depths = StackDistances(ids.shape[1], n_experts)
    depths.add(ids)
    cache = compiled.ExpertCache(ids.shape[1], n_experts, capacity)
    cache.access_tokens(ids)
    np.testing.assert_array_equal(depths.hits([capacity])[0], cache.hits)


def test_a_layer_has_its_own_capacity_and_a_shared_pool_has_none():
    cache = compiled.ExpertCache(2, 8, np.array([1, 4]))
    cache.access(0, [0, 1, 2])
    cache.access(1, [0, 1, 2])
    assert cache.resident(0).tolist() == [2]
    assert cache.resident(1).tolist() == [0, 1, 2]
    shared = compiled.ExpertCache(2, 8, 4, shared=True)
    shared.access(0, [0, 1, 2])
    hits, missed, left = shared.access(1, [0, 1, 2])
    assert (hits, missed.tolist(), left.tolist()) == (0, [0, 1, 2], [0, 1])
    assert shared.evictions.tolist() == [2, 0]


@pytest.mark.parametrize("kernels", [compiled, reference])
def test_wrong_use_is_refused(kernels):
    with pytest.raises(ValueError, match="choose from lru, lfu"):
        kernels.ExpertCache(1, 4, 2, policy="mru")
    with pytest.raises(ValueError, match="capacity must be one number or 2"):
        kernels.ExpertCache(2, 4, np.array([1, 2, 3]))
    with pytest.raises(ValueError, match="layer 0, expert 4"):
        kernels.ExpertCache(1, 4, 2).access(0, [4])
    with pytest.raises(ValueError, match="not one of 4"):
        kernels.next_uses(np.full((1, 1, 1), 4, np.int16), 4)


def test_random_eviction_is_even():
    # 60,000 evictions of 4 places, bound 6 standard deviations: false alarm below 1e-8
    cache = compiled.ExpertCache(1, 1000, 4, policy="random", seed=1)
    held: list[int] = []
    counts = np.zeros(4, np.int64)
    for e in range(60_004):
        _, _, left = cache.access(0, [e % 1000])
        if len(left):
            place = held.index(int(left[0]))
            counts[place] += 1
            held[place] = e % 1000
        else:
            held.append(e % 1000)
    assert np.abs(counts - 15_000).max() < 6 * np.sqrt(60_000 * 0.25 * 0.75)


@pytest.mark.parametrize("policy", ["lru", "lfu", "fifo", "belady"])
def test_miss_ratios_equal_those_of_libcachesim(policy):
    lcs = pytest.importorskip("libcachesim", reason="libcachesim (test dependency) is not installed")
    rng = np.random.default_rng(5)
    ids = np.minimum(rng.zipf(1.3, 6000) - 1, 59).astype(np.int16)
    uses = compiled.next_uses(ids[:, None, None].copy(), 60).ravel()
    for capacity in (6, 15, 30, 45):
        kind = {"lru": lcs.LRU, "lfu": lcs.LFU, "fifo": lcs.FIFO, "belady": lcs.Belady}[policy]
        cache = kind(capacity)
        hits = 0
        for i, e in enumerate(ids.tolist()):
            request = lcs.Request()
            request.obj_id, request.obj_size = e, 1
            request.next_access_vtime = int(uses[i])
            hits += cache.get(request)
        assert hit_rates(ids[:, None, None], 60, [capacity], policy)[0, 0] * 6000 == pytest.approx(hits)


@settings(max_examples=30, deadline=None)
@given(blocks(), st.integers(1, 6), st.booleans())
def test_scores_decide_who_stays_and_twins_agree(block, capacity, shared):
    ids, n_experts = block
    scores = np.random.default_rng(n_experts).integers(0, 5, (ids.shape[1], n_experts))
    found = []
    for kernels in (compiled, reference):
        cache = kernels.ExpertCache(
            ids.shape[1], n_experts, capacity, policy="score", shared=shared, scores=scores
        )
        cache.access_tokens(ids)
        found.append([cache.hits, *(cache.resident(i) for i in range(ids.shape[1]))])
    for a, b in zip(*found, strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_best_scores_are_never_evicted():
    cache = compiled.ExpertCache(1, 6, 3, policy="score", scores=np.array([[9, 8, 1, 2, 0, 3]]))
    cache.access(0, np.array([0, 1, 2]))
    for e in (3, 4, 5, 2):
        cache.access(0, np.array([e]))
        assert {0, 1} <= set(cache.resident(0).tolist())


def test_experts_of_layers_that_come_soon_are_worth_more():
    cache = compiled.ExpertCache(4, 2, 3, policy="frequency_distance", shared=True)
    for layer in (0, 1, 2, 3):  # equal use: at layer 3, layer 0 comes next, so layer 2 is farthest
        cache.access(layer, np.array([0]))
    assert [len(cache.resident(layer)) for layer in range(4)] == [1, 1, 0, 1]


def test_what_is_brought_in_early_is_of_the_layer_that_comes():
    for kernels in (compiled, reference):
        cache = kernels.ExpertCache(3, 2, 2, policy="frequency_distance", shared=True)
        for _ in range(3):
            cache.access(0, np.array([0]))
            cache.access(1, np.array([0]))
        cache.load(2, np.array([1]))  # layer 1 has just computed: layer 2 comes, then 0
        assert [len(cache.resident(layer)) for layer in range(3)] == [1, 0, 1]


def test_scores_of_another_shape_are_refused():
    with pytest.raises(ValueError, match="scores have shape"):
        compiled.ExpertCache(2, 3, 1, policy="score", scores=np.zeros((3, 2), np.int64))
