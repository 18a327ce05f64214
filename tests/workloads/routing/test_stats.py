"""Routing statistics equal plain counting, and do not depend on how a stream is cut."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workloads.routing import build_routing, read_trace
from workloads.routing.measures import (
    affinity,
    expected_active,
    information_ratio,
    masks_of,
    overlap_counts,
    sizes_of,
)
from workloads.routing.popularity import gini
from workloads.routing.stats import RoutingStats, routing_stats

RECORDED = Path("../shared/data/routing/gptoss_20b_decode_trace.npz")


@st.composite
def streams(draw):
    experts = draw(st.sampled_from([2, 9, 64, 130]))
    tokens, layers, k = draw(st.integers(1, 90)), draw(st.integers(1, 3)), draw(st.integers(1, 2))
    rng = np.random.default_rng(draw(st.integers(0, 999)))
    ids = np.argsort(rng.random((tokens, layers, experts)), axis=2)[:, :, :k].astype(np.int16)
    ids[rng.random(ids.shape) < 0.1] = -1
    return ids, np.sort(rng.integers(0, 4, tokens)), experts


def plain_overlap(ids, sequence, lag):
    shared = possible = 0
    for t in range(lag, len(ids)):
        if sequence[t] == sequence[t - lag]:
            now, then = ({int(e) for e in ids[i, 0] if e >= 0} for i in (t, t - lag))
            shared, possible = shared + len(now & then), possible + len(then)
    return shared, possible


@settings(max_examples=50, deadline=None)
@given(streams(), st.integers(1, 5))
def test_overlaps_equal_plain_counting(stream, lag):
    ids, sequence, experts = stream
    masks = masks_of(ids, experts)
    assert sizes_of(masks).sum() == (ids >= 0).sum()
    shared, possible = overlap_counts(masks, sequence, lag)
    assert (shared[0], possible[0]) == plain_overlap(ids, sequence, lag)


@settings(max_examples=30, deadline=None)
@given(streams(), st.integers(1, 6))
def test_how_a_stream_is_cut_changes_nothing(stream, pieces):
    ids, sequence, experts = stream
    whole, cut = (RoutingStats(ids.shape[1], experts, ids.shape[2]) for _ in range(2))
    whole.add(ids, sequence)
    edges = np.linspace(0, len(ids), pieces + 1).astype(int)
    for a, b in pairwise(edges):
        cut.add(ids[a:b], sequence[a:b])
    assert whole.summary() == cut.summary()


@settings(max_examples=30, deadline=None)
@given(streams())
def test_active_experts_of_windows_equal_plain_counting(stream):
    ids, sequence, experts = stream
    stats = RoutingStats(ids.shape[1], experts, ids.shape[2])
    stats.add(ids, sequence)
    found = stats.summary()["active_experts"]["contiguous"]["8"]
    sizes = []
    for s in set(sequence.tolist()):
        rows = ids[sequence == s]
        for a in range(0, len(rows) - 7, 8):
            sizes.append([len(set(rows[a : a + 8, i].ravel().tolist()) - {-1}) for i in range(ids.shape[1])])
    assert found == (pytest.approx(np.mean(sizes)) if sizes else None)


def test_active_experts_of_random_batches_are_exact():
    # two experts, three tokens of which one uses expert 1: a batch of two meets it in 2 of 3 cases
    assert expected_active(np.array([[2, 1]]), 3, 2)[0] == pytest.approx(1 + 2 / 3)
    assert expected_active(np.array([[2, 1]]), 3, 9)[0] == 2


def test_gini_of_known_distributions():
    assert gini(np.ones(7)) == pytest.approx(0)
    assert gini(np.array([0.0, 0, 0, 1])) == pytest.approx(0.75)
    assert gini(np.zeros(3)) == 0


def test_information_is_one_for_a_copy_and_nothing_for_chance():
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 8, (2, 20_000)).astype(np.int16)
    assert information_ratio(a, a, 8) == pytest.approx(1, abs=0.002)
    assert information_ratio(a, (a + 3) % 8, 8) == pytest.approx(1, abs=0.002)
    assert information_ratio(a, b, 8) < 0.001


def test_affinity_of_a_stream_that_follows_is_foretold():
    settings = {"generator": "synthetic", "popularity": "uniform", "affinity": 1.0, "locality": 0.0}
    stream = build_routing(settings, moe_layers=range(3), n_experts=16, top_k=2)
    ids = stream.draw(np.arange(20), np.zeros(20, np.int64), np.full(20, 100))
    found = affinity(ids, np.repeat(np.arange(20), 100), 16)
    assert found["set_hit"] == pytest.approx(1)
    assert found["mutual_information_ratio"] == pytest.approx(1, abs=0.05)
    assert found["static_hit"] == pytest.approx(2 / 16, abs=0.03)


@pytest.mark.skipif(not RECORDED.exists(), reason="../shared/data is absent")
def test_statistics_of_the_recorded_trace_are_the_published_ones():
    found = routing_stats(read_trace(RECORDED))
    assert found["gini"]["mean"] == pytest.approx(0.4029, abs=5e-5)
    assert found["overlap"]["1"] == pytest.approx(0.44403, abs=5e-6)
    assert found["overlap"]["64"] == pytest.approx(0.31797, abs=5e-6)
    assert found["affinity"]["mutual_information_ratio"] == pytest.approx(0.359, abs=0.001)
    assert found["affinity"]["set_hit"] == pytest.approx(0.6095, abs=0.001)
    assert found["affinity"]["static_hit"] == pytest.approx(0.2511, abs=0.0001)
