"""The compiled independent draws equal their plain twins, and follow their law."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ext.routing import reference
from workloads.routing.independent import IndependentStream, alias_table

iid = pytest.importorskip("ext.routing.iid", reason="the Cython kernels are not built")


@st.composite
def streams(draw):
    n_group = draw(st.sampled_from([1, 1, 2, 4]))
    n_experts = n_group * draw(st.integers(1, 6))
    topk_group = draw(st.integers(1, n_group))
    top_k = draw(st.integers(1, n_experts // n_group * topk_group))
    rng = np.random.default_rng(draw(st.integers(0, 1000)))
    layers = draw(st.integers(1, 3))
    skew = draw(st.sampled_from([0.0, 1.0, 12.0]))
    weights = np.exp(skew * rng.standard_normal((layers, n_experts)))
    return IndependentStream(
        weights, top_k, draw(st.integers(0, 2**64 - 1)), n_group=n_group, topk_group=topk_group
    )


@st.composite
def spans(draw):
    n = draw(st.integers(0, 4))
    ints = st.lists(st.integers(0, 10**12), min_size=n, max_size=n)
    lengths = draw(st.lists(st.integers(0, 4), min_size=n, max_size=n))
    return tuple(np.array(x, np.int64) for x in (draw(ints), draw(ints), lengths))


@settings(max_examples=80, deadline=None)
@given(streams(), spans())
def test_compiled_draws_equal_the_reference(stream, where):
    compiled = stream.draw(*where)
    plain = np.zeros_like(compiled)
    getattr(reference, stream._draw.__name__)(*where, stream._key, *stream._tables, plain)
    np.testing.assert_array_equal(compiled, plain)


@settings(max_examples=60, deadline=None)
@given(streams(), spans())
def test_a_token_never_meets_an_expert_twice(stream, where):
    ids = np.sort(stream.draw(*where), axis=2)
    assert (np.diff(ids, axis=2) > 0).all()
    assert ids.size == 0 or (ids.min() >= 0 and ids.max() < stream.n_experts)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 6), st.integers(1, 4), st.integers(1, 3), st.integers(1, 9), st.integers(0, 99))
def test_counts_equal_the_reference_and_lose_nothing(tokens, layers, k, experts, seed):
    ids = np.random.default_rng(seed).integers(-1, experts, (tokens, layers, k)).astype(np.int16)
    counted = iid.counts(ids, experts)
    np.testing.assert_array_equal(counted, reference.counts(ids, experts))
    assert counted.sum() == (ids >= 0).sum()


def test_counts_refuse_an_expert_out_of_range():
    with pytest.raises(ValueError, match="expert 4 is not one of 4"):
        iid.counts(np.full((1, 1, 1), 4, np.int16), 4)


@pytest.mark.parametrize("spoil", ["length", "rows", "negative"])
def test_draws_refuse_wrong_spans(spoil):
    stream = IndependentStream(np.ones((2, 4)), 2, 7)
    requests = starts = np.zeros(2, np.int64)
    lengths, out = np.ones(2, np.int64), np.empty((2, 2, 2), np.int16)
    if spoil == "length":
        starts = np.zeros(3, np.int64)
    elif spoil == "rows":
        out = np.empty((3, 2, 2), np.int16)
    else:
        lengths = np.array([3, -1])
    with pytest.raises(ValueError, match=r"differ|rows|negative"):
        stream.draw(requests, starts, lengths, out)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(1e-9, 1e9), min_size=1, max_size=20))
def test_an_alias_table_holds_its_distribution(weights):
    thresholds, aliases = alias_table(np.array(weights))
    share = np.zeros(len(weights))
    for column, (threshold, alias) in enumerate(zip(thresholds, aliases, strict=True)):
        keep = 1.0 if alias == column else float(threshold) / 2.0**32
        share[column] += keep
        share[alias] += 1.0 - keep
    np.testing.assert_allclose(share / len(weights), np.array(weights) / np.sum(weights), atol=1e-8)


@pytest.mark.parametrize(("n_experts", "top_k", "n_group"), [(6, 2, 1), (40, 2, 1), (12, 2, 4)])
def test_the_first_slot_follows_the_popularity(n_experts, top_k, n_group):
    # 200,000 draws, bound 6 standard deviations: false alarms below 1e-7 for the 58 cells
    weights = np.arange(1.0, n_experts + 1)[None]
    stream = IndependentStream(weights, top_k, 3, n_group=n_group)
    n = 200_000
    one = np.array([n], np.int64)
    first = stream.draw(np.zeros(1, np.int64), np.zeros(1, np.int64), one)[:, 0, 0]
    share = weights[0] / weights.sum()
    found = np.bincount(first, minlength=n_experts) / n
    assert (np.abs(found - share) < 6 * np.sqrt(share / n)).all()
