"""The cheapest mix of machines: against trying all, never dearer than one type, and what is refused."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codesign.base.errors import ConfigError
from codesign.explore.mix import cheapest_mix, single_type

SPEEDS = st.sampled_from([0.0, 0.5, 1.0, 2.0, 5.0])


def carries(machines: tuple[int, ...], rates: np.ndarray, speeds: np.ndarray) -> bool:
    """Tell whether some machines carry a load: a linear programme of the shares alone."""
    from scipy.optimize import linprog

    classes, types = speeds.shape
    load = np.zeros((types, classes * types))
    whole = np.zeros((classes, classes * types))
    bounds = []
    for b, g in product(range(classes), range(types)):
        whole[b, b * types + g] = 1.0
        load[g, b * types + g] = rates[b] / speeds[b, g] if speeds[b, g] else 0.0
        bounds.append((0.0, 1.0 if speeds[b, g] else 0.0))
    found = linprog(np.zeros(classes * types), load, machines, whole, np.ones(classes), bounds)
    return bool(found.status == 0)


@settings(max_examples=25, deadline=None)
@given(
    speeds=st.lists(st.tuples(SPEEDS, SPEEDS), min_size=2, max_size=3),
    rates=st.lists(st.floats(0.1, 3.0), min_size=3, max_size=3),
    price=st.tuples(st.integers(1, 9), st.integers(1, 9)),
)  # fmt: skip
def test_no_mix_is_cheaper(speeds, rates, price):
    able, load = np.array(speeds), np.array(rates[: len(speeds)])
    if not (able > 0).any(axis=1).all():
        with pytest.raises(ConfigError, match="no machine serves"):
            cheapest_mix(load, able, price)
        return
    found = cheapest_mix(load, able, price)
    assert found.shares.sum(axis=1) == pytest.approx(1.0)
    assert carries(tuple(found.machines + 1e-7), load, able)
    assert all(usd is None or found.usd_per_hour <= usd + 1e-9 for usd in single_type(load, able, price))
    if found.usd_per_hour <= 30:
        limit = int(found.usd_per_hour)
        tried = product(range(limit // price[0] + 1), range(limit // price[1] + 1))
        cheaper = [m for m in tried if np.dot(m, price) < found.usd_per_hour - 1e-6]
        assert not any(carries(m, load, able) for m in cheaper)


def test_small_requests_on_the_small_machine_large_ones_on_the_large():
    found = cheapest_mix([10.0, 1.0], [[10.0, 20.0], [0.0, 1.0]], [1.0, 3.0])
    assert found.machines.tolist() == [1, 1]
    assert found.shares[:, 0].tolist() == pytest.approx([1.0, 0.0])
    assert found.usd_per_hour == 4.0


@pytest.mark.parametrize(
    ("rates", "speeds", "price", "text"),
    [
        ([1.0], [[0.0]], [1.0], "no machine serves class 0"),
        ([1.0], [[1.0, 2.0]], [1.0], "2 columns of throughputs and 1 prices"),
        ([-1.0], [[1.0]], [1.0], "at least 0"),
    ],
)
def test_what_is_wrong_is_refused(rates, speeds, price, text):
    with pytest.raises(ConfigError, match=text):
        cheapest_mix(rates, speeds, price)
