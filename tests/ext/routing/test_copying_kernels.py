"""The compiled copying draws equal their plain twin."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ext.routing import copying_reference
from workloads.routing.popularity import arrangements
from workloads.routing.stream import RoutingShape
from workloads.routing.synthetic import SyntheticStream, rank_maps

copying = pytest.importorskip("ext.routing.copying", reason="the Cython kernels are not built")


@st.composite
def streams(draw):
    n_group = draw(st.sampled_from([1, 1, 2, 4]))
    n_experts = n_group * draw(st.integers(1, 6))
    topk_group = draw(st.integers(1, n_group))
    top_k = draw(st.integers(1, n_experts // n_group * topk_group))
    shape = RoutingShape(tuple(range(draw(st.integers(1, 3)))), n_experts, top_k, n_group, topk_group)
    rng = np.random.default_rng(draw(st.integers(0, 1000)))
    weights = np.exp(
        draw(st.sampled_from([0.0, 1.0, 12.0])) * rng.standard_normal((shape.n_layers, n_experts))
    )
    shares = draw(st.floats(0, 1)), draw(st.floats(0, 1))
    return SyntheticStream(
        weights, rank_maps(arrangements(shape, 3)), shape, shares, draw(st.integers(0, 2**63))
    )


SPANS = st.lists(st.tuples(st.integers(0, 2), st.integers(1018, 1030), st.integers(0, 5)), max_size=4)


@settings(max_examples=60, deadline=None)
@given(streams(), SPANS)
def test_compiled_copying_draws_equal_the_reference(stream, spans):
    where = tuple(np.array([s[i] for s in spans], np.int64) for i in range(3))
    head = (stream._key, stream._edges, stream.maps, *stream._tables)
    outs = []
    for kernels in (copying, copying_reference):
        previous = np.zeros((3, stream.n_layers, stream.top_k), np.int16)
        positions = np.full(3, 1015, np.int64)
        previous[:] = np.arange(stream.top_k)
        out = np.empty((int(where[2].sum()), *previous.shape[1:]), np.int16)
        kernels.draw(*where, where[0], *head, previous, positions, out)
        outs.append((out, previous, positions))
    for compiled, plain in zip(*outs, strict=True):
        np.testing.assert_array_equal(compiled, plain)


@settings(max_examples=60, deadline=None)
@given(streams())
def test_experts_of_a_token_differ_and_keep_their_groups(stream):
    ids = np.sort(stream.draw(np.arange(3), np.zeros(3, np.int64), np.full(3, 8, np.int64)), axis=2)
    assert (np.diff(ids, axis=2) > 0).all()
    assert ids.min() >= 0
    assert ids.max() < stream.n_experts
    n_group, topk_group = stream._tables[5].shape[1], stream._tables[6]
    groups = np.sort(ids // (stream.n_experts // n_group), axis=2)
    assert (1 + (np.diff(groups, axis=2) > 0).sum(axis=2)).max() <= topk_group
