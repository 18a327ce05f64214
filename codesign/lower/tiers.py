"""Paths between memory tiers: what it takes to bring bytes from where they live to where they are used."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from codesign.base.errors import unknown_name
from hwmodels.spec import Dma, MemoryTier, System

DEVICE = "device"  # how a host's links name the device's main memory


@dataclass(frozen=True)
class Path:
    """The hops from a tier to a device's main memory.

    A tier or hop that several devices share gives each its share.  A transfer is as fast as the slowest
    hop, and each call pays every hop's latency; it moves whole granules of the source.
    """

    source: str
    bytes_per_s: float
    latency_s: float
    granularity_bytes: float
    energy_j_per_byte: float

    def faster(self, speed: Mapping[str, float]) -> Path:
        """Return the path with ``fetch_bandwidth`` and ``fetch_latency`` speeded up (what-if factors)."""
        rate = self.bytes_per_s * speed.get("fetch_bandwidth", 1.0)
        return replace(self, bytes_per_s=rate, latency_s=self.latency_s / speed.get("fetch_latency", 1.0))

    def seconds(self, count: float, calls: int) -> tuple[float, float]:
        """Return (seconds of bandwidth, seconds of latency) of `count` bytes in `calls` transfers."""
        if not calls:
            return 0.0, 0.0
        granules = -(-count // self.granularity_bytes) if self.granularity_bytes else count
        moved = granules * self.granularity_bytes if self.granularity_bytes else count
        return moved / self.bytes_per_s, calls * self.latency_s


def tiers_of(system: System) -> dict[str, MemoryTier]:
    """Return all tiers that a device can reach, by name: its own, then its host's."""
    return {**system.host.memory, **system.device.memory}


def find_path(system: System, source: str, where: str = "") -> Path:
    """Find the way from a tier to the device's main memory: fewest hops.

    Raises
    ------
    ConfigError   no such tier, or no link leads from it to the device
    """
    tiers, main = tiers_of(system), system.device.main_memory
    if source not in tiers:
        raise unknown_name("memory tier", source, tiers, where)
    hops = _hops(system, source, main)
    if hops is None:
        reachable = [name for name in tiers if name != main and _hops(system, name, main)]
        raise unknown_name(f"way to {main}: no link leads there from", source, reachable, where)
    tier = tiers[source]
    rates = [tier.bandwidth * tier.efficiency / tier.shared_by]
    rates += [hop.bandwidth * hop.efficiency / hop.shared_by for hop in hops]
    energy = tier.energy_per_byte + tiers[main].energy_per_byte + sum(hop.energy_per_byte for hop in hops)
    latency = tier.latency + sum(hop.latency for hop in hops)
    return Path(source, min(rates), latency, tier.granularity or 0.0, energy)


def _hops(system: System, source: str, main: str) -> list[Dma] | None:
    """Search breadth first over the links of device and host."""
    links = [*system.device.dma.values(), *system.host.links.values()]
    ways: list[tuple[str, list[Dma]]] = [(source, [])]
    seen = {source}
    while ways:
        at, hops = ways.pop(0)
        if at in (main, DEVICE):
            return hops
        for link in links:
            if link.source == at and link.target not in seen:
                seen.add(link.target)
                ways.append((link.target, [*hops, link]))
    return None
