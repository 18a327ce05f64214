"""SimPy's environment with events at absolute times: no sum of delays, hence no rounding."""

from __future__ import annotations

from heapq import heappush

from simpy import Environment, Event

ARRIVAL, COMPLETION = 0, 1  # of what happens at one time, arrivals come first


class Clock(Environment):  # type: ignore[misc]
    """Law: an event made by ``at(t)`` happens when ``now == t``, to the last bit."""

    def at(self, time_s: float, priority: int = COMPLETION) -> Event:
        """Return an event that happens at `time_s`, which must not be past."""
        event = Event(self)
        event._ok, event._value = True, None
        heappush(self._queue, (time_s, priority, next(self._eid), event))
        return event
