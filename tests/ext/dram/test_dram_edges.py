"""Edge cases of a stream: defined, and the same in both twins."""

import numpy as np
import pytest
from dram_cases import PARTS

from ext.dram import Controller, Counters, addresses, reference, run

HBM3 = next(part for part in PARTS if part.standard.standard == "HBM3").channel()
DDR4 = next(part for part in PARTS if part.standard.standard == "DDR4").channel()


def serve(channel, unit, write=0, arrival=0, **rules):
    unit = np.asarray(unit, dtype=np.int64)
    bank, row = addresses(unit, channel, "pgcbkr")
    filled = [np.broadcast_to(np.asarray(x, dtype=np.int64), unit.shape) for x in (write, arrival)]
    return run(channel, Controller(**rules), bank, row, unit, *filled)


def test_an_empty_stream_takes_no_time():
    assert serve(HBM3, []) == Counters()
    assert reference.run(HBM3, Controller(), [], [], [], [], []) == Counters()


def test_one_bank_pays_a_row_cycle_per_row():
    step = DDR4.groups * DDR4.columns * DDR4.banks * DDR4.ranks
    counted = serve(DDR4, np.arange(50) * step, refresh=0)
    cycle = max(w.ticks for w in DDR4.waits if w.before == w.after == 0 and w.level == 4)
    assert counted.activations == 50
    assert counted.end == pytest.approx(50 * cycle, rel=0.04)


def test_all_writes_end_when_the_last_is_accepted_or_drained():
    accepted = serve(HBM3, np.arange(400), 1)
    drained = serve(HBM3, np.arange(400), 1, drain=True)
    assert accepted.writes == drained.writes == 400
    assert accepted.served < drained.served == 400
    assert accepted.latency == drained.latency == 0


def test_a_queue_of_one_serves_in_order_and_slower():
    rng = np.random.default_rng(4)
    one, many = (serve(DDR4, rng.integers(0, DDR4.units, 600), queue=size) for size in (1, 32))
    assert one.reads == many.reads == 600
    assert one.end > 2 * many.end


def test_without_refresh_nothing_is_refreshed_and_time_is_saved():
    off, on = (serve(HBM3, np.arange(30000), refresh=kind) for kind in (0, 1))
    assert off.refreshes == 0 < on.refreshes
    assert off.end < on.end


def test_a_row_hit_stream_reaches_the_peak_of_the_bus():
    counted = serve(DDR4, np.arange(3000), refresh=0)
    assert 3000 * 4 <= counted.end < 3000 * 4 * 1.02


def test_equal_addresses_are_served_from_the_write_queue():
    counted = serve(DDR4, [5, 5, 5], [1, 1, 0], drain=True, accept=3)
    assert (counted.coalesced, counted.forwarded, counted.served) == (1, 1, 1)


def test_closed_rows_turn_conflicts_into_misses():
    rng = np.random.default_rng(1)
    unit = rng.integers(0, DDR4.units, 2000)
    opened, closed = serve(DDR4, unit, refresh=0), serve(DDR4, unit, refresh=0, closed_rows=True)
    assert opened.conflicts > opened.misses
    assert closed.conflicts < closed.misses
    assert closed.precharges < opened.precharges


def test_keeping_hits_never_raises_activations_of_a_single_bank():
    rng = np.random.default_rng(2)
    step = DDR4.groups
    unit = rng.integers(0, 4, 500) * DDR4.groups * DDR4.columns * DDR4.banks + rng.integers(0, 8, 500) * step
    plain, kept = serve(DDR4, unit, refresh=0), serve(DDR4, unit, refresh=0, keep_hits=True)
    assert kept.activations <= plain.activations


def test_per_bank_refresh_is_due_as_often_as_its_interval_says():
    counted = serve(HBM3, np.arange(40000), refresh=2)
    due = counted.end // HBM3.refresh_interval_bank * HBM3.pseudo
    assert counted.per_bank_refresh
    assert due - 2 * HBM3.pseudo <= counted.refreshes <= due


def test_an_address_maps_to_one_place():
    for part in PARTS:
        channel = part.channel()
        rng = np.random.default_rng(3)
        unit = np.unique(rng.integers(0, channel.units, 4000))
        for order in ("pgcbkr", "cpkgbr"):
            bank, row = addresses(unit, channel, order)
            assert bank.max() < channel.n_banks
            assert row.max() < channel.rows
        first = np.arange(channel.n_banks * channel.columns)
        bank, row = addresses(first, channel, "pgcbkr")
        assert (np.bincount(bank, minlength=channel.n_banks) == channel.columns).all()
        assert not row.any()
