"""The hardware of an engine as the passes see it: operator costs, links, energy, what-if factors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from codesign.base.errors import ConfigError
from codesign.engines.all_reduce import LARGEST_BYTES, all_reduce
from codesign.experiment.schema import DecodeSpec
from codesign.lower.pim import PimCosts
from ext.iteration import PARTS
from hwmodels.costs import PARTS as DEVICE_PARTS
from hwmodels.costs import Cost, build_cost_model
from hwmodels.energy import flop_energy_j, link_energy_j, pim_energy_j, tier_energy_j
from hwmodels.spec import Link, System

F64 = NDArray[np.float64]
_N_DEVICE = len(DEVICE_PARTS)
_LINK = PARTS.index("link_bandwidth")
_NETWORK, _FETCH = PARTS.index("network_bandwidth"), PARTS.index("fetch_bandwidth")
COUNTERS = (
    "flop", "memory_bytes", "link_bytes", "network_bytes", "pim_flop", "pim_bytes", "fetched_bytes",
    "decode_flop", "near_flop", "near_bytes",
)  # fmt: skip
N_COUNTERS = len(COUNTERS)


class NetworkCost(Cost):
    """A cost whose link seconds and bytes are of the network between nodes."""

    __slots__ = ()


class FetchCost(Cost):
    """A transfer between memory tiers: its link seconds are of the way, its bytes of the tier it is from."""

    __slots__ = ()

    @classmethod
    def of(cls, bandwidth_s: float, latency_s: float, tier: str, count: float) -> FetchCost:
        """Build the cost of moving `count` bytes."""
        return cls((*(0.0,) * _LINK, bandwidth_s, latency_s), 0.0, ((tier, count),))


class Machine:
    """Costs of one device in a system, with ``speed`` factors on PARTS for what-if questions."""

    def __init__(
        self,
        system: System,
        cost_model: Any,
        speed: Mapping[str, float],
        all_reduce_s: float | None = None,
    ) -> None:
        device = {part: factor for part, factor in speed.items() if part in DEVICE_PARTS}
        network = {
            **device,
            "link_bandwidth": speed.get("network_bandwidth", 1.0),
            "link_latency": speed.get("network_latency", 1.0),
        }
        self.system, self.speed = system, dict(speed)
        self.all_reduce_s = all_reduce_s  # latency of the engine's own; None: it has none
        self.main_memory = system.device.main_memory
        self.pim = PimCosts(system.device.pim, speed) if system.device.pim else None
        self.costs = build_cost_model(cost_model, system.device, device)
        self.between = build_cost_model(cost_model, system.device, network)

    def collective(self, op: str, count: float, ranks: int, nodes: int) -> Cost:
        """Cost a collective inside a node, or (`nodes` > 1) one that the network bounds.

        Inside a node an engine's own all-reduce is taken, up to its largest message, where it is faster.
        """
        s = self.system
        if nodes <= 1:
            cost = self.costs.collective(op, count, ranks, s.intra_node)
            if (
                op != "all_reduce"
                or self.all_reduce_s is None
                or s.intra_node is None
                or count > LARGEST_BYTES
            ):
                return cost
            own = all_reduce(count, ranks, s.intra_node, self.all_reduce_s, self.speed)
            return min(cost, own, key=lambda each: each.duration_s)
        cost = self.between.collective(op, count, ranks, s.intra_node, s.inter_node, s.devices_per_node)
        return NetworkCost(cost.parts, cost.flop, cost.bytes_by_tier)

    def exchange(self, ranks: int) -> tuple[F64, F64]:
        """Return latency_s[2] and seconds_per_byte[2] of a drawn exchange: inside a node, between nodes."""
        s, per_node = self.system, self.system.devices_per_node
        latency, per_byte = np.zeros(2), np.zeros(2)
        if s.intra_node and ranks > 1:
            inside = min(ranks, per_node)
            latency[0], per_byte[0] = self.costs.alltoall_coefficients(s.intra_node, inside)
        if s.inter_node and ranks > per_node:
            latency[1], per_byte[1] = self.between.alltoall_coefficients(s.inter_node, ranks)
        return latency, per_byte

    def parts(self, cost: Cost) -> F64:
        """Return seconds by `ext.iteration.PARTS`."""
        out = np.zeros(len(PARTS))
        out[:_N_DEVICE] = cost.parts
        moved = (
            _NETWORK if isinstance(cost, NetworkCost) else _FETCH if isinstance(cost, FetchCost) else _LINK
        )
        if moved != _LINK:
            out[moved : moved + 2] = out[_LINK : _LINK + 2]
            out[_LINK : _LINK + 2] = 0.0
        return out

    def counters(self, cost: Cost) -> F64:
        """Return FLOPs, bytes of main memory, of links, of the network (COUNTERS); of transfers nothing."""
        link = cost.bytes_of("link")
        network = link if isinstance(cost, NetworkCost) else 0.0
        out = np.zeros(N_COUNTERS)
        out[:4] = cost.flop, cost.bytes_of(self.main_memory), link - network, network
        return out

    def decode(self, decode: DecodeSpec, value_bytes: float) -> tuple[float, float]:
        """Return (seconds, FLOPs) of decoding one value of `value_bytes` bytes on the device's xPU.

        The vector units do it; a rate that is written keeps them busy so long.  Fused into a product it is
        as fast as that (``compute`` of the what-if factors), before it as they are (``vector``).
        """
        compute = self.system.device.compute
        vector = compute.vector_flop_rate or max(compute.peak_flop_rate.values()) / 16
        flop = decode.flop_per_value or 0.0
        if decode.rate is not None:
            flop = value_bytes / decode.rate * vector
        faster = self.speed.get("compute" if decode.fused else "vector", 1.0)
        return flop / vector / faster, flop

    def require_pim(self) -> PimCosts:
        """Return the PIM unit's costs.

        Raises
        ------
        ConfigError   the device has none
        """
        if self.pim is None:
            raise ConfigError(f"{self.system.device.name} has no PIM unit")
        return self.pim

    def dynamic_j(self, counters: Mapping[str, float], precision: str) -> dict[str, float]:
        """Return joules by what drew them, for COUNTERS summed over all devices; fetches apart."""
        device, s = self.system.device, self.system
        joules = {
            "compute": flop_energy_j(device, precision, counters["flop"]),
            device.main_memory: tier_energy_j(device, device.main_memory, counters["memory_bytes"]),
            "link": _link_j(s.intra_node, counters["link_bytes"]),
            "network": _link_j(s.inter_node, counters["network_bytes"]),
        }
        if device.pim and self.pim:
            joules["pim"] = pim_energy_j(device, counters["pim_flop"], counters["pim_bytes"])
        if counters["decode_flop"]:
            joules["decode"] = flop_energy_j(device, "fp32", counters["decode_flop"])
        return joules


def _link_j(link: Link | None, count: float) -> float:
    return link_energy_j(link, count) if link else 0.0
