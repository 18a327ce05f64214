"""Collectives over links: latency by ranks, bandwidth that grows with the message and the ranks."""

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

    ``latency + sent / rate * (1 + half / (half + sent))``: a short message is sent at half the rate.
    With few ranks a port is not filled (``1 - pair_loss / ranks``); ranks on a shared bus divide it.
    A network that reduces carries the buffer once, and is used where that is faster.
    """
    c = machine.section(section)
    sent = size * share
    full = link.bandwidth * link.efficiency * machine.speed["link_bandwidth"]
    rate = full * port_share(op, ranks, link, c)
    wire_s = sent / rate * (1.0 + c["half_size_bytes"] / (c["half_size_bytes"] + sent))
    if op == "all_reduce" and link.in_network_reduction:
        reduced = size / (full * c["efficiency_in_network"])
        wire_s = xp.minimum(wire_s, reduced * (1.0 + c["half_size_bytes"] / (c["half_size_bytes"] + size)))
    return Terms(link_bandwidth=wire_s, link_latency=latency_s(machine, op, ranks, link, c), bytes_link=sent)


def port_share(op: str, ranks: int, link: Link, c: Mapping[str, float]) -> float:
    """Return the share of a port's usable bandwidth that an algorithm of `ranks` fills."""
    share = min(1.0 / link.efficiency, c[f"efficiency_{op}"]) * (1.0 - c["pair_loss"] / max(ranks, 2))
    if link.topology == "pcie":
        share *= (2.0 / max(ranks, 2)) ** c["bus_sharing"]
    return share


def ring_hops(op: str, ranks: int, link: Link) -> int:
    """Return the hops that follow each other around a ring, 0 where messages go straight to their end."""
    if link.algorithm != "ring" or op not in ("all_reduce", "all_gather", "reduce_scatter"):
        return 0
    return (ranks - 1) * (2 if op == "all_reduce" else 1)


def latency_s(machine: Machine, op: str, ranks: int, link: Link, c: Mapping[str, float]) -> float:
    """Return the seconds that do not depend on the message."""
    steps = 0.0 if op == "send" else math.log2(max(ranks, 2)) * (2.0 if op == "all_reduce" else 1.0)
    latencies = ring_hops(op, ranks, link) or c["base_latency"] + c["step_latency"] * steps
    return (link.latency * latencies + c["host_s"]) / machine.speed["link_latency"]


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
    full = link.bandwidth * link.efficiency * machine.speed["link_bandwidth"]
    rate = full * port_share("all_to_all", ranks, link, c)
    return latency_s(machine, "all_to_all", ranks, link, c), 1.0 / rate
