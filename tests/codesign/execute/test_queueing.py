"""Queues as task graphs: exact against Lindley and Kiefer-Wolfowitz, in the mean against theory.

A job is a task on a first-come (or shared) resource; its arrival is a barrier task that follows the arrival
before it and takes the time between the two.  Several servers with one line are several resources and open
graphs: each job is appended, at its arrival, to the resource that is free first.

The draws are multiples of 2**-20 s, so that every sum below is exact and equality means equality.

Theory is tested by a two-sided t-test over 30 independent replicates at a level of 0.001 each: over all
seeds, one of the 7 tests of this file would fail falsely in 0.7 % of the runs.  The seeds are fixed, so that
none does by chance; the width of the interval is checked, so that none passes for being vague.
"""

import numpy as np
import pytest
from scipy import stats

from codesign.execute.simpy_executor import simpy_events
from ext.graph import events
from ext.graph.reference import FIRST_COME, SHARED
from ext.graph.samples import Sample

EXECUTORS = pytest.mark.parametrize("executor", [events, simpy_events], ids=["compiled", "simpy"])
REPLICATES, LEVEL = 30, 0.001
LOAD = 0.7  # of each server; service takes 1 s in the mean


def on_the_grid(seconds):
    return np.round(seconds * 2**20) / 2**20


def draws(seed, n, servers=1, *, fixed=False):
    """Draw the times between n Poisson arrivals and their services, exponential or all 1 s."""
    rng = np.random.default_rng([seed, servers, fixed])
    between_s = on_the_grid(rng.exponential(1 / (LOAD * servers), n))
    return between_s, np.ones(n) if fixed else on_the_grid(rng.exponential(1.0, n))


def queue(between_s, service_s, servers=1, discipline=FIRST_COME):
    """Build the graph: arrivals 0..n-1, then jobs n..2n-1, on the servers in turn."""
    n = len(between_s)
    arrivals, jobs = np.arange(n), np.arange(n) % servers
    return Sample(
        row=np.arange(2 * n, dtype=np.int32),
        resource=np.concatenate([np.full(n, -1), jobs]).astype(np.int32),
        discipline=np.full(servers, discipline, np.int32),
        pred_ptr=np.concatenate([[0], arrivals, n - 1 + np.arange(1, n + 1)]).astype(np.int32),
        pred=np.concatenate([arrivals[:-1], arrivals]).astype(np.int32),
        row_s=np.concatenate([between_s, service_s]),
        start_s=0.0,
        free_s=np.zeros(servers),
    )


def sojourns(executor, between_s, service_s, *args):
    """Return how long each job was there, from its arrival to its finish."""
    finish_s = queue(between_s, service_s, *args).run(executor).finish_s
    n = len(between_s)
    return finish_s[n:] - finish_s[:n]


def waits(executor, between_s, service_s, *args):
    return sojourns(executor, between_s, service_s, *args) - service_s


def waits_in_one_line(executor, between_s, service_s, servers):
    """Append each job's graph, at its arrival, to the server that is free first."""
    row, ptr, pred = np.zeros(1, np.int32), np.zeros(2, np.int32), np.zeros(0, np.int32)
    discipline = np.full(servers, FIRST_COME, np.int32)
    free_s, busy_s, finish_s = np.zeros(servers), np.zeros(servers), np.zeros(1)
    cause = np.zeros(1, np.int32)
    waited_s = np.zeros(len(between_s))
    now_s = 0.0
    for i, between in enumerate(between_s):
        now_s += between
        server = np.array([np.argmin(free_s)], np.int32)
        row_s = service_s[i : i + 1]
        executor(row, server, discipline, ptr, pred, row_s, now_s, free_s, busy_s, finish_s, cause)
        waited_s[i] = finish_s[0] - service_s[i] - now_s
    return waited_s


def lindley(between_s, service_s):
    waited_s = np.zeros(len(between_s))
    for i in range(1, len(between_s)):
        waited_s[i] = max(0.0, waited_s[i - 1] + service_s[i - 1] - between_s[i])
    return waited_s


def kiefer_wolfowitz(between_s, service_s, servers):
    waited_s, work_s = np.zeros(len(between_s)), np.zeros(servers)
    for i, between in enumerate(between_s):
        work_s = np.sort(np.maximum(work_s - between, 0.0))
        waited_s[i] = work_s[0]
        work_s[0] += service_s[i]
    return waited_s


def erlang_c(servers, load):
    """Return the probability that an M/M/c job waits, by Erlang's B recursion."""
    offered, blocked = servers * load, 1.0
    for c in range(1, servers + 1):
        blocked = offered * blocked / (c + offered * blocked)
    return blocked / (1 - load * (1 - blocked))


def crommelin(servers, load):
    """Return the mean wait of M/D/c with service of 1 s (Crommelin 1932)."""
    i = np.arange(1, 400)
    offered = stats.poisson(i * servers * load)
    return float((offered.sf(i * servers - 1) - offered.sf(i * servers) / load).sum())


def check_mean(samples, theory, width):
    """Hold the mean of independent replicates to theory, and the interval to a relative width."""
    samples = np.array(samples)
    half = stats.t.ppf(1 - LEVEL / 2, len(samples) - 1) * samples.std(ddof=1) / np.sqrt(len(samples))
    assert len(samples) >= 30
    assert half < width * theory
    assert abs(samples.mean() - theory) < half


def replicates(measure, n, servers=1, *, fixed=False):
    """Return the mean over the jobs after the first tenth, for each replicate."""
    return [measure(*draws(seed, n, servers, fixed=fixed))[n // 10 :].mean() for seed in range(REPLICATES)]


@EXECUTORS
@pytest.mark.parametrize("fixed", [False, True], ids=["M/M/1", "M/D/1"])
def test_one_server_equals_lindley_exactly(executor, fixed):
    stream = draws(1, 1500, fixed=fixed)
    waited_s = waits(executor, *stream)
    assert waited_s.max() > 0
    np.testing.assert_array_equal(waited_s, lindley(*stream))


@EXECUTORS
@pytest.mark.parametrize("servers", [1, 2, 5])
@pytest.mark.parametrize("fixed", [False, True], ids=["M/M/c", "M/D/c"])
def test_servers_with_one_line_equal_kiefer_wolfowitz_exactly(executor, fixed, servers):
    stream = draws(2, 600, servers, fixed=fixed)
    waited_s = waits_in_one_line(executor, *stream, servers)
    assert waited_s.max() > 0
    np.testing.assert_array_equal(waited_s, kiefer_wolfowitz(*stream, servers))


@EXECUTORS
def test_servers_in_turn_equal_one_line_when_all_services_are_equal(executor):
    """M/D/c alone: jobs leave in the order of arrival, so that the first free server is the next in turn."""
    stream = draws(3, 1500, 3, fixed=True)
    np.testing.assert_array_equal(waits(executor, *stream, 3), kiefer_wolfowitz(*stream, 3))


def test_the_formulas_agree_where_they_must():
    assert erlang_c(1, LOAD) == pytest.approx(LOAD, rel=1e-12)
    assert erlang_c(2, LOAD) == pytest.approx(2 * LOAD**2 / (1 + LOAD), rel=1e-12)
    assert crommelin(1, LOAD) == pytest.approx(LOAD / (2 * (1 - LOAD)), rel=1e-9)
    assert crommelin(3, LOAD) != pytest.approx(erlang_c(3, LOAD) / (3 * (1 - LOAD)) / 2, rel=0.02)


@pytest.mark.parametrize(("executor", "n", "width"), [(events, 20_000, 0.05), (simpy_events, 800, 0.25)])
def test_mean_wait_of_m_m_1(executor, n, width):
    check_mean(replicates(lambda a, s: waits(executor, a, s), n), LOAD / (1 - LOAD), width)


def test_mean_wait_of_m_d_1():
    samples = replicates(lambda a, s: waits(events, a, s), 20_000, fixed=True)
    check_mean(samples, LOAD / (2 * (1 - LOAD)), 0.05)


def test_mean_wait_of_m_m_c():
    samples = replicates(lambda a, s: waits_in_one_line(events, a, s, 3), 8_000, 3)
    check_mean(samples, erlang_c(3, LOAD) / (3 * (1 - LOAD)), 0.12)


def test_mean_wait_of_m_d_c():
    samples = replicates(lambda a, s: waits(events, a, s, 3), 20_000, 3, fixed=True)
    check_mean(samples, crommelin(3, LOAD), 0.05)


@pytest.mark.parametrize("fixed", [False, True], ids=["M/M/1", "M/D/1"])
def test_mean_time_under_processor_sharing_does_not_depend_on_the_service_distribution(fixed):
    samples = replicates(lambda a, s: sojourns(events, a, s, 1, SHARED), 20_000, fixed=fixed)
    check_mean(samples, 1 / (1 - LOAD), 0.05)
