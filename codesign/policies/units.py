"""Slot "units": which unit computes an expert (and decode attention), xPU or PIM.

The choice is made in each layer of each iteration from the drawn token counts: PIM streams weights faster,
the xPU multiplies faster, so that experts with few tokens belong on PIM (Duplex, MICRO 2024, section 4).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from codesign.base.registry import Registry

F64 = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class UnitTimes:
    """Estimates for the experts of every group, bundle by bundle, ascending by tokens; shape (..., E / G).

    ``xpu_s[..., k]`` is the xPU's time for all but the first k experts, k = 0 ... E / G, as one fused
    layer; ``pim_s[..., i]`` PIM's time for expert i alone; ``alone_s[..., i]`` the xPU's.  ``apart[..., k]``
    says whether the first k experts share no bundle of banks with the others.
    """

    xpu_s: F64
    pim_s: F64
    alone_s: F64
    launch_s: float  # of PIM
    apart: Bools | Literal[True] = True


class Units(Protocol):
    """Which experts go to PIM.

    Law: an expert without tokens changes nothing, wherever it goes.
    """

    @property
    def parallel(self) -> bool:
        """Whether both units compute at once."""
        ...

    @property
    def attention(self) -> str:
        """Who computes decode attention."""
        ...

    def to_pim(self, times: UnitTimes) -> Bools:
        """Return bool, shape of `times.pim_s`: computed by PIM."""
        ...


UNITS: Registry[Units] = Registry("units")
AttentionUnit = Literal["xpu", "pim", "min_time"]


@UNITS.register("xpu")
@dataclass(frozen=True)
class Xpu:
    """All on the xPU, PIM or not."""

    attention: AttentionUnit = "xpu"
    parallel = False

    def to_pim(self, times: UnitTimes) -> Bools:
        """See `Units.to_pim`."""
        return np.zeros(times.pim_s.shape, dtype=bool)


@UNITS.register("pim")
@dataclass(frozen=True)
class PimOnly:
    """All experts on PIM."""

    attention: AttentionUnit = "pim"
    parallel = False

    def to_pim(self, times: UnitTimes) -> Bools:
        """See `Units.to_pim`."""
        return np.ones(times.pim_s.shape, dtype=bool)


@UNITS.register("min_time")
@dataclass(frozen=True)
class MinTime:
    """Each expert on the unit that is faster for it, one unit after the other."""

    attention: AttentionUnit = "min_time"
    parallel = False

    def to_pim(self, times: UnitTimes) -> Bools:
        """See `Units.to_pim`."""
        return times.pim_s < times.alone_s


@UNITS.register("co_process")
@dataclass(frozen=True)
class CoProcess:
    """Both units at once: PIM takes the bundles with the fewest tokens, as many as end both soonest.

    A bundle (`hwmodels` ``pim.bundles``) feeds one unit in a layer, so that its experts stay together; where
    each expert lies in banks of its own, they are dealt one by one.
    """

    attention: AttentionUnit = "min_time"
    parallel = True

    def to_pim(self, times: UnitTimes) -> Bools:
        """See `Units.to_pim`."""
        first = np.zeros((*times.pim_s.shape[:-1], 1))
        pim_s = np.concatenate((first, np.cumsum(times.pim_s, axis=-1)), axis=-1)
        pim_s = pim_s + times.launch_s * (pim_s > 0)
        ends_s = np.where(times.apart, np.maximum(pim_s, times.xpu_s), np.inf)
        split = np.argmin(ends_s, axis=-1)
        chosen: Bools = np.arange(times.pim_s.shape[-1]) < split[..., None]
        return chosen
