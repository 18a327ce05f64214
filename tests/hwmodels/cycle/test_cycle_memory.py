"""Bandwidth of access patterns: laws, and the store of answers."""

import math
from multiprocessing import get_context

import numpy as np
import pytest

from codesign.base.errors import ConfigError
from ext.dram import addresses
from hwmodels.cycle.memory import (
    SEQUENTIAL,
    DramSystem,
    Pattern,
    Traffic,
    at_rate,
    block_reads,
    dram_of,
    in_one_row,
    permuted,
)
from hwmodels.cycle.standards import load_part, names
from hwmodels.cycle.store import Store
from hwmodels.cycle.streams import MAPPINGS
from hwmodels.load import load_device
from hwmodels.load import names as device_names

pytest.importorskip("ext.dram._channel", reason="the Cython twin is not built")


@pytest.mark.parametrize("name", names())
def test_no_pattern_beats_long_reads_and_short_blocks_are_slower(name):
    dram = DramSystem(load_part(name), 16)
    long = dram.bandwidth(SEQUENTIAL)
    assert 0.7 < long.efficiency <= 1
    for size in (44 * 1024, 1e6, 350e6):
        for streams in (1, 4, 16):
            assert dram.bandwidth(Pattern(size, streams)).efficiency <= long.efficiency * 1.05
    single = dram.bandwidth(Pattern(32.0 * 16))
    assert single.efficiency < long.efficiency
    assert single.hits < long.hits


def test_coarser_interleaving_keeps_small_blocks_in_open_rows():
    pages = Pattern(16384.0, 8)
    fine, coarse = (DramSystem(load_part("hbm3"), 128, interleave_bytes=n).bandwidth(pages) for n in (0, 256))
    assert coarse.hits > fine.hits
    assert coarse.efficiency > fine.efficiency


def test_shares_of_bursts_sum_to_one_and_refresh_costs_its_cycle():
    got = DramSystem(load_part("hbm3"), 80).bandwidth(SEQUENTIAL)
    assert got.hits + got.misses + got.conflicts == pytest.approx(1)
    assert 0.02 < got.refresh_loss < 0.12


def test_readers_walk_their_blocks_in_order():
    unit = block_reads(4000, 16, 4, 8, 2**20)
    by_reader = [unit[np.arange(4000) // 8 % 4 == reader] for reader in range(4)]
    for walked in by_reader:
        blocks = walked[: len(walked) // 16 * 16].reshape(-1, 16)
        assert (blocks == blocks[:, :1] + np.arange(16)).all()
        assert (blocks[:, 0] % 16 == 0).all()
    assert (block_reads(100, 2**24, 1, 8, 2**24) == np.arange(100)).all()


@pytest.mark.parametrize("name", ["hbm3", "ddr5", "hbm4"])
def test_the_hash_of_a_row_permutes_its_banks(name):
    channel = load_part(name).channel()
    banks = np.arange(channel.n_banks)
    for row in range(50):
        moved = permuted(banks, np.full(channel.n_banks, row), channel)
        assert sorted(moved.tolist()) == banks.tolist()


def test_a_part_at_another_rate_keeps_its_nanoseconds_and_its_bursts():
    part = load_part("hbm3")
    fast = at_rate(part, 1.5 * part.peak_bytes_per_s)
    assert fast.peak_bytes_per_s == pytest.approx(1.5 * part.peak_bytes_per_s)
    assert fast.timing["nBL"] == part.timing["nBL"]
    assert fast.timing["nRC"] * fast.clock_s == pytest.approx(part.timing["nRC"] * part.clock_s, rel=0.02)


@pytest.mark.parametrize("name", device_names("device"))
def test_every_device_of_the_library_has_dram_that_adds_up(name):
    device = load_device(name)
    dram = dram_of(device)
    assert dram.peak_bytes_per_s == pytest.approx(device.memory[device.main_memory].bandwidth)
    scale = at_rate(dram.part, dram.part.peak_bytes_per_s).timing
    assert scale == dram.part.timing


def test_the_store_answers_once_and_keeps_it_on_disk(tmp_path):
    asked = []

    def answer():
        asked.append(1)
        return {"x": 0.1 + 0.2}

    first = Store(tmp_path)
    assert first.get({"a": 1}, answer) == first.get({"a": 1}, answer) == {"x": 0.1 + 0.2}
    assert Store(tmp_path).get({"a": 1}, answer) == {"x": 0.1 + 0.2}
    assert len(asked) == 1
    Store(tmp_path).get({"a": 2}, answer)
    assert len(asked) == 2


def test_a_broken_or_unusable_store_only_costs_time(tmp_path):
    store = Store(tmp_path)
    store.get("q", lambda: {"x": 1.0})
    for path in (tmp_path / "dram").glob("*.json"):
        path.write_text("{half")
    assert Store(tmp_path).get("q", lambda: {"x": 2.0}) == {"x": 2.0}
    (tmp_path / "file").write_text("")
    assert Store(tmp_path / "file").get("q", lambda: {"x": 3.0}) == {"x": 3.0}


def _ask(folder):
    store = Store(folder)
    return [store.get(i, lambda i=i: {"x": float(i)})["x"] for i in range(40)]


def test_processes_share_a_store(tmp_path):
    with get_context("fork").Pool(3) as pool:
        answers = pool.map(_ask, [tmp_path] * 6)
    assert answers == [[float(i) for i in range(40)]] * 6
    assert len(list((tmp_path / "dram").glob("*.json"))) == 40
    assert not list((tmp_path / "dram").glob(".*"))


def test_a_block_of_infinite_size_is_a_long_read():
    dram = DramSystem(load_part("ddr5"), 2)
    assert dram.bandwidth(Pattern(math.inf)) == dram.bandwidth(Pattern(1e12))


def test_one_kind_of_traffic_is_its_pattern_and_writes_cost_turnarounds():
    dram = DramSystem(load_part("hbm3"), 80)
    weights = Traffic(350e6, 1.0)
    assert dram.mixed([weights]) == dram.bandwidth(SEQUENTIAL)
    mixed = dram.mixed([Traffic(350e6, 0.5), Traffic(350e6, 0.5, write=True)])
    assert mixed.efficiency < 0.9 * dram.mixed([weights]).efficiency


def test_a_mix_does_not_depend_on_the_order_of_its_kinds_and_small_blocks_slow_it():
    dram = DramSystem(load_part("hbm3"), 80)
    weights, cache, outputs = Traffic(350e6, 6.0), Traffic(32768.0, 3.0), Traffic(8192.0, 1.0, write=True)
    assert dram.mixed([weights, cache, outputs]) == dram.mixed([outputs, weights, cache])
    more = dram.mixed([weights, Traffic(32768.0, 12.0)]).efficiency
    assert more < dram.mixed([weights, Traffic(32768.0, 1.0)]).efficiency < dram.mixed([weights]).efficiency


@pytest.mark.parametrize("traffic", [[], [Traffic(1e6, 0.0)], [Traffic(1e6, -1.0), Traffic(1e6, 2.0)]])
def test_a_mix_without_traffic_is_refused(traffic):
    with pytest.raises(ConfigError):
        DramSystem(load_part("hbm3"), 80).mixed(traffic)


@pytest.mark.parametrize("run_length", [1, 4, 8])
def test_units_of_interleaving_lie_in_one_row(run_length):
    channel = load_part("hbm3").channel()
    unit = np.arange(4096)
    moved = in_one_row(unit, run_length, channel)
    assert (np.sort(moved) == unit).all()
    bank, row = addresses(moved, channel, MAPPINGS["M1"])
    for lane in (bank, row):
        assert (lane.reshape(-1, run_length) == lane.reshape(-1, run_length)[:, :1]).all()
