"""DRAM energy from counters: activations, bursts, I/O, refresh, background.

Method: each event has an energy and the rest is power times time (Micron TN-40-07; Chandrasekar et al.,
DRAMPower).  The figures, per event and per bit, stand in the standard's file with their source.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ext.dram import Counters

from .standards import Part


@dataclass(frozen=True)
class Joules:
    """Energy by cause."""

    activate: float
    read: float
    write: float
    io: float
    refresh: float
    background: float

    @property
    def total(self) -> float:
        """Sum of all causes."""
        return self.activate + self.read + self.write + self.io + self.refresh + self.background


def joules(part: Part, counted: Iterable[Counters], seconds: float, channels: int = 1) -> Joules:
    """Return the energy of `channels` channels that counted this in `seconds`.

    Law: linear in every counter and in time; no request and no time is no energy.  A refresh command of all
    banks is `refresh_activations` activations; one of a single bank its share of the banks.
    """
    figures, shape = part.standard.energy, part.organisation
    counts = list(counted)
    read = sum(c.reads for c in counts) * part.burst_bytes
    written = sum(c.writes for c in counts) * part.burst_bytes
    activations = sum(c.activations for c in counts)
    per_scope = shape.bank_groups * shape.banks
    refreshed = sum(c.refreshes * _banks_per_refresh(c, per_scope) for c in counts) / per_scope
    return Joules(
        activations * figures.activate, read * figures.read, written * figures.write,
        (read + written) * figures.io, refreshed * figures.refresh_activations * figures.activate,
        seconds * channels * figures.background,
    )  # fmt: skip


def _banks_per_refresh(counters: Counters, per_scope: int) -> float:
    return 1.0 if counters.per_bank_refresh else float(per_scope)
