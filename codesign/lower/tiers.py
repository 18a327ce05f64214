"""Paths between memory tiers: what it takes to bring bytes from where they live to where they are used."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from codesign.base.errors import unknown_name
from codesign.lower.parallel import Parallel
from hwmodels.spec import Dma, MemoryTier, System

DEVICE = "device"  # how a host's links name the device's main memory


@dataclass(frozen=True)
class Channel:
    """What several devices of a node fetch through: a memory controller, a drive and its queue, a switch.

    Law: the bytes that all of them bring over it in a time are at most ``bytes_per_s`` times that time.
    """

    name: str
    bytes_per_s: float
    sharers: int  # devices of a node behind one channel


@dataclass(frozen=True)
class Path:
    """The hops from a tier to a device's main memory.

    A transfer is as fast as the slowest hop when it is alone, and each call pays every hop's latency; it
    moves whole granules of the source.  `channel` is the slowest of the hops that devices share.
    """

    source: str
    bytes_per_s: float
    latency_s: float
    granularity_bytes: float
    energy_j_per_byte: float
    channel: Channel | None = None

    def seen_by(self, parallel: Parallel) -> Path:
        """Return the path of one engine's devices.

        Other engines on the channel are taken to have their even share of it.  A channel that the engine's
        own devices cannot fill, or that only one of them uses, needs no task of its own.
        """
        if self.channel is None:
            return self
        sharers = min(self.channel.sharers, parallel.devices_per_node)
        engines = max(1, min(sharers // parallel.devices, parallel.replicas))
        rate = self.channel.bytes_per_s / engines
        port, behind = min(self.bytes_per_s, rate), min(sharers, parallel.devices)
        channel = Channel(self.channel.name, rate, sharers) if behind * port > rate else None
        return replace(self, bytes_per_s=port, channel=channel if behind > 1 else None)

    def faster(self, speed: Mapping[str, float]) -> Path:
        """Return the path with ``fetch_bandwidth`` and ``fetch_latency`` speeded up (what-if factors)."""
        factor, channel = speed.get("fetch_bandwidth", 1.0), self.channel
        if channel is not None:
            channel = replace(channel, bytes_per_s=channel.bytes_per_s * factor)
        latency_s = self.latency_s / speed.get("fetch_latency", 1.0)
        return replace(self, bytes_per_s=self.bytes_per_s * factor, latency_s=latency_s, channel=channel)

    def seconds(self, count: float, calls: int) -> tuple[float, float]:
        """Return (seconds of bandwidth, seconds of latency) of `count` bytes in `calls` transfers."""
        if not calls:
            return 0.0, 0.0
        return self.moved(count) / self.bytes_per_s, calls * self.latency_s

    def moved(self, count: float) -> float:
        """Return the bytes that are moved for `count` bytes: whole granules."""
        grain = self.granularity_bytes
        return -(-count // grain) * grain if grain else count

    def channel_s(self, count: float) -> float:
        """Return the seconds that `count` bytes take of the whole channel."""
        return self.moved(count) / self.channel.bytes_per_s if self.channel else 0.0


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
    parts: list[MemoryTier | Dma] = [tier, *hops]
    rates = [part.bandwidth * part.efficiency for part in parts]
    common = [(rate, sharers(system, part)) for rate, part in zip(rates, parts, strict=True)]
    channels = [Channel(source, rate, n) for rate, n in common if n > 1]
    slowest = min(channels, key=lambda channel: channel.bytes_per_s / channel.sharers, default=None)
    energy = tier.energy_per_byte + tiers[main].energy_per_byte + sum(hop.energy_per_byte for hop in hops)
    latency = tier.latency + sum(hop.latency for hop in hops)
    return Path(source, min(rates), latency, tier.granularity or 0.0, energy, slowest)


def sharers(system: System, part: MemoryTier | Dma) -> int:
    """Return how many devices of a node share a tier or link: as it says, else all, if it is in the host."""
    if "shared_by" in part.model_fields_set:
        return part.shared_by
    inside = isinstance(part, Dma) and part.target in system.host.memory
    tier = any(part is known for known in system.host.memory.values())
    return system.devices_per_node if inside or tier else 1


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
