"""The compiled graph kernels equal their plain twins, to the last bit, in all that they write."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ext.graph import reference
from ext.graph.samples import iteration_graph, random_graph

compiled = pytest.importorskip("ext.graph._graph", reason="the Cython kernels are not built")

IN_ORDER, FIRST_COME, SHARED = 0, 1, 2


@st.composite
def graphs(draw, disciplines=(IN_ORDER, FIRST_COME, SHARED), max_tasks=30):
    return random_graph(
        draw(st.integers(0, 2**32 - 1)),
        draw(st.integers(0, max_tasks)),
        draw(st.lists(st.sampled_from(disciplines), max_size=4)),
        degree=draw(st.sampled_from([0.0, 0.3, 1.5, 4.0])),
        grid=draw(st.booleans()),
        barriers=draw(st.sampled_from([0.0, 0.2, 1.0])),
        earlier=draw(st.booleans()),
    )


@settings(max_examples=600, deadline=None)
@given(graphs())
def test_compiled_events_equal_the_reference(graph):
    assert graph.run(compiled.events).to_bytes() == graph.run(reference.events).to_bytes()


@settings(max_examples=400, deadline=None)
@given(graphs(disciplines=(IN_ORDER,)))
def test_on_in_order_resources_all_four_agree(graph):
    outcomes = [graph.sweep(compiled.sweep), graph.sweep(reference.sweep)]
    outcomes += [graph.run(compiled.events), graph.run(reference.events)]
    assert len({outcome.to_bytes() for outcome in outcomes}) == 1


@settings(max_examples=200, deadline=None)
@given(st.lists(graphs(), min_size=2, max_size=4), st.floats(0.0, 2.0))
def test_appended_graphs_agree_on_the_state_they_leave(chain, pause_s):
    most = max(len(graph.free_s) for graph in chain)
    left = {}
    for name, kernel in (("compiled", compiled.events), ("plain", reference.events)):
        free_s, start_s, bits = np.zeros(most), 0.0, b""
        for graph in chain:
            used = len(graph.free_s)
            outcome = graph.after(start_s, free_s[:used]).run(kernel)
            free_s[:used], start_s = outcome.free_s, start_s + pause_s
            bits += outcome.to_bytes()
        left[name] = bits
    assert left["compiled"] == left["plain"]


@settings(max_examples=200, deadline=None)
@given(graphs())
def test_critical_path_equals_the_reference(graph):
    outcome = graph.run(reference.events)
    paths = []
    for kernel in (compiled.critical_path, reference.critical_path):
        path = np.full(len(graph.row), -9, np.int32)
        paths.append((kernel(outcome.finish_s, outcome.cause, path), path.tolist()))
    assert paths[0] == paths[1]


@pytest.mark.parametrize("seed", range(4))
def test_many_resources_and_many_tasks(seed):
    """More resources than bits in a word, long queues, deep heaps."""
    rng = np.random.default_rng(seed)
    disciplines = rng.integers(0, 3, (1, 65, 150, 3)[seed]).tolist()
    graph = random_graph(seed, 1500, disciplines, grid=seed % 2 == 0, degree=0.8)
    assert graph.run(compiled.events).to_bytes() == graph.run(reference.events).to_bytes()


@pytest.mark.parametrize("discipline", [IN_ORDER, FIRST_COME, SHARED])
def test_the_graph_of_an_iteration(discipline):
    graph = iteration_graph(4, discipline=discipline)
    fast, plain = graph.run(compiled.events), graph.run(reference.events)
    assert fast.to_bytes() == plain.to_bytes()
    assert discipline != IN_ORDER or fast.to_bytes() == graph.sweep(compiled.sweep).to_bytes()


def test_an_empty_graph_ends_where_it_starts():
    graph = random_graph(0, 0, [IN_ORDER, SHARED]).after(3.0, np.array([5.0, 1.0]))
    for outcome in (graph.run(compiled.events), graph.run(reference.events), graph.sweep(compiled.sweep)):
        assert outcome.end_s == 3.0
        assert outcome.free_s.tolist() == [5.0, 1.0]
        assert outcome.busy_s.tolist() == [0.0, 0.0]
    assert compiled.critical_path(np.zeros(0), np.zeros(0, np.int32), np.zeros(0, np.int32)) == 0


def test_the_comparison_sees_a_single_bit():
    """What the tests above compare by must reject the smallest difference, and a sign of zero."""
    outcome = random_graph(1, 9, [IN_ORDER]).run(reference.events)
    moved = outcome.finish_s.copy()
    moved[4] = np.nextafter(moved[4], np.inf)
    assert outcome.to_bytes() != outcome._replace(finish_s=moved).to_bytes()
    assert outcome.to_bytes() != outcome._replace(busy_s=-0.0 * outcome.busy_s).to_bytes()
