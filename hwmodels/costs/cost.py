"""What one operator costs: seconds by the resource that spends them, FLOPs, bytes by memory tier."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .namespace import blend

FloatArray = npt.NDArray[np.float64]

PARTS: tuple[str, ...] = (
    "compute",  # tensor cores
    "vector",  # CUDA cores and special functions: softmax, (de)quantisation
    "memory",  # bandwidth of the main memory
    "cache",  # bandwidth of the on-chip cache
    "launch",  # launch and other fixed latencies of the device
    "link_bandwidth",
    "link_latency",
)
N_PARTS = len(PARTS)
COMPUTE, VECTOR, MEMORY, CACHE, LAUNCH, LINK_BANDWIDTH, LINK_LATENCY = range(N_PARTS)


@dataclass(frozen=True, slots=True)
class Cost:
    """Time of one operator on one device, split by resource.

    Laws: ``sum(parts) == duration_s``, and ``parts[p] == -d duration_s / d ln(speed of PARTS[p])``:
    every model here is a function of component times that is homogeneous of degree one, so both hold
    by Euler's theorem.  The elasticity of a whole run is thus a sum of parts over its critical path.
    """

    parts: tuple[float, ...]  # seconds, by PARTS
    flop: float = 0.0
    bytes_by_tier: tuple[tuple[str, float], ...] = ()  # (tier or "link", bytes)

    @property
    def duration_s(self) -> float:
        """Seconds from launch to end."""
        return sum(self.parts)

    def part_s(self, name: str) -> float:
        """Return the seconds of one resource, by its name in PARTS."""
        return self.parts[PARTS.index(name)]

    def bytes_of(self, tier: str) -> float:
        """Return the bytes moved at one tier (0 if it is not touched)."""
        return sum(count for name, count in self.bytes_by_tier if name == tier)

    def __add__(self, other: Cost) -> Cost:
        """Return the cost of two operators one after the other."""
        tiers: dict[str, float] = dict(self.bytes_by_tier)
        for name, count in other.bytes_by_tier:
            tiers[name] = tiers.get(name, 0.0) + count
        parts = tuple(a + b for a, b in zip(self.parts, other.parts, strict=True))
        return Cost(parts, self.flop + other.flop, tuple(tiers.items()))

    def times(self, count: float) -> Cost:
        """Return the cost of `count` equal operators one after the other."""
        tiers = tuple((name, value * count) for name, value in self.bytes_by_tier)
        return Cost(tuple(p * count for p in self.parts), self.flop * count, tiers)


@dataclass(frozen=True, slots=True)
class CostArrays:
    """Costs of many shapes at once: the vectorised twin of `Cost`."""

    parts_s: FloatArray  # shape (len(PARTS), N)
    flop: FloatArray  # shape (N,)
    bytes_by_tier: Mapping[str, FloatArray]

    @property
    def duration_s(self) -> FloatArray:
        """Seconds, shape (N,)."""
        total: FloatArray = self.parts_s.sum(axis=0)
        return total

    def at(self, i: int) -> Cost:
        """Return one shape's cost."""
        tiers = tuple((name, float(count[i])) for name, count in self.bytes_by_tier.items())
        return Cost(tuple(float(p) for p in self.parts_s[:, i]), float(self.flop[i]), tiers)


@dataclass(slots=True)
class Terms:
    """What a formula returns, for scalars (floats) and arrays alike: component parts and counters."""

    compute: Any = 0.0
    vector: Any = 0.0
    memory: Any = 0.0
    cache: Any = 0.0
    launch: Any = 0.0
    link_bandwidth: Any = 0.0
    link_latency: Any = 0.0
    flop: Any = 0.0
    bytes_main: Any = 0.0
    bytes_link: Any = 0.0

    def __add__(self, other: Terms) -> Terms:
        """Return the terms of two operators one after the other."""
        return Terms(*(getattr(self, name) + getattr(other, name) for name in self.__slots__))

    def behind(self, host_s: Any, power: float) -> Terms:
        """Return the terms of work that is handed over while the host prepares the next (in `host_s`).

        The host runs ahead, so the longer of the two counts: the norm `power` of both, as in `blend`.
        """
        device_s = self.seconds()
        waiting_s, working_s = blend(power, host_s, device_s)
        share = working_s / device_s
        parts = {name: getattr(self, name) * share for name in PARTS}
        parts["launch"] = parts["launch"] + waiting_s
        return Terms(**parts, flop=self.flop, bytes_main=self.bytes_main, bytes_link=self.bytes_link)

    def seconds(self) -> Any:
        """Return the duration."""
        return sum(self.parts())

    def parts(self) -> tuple[Any, ...]:
        """Return the seconds in the order of PARTS."""
        return (
            self.compute,
            self.vector,
            self.memory,
            self.cache,
            self.launch,
            self.link_bandwidth,
            self.link_latency,
        )

    def cost(self, main: str) -> Cost:
        """Return the scalar cost; `main` names the main memory tier."""
        tiers = ((main, self.bytes_main), ("link", self.bytes_link))
        return Cost(self.parts(), self.flop, tuple(t for t in tiers if t[1]))

    def arrays(self, main: str) -> CostArrays:
        """Return the costs of many shapes."""
        columns = [*self.parts(), self.flop, self.bytes_main, self.bytes_link]
        wide = np.broadcast_arrays(*[np.atleast_1d(np.asarray(c, dtype=np.float64)) for c in columns])
        flop, main_bytes, link_bytes = (np.array(w) for w in wide[N_PARTS:])
        return CostArrays(np.stack(wide[:N_PARTS]), flop, {main: main_bytes, "link": link_bytes})
