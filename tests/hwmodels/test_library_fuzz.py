"""Mutated hardware files: each is valid, with finite numbers, or refused with one ConfigError."""

from __future__ import annotations

import math
from collections.abc import Iterator
from copy import deepcopy
from typing import Any

import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from codesign.base.document import parse_yaml
from codesign.base.errors import ConfigError
from hwmodels.energy import flop_energy_j, idle_power_w, peak_power_w
from hwmodels.load import load_described, names, resolve
from hwmodels.money import usd_per_s
from hwmodels.plausible import derived, warnings_of
from hwmodels.spec import Device, System

BASES: list[dict[str, Any]] = [
    resolve("h100", "device").data, resolve("sn40l", "device").data, resolve("dgx-h100").data,
    {"from": "h100", "name": "mine", "memory": {"hbm": {"bandwidth": "4 TB/s"}}},
    {"from": "dgx-b200-x4", "device": {"from": "h200", "power": {"idle": "80 W"}}},
]  # fmt: skip
VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 10**6), st.floats(allow_nan=True, allow_infinity=True),
    st.text(max_size=8), st.lists(st.integers(-2, 300), max_size=3), st.just({}), st.just({"from": "a100"}),
    st.sampled_from([
        "3 TB/s", "-1 W", "0 s", "1e400 TB/s", "1e-300 W", "1e21 FLOP/s", "5 pJ/bit", "1 USD/h",
        "inf W", "nan s", "4 TBs", "12 GiB", "3e8 mm**2", "h100", "dgx-h100", "hbm", "l2", "device",
        "./nowhere.yaml", "1 2 3", "{}", "1 W**99", "0x10", "1_000 W", "٣ W",
        "1 W\n", "sram", "switch", "hbm3",
    ]),
)  # fmt: skip
KEYS = st.sampled_from(
    ["from", "name", "device", "nodes", "pim", "hbm", "bandwidth", "fp8", "sources", "calibration", "price"]
) | st.text(max_size=6)


def paths(data: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if path:
        yield path
    items = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for key, value in items:
        yield from paths(value, (*path, key))


@st.composite
def mutated(draw: st.DrawFn) -> dict[str, Any]:
    data = deepcopy(draw(st.sampled_from(BASES)))
    for _ in range(draw(st.integers(1, 3))):
        *parents, key = draw(st.sampled_from(list(paths(data)) or [("name",)]))
        node = data
        for step in parents:
            node = node[step]
        action = draw(st.sampled_from(["replace", "delete", "add"]))
        if action == "add" and isinstance(node, dict):
            node[draw(KEYS)] = deepcopy(draw(VALUES))
        elif action == "delete" and len(data) > 1:
            del node[key]
        else:
            node[key] = deepcopy(draw(VALUES))
    return data


def numbers(data: Any) -> Iterator[float]:
    if isinstance(data, dict):
        for value in data.values():
            yield from numbers(value)
    elif isinstance(data, int | float):
        yield float(data)


def use(hardware: Device | System) -> list[float]:
    """Compute with what was accepted, as a run would."""
    if isinstance(hardware, Device):
        return [flop_energy_j(hardware, name, 1e15) for name in hardware.compute.peak_flop_rate]
    powers = [idle_power_w(hardware, 1), peak_power_w(hardware, hardware.devices)]
    return [*powers, usd_per_s(hardware, 1, 100.0) or 0.0, *use(hardware.device)]


def accepts_or_refuses(source: Any) -> bool:
    """Return whether a description is accepted; whatever is accepted is finite throughout."""
    try:
        document, hardware = load_described(source)
    except ConfigError:
        return False
    device = hardware.device if isinstance(hardware, System) else hardware
    found = [*numbers(hardware.model_dump()), *numbers(derived(device)), *use(hardware)]
    assert all(math.isfinite(value) for value in found)
    assert all("nan" not in line.split() for line in warnings_of(document, hardware))
    return True


def test_the_unmutated_files_are_accepted() -> None:
    assert all(accepts_or_refuses(base) for base in BASES)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(mutated())
def test_a_mutated_description_is_valid_or_refused(data: dict[str, Any]) -> None:
    accepts_or_refuses(data)


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(names("device")), st.data())
def test_a_mutated_text_is_valid_or_refused(name: str, data: st.DataObject) -> None:
    text = yaml.safe_dump(resolve(name, "device").data)
    start = data.draw(st.integers(0, len(text) - 1))
    cut = data.draw(st.integers(0, 12))
    text = text[:start] + data.draw(st.text(max_size=6)) + text[start + cut :]
    try:
        document = parse_yaml(text, "fuzz.yaml")
    except ConfigError:
        return
    accepts_or_refuses(document)
