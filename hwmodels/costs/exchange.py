"""Dispatch of tokens to the ranks of their experts, and combination of what comes back."""

from __future__ import annotations

from typing import Any

from hwmodels.spec import Link

from .cost import Terms
from .machine import Machine

OPS = ("dispatch", "combine")


def copies(tokens_once: bool, top_k: Any, ranks: Any, nodes: Any) -> tuple[Any, Any]:
    """Return how often a token is sent (within its node, between nodes), experts spread evenly.

    Parameters
    ----------
    tokens_once : bool   whether a token goes once to each rank (and once to each other node, which
                         passes it on) that has any of its experts, or once to each expert

    Notes
    -----
    Law: neither is more than `top_k`; one rank sends nothing.
    """
    local = ranks / nodes
    if not tokens_once:
        return top_k * (local - 1.0) / ranks, top_k * (ranks - local) / ranks
    reached = 1.0 - (1.0 - 1.0 / ranks) ** top_k
    return (local - 1.0) * reached, (nodes - 1.0) * (1.0 - (1.0 - 1.0 / nodes) ** top_k)


def exchange(xp: Any, machine: Machine, op: str, sent: tuple[Any, Any], units: Any, links: tuple[Link, Link],
             section: str = "moe_alltoall") -> Terms:  # fmt: skip
    """Cost one rank's part of a dispatch or combine.

    Parameters
    ----------
    sent    bytes (within the node, between nodes)
    units   processors that copy (0: enough of them)
    links   (within the node, between nodes)

    Notes
    -----
    ``latency + the longest of: sent / usable rate of each port, sent / rate of the processors that copy``.
    """
    c = machine.section(section)
    share = c[f"efficiency_{op}"]
    near, far = (each / (link.bandwidth * min(1.0, scale * share) * machine.speed["link_bandwidth"])
                 for each, link, scale in zip(sent, links, (1.0, c["far_gain"]), strict=True))  # fmt: skip
    copied = (sent[0] + sent[1]) / machine.bytes_per_s(c["unit_bytes"], "link_bandwidth")
    wire_s = xp.maximum(xp.maximum(near, far), xp.where(units > 0, copied / xp.maximum(units, 1.0), 0.0))
    waits = xp.where(sent[1] > 0, links[1].latency, 0.0) * c["far_latency"]
    latency_s = links[0].latency * c[f"latency_{op}"] + waits
    return Terms(link_bandwidth=wire_s, link_latency=latency_s / machine.speed["link_latency"],
                 bytes_link=sent[0] + sent[1])  # fmt: skip
