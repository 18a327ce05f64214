"""The compiled channel equals the plain one, command by command; both keep the standard's waits."""

import numpy as np
import pytest
from dram_cases import draw, violations

from ext.dram import reference

compiled = pytest.importorskip("ext.dram._channel", reason="the Cython twin is not built")


@pytest.mark.parametrize("seed", range(40))
def test_twins_issue_the_same_commands(seed):
    case = draw(np.random.default_rng(seed))
    expected = reference.run(case.channel, case.controller, *case.lists, log=True)
    assert compiled.run(case.channel, case.controller, *case.arrays, log=True) == expected


@pytest.mark.parametrize("seed", range(100, 130))
def test_no_two_commands_violate_a_wait(seed):
    case = draw(np.random.default_rng(seed), lengths=(60, 400))
    counted = compiled.run(case.channel, case.controller, *case.arrays, log=True)
    assert violations(case.channel, counted) == []


@pytest.mark.parametrize("seed", range(200, 230))
def test_every_request_is_served_once(seed):
    case = draw(np.random.default_rng(seed))
    case.controller = type(case.controller)(**{**vars(case.controller), "drain": True})
    counted = compiled.run(case.channel, case.controller, *case.arrays)
    write = case.arrays[3]
    assert (counted.reads, counted.writes) == (int((write == 0).sum()), int(write.sum()))
    assert counted.served + counted.forwarded + counted.coalesced == len(write)
    assert counted.hits + counted.misses + counted.conflicts == counted.served
    assert counted.activations <= counted.served
    assert counted.latency >= (counted.reads - counted.forwarded) * case.channel.read_latency
