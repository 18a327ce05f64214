"""The hardware library: every file loads, every number has a source, the physics closes."""

from __future__ import annotations

from pathlib import Path

import pytest

from hwmodels.check import peak_power_terms_w
from hwmodels.load import LIBRARY, load_device, load_system, names, resolve
from hwmodels.plausible import STANDARDS, pin_rate_bits_per_s, unsourced, warnings_of
from hwmodels.spec import Device

DEVICES, SYSTEMS = names("device"), names("system")
NVLINK_PER_DIRECTION = {"dgx-a100": 300e9, "dgx-h100": 450e9, "hgx-h200": 450e9, "dgx-b200": 900e9}
# published tables: FLOP/s dense, bytes/s, W
PUBLISHED = {
    "a100": ("bf16", 312e12, 2.039e12, 400), "a100-40gb": ("bf16", 312e12, 1.555e12, 400),
    "h100": ("fp8", 1979e12, 3.35e12, 700), "h200": ("bf16", 989e12, 4.8e12, 700),
    "b200": ("fp4", 9000e12, 8e12, 1000), "l40s": ("bf16", 362e12, 864e9, 350),
    "v100": ("fp16", 125e12, 900e9, 300), "mi300x": ("fp8", 2615e12, 5.3e12, 750),
    "tpu-v5e": ("bf16", 197e12, 819e9, None), "sn40l": ("bf16", 638e12, 1.6e12, None),
}  # fmt: skip


@pytest.mark.parametrize("name", DEVICES)
def test_each_device_loads_under_its_own_name_without_a_doubt(name: str) -> None:
    document = resolve(name, "device")
    device = load_device(document)
    assert device.name == name
    assert warnings_of(document, device) == []


@pytest.mark.parametrize("name", SYSTEMS)
def test_each_system_loads_under_its_own_name_without_a_doubt(name: str) -> None:
    document = resolve(name)
    system = load_system(document)
    assert system.name == name
    assert warnings_of(document, system) == []


@pytest.mark.parametrize("path", sorted(LIBRARY.glob("[ds][ey]*s/*.yaml")), ids=lambda path: path.stem)
def test_files_are_named_after_what_they_hold_and_give_sources(path: Path) -> None:
    assert f"\nname: {path.stem}\n" in "\n" + path.read_text()
    assert "\nsources:\n" in path.read_text()


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_peaks_are_the_published_dense_ones(name: str) -> None:
    precision, flop_rate, bandwidth, watts = PUBLISHED[name]
    device = load_device(name)
    assert device.compute.peak_flop_rate[precision] == pytest.approx(flop_rate, rel=0.01)
    assert device.memory[device.main_memory].bandwidth == pytest.approx(bandwidth, rel=0.03)
    assert watts is None or device.power.peak == watts


@pytest.mark.parametrize("name", sorted(NVLINK_PER_DIRECTION))
def test_nvlink_is_given_per_direction(name: str) -> None:
    link = load_system(name).intra_node
    assert link is not None
    assert link.bandwidth == NVLINK_PER_DIRECTION[name]


@pytest.mark.parametrize("name", DEVICES)
def test_devices_draw_about_their_peak_power_at_their_peak_rates(name: str) -> None:
    device = load_device(name)
    total = sum(peak_power_terms_w(device).values())
    assert 0.5 * device.power.peak <= total <= 1.9 * device.power.peak  # devices throttle


@pytest.mark.parametrize("name", DEVICES)
def test_main_memories_close_with_standard_and_channels(name: str) -> None:
    device = load_device(name)
    tier = device.memory[device.main_memory]
    rate = pin_rate_bits_per_s(tier)
    assert rate is not None
    assert STANDARDS[tier.standard or ""][1] <= rate <= STANDARDS[tier.standard or ""][2]


@pytest.mark.parametrize("name", DEVICES)
def test_energy_is_given_for_every_type_and_falls_with_width(name: str) -> None:
    compute = load_device(name).compute
    assert set(compute.energy_per_flop) == set(compute.peak_flop_rate)
    for narrow, wide in (("fp8", "bf16"), ("int8", "fp16"), ("fp4", "fp8"), ("bf16", "fp32")):
        if {narrow, wide} <= set(compute.energy_per_flop):
            assert compute.energy_per_flop[narrow] <= compute.energy_per_flop[wide]


def test_a_number_laid_over_another_files_owes_a_source_of_its_own() -> None:
    mine = {"from": "h100", "memory": {"hbm": {"bandwidth": "4 TB/s"}}}
    assert unsourced(resolve(mine, "device")) == [("memory", "hbm", "bandwidth")]
    mine["sources"] = {"memory.hbm.bandwidth": "what if"}
    assert unsourced(resolve(mine, "device")) == []


@pytest.mark.parametrize(
    ("override", "word"),
    [
        ({"memory.hbm.bandwidth": "9 TB/s"}, "Gbit/s a pin"),
        ({"compute.energy_per_flop.bf16": "2 pJ/FLOP"}, "at the peak rates"),
        ({"compute.peak_flop_rate.fp8": "500 TFLOP/s"}, "slower than bf16"),
        ({"compute.clock": "1 kHz"}, "FLOP per clock and unit"),
        ({"compute.peak_flop_rate.bf16": "99 PFLOP/s", "compute.energy_per_flop.bf16": "0 J/FLOP"}, "ridge"),
        ({"memory.hbm.standard": "hbm33"}, "did you mean 'hbm3'"),
        ({"area": "1 m**2"}, "area"),
        ({"memory.l2.capacity": "4 GiB"}, "SRAM"),
    ],
)  # fmt: skip
def test_doubtful_numbers_are_named(override: dict[str, object], word: str) -> None:
    document = resolve("h100", "device", override)
    text = "\n".join(warnings_of(document, load_device(document)))
    assert word in text.replace("FLOP per byte", "ridge")


def test_a_device_without_prices_is_named() -> None:
    data = {key: value for key, value in resolve("h100", "device").data.items() if key != "price"}
    document = resolve({**data, "price": {}}, "device")
    device = load_device(document)
    assert isinstance(device, Device)
    assert any("price" in line for line in warnings_of(document, device))
