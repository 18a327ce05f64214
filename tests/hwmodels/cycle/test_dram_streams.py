"""Streams, channels and energy: laws."""

from itertools import pairwise

import numpy as np
import pytest

from codesign.base.errors import ConfigError
from ext.dram import Counters
from hwmodels.cycle.energy import joules
from hwmodels.cycle.standards import named_part
from hwmodels.cycle.streams import Stream, bursts, simulate, splitmix64

HBM3 = named_part("HBM3_6400_16Gb_8hi")


def test_splitmix_gives_its_published_first_words():
    # state 0 of SplitMix64: 0xE220A8397B1DCDAF (Vigna's splitmix64.c); 1: 0x910A2DEC89025CC1
    assert [hex(int(x)) for x in splitmix64(np.arange(2, dtype=np.uint64))] == [
        "0xe220a8397b1dcdaf", "0x910a2dec89025cc1",
    ]  # fmt: skip


@pytest.mark.parametrize("kind", ["seq", "rand", "stride8", "blk64", "mixrand", "writeseq"])
def test_bursts_lie_in_the_memory_and_do_not_depend_on_the_length(kind):
    unit, write = bursts(kind, 1000, 4096)
    shorter, _ = bursts(kind, 100, 4096)
    assert unit.min() >= 0
    assert unit.max() < 4096
    assert (unit[:100] == shorter).all()
    assert set(write.tolist()) <= {0, 1}
    assert (write.sum() == 1000) == kind.startswith("write")


def test_channels_that_share_a_stream_are_as_fast_as_one_with_its_share():
    one = simulate(HBM3, Stream("seq", 8000))
    four = simulate(HBM3, Stream("seq", 32000, channels=4))
    assert four.clocks == one.clocks
    assert four.bandwidth == pytest.approx(one.bandwidth)
    assert (four.hits, four.reads) == (4 * one.hits, 4 * one.reads)
    assert four.energy.total == pytest.approx(4 * one.energy.total)


def test_below_saturation_bandwidth_is_the_offered_load():
    for load in (0.05, 0.2, 0.5):
        got = simulate(HBM3, Stream("seq", 20000, load))
        assert got.bandwidth == pytest.approx(load, rel=0.01)


def test_more_load_never_lowers_the_achieved_bandwidth_of_reads():
    got = [simulate(HBM3, Stream("rand", 4000, load)).bandwidth for load in (0.05, 0.1, 0.2, 0.4, 0.8)]
    assert all(b >= a * 0.98 for a, b in pairwise(got))


def test_contiguous_blocks_approach_the_sequential_bandwidth_as_they_grow():
    whole = simulate(HBM3, Stream("seq", 40000)).bandwidth
    by_size = [simulate(HBM3, Stream(f"blk{size}", 40000)).bandwidth for size in (1, 8, 64, 1024, 8192)]
    assert by_size[0] < 0.5 * whole
    assert by_size[-1] == pytest.approx(whole, rel=0.02)


def test_energy_is_linear_in_events_and_time():
    counts = Counters(reads=10, writes=4, activations=3, refreshes=2)
    once, twice = joules(HBM3, [counts], 1e-6), joules(HBM3, [counts, counts], 2e-6)
    assert twice.total == pytest.approx(2 * once.total)
    assert joules(HBM3, [Counters()], 0.0).total == 0
    assert once.read == pytest.approx(10 * 32 * HBM3.standard.energy.read)


def test_a_random_burst_costs_more_energy_than_a_sequential_one():
    rand, seq = simulate(HBM3, Stream("rand", 5000)), simulate(HBM3, Stream("seq", 5000))
    assert rand.energy.activate > 10 * seq.energy.activate
    per_bit = seq.energy.total / (5000 * HBM3.burst_bytes * 8)
    assert 1.5e-12 < per_bit < 6e-12  # vendors quote about 3.9 pJ/bit for the stack and its interface


def test_an_empty_stream_is_nothing():
    got = simulate(HBM3, Stream("seq", 0))
    assert (got.clocks, got.bandwidth, got.read_latency, got.energy.total) == (0, 0, 0, 0)


@pytest.mark.parametrize(
    "stream",
    [
        Stream("sequential", 5), Stream("stride", 5), Stream("stride0", 5), Stream("seq8", 5),
        Stream("seq", -1), Stream("seq", 5, 0.0), Stream("seq", 5, mapping="M3"),
        Stream("seq", 5, channels=0), Stream("seq", 5, queue=0), Stream("seq", 5, refresh="often"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused(stream):
    with pytest.raises(ConfigError):
        simulate(HBM3, stream)
