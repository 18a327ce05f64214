"""PIM units: peaks that close, laws of the command stream, published comparisons."""

from itertools import pairwise

import pytest

from codesign.base.errors import ConfigError
from hwmodels.cycle.pim import LIBRARY, compare, gemm, load_unit, names, shared_makespan, stream_efficiency
from hwmodels.load import load_device

DUPLEX = ["duplex_bank", "duplex_bank_group", "duplex_logic"]
TOKENS = [1, 2, 4, 8, 16, 32]
# Yun et al., Duplex, MICRO 2024, figure 8: energy-delay-area by Op/B, FP16, weights 16384 x 4096
FIGURE_8 = {
    "duplex_bank": [0.08, 0.16, 0.35, 0.81, 1, 1],
    "duplex_bank_group": [1, 1, 1, 1, 0.96, 0.67],
    "duplex_logic": [0.66, 0.66, 0.65, 0.65, 0.61, 0.40],
}


@pytest.mark.parametrize(
    ("name", "flop_rate", "bandwidth", "over_external"),
    [
        ("hbm_pim", 128 * 16 * 2 * 300e6, 1.23e12, 4), ("aim", 1.024e12, 1.024e12, 16),
        ("duplex_bank", 16 * 670.4e9, 16 * 670.4e9, 16), ("duplex_logic", 21.3e12, 4 * 670.4e9, 4),
        ("duplex_bank_group", 21.3e12, 4 * 670.4e9, 4),
    ],
)  # fmt: skip
def test_peaks_close(name, flop_rate, bandwidth, over_external):
    unit = load_unit(name)
    assert unit.peak_flop_rate == pytest.approx(flop_rate, rel=0.01)
    assert unit.bandwidth == pytest.approx(bandwidth, rel=0.01)
    assert unit.bandwidth / unit.external_bandwidth == pytest.approx(over_external, rel=0.001)


@pytest.mark.parametrize("name", names())
def test_no_product_beats_the_array_or_the_arithmetic(name):
    unit = load_unit(name)
    for m in (1, 3, 8, 12, 32):
        cost = gemm(unit, m, 16384, 4096)
        assert cost.seconds >= 2 * 16384 * 4096 / unit.bandwidth
        assert cost.seconds >= cost.flop / unit.peak_flop_rate * (1 - 1e-9)
        assert cost.weight_bytes >= 2 * 16384 * 4096
        assert cost.joules > 0


@pytest.mark.parametrize("name", names())
def test_more_tokens_or_weights_never_take_less_time_or_energy(name):
    unit = load_unit(name)
    by_tokens = [gemm(unit, m, 8192, 4096) for m in range(1, 40)]
    by_weights = [gemm(unit, 4, n, 4096) for n in (256, 1024, 4096, 16384)]
    for costs in (by_tokens, by_weights):
        assert all(b.seconds >= a.seconds for a, b in pairwise(costs))
        assert all(b.joules >= a.joules for a, b in pairwise(costs))


def test_no_token_costs_nothing():
    assert gemm(load_unit("aim"), 0, 4096, 4096).seconds == 0


def test_logic_level_time_is_flat_up_to_eight_operations_per_byte_and_then_linear():
    unit = load_unit("duplex_logic")
    times = {m: gemm(unit, m, 16384, 4096).seconds for m in (1, 8, 16, 32)}
    assert times[8] == pytest.approx(times[1], rel=0.01)
    assert times[32] == pytest.approx(2 * times[16], rel=0.02)


def test_energy_delay_area_follows_the_published_comparison():
    ours = compare(DUPLEX, TOKENS, 16384, 4096)
    for name, published in FIGURE_8.items():
        assert ours[name] == pytest.approx(published, abs=0.08)


def test_energy_delay_area_between_published_points_lies_between_them():
    wide = compare(DUPLEX, [2, 3, 4], 16384, 4096)
    assert wide["duplex_bank"][0] < wide["duplex_bank"][1] < wide["duplex_bank"][2]
    high = compare(DUPLEX, [8, 12, 16], 16384, 4096)
    assert high["duplex_bank"][0] < high["duplex_bank"][1] < high["duplex_bank"][2]


def test_bank_level_loses_to_logic_level_between_four_and_eight_operations_per_byte():
    ours = compare(DUPLEX, [4, 8], 16384, 4096)
    assert ours["duplex_bank"][0] < ours["duplex_logic"][0]
    assert ours["duplex_bank"][1] > ours["duplex_logic"][1]


def test_engines_that_share_no_bundle_run_at_once_and_on_one_bundle_in_turn():
    assert shared_makespan([3, 0, 0, 0], [0, 4, 0, 0]) == 4
    assert shared_makespan([3, 0, 0, 0], [4, 0, 0, 0]) == 7
    assert shared_makespan([1, 1, 1, 1], [1, 1, 1, 1]) == 4
    assert shared_makespan([], []) == 0
    with pytest.raises(ConfigError, match="same bundles"):
        shared_makespan([1], [1, 2])


def test_wrong_units_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="did you mean 'hbm_pim'"):
        load_unit("hbm_pin")
    text = (LIBRARY / "duplex_bank.yaml").read_text()
    for old, new, message in (
        ("pace: nCCDL", "pace: nCCDX", "did you mean 'nCCD"),
        ("banks_at_once: 32", "banks_at_once: 320", "fewer banks"),
        ("clock: 325 MHz", "clock: 325", "unit"),
    ):
        path = tmp_path / f"{new[:4]}{len(new)}.yaml"
        path.write_text(text.replace(old, new))
        with pytest.raises(ConfigError, match=message):
            load_unit(str(path))


def test_a_device_with_pim_gets_less_than_its_peak_and_bank_level_least():
    pim = {
        "tier": "hbm", "bandwidth": "13 TB/s", "peak_flop_rate": "100 TFLOP/s", "launch_overhead": "1 us",
        "energy_per_byte": "2 pJ/bit", "energy_per_flop": "0.3 pJ/FLOP",
    }  # fmt: skip
    bank, logic = (
        stream_efficiency(load_device({"from": "h100", "pim": {**pim, "level": level}}))
        for level in ("bank", "logic_die")
    )
    assert 0.5 < bank < logic < 1
    with pytest.raises(ConfigError, match="no PIM unit"):
        stream_efficiency(load_device("h100"))
