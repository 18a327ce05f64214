"""The compiled latent-logit generator equals its plain twin, and keeps its laws."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ext.routing import latent_reference
from workloads.routing.latent import LatentModel, LatentStream, LayerLaw, gumbel_table

latent = pytest.importorskip("ext.routing.latent", reason="the Cython kernels are not built")


def model_of(n_group, size, layers, top_k, topk_group, scoring, coupled, seed):
    rng = np.random.default_rng(seed)
    n = n_group * size
    laws = tuple(
        LayerLaw(0.5, 0.7, 0.6, 0.9, 1.2, 0.5, 0.8 if coupled and layer else 0.0, 0.7)
        for layer in range(layers)
    )
    pull = rng.standard_normal((layers, n, n), dtype=np.float32)
    popularity = rng.standard_normal((layers, n), dtype=np.float32)
    return LatentModel(laws, popularity, pull, top_k, 2, n_group, topk_group, scoring)


@st.composite
def models(draw):
    n_group = draw(st.sampled_from([1, 1, 2, 4]))
    size, layers = draw(st.integers(1, 9)), draw(st.integers(1, 3))
    topk_group = draw(st.integers(1, n_group))
    top_k = draw(st.integers(1, size * topk_group))
    scoring = draw(st.sampled_from(["softmax", "sigmoid"]))
    seed = draw(st.integers(0, 999))
    return model_of(n_group, size, layers, top_k, topk_group, scoring, draw(st.booleans()), seed)


def kernel_arguments(stream, spans):
    stream.draw(spans[0], np.zeros_like(spans[0]), np.zeros_like(spans[0]))
    slots, _ = stream._slots.find(spans[0])
    m = stream.model
    shape = (int(spans[2].sum()), stream.n_layers, stream.top_k)
    head = (*spans, slots, stream._key, stream._law, gumbel_table(), stream._coupling, stream._weights)
    tail = (stream._scale, stream._shift, m.n_group, m.topk_group, stream._members, np.empty(shape, np.int16))
    return head, tail


def drawn_by(kernels, model, where):
    stream = LatentStream(model, 3)
    head, tail = kernel_arguments(stream, where)
    kernels.draw(*head, stream._states, stream._positions, *tail)
    return tail[-1], stream._positions.copy()


@settings(max_examples=60, deadline=None)
@given(models(), st.lists(st.tuples(st.integers(0, 3), st.integers(0, 12), st.integers(0, 9)), max_size=4))
def test_the_compiled_generator_equals_the_reference(model, spans):
    where = tuple(np.array([s[i] for s in spans], np.int64) for i in range(3))
    for a, b in zip(
        *(drawn_by(kernels, model, where) for kernels in (latent, latent_reference)), strict=True
    ):
        np.testing.assert_array_equal(a, b)


def test_twins_agree_across_the_start_of_a_segment():
    where = tuple(np.array(x, np.int64) for x in ([1, 1], [4090, 4102], [12, 3]))
    model = model_of(1, 5, 1, 2, 1, "softmax", False, 0)
    for a, b in zip(
        *(drawn_by(kernels, model, where) for kernels in (latent, latent_reference)), strict=True
    ):
        np.testing.assert_array_equal(a, b)


@settings(max_examples=40, deadline=None)
@given(models())
def test_a_token_never_meets_an_expert_twice_and_stays_in_its_groups(model):
    one = np.arange(3), np.zeros(3, np.int64), np.full(3, 7, np.int64)
    ids = np.sort(LatentStream(model, 1).draw(*one), axis=2)
    assert (np.diff(ids, axis=2) > 0).all()
    assert ids.min() >= 0
    assert ids.max() < model.n_experts
    groups = np.sort(ids // (model.n_experts // model.n_group), axis=2)
    assert (1 + (np.diff(groups, axis=2) > 0).sum(axis=2)).max() <= model.topk_group
