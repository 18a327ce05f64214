"""Collectives over links: latency per step, bandwidth that grows with the message."""

from __future__ import annotations

import math

from codesign.base.errors import ConfigError, unknown_name
from hwmodels.spec import Link

from .cost import LINK_BANDWIDTH, LINK_LATENCY, N_PARTS, Cost
from .machine import Machine

OPS = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all", "send")


def bytes_per_port(op: str, ranks: int, in_network: bool) -> float:
    """Return bytes that one rank's port sends per byte of the buffer (ring or direct algorithms).

    Law: all_reduce == reduce_scatter + all_gather, unless the network reduces.
    """
    ring = (ranks - 1) / ranks
    if op == "all_reduce":
        return 1.0 if in_network else 2.0 * ring
    if op in ("all_gather", "reduce_scatter", "all_to_all"):
        return ring
    if op == "send":
        return 1.0
    raise unknown_name("collective", op, OPS)


def slowest_port(
    op: str, size: float, ranks: int, intra: Link | None, inter: Link | None, ranks_per_node: int | None
) -> tuple[float, Link]:
    """Return (bytes, link) of the port that takes longest at its peak.

    Within a node every byte crosses `intra`.  Over nodes, all_reduce, all_gather and reduce_scatter are
    hierarchical: each of the node's ports carries its 1/ranks_per_node of the traffic between nodes;
    all_to_all and send cross `inter` with the share of peers that are elsewhere.

    Raises
    ------
    ConfigError   a link that is needed is not there
    """
    local = min(ranks, ranks_per_node or ranks)
    nodes = math.ceil(ranks / local)
    choices: list[tuple[float, Link]] = []
    if nodes > 1:
        if inter is None:
            raise ConfigError(f"{op} over {nodes} nodes: the system has no inter_node link")
        choices.append((size * between_nodes(op, ranks, local), inter))
    if local > 1 and not (op == "send" and nodes > 1):
        if intra is None:
            raise ConfigError(f"{op} among {local} devices of a node: the system has no intra_node link")
        choices.append((size * bytes_per_port(op, local, intra.in_network_reduction), intra))
    return max(choices, key=lambda choice: choice[0] / choice[1].bandwidth)


def between_nodes(op: str, ranks: int, local: int) -> float:
    """Return bytes that one rank's port into the network sends per byte of the buffer."""
    nodes = math.ceil(ranks / local)
    if op == "all_to_all":
        return (ranks - local) / ranks
    if op == "send":
        return 1.0
    return bytes_per_port(op, nodes, False) / local


def port_s(machine: Machine, link: Link, sent: float) -> float:
    """Return the seconds that `sent` bytes take through one device's port."""
    half = machine.constants["collectives.half_size_bytes"]
    rate = link.bandwidth * link.efficiency * machine.speed["link_bandwidth"]
    return sent / rate * (1.0 + half / (half + sent))


def collective(
    machine: Machine, op: str, size: float, ranks: int, intra: Link | None, inter: Link | None,
    ranks_per_node: int | None,
) -> Cost:  # fmt: skip
    """Cost one collective (see `CostModel.collective`)."""
    if ranks <= 1 or size <= 0:
        return Cost((0.0,) * N_PARTS)
    sent, link = slowest_port(op, size, ranks, intra, inter, ranks_per_node)
    parts = [0.0] * N_PARTS
    parts[LINK_BANDWIDTH] = port_s(machine, link, sent)
    parts[LINK_LATENCY] = latency_s(machine, op, ranks, link)
    return Cost(tuple(parts), 0.0, (("link", size * bytes_per_port(op, ranks, False)),))


def latency_s(machine: Machine, op: str, ranks: int, link: Link) -> float:
    """Return the seconds of latency of one collective."""
    steps = 0.0 if op == "send" else math.log2(ranks) * (2.0 if op == "all_reduce" else 1.0)
    factor = 1.0 + machine.constants["collectives.step_latency"] * steps
    return link.latency * factor / machine.speed["link_latency"]


def alltoall(machine: Machine, link: Link, ranks: int) -> tuple[float, float]:
    """Return (latency_s, seconds_per_byte) of a drawn exchange."""
    rate = link.bandwidth * link.efficiency * machine.speed["link_bandwidth"]
    return latency_s(machine, "all_to_all", max(ranks, 2), link), 1.0 / rate
