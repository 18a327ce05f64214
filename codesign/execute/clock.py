"""SimPy's environment with events at absolute times: no sum of delays, hence no rounding."""

from __future__ import annotations

from heapq import heappush

from simpy import Environment, Event

ARRIVAL, COMPLETION = 0, 1  # of what happens at one time, arrivals come first


class Clock(Environment):  # type: ignore[misc]
    """Law: an event set for time t happens when ``now == t``, to the last bit; ties go by `order`."""

    def at(self, time_s: float, order: int = COMPLETION, event: Event | None = None) -> Event:
        """Let an event, a new one unless given, happen at `time_s`, which must not be past."""
        event = Event(self) if event is None else event
        event._ok, event._value = True, None
        heappush(self._queue, (time_s, order, next(self._eid), event))
        return event
