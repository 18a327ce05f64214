"""The SimPy executor equals the compiled one to the last bit, and tells what it does."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codesign.execute.simpy_executor import simpy_events
from ext.graph import events, reference, sweep
from ext.graph.samples import iteration_graph, random_graph

IN_ORDER, FIRST_COME, SHARED = 0, 1, 2


@st.composite
def graphs(draw, disciplines=(IN_ORDER, FIRST_COME, SHARED)):
    return random_graph(
        draw(st.integers(0, 2**32 - 1)),
        draw(st.integers(0, 30)),
        draw(st.lists(st.sampled_from(disciplines), max_size=4)),
        degree=draw(st.sampled_from([0.0, 0.3, 1.5, 4.0])),
        grid=draw(st.booleans()),
        barriers=draw(st.sampled_from([0.0, 0.2, 1.0])),
        earlier=draw(st.booleans()),
    )


@settings(max_examples=400, deadline=None)
@given(graphs())
def test_simpy_equals_the_compiled_events_and_the_reference(graph):
    bits = graph.run(simpy_events).to_bytes()
    assert bits == graph.run(events).to_bytes() == graph.run(reference.events).to_bytes()


@settings(max_examples=150, deadline=None)
@given(graphs(disciplines=(IN_ORDER,)))
def test_simpy_equals_the_sweep_on_in_order_resources(graph):
    assert graph.run(simpy_events).to_bytes() == graph.sweep(sweep).to_bytes()


@settings(max_examples=100, deadline=None)
@given(st.lists(graphs(), min_size=2, max_size=4))
def test_appended_graphs_agree_on_the_state_they_leave(chain):
    most = max(len(graph.free_s) for graph in chain)
    bits = []
    for executor in (events, simpy_events):
        free_s, start_s = np.zeros(most), 0.0
        bits.append(b"")
        for graph in chain:
            used = len(graph.free_s)
            outcome = graph.after(start_s, free_s[:used]).run(executor)
            free_s[:used], start_s = outcome.free_s, start_s + 0.75
            bits[-1] += outcome.to_bytes()
    assert bits[0] == bits[1]


@pytest.mark.parametrize("discipline", [IN_ORDER, FIRST_COME, SHARED])
def test_the_graph_of_an_iteration(discipline):
    graph = iteration_graph(8, discipline=discipline)
    assert graph.run(simpy_events).to_bytes() == graph.run(events).to_bytes()


@settings(max_examples=150, deadline=None)
@given(graphs())
def test_the_hook_hears_of_every_task_once_when_it_finishes(graph):
    heard = []

    def hooked(*args):
        return simpy_events(*args, on_task=lambda *told: heard.append(told))

    outcome = graph.run(hooked)
    assert sorted(told[0] for told in heard) == list(range(len(graph.row)))
    assert [told[3] for told in heard] == sorted(outcome.finish_s.tolist())
    for task, held, start_s, finish_s in heard:
        assert held == graph.resource[task]
        assert finish_s == outcome.finish_s[task]
        if held < 0 or graph.discipline[held] != SHARED:
            assert start_s + graph.row_s[graph.row[task]] == finish_s
        assert all(outcome.finish_s[p] <= start_s for p in graph.preds(task))


def test_a_hook_changes_nothing():
    graph = random_graph(5, 25, [IN_ORDER, FIRST_COME, SHARED])
    hooked = graph.run(lambda *args: simpy_events(*args, on_task=lambda *_: None))
    assert hooked.to_bytes() == graph.run(simpy_events).to_bytes()


def test_earlier_work_ends_at_its_own_time_not_at_now_plus_a_delay():
    """Times for which ``start + (free - start)`` is not ``free``: SimPy's own delays would drift here."""
    rng = np.random.default_rng(0)
    start_s, free_s = rng.random(400) * 0.3, rng.random(400) + 0.7
    drifts = np.flatnonzero(start_s + (free_s - start_s) != free_s)
    assert len(drifts) > 0
    for i in drifts[:20]:
        graph = random_graph(0, 4, [IN_ORDER], degree=0.0, barriers=0.0, grid=False)
        graph = graph.after(float(start_s[i]), free_s[i : i + 1])
        assert graph.run(simpy_events).to_bytes() == graph.run(events).to_bytes()
