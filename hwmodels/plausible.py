"""What is allowed of hardware but doubtful: odd ratios, pins too fast for their standard, missing sources."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

from codesign.base.document import Document, KeyPath, dotted
from codesign.base.errors import nearest
from hwmodels.check import peak_power_terms_w
from hwmodels.spec import PRECISION_BYTES, Device, Dma, MemoryTier, System

# bits of one channel, and bits per second and pin that parts on the market reach (low, high)
STANDARDS: dict[str, tuple[int, float, float]] = {
    "hbm2": (128, 1.4e9, 2.8e9),  # JESD235B
    "hbm2e": (128, 2.4e9, 3.7e9),  # JESD235C/D
    "hbm3": (64, 4.4e9, 6.6e9),  # JESD238
    "hbm3e": (64, 5.0e9, 10.0e9),  # JESD238B and vendors' parts
    "hbm4": (64, 6.0e9, 13.0e9),  # JESD270-4 and vendors' parts
    "gddr6": (16, 10e9, 20e9),  # JESD250
    "gddr6x": (16, 18e9, 24e9),  # Micron
    "gddr7": (8, 24e9, 40e9),  # JESD239
    "ddr4": (64, 1.6e9, 3.4e9),  # JESD79-4
    "ddr5": (32, 3.2e9, 9.0e9),  # JESD79-5, sub-channels
    "lpddr4": (16, 1.6e9, 4.4e9),  # JESD209-4
    "lpddr5": (16, 3.2e9, 6.6e9),  # JESD209-5
    "lpddr5x": (16, 6.4e9, 10.7e9),  # JESD209-5C
}
# names, references and choices of a configuration: no source is due
_WORDS = {"name", "sources", "architecture", "kind", "main_memory", "l2", "standard", "topology", "tier",
          "level", "source", "target", "device", "in_network_reduction", "nodes", "devices_per_node",
          "lifetime_years"}  # fmt: skip
_RIDGE_RANGE = (1.0, 3000.0)  # FLOP per byte of main memory
_FLOP_PER_CLOCK_RANGE = (2.0, 65536.0)  # of one unit: a scalar FMA ... a 128 x 128 array at twice the rate
_MOST_TIER_RATIO = {"sram": 300.0}  # bandwidth against the main memory; other kinds: 10
_MOST_SRAM_BYTES = 2e9
_MOST_POWER_RATIO = 2.0  # compute and memory are never at their peaks together: devices throttle
_CLOCK_RANGE_HZ = (5e7, 8e9)
_AREA_RANGE_M2 = (1e-6, 0.05)


def warnings_of(document: Document, hardware: Device | System) -> list[str]:
    """Name what is doubtful of a loaded device or system, one line each, with the dotted path first."""
    if isinstance(hardware, Device):
        return [*_device_warnings(hardware), *_unsourced_lines(document, ())]
    inner = [f"device.{text}" for text in _device_warnings(hardware.device)]
    missing = [*_unsourced_lines(document, ("device",)), *_unsourced_lines(document, ())]
    return [*inner, *_system_warnings(hardware), *missing]


def ridge_flop_per_byte(device: Device) -> dict[str, float]:
    """Return FLOP per byte of main memory at which compute and memory take equally long, by precision."""
    bandwidth = device.memory[device.main_memory].bandwidth
    return {name: rate / bandwidth for name, rate in device.compute.peak_flop_rate.items()}


def pin_rate_bits_per_s(tier: MemoryTier) -> float | None:
    """Return bits per second and pin that a tier's bandwidth needs; None without standard or channels."""
    if tier.standard is None or tier.channels is None or tier.standard.lower() not in STANDARDS:
        return None
    return tier.bandwidth * 8 / (tier.channels * STANDARDS[tier.standard.lower()][0])


def derived(device: Device) -> dict[str, dict[str, float]]:
    """Return what follows from a device's numbers and shows a slip at a glance, by name and unit.

    FLOP per clock and unit and FLOP per byte (by precision), bits per second and pin (by tier), and watts
    by cause when everything runs at its peak.
    """
    compute = device.compute
    pins = {name: pin_rate_bits_per_s(tier) for name, tier in device.memory.items()}
    return {
        "flop_per_clock_and_unit": {
            name: rate / (compute.units * compute.clock) for name, rate in compute.peak_flop_rate.items()
        },
        "ridge_flop_per_byte": ridge_flop_per_byte(device),
        "pin_rate_bits_per_s": {name: rate for name, rate in pins.items() if rate is not None},
        "power_at_peak_rates_w": peak_power_terms_w(device),
    }


def unsourced(document: Document, at: KeyPath = ()) -> list[KeyPath]:
    """Return the paths of numbers, of the mapping at `at`, that have no source (see `source_of`)."""
    return [leaf for leaf in _physical_leaves(document.get(at), at) if source_of(document, leaf, at) is None]


def source_of(document: Document, path: KeyPath, at: KeyPath = ()) -> str | None:
    """Return the source of the value at `path`, from ``sources`` of the mapping at `at`; None without one.

    A source covers the value at its dotted path and all below it, in the file in which it stands: a file
    that lays a number over another file's (``from``) owes a source for it.  The longest path wins.
    """
    described = document.get(at)
    sources = described.get("sources") if isinstance(described, dict) else None
    steps = [str(step) for step in path[len(at) :]]
    for length in range(len(steps), 0, -1):
        key = ".".join(steps[:length])
        if key in (sources or {}) and _origin(document, (*at, "sources", key)) == _origin(document, path):
            return str(sources[key]) if sources else None
    return None


def _origin(document: Document, path: KeyPath) -> str:
    while path and path not in document.lines:
        path = path[:-1]
    return document.origins.get(path, document.origin)


def _physical_leaves(data: Any, path: KeyPath) -> Iterator[KeyPath]:
    """Yield the path of every number; a list (tiles) is one leaf; names, kinds and references are words."""
    if isinstance(data, dict):
        for key, value in data.items():
            if key not in _WORDS or (key in ("l2", "source") and isinstance(value, dict)):
                yield from _physical_leaves(value, (*path, key))
    elif data is not None:
        yield path


def _unsourced_lines(document: Document, at: KeyPath) -> list[str]:
    return [f"{dotted(leaf)}: no source" for leaf in unsourced(document, at)]


def _device_warnings(device: Device) -> list[str]:
    found = [*_rate_warnings(device), *_power_warnings(device)]
    for name, tier in device.memory.items():
        found += _tier_warnings(device, name, tier)
    for name, dma in device.dma.items():
        found += _dma_warnings(f"dma.{name}", dma, device.memory)
    if device.pim is not None and device.pim.bandwidth < device.memory[device.pim.tier].bandwidth:
        found.append(f"pim.bandwidth: below the bandwidth of {device.pim.tier} outside, so PIM cannot help")
    if device.price.rental is None and device.price.purchase is None:
        found.append("price: neither rental nor purchase is given; money cannot be computed")
    if device.area is not None and not _AREA_RANGE_M2[0] <= device.area <= _AREA_RANGE_M2[1]:
        found.append(f"area: {device.area * 1e6:.3g} mm**2")
    return found


def _rate_warnings(device: Device) -> Iterator[str]:
    compute = device.compute
    if not _CLOCK_RANGE_HZ[0] <= compute.clock <= _CLOCK_RANGE_HZ[1]:
        yield f"compute.clock: {compute.clock / 1e9:.3g} GHz"
    ridges = ridge_flop_per_byte(device)
    for name, rate in compute.peak_flop_rate.items():
        per_clock = rate / (compute.units * compute.clock)
        for value, (low, high), what in (
            (ridges[name], _RIDGE_RANGE, "FLOP per byte of main memory"),
            (per_clock, _FLOP_PER_CLOCK_RANGE, "FLOP per clock and unit"),
        ):
            if name != "fp64" and not low <= value <= high:  # fp64 is vestigial on inference parts
                yield f"compute.peak_flop_rate.{name}: {value:.3g} {what}, outside {low:g} ... {high:g}"
    yield from _order_warnings(compute.peak_flop_rate)


def _order_warnings(rates: dict[str, float]) -> Iterator[str]:
    """Compare floating-point types by width: fewer bits are never slower on real devices."""
    floats = sorted((name for name in rates if "fp" in name or "bf" in name), key=PRECISION_BYTES.__getitem__)
    for narrow, wide in pairwise(floats):
        if rates[narrow] < 0.99 * rates[wide] and PRECISION_BYTES[narrow] < 0.9 * PRECISION_BYTES[wide]:
            yield f"compute.peak_flop_rate.{narrow}: slower than {wide}, which is wider"


def _power_warnings(device: Device) -> Iterator[str]:
    terms, peak = peak_power_terms_w(device), device.power.peak
    if sum(terms.values()) > _MOST_POWER_RATIO * peak:
        listed = ", ".join(f"{name} {watts:.3g} W" for name, watts in terms.items())
        total = sum(terms.values())
        yield f"power.peak: {peak:g} W, but at the peak rates it would be {total:.3g} W ({listed})"
    if not device.compute.energy_per_flop:
        yield "compute.energy_per_flop: not given; operations will cost no energy"


def _tier_warnings(device: Device, name: str, tier: MemoryTier) -> Iterator[str]:
    at, main = f"memory.{name}", device.memory[device.main_memory]
    ratio, limit = tier.bandwidth / main.bandwidth, _MOST_TIER_RATIO.get(tier.kind, 10.0)
    if name != device.main_memory and tier.kind != "sram" and ratio > 1:
        yield f"{at}.bandwidth: faster than the main memory"
    if ratio > limit:
        yield f"{at}.bandwidth: {ratio:.3g} times the main memory's, above {limit:g}"
    if tier.kind == "sram" and tier.capacity > _MOST_SRAM_BYTES:
        yield f"{at}.capacity: {tier.capacity / 1e9:.3g} GB of SRAM on one device"
    yield from _standard_warnings(at, tier)


def _standard_warnings(at: str, tier: MemoryTier) -> Iterator[str]:
    if tier.standard is None:
        return
    if tier.standard.lower() not in STANDARDS:
        near = nearest(tier.standard, STANDARDS)
        hint = f" (did you mean {near!r}?)" if near else ""
        yield f"{at}.standard: {tier.standard!r} is not one of {', '.join(STANDARDS)}{hint}"
        return
    rate = pin_rate_bits_per_s(tier)
    _, low, high = STANDARDS[tier.standard.lower()]
    if rate is not None and not low <= rate <= high:
        yield (f"{at}.bandwidth: over {tier.channels} channels of {tier.standard} it needs"
               f" {rate / 1e9:.3g} Gbit/s a pin; parts run at {low / 1e9:g} ... {high / 1e9:g}")  # fmt: skip


def _dma_warnings(at: str, dma: Dma, tiers: dict[str, MemoryTier]) -> Iterator[str]:
    for end in (dma.source, dma.target):
        if end in tiers and dma.bandwidth > 1.05 * tiers[end].bandwidth:
            yield f"{at}.bandwidth: faster than {end}, which it copies from or to"


def _system_warnings(system: System) -> list[str]:
    found: list[str] = []
    intra, inter = system.intra_node, system.inter_node
    if intra and inter and inter.bandwidth > intra.bandwidth:
        found.append("inter_node.bandwidth: faster than intra_node")
    if intra and intra.bandwidth > system.device.memory[system.device.main_memory].bandwidth:
        found.append("intra_node.bandwidth: faster than the devices' main memory")
    for name, tier in system.host.memory.items():
        found += _standard_warnings(f"host.memory.{name}", tier)
    for name, dma in system.host.links.items():
        found += _dma_warnings(f"host.links.{name}", dma, system.host.memory)
    if system.price is not None and system.price.rental is None and system.price.purchase is None:
        found.append("price: neither rental nor purchase is given")
    if system.power_usage_effectiveness > 3:
        found.append(f"power_usage_effectiveness: {system.power_usage_effectiveness:g}")
    return found
