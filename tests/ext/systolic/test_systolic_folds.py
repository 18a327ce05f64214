"""Systolic arrays: closed forms, conservation, double buffering, and SCALE-Sim's own numbers."""

import math

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ext.systolic import DATAFLOWS, Array, double_buffer, plan, reference
from hwmodels.cycle.systolic import gemm

sizes = st.integers(1, 200)
arrays = st.builds(Array, st.integers(1, 32), st.integers(1, 32), st.sampled_from(DATAFLOWS))

# total cycles that SCALE-Sim 3.0.0 reports (the index of the last cycle) for an 8 x 8 array, no stalls
SCALE_SIM = {
    (1, 64, 64): {"os": 623, "ws": 1471, "is": 687},
    (16, 64, 32): {"os": 735, "ws": 1215, "is": 687},
    (64, 128, 96): {"os": 14079, "ws": 16511, "is": 14399},
    (33, 70, 45): {"os": 2654, "ws": 2969, "is": 2759},
    (8, 8, 8): {"os": 21, "ws": 29, "is": 29},
}
# (hidden, width of an expert): Mixtral 8x7B, DeepSeek-V3, Qwen3-30B-A3B
EXPERTS = {"mixtral": (4096, 14336), "deepseek": (7168, 2048), "qwen3": (2048, 768)}


def closed_form(array, m, n, k):
    r, c = array.rows, array.columns
    if array.dataflow == "os":
        return math.ceil(m / r) * math.ceil(n / c) * (r + c + k - 2)
    across, streamed = (n, m) if array.dataflow == "ws" else (m, n)
    return math.ceil(k / r) * math.ceil(across / c) * (2 * r + c + streamed - 2)


@pytest.mark.parametrize("shape", SCALE_SIM)
@pytest.mark.parametrize("dataflow", DATAFLOWS)
def test_cycles_are_those_that_scale_sim_counts(shape, dataflow):
    assert gemm(Array(8, 8, dataflow), *shape).cycles == SCALE_SIM[shape][dataflow] + 1


@settings(max_examples=150, deadline=None)
@given(arrays, sizes, sizes, sizes)
def test_without_stalls_cycles_are_the_closed_form(array, m, n, k):
    cost = gemm(array, m, n, k)
    assert cost.cycles == closed_form(array, m, n, k)
    assert cost.stall_cycles == 0
    assert 0 < cost.utilization <= 1


@pytest.mark.parametrize("model", EXPERTS)
@pytest.mark.parametrize("tokens", [1, 7, 64, 1024])
@pytest.mark.parametrize("dataflow", DATAFLOWS)
def test_expert_products_follow_the_closed_form(model, tokens, dataflow):
    hidden, inter = EXPERTS[model]
    array = Array(128, 128, dataflow)
    for n, k in ((2 * inter, hidden), (hidden, inter)):
        assert gemm(array, tokens, n, k).cycles == closed_form(array, tokens, n, k)


@settings(max_examples=100, deadline=None)
@given(arrays, sizes, sizes, sizes)
def test_operands_are_loaded_once_and_results_stored_once_if_buffers_are_large(array, m, n, k):
    folds = plan(array, m, n, k, 2.0)
    assert folds.load_bytes.sum() == pytest.approx(2 * (m * k + k * n))
    assert folds.store_bytes.sum() == pytest.approx(2 * m * n)
    cut = {"ws": k * n, "os": m * n, "is": k * m}[array.dataflow]
    assert folds.used_cells.sum() == cut


@settings(max_examples=100, deadline=None)
@given(arrays, sizes, sizes, sizes, st.floats(64, 1e5))
def test_smaller_buffers_never_move_less(array, m, n, k, size):
    small = Array(array.rows, array.columns, array.dataflow, size, size, size)
    less = Array(array.rows, array.columns, array.dataflow, size / 2, size / 2, size / 2)
    roomy, tight, tighter = (plan(a, m, n, k) for a in (array, small, less))
    for a, b in ((roomy, tight), (tight, tighter)):
        assert a.load_bytes.sum() <= b.load_bytes.sum() + 1e-9
        assert a.store_bytes.sum() <= b.store_bytes.sum() + 1e-9


folds = st.lists(st.tuples(*[st.floats(0, 1e4)] * 3), max_size=30)


@settings(max_examples=200, deadline=None)
@given(folds, st.floats(0.1, 1e4))
@example([(0.0, 0.0, 1.0), (0.0, 0.0, 0.0)], 1.0)  # the last fold stores nothing, the one before still does
def test_twins_agree_and_bounds_hold(rows, rate):
    cycles, load, store = (np.array([row[i] for row in rows]) for i in range(3))
    total, stalled = double_buffer(cycles, load, store, rate)
    assert (total, stalled) == reference.double_buffer(cycles.tolist(), load.tolist(), store.tolist(), rate)
    assert total >= cycles.sum() * (1 - 1e-12)
    assert total >= (load.sum() + store.sum()) / rate * (1 - 1e-9)
    assert total == pytest.approx(cycles.sum() + stalled)
    faster, _ = double_buffer(cycles, load, store, 2 * rate)
    assert faster <= total * (1 + 1e-12)


def test_unlimited_bandwidth_never_stalls():
    assert double_buffer([5.0, 6.0], [1e9, 1e9], [1e9, 1e9], math.inf) == (11.0, 0.0)


def test_a_memory_bound_product_takes_its_bytes_over_the_bandwidth():
    array = Array(128, 128, "ws")
    cost = gemm(array, 1, 4096, 4096, 2.0, bytes_per_cycle=32.0)
    assert cost.cycles == pytest.approx(2 * 4096 * 4096 / 32, rel=0.02)
    assert cost.stall_cycles > 0.5 * cost.cycles


def test_an_empty_product_takes_no_time():
    assert gemm(Array(8, 8), 0, 5, 5).cycles == 0
