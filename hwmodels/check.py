"""What a schema cannot refuse: references that must exist, and numbers that no hardware can have.

`check_device` and `check_system` refuse what cannot be; `hwmodels.plausible` names what is merely doubtful.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from codesign.base.document import Document, KeyPath
from codesign.base.errors import choices_near
from hwmodels.spec import PRECISION_BYTES, Device, System

_SMALLEST, _LARGEST = 1e-20, 1e22  # of any physical number in SI units; far outside means a slip of units
_MOST_POWER_RATIO = 10.0  # power at the peak rates against the board's peak


def check_device(document: Document, device: Device, at: KeyPath = ()) -> None:
    """Refuse a device whose parts do not fit together (raises ConfigError with place and rule)."""
    _check_magnitudes(document, device.model_dump(), at)
    tiers = list(device.memory)
    _known(document, (*at, "main_memory"), device.main_memory, tiers, "a tier of memory")
    if device.l2 is not None:
        others = [tier for tier in tiers if tier != device.main_memory]
        _known(document, (*at, "l2"), device.l2, others, "a tier of memory before the main memory")
    if device.pim is not None:
        _known(document, (*at, "pim", "tier"), device.pim.tier, tiers, "a tier of memory")
    for name, dma in device.dma.items():
        for end in ("source", "target"):
            rule = "a tier of memory, or host"
            _known(document, (*at, "dma", name, end), getattr(dma, end), [*tiers, "host"], rule)
    _check_rates(document, device, at)
    _check_power(document, device, at)
    _check_calibration(document, device, at)


def check_system(document: Document, system: System) -> None:
    """Refuse a system without the links that its devices need (raises ConfigError)."""
    check_device(document, system.device, ("device",))
    _check_magnitudes(document, system.model_dump(exclude={"device"}), ())
    if system.devices_per_node > 1 and system.intra_node is None:
        raise document.error(("devices_per_node",), "several devices in a node need an intra_node link",
                             system.devices_per_node)  # fmt: skip
    if system.nodes > 1 and system.inter_node is None:
        raise document.error(("nodes",), "several nodes need an inter_node link", system.nodes)
    tiers = ["device", *system.device.memory, *system.host.memory]
    for name, dma in system.host.links.items():
        for end in ("source", "target"):
            rule = "device (its main memory), or a memory tier of the device or the host"
            _known(document, ("host", "links", name, end), getattr(dma, end), tiers, rule)
    if 0 < system.host.peak < system.host.idle:
        rule = f"is below idle ({system.host.idle:g} W)"
        raise document.error(("host", "peak"), rule, f"{system.host.peak:g} W")


def peak_power_terms_w(device: Device) -> dict[str, float]:
    """Return watts by cause when everything runs at its peak: idle, other, compute, main memory.

    Compute is the hungriest of the matrix types of 16 bits and less (the others do not bound inference).
    """
    compute, main = device.compute, device.memory[device.main_memory]
    matrix = [
        rate * compute.energy_per_flop.get(name, 0.0)
        for name, rate in compute.peak_flop_rate.items() if PRECISION_BYTES[name] <= 2
    ]  # fmt: skip
    return {
        "idle": device.power.idle,
        "other": device.power.other,
        "compute": max(matrix, default=0.0),
        "memory": main.bandwidth * main.energy_per_byte,
    }


def _known(document: Document, path: KeyPath, name: str, choices: list[str], rule: str) -> None:
    if name not in choices:
        raise document.error(path, f"must be {rule}: {choices_near(name, choices) or 'there is none'}", name)


def _check_magnitudes(document: Document, data: dict[str, Any], at: KeyPath) -> None:
    for path, value in _numbers(data, at):
        if value != 0 and not _SMALLEST <= abs(value) <= _LARGEST:
            rule = f"is {value:g} in SI units; no hardware is outside {_SMALLEST:g} ... {_LARGEST:g}"
            raise document.error(path, rule, document.get(path))


def _numbers(data: Any, path: KeyPath) -> Iterator[tuple[KeyPath, float]]:
    if isinstance(data, dict):
        for key, value in data.items():
            yield from _numbers(value, (*path, key))
    elif isinstance(data, int | float):
        yield path, data


def _check_rates(document: Document, device: Device, at: KeyPath) -> None:
    if not device.compute.peak_flop_rate:
        raise document.error((*at, "compute", "peak_flop_rate"), "needs at least one precision")
    for key in ("peak_flop_rate", "energy_per_flop"):
        for precision in getattr(device.compute, key):
            path = (*at, "compute", key, precision)
            _known(document, path, precision, list(PRECISION_BYTES), "a precision")


def _check_power(document: Document, device: Device, at: KeyPath) -> None:
    power = device.power
    if power.idle + power.other > power.peak:
        rule = f"idle and other together ({power.idle + power.other:g} W) exceed peak ({power.peak:g} W)"
        keys = [(*at, "power", key) for key in ("peak", "idle", "other")]
        raise document.error(_of_user(document, keys), rule)
    terms = peak_power_terms_w(device)
    largest = max(terms, key=lambda name: terms[name])
    if sum(terms.values()) > _MOST_POWER_RATIO * power.peak:
        rule = (f"at its peak rates the device would draw {sum(terms.values()):.3g} W ({largest}:"
                f" {terms[largest]:.3g} W), over {_MOST_POWER_RATIO:g} times this; check the units"
                " of energy_per_flop and energy_per_byte")  # fmt: skip
        raise document.error((*at, "power", "peak"), rule, f"{power.peak:g} W")


def _of_user(document: Document, paths: list[KeyPath]) -> KeyPath:
    """Return the first path that a file outside the library gives: that one is more likely the slip."""
    library = str(Path(__file__).parent / "library")
    return next((path for path in paths if not document.where(path).startswith(library)), paths[0])


def _check_calibration(document: Document, device: Device, at: KeyPath) -> None:
    if not device.calibration:
        return
    from hwmodels.costs.machine import default_constants

    known = list(default_constants())
    for name in device.calibration:
        _known(document, (*at, "calibration", name), name, known, "a calibration constant")
