"""The timeline of rows: closed forms and laws."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ext.pim import RowTimes, stream_rows

PLAIN = RowTimes(14, 34, 14, 48, 5, 0, 350)
times = st.builds(
    RowTimes, st.integers(1, 40), st.integers(1, 60), st.integers(1, 40), st.integers(1, 120),
    st.integers(1, 20), st.sampled_from([0, 500, 3900]), st.integers(1, 400),
)  # fmt: skip


def test_one_set_without_refresh_is_the_row_period_times_rows():
    per_row, pace, rows = 32, 4.0, 10
    period = max(48, max(34, 14 + 31 * pace + 5) + 14)
    got = stream_rows(PLAIN, rows * per_row, per_row, pace)
    assert got.clocks == (rows - 1) * period + 14 + per_row * pace
    assert (got.openings, got.refreshes) == (rows, 0)


def test_two_sets_hide_the_turnaround_of_a_long_row():
    got = stream_rows(PLAIN, 320, 32, 4.0, sets=2)
    assert got.clocks == 14 + 320 * 4


def test_a_short_row_is_bound_by_the_row_cycle():
    got = stream_rows(PLAIN, 100, 1, 1.0)
    assert got.clocks == 99 * 48 + 15


def test_nothing_takes_no_time():
    assert stream_rows(PLAIN, 0, 32, 4.0).clocks == 0


def test_refresh_takes_its_share():
    refreshed = RowTimes(14, 34, 14, 48, 5, 3900, 350)
    got = stream_rows(refreshed, 32 * 4000, 32, 4.0, sets=4)
    ideal = 32 * 4000 * 4.0
    assert got.refreshes == pytest.approx(got.clocks / 3900, abs=1.5)
    assert got.clocks == pytest.approx(ideal / (1 - 350 / 3900), rel=0.05)


@settings(max_examples=200, deadline=None)
@given(times, st.integers(0, 400), st.integers(1, 64), st.floats(0.5, 50), st.integers(1, 4))
def test_columns_bound_it_and_more_sets_never_hurt_without_refresh(row, columns, per_row, pace, sets):
    got = stream_rows(row, columns, per_row, pace, sets)
    assert got.clocks >= columns * pace * (1 - 1e-9)
    assert got.openings == -(-columns // per_row)
    still = RowTimes(*[*vars(row).values()][:5], 0, 0)
    one, more = (stream_rows(still, columns, per_row, pace, n).clocks for n in (1, sets))
    assert more <= one * (1 + 1e-9)
