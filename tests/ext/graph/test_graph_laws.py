"""What holds for every execution of a task graph, whichever kernel ran it."""

from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ext.graph import critical_path, events, sweep
from ext.graph.reference import FIRST_COME, FROM_EARLIER, FROM_START, IN_ORDER, SHARED
from ext.graph.samples import Sample, random_graph


@st.composite
def graphs(draw, disciplines=(IN_ORDER, FIRST_COME, SHARED), max_tasks=30):
    return random_graph(
        draw(st.integers(0, 2**32 - 1)),
        draw(st.integers(0, max_tasks)),
        draw(st.lists(st.sampled_from(disciplines), max_size=4)),
        degree=draw(st.sampled_from([0.0, 0.3, 1.5])),
        grid=draw(st.booleans()),
        earlier=draw(st.booleans()),
    )


def held_tasks(graph, held):
    return np.flatnonzero(graph.resource == held)


def origin_s(graph, outcome, task):
    """Return when the one that a task waited for last let it go."""
    why = outcome.cause[task]
    if why == FROM_START:
        return graph.start_s
    return graph.free_s[graph.resource[task]] if why == FROM_EARLIER else outcome.finish_s[why]


def ready_s(graph, outcome, task):
    return max([graph.start_s, *outcome.finish_s[graph.preds(task)]])


@settings(max_examples=400, deadline=None)
@given(graphs())
def test_no_task_begins_before_what_it_depends_on(graph):
    outcome = graph.run(events)
    for task in range(len(graph.row)):
        begin_s = origin_s(graph, outcome, task)
        assert begin_s >= ready_s(graph, outcome, task)
        held = graph.resource[task]
        assert held < 0 or begin_s >= graph.free_s[held] or graph.free_s[held] <= graph.start_s


@settings(max_examples=300, deadline=None)
@given(graphs(disciplines=(IN_ORDER, FIRST_COME)))
def test_a_task_takes_its_duration_from_its_cause_on(graph):
    """So that a task begins at once when the last thing that it waits for is there."""
    outcome = graph.run(events)
    for task in range(len(graph.row)):
        assert outcome.finish_s[task] == origin_s(graph, outcome, task) + graph.row_s[graph.row[task]]


@settings(max_examples=300, deadline=None)
@given(graphs(disciplines=(IN_ORDER, FIRST_COME)))
def test_durations_on_the_critical_path_add_up_to_the_end(graph):
    outcome = graph.run(events)
    path = np.zeros(len(graph.row), np.int32)
    length = critical_path(outcome.finish_s, outcome.cause, path)
    assert (length > 0) == (len(graph.row) > 0)
    at_s = origin_s(graph, outcome, path[length - 1]) if length else graph.start_s
    for task in path[:length][::-1]:
        at_s += graph.row_s[graph.row[task]]
    assert at_s == outcome.end_s


@settings(max_examples=300, deadline=None)
@given(graphs())
def test_the_critical_path_is_a_chain_of_causes_back_to_the_start_or_to_earlier_work(graph):
    outcome = graph.run(events)
    path = np.zeros(len(graph.row), np.int32)
    path = path[: critical_path(outcome.finish_s, outcome.cause, path)]
    for task, before in pairwise(path):
        assert outcome.cause[task] == before
        assert before in graph.preds(task) or graph.resource[before] == graph.resource[task]
    if len(path):
        assert outcome.finish_s[path[0]] == outcome.finish_s.max() == outcome.end_s
        assert outcome.cause[path[-1]] in (FROM_START, FROM_EARLIER)
    for task in np.flatnonzero(outcome.cause == FROM_EARLIER):
        assert graph.free_s[graph.resource[task]] > graph.start_s


@settings(max_examples=300, deadline=None)
@given(graphs())
def test_a_resource_is_busy_for_its_work_and_no_longer_than_the_run(graph):
    outcome = graph.run(events)
    for held, busy_s in enumerate(outcome.busy_s):
        work_s = graph.row_s[graph.row[held_tasks(graph, held)]].sum()
        assert busy_s == pytest.approx(work_s, rel=1e-12, abs=1e-12)
        assert busy_s <= (outcome.end_s - graph.start_s) * (1 + 1e-12)


@settings(max_examples=200, deadline=None)
@given(graphs())
def test_a_resource_is_free_at_its_last_finish(graph):
    outcome = graph.run(events)
    for held, free_s in enumerate(outcome.free_s):
        tasks = held_tasks(graph, held)
        last_s = outcome.finish_s[tasks].max() if len(tasks) else graph.free_s[held]
        assert free_s == last_s


@settings(max_examples=200, deadline=None)
@given(graphs(disciplines=(IN_ORDER,)))
def test_an_in_order_resource_runs_its_program_one_by_one(graph):
    outcome = graph.run(events)
    for held in range(len(graph.free_s)):
        tasks = held_tasks(graph, held)
        begin_s = np.array([origin_s(graph, outcome, task) for task in tasks])
        assert (begin_s[1:] >= outcome.finish_s[tasks][:-1]).all()


@settings(max_examples=300, deadline=None)
@given(graphs(disciplines=(FIRST_COME,)))
def test_a_first_come_resource_passes_nobody_over_and_never_idles(graph):
    outcome = graph.run(events)
    for held in range(len(graph.free_s)):
        tasks = held_tasks(graph, held).tolist()
        begin_s = {i: origin_s(graph, outcome, i) for i in tasks}
        ready = {i: (ready_s(graph, outcome, i), i) for i in tasks}
        for i in tasks:
            for j in tasks:  # j came first and was ready when i began: then it does not begin later
                if ready[j] < ready[i] and ready[j][0] < begin_s[i]:
                    assert begin_s[j] <= begin_s[i]
        for i in tasks:  # whoever waits, waits for earlier work or for the end of another
            if begin_s[i] > ready[i][0]:
                ends = [outcome.finish_s[j] for j in tasks if j != i]
                assert begin_s[i] in [graph.free_s[held], *ends]


@settings(max_examples=200, deadline=None)
@given(graphs(disciplines=(IN_ORDER,), max_tasks=20), graphs(disciplines=(IN_ORDER,), max_tasks=20))
def test_appending_a_graph_equals_running_both_as_one(first, second):
    n_resources = max(len(first.free_s), len(second.free_s))
    free_s = np.resize(first.free_s, n_resources) if len(first.free_s) else np.zeros(n_resources)
    first, second = (wide(graph, n_resources).after(first.start_s, free_s) for graph in (first, second))
    one = joined(first, second).sweep(sweep)
    head = first.sweep(sweep)
    tail = second.after(first.start_s, head.free_s).sweep(sweep)
    np.testing.assert_array_equal(one.finish_s, np.concatenate([head.finish_s, tail.finish_s]))
    np.testing.assert_array_equal(one.free_s, tail.free_s)
    assert one.end_s == max(head.end_s, tail.end_s)


def wide(graph, n_resources):
    return Sample(
        graph.row, graph.resource, np.zeros(n_resources, np.int32), graph.pred_ptr, graph.pred, graph.row_s,
        0.0, np.zeros(n_resources),
    )  # fmt: skip


def joined(first, second):
    n = len(first.row)
    return Sample(
        np.concatenate([first.row, second.row + len(first.row_s)]).astype(np.int32),
        np.concatenate([first.resource, second.resource]),
        first.discipline,
        np.concatenate([first.pred_ptr, second.pred_ptr[1:] + len(first.pred)]).astype(np.int32),
        np.concatenate([first.pred, second.pred + n]).astype(np.int32),
        np.concatenate([first.row_s, second.row_s]),
        first.start_s,
        first.free_s,
    )


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 64), st.integers(0, 64)), max_size=12), st.integers(0, 40))
def test_a_shared_resource_equals_the_exact_processor_sharing_recursion(jobs, earlier):
    """Jobs of (arrival, work) in sixteenths of a second, as fractions; floats within 1e-12."""
    jobs = [(Fraction(a, 16), Fraction(w, 16)) for a, w in jobs]
    free_s = Fraction(earlier, 16)
    n = len(jobs)
    row_s = np.array([float(a) for a, _ in jobs] + [float(w) for _, w in jobs])
    graph = Sample(  # task i < n: an arrival, a barrier that takes a while; task n + i: the job
        row=np.arange(2 * n, dtype=np.int32),
        resource=np.repeat(np.array([-1, 0], np.int32), n),
        discipline=np.array([SHARED], np.int32),
        pred_ptr=np.concatenate([np.zeros(n), np.arange(n + 1)]).astype(np.int32),
        pred=np.arange(n, dtype=np.int32),
        row_s=row_s,
        start_s=0.0,
        free_s=np.array([float(free_s)]),
    )
    outcome = graph.run(events)
    exact = processor_sharing([(max(a, free_s), w) for a, w in jobs])
    np.testing.assert_allclose(outcome.finish_s[n:], [float(t) for t in exact], rtol=1e-12, atol=0)


def processor_sharing(jobs):
    """Return the exact finish of each (arrival, work), all present served at an equal part of speed 1."""
    finish = [None] * len(jobs)
    left, now = {}, Fraction(0)
    coming = sorted(range(len(jobs)), key=lambda i: jobs[i][0])
    while coming or left:
        arrives = jobs[coming[0]][0] if coming else None
        ends = now + min(left.values()) * len(left) if left else None
        then = min(t for t in (arrives, ends) if t is not None)
        left = {i: work - (then - now) / len(left) for i, work in left.items()}
        now = then
        for i in [i for i, work in left.items() if work == 0]:
            finish[i] = now
            del left[i]
        while coming and jobs[coming[0]][0] == now:
            i = coming.pop(0)
            left[i] = jobs[i][1]
    return finish


@pytest.mark.parametrize("width", [1, 2, 7])
def test_equal_transfers_share_evenly_and_end_together(width):
    """W transfers of 0.1 s that begin together all end after W x 0.1 s, at one and the same time."""
    graph = Sample(
        row=np.zeros(width, np.int32), resource=np.zeros(width, np.int32),
        discipline=np.array([SHARED], np.int32), pred_ptr=np.zeros(width + 1, np.int32),
        pred=np.zeros(0, np.int32), row_s=np.array([0.1]), start_s=0.0, free_s=np.zeros(1),
    )  # fmt: skip
    finish_s = graph.run(events).finish_s
    assert finish_s.tolist() == [0.1 * width] * width
