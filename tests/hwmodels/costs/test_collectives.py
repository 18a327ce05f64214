"""Collectives: what a port carries, how long messages overlap, and which of the ways is taken."""

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwmodels.costs.collectives import bytes_per_port, latency_s, port_rate, transfer
from hwmodels.costs.machine import machine_of
from hwmodels.costs.namespace import SCALAR, VECTOR
from hwmodels.load import load_device, load_system

DATA = Path(__file__).parents[4] / "shared" / "data" / "measured" / "collectives.parquet"
SWITCH = load_system("dgx-a100").intra_node
REDUCING = load_system("dgx-h100").intra_node
BUS = load_system("l40s-node").intra_node
MACHINE = machine_of(load_device("h100"))
RINGS = ("all_reduce", "all_gather", "reduce_scatter")


def seconds(op, size, ranks, link, section="collectives", machine=MACHINE):
    return transfer(SCALAR, machine, op, size, bytes_per_port(op, ranks), ranks, link, section).seconds()


@pytest.mark.parametrize("ranks", [2, 4, 8, 72])
def test_an_all_reduce_carries_what_its_two_halves_carry(ranks):
    halves = bytes_per_port("reduce_scatter", ranks) + bytes_per_port("all_gather", ranks)
    assert bytes_per_port("all_reduce", ranks) == pytest.approx(halves)


@pytest.mark.parametrize("op", RINGS)
@given(size=st.floats(1.0, 1e10), ranks=st.integers(2, 16))
@settings(max_examples=30, deadline=None)
def test_more_bytes_and_more_ranks_take_no_less(op, size, ranks):
    assert seconds(op, 2 * size, ranks, SWITCH) > seconds(op, size, ranks, SWITCH)
    assert seconds(op, size, ranks + 1, SWITCH) > seconds(op, size, ranks, SWITCH)


@pytest.mark.parametrize("link", [SWITCH, REDUCING, BUS])
@pytest.mark.parametrize("op", ["send", "all_to_all", "all_gather"])
def test_no_message_is_faster_than_start_and_port(op, link):
    """Law: a pipeline of k pieces takes at least its fixed time and its bytes, at most the sum's square."""
    c = MACHINE.section("collectives")
    for size in (1e3, 1e6, 1e9):
        wire_s = size * bytes_per_port(op, 4) / port_rate(MACHINE, 4, link, c)
        fixed_s = latency_s(MACHINE, c["step_latency"] * (3.0 if op == "all_gather" else 1.0), link, c)
        found = seconds(op, size, 4, link)
        assert found >= fixed_s + wire_s
        assert port_rate(MACHINE, 4, link, c) <= link.bandwidth * 1.0001
    assert seconds(op, 1e12, 4, link) == pytest.approx(seconds(op, 1e13, 4, link) / 10, rel=0.05)


def test_pieces_are_as_many_as_pay():
    """The formula is the least over the number of pieces of ``k * start + wire * (1 + 1 / k)``."""
    c = MACHINE.section("collectives")
    size = 64e6
    wire_s = size / port_rate(MACHINE, 2, SWITCH, c)
    start_s = c["piece_latency"] * SWITCH.latency
    pieces = np.arange(1, 10_000)
    least = (
        latency_s(MACHINE, c["step_latency"], SWITCH, c)
        + (pieces * start_s + wire_s * (1 + 1 / pieces)).min()
    )
    assert seconds("send", size, 2, SWITCH) == pytest.approx(least, rel=1e-3)


def test_a_network_that_reduces_is_taken_where_it_is_faster():
    plain = REDUCING.model_copy(update={"in_network_reduction": False})
    for size in (1e3, 1e6, 1e9):
        assert seconds("all_reduce", size, 8, REDUCING) <= seconds("all_reduce", size, 8, plain)
    assert seconds("all_reduce", 1e9, 8, REDUCING) < 0.9 * seconds("all_reduce", 1e9, 8, plain)
    assert seconds("all_gather", 1e9, 8, REDUCING) == seconds("all_gather", 1e9, 8, plain)


def test_an_engines_kernel_is_never_slower_than_the_library_it_may_call():
    sizes = 2.0 ** np.arange(8, 31)
    share = bytes_per_port("all_reduce", 8)
    own, library = (transfer(VECTOR, MACHINE, "all_reduce", sizes, share, 8, REDUCING, section).seconds()
                    for section in ("collectives/direct", "collectives"))  # fmt: skip
    assert (own <= library * (1 + 1e-12)).all()
    assert own[0] < 0.5 * library[0]
    assert own[-1] == pytest.approx(library[-1])
    assert (np.diff(own) >= 0).all()


def test_without_a_graph_nothing_is_faster_than_the_host():
    sizes = 2.0 ** np.arange(8, 31)
    share = bytes_per_port("all_reduce", 8)
    section = "collectives/direct/eager"
    eager = transfer(VECTOR, MACHINE, "all_reduce", sizes, share, 8, REDUCING, section).seconds()
    assert (eager >= MACHINE.section(section)["host_s"]).all()
    assert eager[-1] > seconds("all_reduce", sizes[-1], 8, REDUCING)  # the buffer is copied


@pytest.mark.skipif(not DATA.exists(), reason=f"no {DATA}: measured data are not here")
@pytest.mark.parametrize("gpu", ["a100_sxm", "h100_sxm"])
def test_a_gpu_that_was_left_out_is_predicted_by_the_others(gpu):
    """Only the library's section, fitted in a second without that GPU: messages of 16 MiB and more."""
    import yaml

    from hwmodels.calibration.data import DEVICES, read
    from hwmodels.calibration.pipeline import Calibration
    from hwmodels.calibration.plan import bare
    from hwmodels.costs.machine import CONSTANTS_FILE, Constants
    from hwmodels.costs.rows import predict

    constants = bare(yaml.safe_load(CONSTANTS_FILE.read_text()), ["collectives"])
    Calibration(constants, DATA.parent, [each for each in DEVICES if each != gpu]).run(["collectives"])
    rows = read("collectives", DATA.parent, [gpu])
    rows = rows.where(rows.columns["bytes"] >= 2**24)
    found = predict("collectives", rows.columns, load_device(DEVICES[gpu]), Constants(constants)).seconds
    assert np.median(np.abs(found / rows.seconds - 1)) < 0.12
    assert not math.isnan(found.sum())
