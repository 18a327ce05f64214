"""The compiled search of tiles gives the reference's choice; one shape and many agree."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from ext import tiling
from ext.tiling import reference

TILES = np.array([(m, n, s) for m, n in ((256, 128), (64, 64), (16, 64)) for s in (1, 2, 3, 16)], dtype=float)
RATES = reference.Rates(132.0, 7.5e12, 3.0, 3e12, 1e11, 2.0, 2.0, 1e13, 5e12, 1e-7, 2e-6)
sizes = st.integers(1, 20000)


@given(shapes=st.lists(st.tuples(sizes, sizes, sizes, st.integers(1, 64)), min_size=1, max_size=20),
       byte=st.sampled_from([0.5, 1.0, 2.0]), warm=st.floats(0.0, 1.0))  # fmt: skip
@settings(max_examples=50, deadline=None)
def test_twins_choose_the_same(shapes, byte, warm):
    rates = RATES._replace(weight_bytes=byte)
    rows = np.array([(m, n, k, g, warm * g * (m * k + k * n + m * n) * 2.0) for m, n, k, g in shapes], float)
    expected = reference.choose(rows, TILES, rates)
    np.testing.assert_array_equal(tiling.choose(rows, TILES, rates), expected)
    for row, best in zip(rows.tolist(), expected, strict=True):
        assert tiling.choose_one(*row, TILES, rates) == best
        assert reference.choose_one(*row, TILES, rates) == best


def test_the_choice_is_the_fastest():
    row = (512.0, 4096.0, 4096.0, 1.0, 4e7)
    times = [reference.tile_times(reference._Floats, row, tuple(tile), RATES) for tile in TILES.tolist()]
    totals = [max(t[:4]) + t[4] + t[5] for t in times]
    assert tiling.choose_one(*row, TILES, RATES) == int(np.argmin(totals))


def test_no_shapes():
    assert len(tiling.choose(np.zeros((0, 5)), TILES, RATES)) == 0
