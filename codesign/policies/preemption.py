"""Slot "preemption": what becomes of a sequence's cache when its memory is needed for older sequences."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from codesign.base.registry import Registry
from codesign.base.units import Bytes


class Preemption(Protocol):
    """What becomes of the youngest sequence's cache when those before it need its memory."""

    tier: str | None  # that keeps it; None: it is computed again
    capacity: float | None  # bytes of that tier for each device; None: what it has left


PREEMPTIONS: Registry[Preemption] = Registry("preemption")


@PREEMPTIONS.register("recompute")
@dataclass(frozen=True)
class Recompute:
    """It is given up: prompt and output so far are prefilled again, before other requests."""

    tier = None
    capacity = None


@PREEMPTIONS.register("swap")
@dataclass(frozen=True)
class Swap:
    """Its blocks go to another tier, and come back before any other request is admitted (vLLM, SOSP 2023).

    A block of a layer is one call.  What does not fit there, and prompts that are not done, are computed
    again.
    """

    tier: str
    capacity: Bytes | None = None
