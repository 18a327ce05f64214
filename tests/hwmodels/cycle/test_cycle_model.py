"""The cost model "cycle": agrees with "analytical" on long reads, slower on short blocks, warm is quick."""

import time

import numpy as np
import pytest

from codesign.base.errors import ConfigError
from hwmodels.costs import PARTS, CostModel, build_cost_model
from hwmodels.cycle import build_cycle_model
from hwmodels.load import load_device

pytest.importorskip("ext.dram._channel", reason="the Cython twin is not built")
H100 = load_device("h100")
HBM = H100.memory["hbm"].model_copy(update={"interleave": 32.0})
FINE = H100.model_copy(update={"memory": {**H100.memory, "hbm": HBM}})  # every burst in the next channel
# hidden, width, experts: Mixtral, DeepSeek-V3, Qwen3, and experts of 44 KiB
MIXTRAL, DEEPSEEK, QWEN, TINY = (4096, 14336, 8), (7168, 2048, 256), (2048, 768, 128), (1024, 22, 64)


def both(device=H100):
    return build_cost_model("cycle", device), build_cost_model("analytical", device)


def experts(model, shape):
    hidden, inter, count = shape
    return model.experts(np.ones(count, dtype=np.int64), hidden, inter)


def test_it_is_a_cost_model_in_the_slot():
    assert isinstance(build_cycle_model(H100), CostModel)
    assert isinstance(
        build_cost_model({"name": "cycle", "queue": 64, "refresh": "per_bank"}, H100), CostModel
    )


def test_long_reads_cost_what_the_analytical_model_says():
    cycle, plain = both()
    assert experts(cycle, MIXTRAL).duration_s == pytest.approx(experts(plain, MIXTRAL).duration_s, rel=0.02)
    assert cycle.gemm(8, 8192, 8192).duration_s == pytest.approx(
        plain.gemm(8, 8192, 8192).duration_s, rel=0.02
    )
    page = (32, 32 * 4096, 32, 8, 128, 128)
    assert cycle.attention_decode(*page).duration_s == pytest.approx(plain.attention_decode(*page).duration_s)


def test_small_experts_get_less_of_finely_interleaved_memory_than_large_ones():
    cycle, plain = both(FINE)
    memory = [
        experts(cycle, s).part_s("memory") / experts(plain, s).part_s("memory") for s in (MIXTRAL, QWEN, TINY)
    ]
    assert memory[0] == pytest.approx(1, abs=0.02)
    assert memory[1] > 1.02
    assert memory[2] > memory[1]


def test_pages_and_experts_keep_most_of_the_bandwidth_where_a_channel_holds_256_bytes_in_a_row():
    cycle, plain = both()
    for shape in (MIXTRAL, DEEPSEEK, QWEN):
        slower = experts(cycle, shape).part_s("memory") / experts(plain, shape).part_s("memory")
        assert slower == pytest.approx(1, abs=0.1)


def test_what_is_not_memory_is_untouched():
    cycle, plain = both()
    args = (4, 1024, 1024, 32, 8, 128, 128)
    assert cycle.attention_prefill(*args[1:]) == plain.attention_prefill(*args[1:])
    assert cycle.elementwise(1e6) == plain.elementwise(1e6)
    assert experts(cycle, QWEN).part_s("launch") == pytest.approx(experts(plain, QWEN).part_s("launch"))
    assert experts(cycle, QWEN).flop == experts(plain, QWEN).flop


def test_parts_are_the_derivatives_of_the_duration():
    step = 1e-4
    for part in ("memory", "compute", "launch"):
        slow, fast = (
            experts(build_cost_model("cycle", H100, {part: 1 + sign * step}), QWEN).duration_s
            for sign in (-1, 1)
        )
        slope = -(fast - slow) / (2 * step)
        assert experts(build_cost_model("cycle", H100), QWEN).parts[PARTS.index(part)] == pytest.approx(
            slope, rel=1e-2
        )


def test_the_report_names_what_slow_patterns_lost():
    cycle, _ = both(FINE)
    experts(cycle, MIXTRAL)
    assert cycle.report() == []
    experts(cycle, TINY)
    (row,) = cycle.report()
    assert row["operator"] == "experts"
    assert row["ratio"] < 0.9
    assert row["cause"] in ("row misses", "bank conflicts", "refresh")


def test_a_warm_iteration_of_mixtral_takes_under_20_ms():
    cycle, _ = both()

    def iteration():
        for _ in range(32):
            experts(cycle, MIXTRAL)
            cycle.gemm(32, 6144, 4096)
            cycle.gemm(32, 4096, 4096)
            cycle.attention_decode(32, 32 * 2048, 32, 8, 128, 128)

    iteration()
    start = time.process_time()
    iteration()
    assert time.process_time() - start < 0.020


def test_answers_come_from_disk_in_another_model(monkeypatch):
    first, _ = both()
    expected = experts(first, QWEN)
    again, _ = both()

    def refuse(*_args):
        raise AssertionError("simulated again")

    monkeypatch.setattr(type(again.dram), "_simulate", refuse)
    assert experts(again, QWEN) == expected


def test_a_device_without_dram_is_refused():
    memory = {**H100.memory, "hbm": H100.memory["hbm"].model_copy(update={"kind": "sram", "standard": None})}
    with pytest.raises(ConfigError, match="needs DRAM"):
        build_cycle_model(H100.model_copy(update={"memory": memory}))
    memory = {**H100.memory, "hbm": H100.memory["hbm"].model_copy(update={"standard": "hbm33"})}
    with pytest.raises(ConfigError, match="did you mean 'hbm"):
        build_cycle_model(H100.model_copy(update={"memory": memory}))
