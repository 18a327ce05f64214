"""One DRAM channel behind its controller: first-ready first-come scheduling, refresh, write drain.

``run(channel, controller, bank, row, unit, write, arrival)`` takes a stream of bursts and returns what was
counted (`Counters`).  ``reference`` goes tick by tick and is the definition; the compiled twin skips to the
next tick at which anything can happen and gives the same integers.
"""

from __future__ import annotations

from .channel import Channel, Command, Controller, Counters, Level, Refresh, Wait, addresses
from .run import backend, run

__all__ = [
    "Channel", "Command", "Controller", "Counters", "Level", "Refresh", "Wait", "addresses", "backend", "run",
]  # fmt: skip
