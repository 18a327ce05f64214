"""What a schema cannot say of hardware: references that must exist, limits of physics, missing sources.

`check_device` and `check_system` refuse what cannot be; `warnings_of` names what is merely doubtful.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from codesign.base.document import Document, KeyPath, dotted
from codesign.base.errors import nearest
from hwmodels.spec import PRECISION_BYTES, Device, System

_WORDS = {"name", "sources", "architecture", "kind", "main_memory", "l2", "standard", "topology", "tier",
          "level", "source", "target", "from", "device", "in_network_reduction"}  # fmt: skip
_MAX_TIER_RATIO = 10.0
_RIDGE_RANGE = (1.0, 3000.0)
_MAX_SRAM_BYTES = 2e9


def check_device(document: Document, device: Device, at: KeyPath = ()) -> None:
    """Refuse a device whose parts do not fit together (raises ConfigError with place and rule)."""
    tiers = list(device.memory)
    _known(document, (*at, "main_memory"), device.main_memory, tiers, "a tier of memory")
    if device.l2 is not None:
        _known(document, (*at, "l2"), device.l2, tiers, "a tier of memory")
    if device.pim is not None:
        _known(document, (*at, "pim", "tier"), device.pim.tier, tiers, "a tier of memory")
    for name, dma in device.dma.items():
        for end in ("source", "target"):
            rule = "a tier of memory, or host"
            _known(document, (*at, "dma", name, end), getattr(dma, end), [*tiers, "host"], rule)
    _check_rates(document, device, at)
    _check_power(document, device, at)


def check_system(document: Document, system: System) -> None:
    """Refuse a system without the links that its devices need (raises ConfigError)."""
    check_device(document, system.device, ("device",))
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


def _known(document: Document, path: KeyPath, name: str, choices: list[str], rule: str) -> None:
    if name not in choices:
        near = nearest(name, choices)
        hint = f" (did you mean {near!r}?)" if near else ""
        raise document.error(path, f"must be {rule}: {', '.join(choices)}{hint}", name)


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
        raise document.error((*at, "power"), rule)


def physical_leaves(data: Any, path: KeyPath = ()) -> Iterator[KeyPath]:
    """Yield the path of every number of a description: what must have a source.

    A list (tiles) counts as one leaf; names, kinds and references are words, not numbers.
    """
    if isinstance(data, dict):
        for key, value in data.items():
            if key not in _WORDS or (key in ("l2", "source") and isinstance(value, dict)):
                yield from physical_leaves(value, (*path, key))
    elif data is not None:
        yield path


def unsourced(data: dict[str, Any]) -> list[str]:
    """Return the dotted paths of numbers that no key of ``sources`` covers.

    A source covers the number at its dotted path and all below it.
    """
    prefixes = [tuple(key.split(".")) for key in data.get("sources") or {}]
    leaves = list(physical_leaves(data))
    return [
        dotted(leaf) for leaf in leaves
        if not any(tuple(map(str, leaf[: len(prefix)])) == prefix for prefix in prefixes)
    ]  # fmt: skip


def ridge_flop_per_byte(device: Device) -> dict[str, float]:
    """Return FLOP per byte of main memory at which compute and memory take equally long, by precision."""
    bandwidth = device.memory[device.main_memory].bandwidth
    return {name: rate / bandwidth for name, rate in device.compute.peak_flop_rate.items()}


def warnings_of(document: Document, hardware: Device | System) -> list[str]:
    """Name what is allowed but doubtful: odd ratios, no price, numbers without a source."""
    if isinstance(hardware, Device):
        return _device_warnings(hardware, document.data)
    inner = _device_warnings(hardware.device, document.data["device"])
    return [f"device.{text}" for text in inner] + _system_warnings(hardware, document)


def _device_warnings(device: Device, data: dict[str, Any]) -> list[str]:
    found = list(_tier_warnings(device))
    low, high = _RIDGE_RANGE
    for precision, ridge in ridge_flop_per_byte(device).items():
        if not low <= ridge <= high:
            found.append(f"compute.peak_flop_rate.{precision}: ridge point {ridge:.3g} FLOP/B is outside"
                         f" {low:g} ... {high:g}")  # fmt: skip
    if device.price.rental is None and device.price.purchase is None:
        found.append("price: neither rental nor purchase is given; money cannot be computed")
    return found + [f"{leaf}: no source" for leaf in unsourced(data)]


def _tier_warnings(device: Device) -> Iterator[str]:
    main = device.memory[device.main_memory]
    for name, tier in device.memory.items():
        if name != device.main_memory and tier.kind != "sram" and tier.bandwidth > main.bandwidth:
            yield f"memory.{name}.bandwidth: faster than the main memory"
        if tier.bandwidth > _MAX_TIER_RATIO * main.bandwidth:
            yield (f"memory.{name}.bandwidth: {tier.bandwidth / main.bandwidth:.3g} times the main memory's,"
                   f" above {_MAX_TIER_RATIO:g}")  # fmt: skip
        if tier.kind == "sram" and tier.capacity > _MAX_SRAM_BYTES:
            yield f"memory.{name}.capacity: {tier.capacity / 1e9:.3g} GB of SRAM on one device"


def _system_warnings(system: System, document: Document) -> list[str]:
    found = []
    intra, inter = system.intra_node, system.inter_node
    if intra and inter and inter.bandwidth > intra.bandwidth:
        found.append("inter_node.bandwidth: faster than intra_node")
    if intra and intra.bandwidth > system.device.memory[system.device.main_memory].bandwidth:
        found.append("intra_node.bandwidth: faster than the devices' main memory")
    if system.price is not None and system.price.rental is None and system.price.purchase is None:
        found.append("price: neither rental nor purchase is given")
    return found + [f"{leaf}: no source" for leaf in unsourced(document.data)]
