"""Paths between memory tiers: what it takes to bring bytes from where they live to where they are used."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
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
    """The hops from a tier to a device's main memory, or some of them.

    A transfer is as fast as the slowest hop when it is alone, and each call pays every hop's latency; it
    moves whole granules of the source.  It holds a port of its device, and `channel`, the slowest of the hops
    that devices share.
    """

    source: str
    bytes_per_s: float
    latency_s: float
    granularity_bytes: float
    energy_j_per_byte: float
    channel: Channel | None = None
    hops: tuple[Channel, ...] = ()  # in order; one sharer: each device has its own
    port: str = "copy"

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
        channel = replace(self.channel, bytes_per_s=rate, sharers=sharers) if behind * port > rate else None
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


def legs(pieces: Sequence[Path], count: float, calls: int) -> Iterator[tuple[float, float]]:
    """Give (seconds of bandwidth, of latency) for all that a transfer over some pieces holds at once.

    For each piece: the device's port, then the channel behind it, if devices share one.
    """
    for piece in pieces:
        yield piece.seconds(count, calls)
        if piece.channel is not None:
            yield piece.channel_s(count), 0.0


def n_legs(pieces: Sequence[Path]) -> int:
    """Count what a transfer over some pieces holds at once."""
    return sum(1 + (piece.channel is not None) for piece in pieces)


def apart(paths: Mapping[str, Path]) -> dict[str, tuple[Path, ...]]:
    """Cut paths where they meet and part, by their names.

    Hops that the same paths use are one piece, as fast as the slowest of them, with a port of its own name;
    bytes pass all pieces of their path at once, and meet those of other paths where they share one.  A piece
    that its paths together cannot fill is left out.

    Law: a single path is one piece, itself; alone, a transfer over the pieces takes what the path takes.
    """
    if len(paths) == 1:
        return {name: (path,) for name, path in paths.items()}
    users: dict[str, set[str]] = {}
    for name, path in paths.items():
        for hop in path.hops:
            users.setdefault(hop.name, set()).add(name)
    groups: dict[frozenset[str], list[Channel]] = {}
    for hop in {hop.name: hop for path in paths.values() for hop in path.hops}.values():
        groups.setdefault(frozenset(users[hop.name]), []).append(hop)
    kept = {who: hops for who, hops in groups.items() if _can_be_filled(who, hops, paths)}
    return {
        name: _pieces(path, [hops for who, hops in kept.items() if name in who])
        for name, path in paths.items()
    }


def _can_be_filled(names: frozenset[str], hops: Sequence[Channel], paths: Mapping[str, Path]) -> bool:
    """Tell whether what else is on the way of these paths lets more come than these hops let through."""
    here = {hop.name for hop in hops}
    rates = [[hop.bytes_per_s for hop in paths[name].hops if hop.name not in here] for name in names]
    arriving = sum(min(rate, default=float("inf")) for rate in rates)
    return arriving > min(hop.bytes_per_s / hop.sharers for hop in hops)


def _pieces(path: Path, groups: Sequence[Sequence[Channel]]) -> tuple[Path, ...]:
    """Return a path's own rates over groups of its hops; a call's latency is paid on the first."""
    found: list[Path] = []
    for group in groups:
        names = {hop.name for hop in group}
        hops = tuple(hop for hop in path.hops if hop.name in names)
        rate, channel = _bottlenecks(hops)
        port = min(group, key=lambda hop: hop.bytes_per_s).name
        latency_s = 0.0 if found else path.latency_s
        found.append(
            replace(path, bytes_per_s=rate, channel=channel, hops=hops, latency_s=latency_s, port=port)
        )
    return tuple(found)


def _bottlenecks(hops: Sequence[Channel]) -> tuple[float, Channel | None]:
    """Return the rate of one transfer alone, and the hop that binds the devices together."""
    shared = (hop for hop in hops if hop.sharers > 1)
    channel = min(shared, key=lambda hop: hop.bytes_per_s / hop.sharers, default=None)
    return min(hop.bytes_per_s for hop in hops), channel


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
    links = _hops(system, source, main)
    if links is None:
        reachable = [name for name in tiers if name != main and _hops(system, name, main)]
        raise unknown_name(f"way to {main}: no link leads there from", source, reachable, where)
    tier = tiers[source]
    hops = [Channel(source, tier.bandwidth * tier.efficiency, sharers(system, tier))]
    for link in links:
        name = f"{link.source}>{link.target}"
        hops.append(Channel(name, link.bandwidth * link.efficiency, sharers(system, link)))
    rate, channel = _bottlenecks(hops)
    energy = tier.energy_per_byte + tiers[main].energy_per_byte + sum(link.energy_per_byte for link in links)
    latency = tier.latency + sum(link.latency for link in links)
    return Path(source, rate, latency, tier.granularity or 0.0, energy, channel, tuple(hops))


def find_way_back(system: System, target: str, where: str = "") -> Path:
    """Return the way from main memory to a tier: the same links in their other direction, its writes.

    A memory reads and writes over one controller; a link carries both directions at once.
    """
    path, tier = find_path(system, target, where), tiers_of(system)[target]
    share = (tier.write_bandwidth or tier.bandwidth) / tier.bandwidth
    first, *links = path.hops
    hops = [replace(first, bytes_per_s=first.bytes_per_s * share)]
    for hop in links:
        ends = hop.name.split(">")
        hops.append(replace(hop, name=f"{ends[1]}>{ends[0]}"))
    rate, channel = _bottlenecks(hops)
    return replace(path, bytes_per_s=rate, channel=channel, hops=tuple(hops), port="store")


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
