"""Collectives over links: start, hops and pipelined messages; rings, reducing networks, peers' memory."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from codesign.base.errors import ConfigError, unknown_name
from hwmodels.spec import Link

from .cost import Cost, Terms
from .machine import Machine
from .namespace import SCALAR

OPS = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all", "send")


def bytes_per_port(op: str, ranks: float) -> float:
    """Return bytes that one rank's port sends per byte of the buffer (ring or direct algorithms).

    Law: all_reduce == reduce_scatter + all_gather.
    """
    ring = (ranks - 1) / ranks
    if op == "all_reduce":
        return 2.0 * ring
    if op in ("all_gather", "reduce_scatter", "all_to_all"):
        return ring
    if op == "send":
        return 1.0
    raise unknown_name("collective", op, OPS)


def slowest_port(
    op: str, ranks: int, intra: Link | None, inter: Link | None, ranks_per_node: int | None
) -> tuple[float, Link, int]:
    """Return (bytes per byte of the buffer, link, ranks on it) of the port that takes longest at its peak.

    Within a node every byte crosses `intra`.  Over nodes, all_reduce, all_gather and reduce_scatter are
    hierarchical: each of the node's ports carries its 1/ranks_per_node of the traffic between nodes;
    all_to_all and send cross `inter` with the share of peers that are elsewhere.

    Raises
    ------
    ConfigError   a link that is needed is not there
    """
    local = min(ranks, ranks_per_node or ranks)
    nodes = math.ceil(ranks / local)
    choices: list[tuple[float, Link, int]] = []
    if nodes > 1:
        if inter is None:
            raise ConfigError(f"{op} over {nodes} nodes: the system has no inter_node link")
        choices.append((_between_nodes(op, ranks, local), inter, nodes))
    if local > 1 and not (op == "send" and nodes > 1):
        if intra is None:
            raise ConfigError(f"{op} among {local} devices of a node: the system has no intra_node link")
        choices.append((bytes_per_port(op, local), intra, local))
    return max(choices, key=lambda choice: choice[0] / choice[1].bandwidth)


def _between_nodes(op: str, ranks: int, local: int) -> float:
    if op == "all_to_all":
        return (ranks - local) / ranks
    if op == "send":
        return 1.0
    return bytes_per_port(op, math.ceil(ranks / local)) / local


def transfer(xp: Any, machine: Machine, op: str, size: Any, share: float, ranks: int, link: Link,
             section: str = "collectives") -> Terms:  # fmt: skip
    """Cost a collective whose busiest port sends ``size * share`` bytes over `link` among `ranks`.

    The library sends in a ring, and where a network reduces may let it; kernels of an engine (`direct`)
    read their peers' memory in one step or in two, or call the library.  The fastest is taken.  Without a
    graph the host (`host_s`) may be slower than all of it, and the buffer is copied.
    """
    c = machine.section(section)
    out = _library(xp, machine, op, size, share, ranks, link)
    if c["direct"] and op == "all_reduce":
        for steps, sent in ((2.0, (ranks - 1.0) * size), (4.0, size * share)):
            own = _sent(xp, machine, c, link, ranks, steps * c["step_latency"], sent)
            out = _faster(xp, out, own)
    copied_s = size * 2.0 * c["copies"] / machine.bandwidth
    device_s = xp.maximum(out.seconds(), c["host_s"] / machine.speed["launch"])
    waits = (device_s > out.seconds()) * 1.0
    return Terms(
        link_bandwidth=out.link_bandwidth * (1.0 - waits), link_latency=out.link_latency * (1.0 - waits),
        launch=device_s * waits, memory=copied_s, bytes_link=out.bytes_link,
    )  # fmt: skip


def _library(xp: Any, machine: Machine, op: str, size: Any, share: float, ranks: int, link: Link) -> Terms:
    """Cost the communication library's: messages around a ring, or to all peers at once; or in the network.

    Handling its own part takes each rank a share of a message more.  A declared ring (`Link.algorithm`) is
    no library's: hops and bytes alone.
    """
    c = machine.section("collectives")
    if hops := ring_hops(op, ranks, link):
        wire_s = size * share / port_rate(machine, ranks, link, c)
        return Terms(link_bandwidth=wire_s, bytes_link=size * share,
                     link_latency=hops * link.latency / machine.speed["link_latency"])  # fmt: skip
    messages = max(ranks - 1.0, 1.0) * (2.0 if op == "all_reduce" else 1.0)
    steps = 1.0 if op == "all_to_all" else messages
    own = 0.0 if op == "send" else c["own_share"] / messages
    waits = steps * c["step_latency"]
    ring = _sent(xp, machine, c, link, ranks, waits, size * share, 1.0 + own)
    if op != "all_reduce" or not link.in_network_reduction:
        return ring
    return _faster(xp, ring, _sent(xp, machine, c, link, ranks, waits, size, 1.0 / c["network_efficiency"]))


def _sent(xp: Any, machine: Machine, c: Mapping[str, float], link: Link, ranks: int, waits: float, sent: Any,
          stretch: float = 1.0) -> Terms:  # fmt: skip
    """Cost `sent` bytes through a port in a pipeline whose pieces are as short as pays.

    ``fixed + wire + 2 sqrt(start of a piece * wire)``: k pieces take ``(k + 1) * (start + wire / k)`` and
    more, least at ``k = sqrt(wire / start)``.
    """
    wire_s = sent * stretch / port_rate(machine, ranks, link, c)
    start_s = c["piece_latency"] * link.latency / machine.speed["link_latency"]
    pieces_s = xp.sqrt(start_s * wire_s)
    fixed_s = latency_s(machine, waits, link, c)
    return Terms(link_bandwidth=wire_s + pieces_s, link_latency=fixed_s + pieces_s, bytes_link=sent)


def _faster(xp: Any, one: Terms, other: Terms) -> Terms:
    """Return the terms of the faster way, message by message."""
    better = one.seconds() <= other.seconds()
    return Terms(**{name: xp.where(better, getattr(one, name), getattr(other, name))
                    for name in ("link_bandwidth", "link_latency", "bytes_link")})  # fmt: skip


def port_rate(machine: Machine, ranks: int, link: Link, c: Mapping[str, float]) -> float:
    """Return bytes/s of a port in use; ranks on a shared bus divide it."""
    share = min(1.0 / link.efficiency, c["efficiency"])
    if link.topology == "pcie":
        share *= (2.0 / max(ranks, 2)) ** c["bus_sharing"]
    return link.bandwidth * link.efficiency * share * machine.speed["link_bandwidth"]


def ring_hops(op: str, ranks: int, link: Link) -> int:
    """Return the hops that follow each other around a ring, 0 where messages go straight to their end."""
    if link.algorithm != "ring" or op not in ("all_reduce", "all_gather", "reduce_scatter"):
        return 0
    return (ranks - 1) * (2 if op == "all_reduce" else 1)


def latency_s(machine: Machine, latencies: float, link: Link, c: Mapping[str, float]) -> float:
    """Return the seconds that do not depend on the message: the kernel's start, and latencies of the link."""
    return (c["base_cycles"] / machine.clock_hz + link.latency * latencies) / machine.speed["link_latency"]


def collective(
    machine: Machine, op: str, size: float, ranks: int, intra: Link | None, inter: Link | None,
    ranks_per_node: int | None,
) -> Cost:  # fmt: skip
    """Cost one collective (see `CostModel.collective`)."""
    bytes_per_port(op, 2)  # refuses an unknown name
    if ranks <= 1 or size <= 0:
        return Terms().cost(machine.main)
    share, link, on_link = slowest_port(op, ranks, intra, inter, ranks_per_node)
    return transfer(SCALAR, machine, op, size, share, on_link, link).cost(machine.main)


def alltoall(machine: Machine, link: Link, ranks: int) -> tuple[float, float]:
    """Return (latency_s, seconds_per_byte) of a drawn exchange."""
    c = machine.section("collectives")
    return latency_s(machine, c["step_latency"], link, c), 1.0 / port_rate(machine, ranks, link, c)
