"""Joules and dollars: linear in their counts, shares of hosts add up, nothing is counted twice."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from codesign.base.errors import ConfigError
from hwmodels.energy import (
    active_power_w,
    energy_per_flop_j,
    facility_energy_j,
    flop_energy_j,
    host_idle_power_w,
    idle_power_w,
    link_energy_j,
    node_share,
    peak_power_w,
    pim_energy_j,
    tier_energy_j,
)
from hwmodels.load import load_device, load_system
from hwmodels.money import YEAR_S, owned_usd_per_s, rental_usd_per_s, usd_per_million_tokens, usd_per_s

H100, DGX = load_device("h100"), load_system("dgx-h100-x2")
counts = st.floats(0, 1e18)
PIM = {"level": "logic_die", "bandwidth": "13.4 TB/s", "peak_flop_rate": "107 TFLOP/s",
       "launch_overhead": "1 us", "energy_per_byte": "1.81 pJ/bit",
       "energy_per_flop": "0.23 pJ/FLOP"}  # fmt: skip


def test_the_units_of_the_file_are_the_joules_of_the_count() -> None:
    assert flop_energy_j(H100, "bf16", 1e12) == pytest.approx(0.6)  # 0.6 pJ/FLOP
    assert tier_energy_j(H100, "hbm", 1e12) == pytest.approx(8 * 11.0)  # 11 pJ/bit
    assert DGX.intra_node is not None
    assert link_energy_j(DGX.intra_node, 1e12) == pytest.approx(8 * 6.0)
    assert tier_energy_j(DGX, "ddr", 1e12) == pytest.approx(8 * 20.0)
    assert link_energy_j(DGX.host.links["pcie"], 1e12) == pytest.approx(8 * 6.0)


@given(counts, counts)
def test_energy_is_linear_in_the_count(a: float, b: float) -> None:
    for energy in (
        lambda n: flop_energy_j(H100, "fp8", n),
        lambda n: tier_energy_j(H100, "hbm", n),
        lambda n: link_energy_j(DGX.intra_node, n) if DGX.intra_node else 0.0,
    ):
        assert energy(a) + energy(b) == pytest.approx(energy(a + b))


def test_counts_may_be_arrays() -> None:
    flop = np.array([0.0, 1e12, 2e12])
    assert flop_energy_j(H100, "bf16", flop) == pytest.approx([0.0, 0.6, 1.2])


@pytest.mark.parametrize(
    ("device", "precision", "as_"),
    [("a100", "fp8", "int8"), ("a100", "fp4", "int4"), ("v100", "bf16", "fp16"), ("v100", "int8", "fp16"),
     ("h100", "int4", "fp8"), ("tpu-v5e", "fp32", "bf16")],
)  # fmt: skip
def test_a_type_without_an_entry_costs_what_the_next_wider_one_costs(
    device: str, precision: str, as_: str
) -> None:
    described = load_device(device)
    assert energy_per_flop_j(described, precision) == described.compute.energy_per_flop[as_]


def test_unknown_names_are_refused_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match="bf16"):
        flop_energy_j(H100, "bf17", 1.0)
    with pytest.raises(ConfigError, match="hbm"):
        tier_energy_j(H100, "hmb", 1.0)
    with pytest.raises(ConfigError, match="no pim unit"):
        pim_energy_j(H100, 1.0, 1.0)
    for devices in (0, -1, 17):
        with pytest.raises(ConfigError, match="16"):
            node_share(DGX, devices)


def test_work_beside_the_memory_is_operations_and_bytes() -> None:
    device = load_device({"from": "h100", "pim": PIM})
    assert pim_energy_j(device, 1e12, 0.0) == pytest.approx(0.23)
    assert pim_energy_j(device, 0.0, 1e12) == pytest.approx(8 * 1.81)


@given(st.integers(1, 15))
def test_idle_power_and_rent_of_parts_add_up(n: int) -> None:
    assert idle_power_w(DGX, n) + idle_power_w(DGX, 16 - n) == pytest.approx(idle_power_w(DGX, 16))
    parts = usd_per_s(DGX, n, 0.0), usd_per_s(DGX, 16 - n, 0.0)
    assert sum(part or math.nan for part in parts) == pytest.approx(usd_per_s(DGX, 16, 0.0))


def test_a_full_system_idles_below_its_peak_and_the_peak_is_the_data_sheets() -> None:
    assert idle_power_w(DGX, 16) == 2 * (8 * 70 + 1300)
    assert host_idle_power_w(DGX, 16) == 2 * 1300
    assert peak_power_w(DGX, 8) == pytest.approx(10.2e3)  # DGX H100 data sheet: 10.2 kW
    assert active_power_w(H100) + H100.power.idle < H100.power.peak
    assert facility_energy_j(DGX, 100.0) == pytest.approx(120.0)


def test_rent_is_per_device_or_per_node() -> None:
    assert usd_per_s(DGX, 8, 5000.0) == pytest.approx(8 * 3.93 / 3600)
    whole = load_system("dgx-h100-x2", {"price": {"rental": "30 USD/h"}})
    assert rental_usd_per_s(whole, 16) == pytest.approx(60 / 3600)
    assert rental_usd_per_s(whole, 4) == pytest.approx(15 / 3600)


def test_owning_is_write_off_and_electricity() -> None:
    written_off = (8 * 30000 + 100000) / (4 * YEAR_S)
    electricity = 8000 * 1.2 * 0.10 / 3.6e6
    assert owned_usd_per_s(DGX, 8, 8000.0) == pytest.approx(written_off + electricity)
    assert usd_per_s(DGX, 8, 8000.0, "owned") == owned_usd_per_s(DGX, 8, 8000.0)
    whole = load_system("dgx-h100", {"price": {"purchase": "350000 USD", "lifetime_years": 5}})
    assert owned_usd_per_s(whole, 8, 0.0) == pytest.approx(350000 / (5 * YEAR_S))


def test_without_a_price_there_is_no_figure() -> None:
    none = load_system("dgx-h100", {"device.price": {"rental": None, "purchase": None}})
    assert usd_per_s(none, 8, 1000.0) is None
    assert usd_per_million_tokens(None, 10.0) is None
    assert usd_per_million_tokens(1.0, 0.0) is None


def test_owned_where_no_rent_is_known() -> None:
    bought = load_system("dgx-h100", {"device.price": {"rental": None}})
    assert usd_per_s(bought, 8, 1000.0) == owned_usd_per_s(bought, 8, 1000.0)


@given(st.floats(1e-9, 1e3), st.floats(1e-3, 1e9))
def test_dollars_per_million_tokens_times_tokens_is_dollars(usd: float, tokens: float) -> None:
    per_million = usd_per_million_tokens(usd, tokens)
    assert per_million is not None
    assert per_million * tokens / 1e6 == pytest.approx(usd)
