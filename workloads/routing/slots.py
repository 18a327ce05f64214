"""Where the state of each request is kept: a table of slots, bounded, the longest undrawn dropped first."""

from __future__ import annotations

from collections import OrderedDict

import numpy as np

from workloads.routing.stream import IntArray


class SlotTable:
    """Gives each request a slot 0 .. size - 1; a full table drops the request that was drawn longest ago.

    Law: the requests of one call (at most `limit` different ones) hold different slots.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.size = 0  # slots handed out so far; states must have at least this many rows
        self._slots: OrderedDict[int, int] = OrderedDict()
        self._free: list[int] = []

    def find(self, requests: IntArray) -> tuple[IntArray, list[tuple[int, int]]]:
        """Return the slot of each request, and (request, slot) of those that are new and must be started."""
        wanted = requests.tolist()
        found = [self._slots.get(request, -1) for request in wanted]
        fresh: list[tuple[int, int]] = []
        if len(self._slots) >= self.limit // 2 or -1 in found:
            found, fresh = self._insert(wanted)
        return np.array(found, np.int64), fresh

    def _insert(self, wanted: list[int]) -> tuple[list[int], list[tuple[int, int]]]:
        found, fresh = [], []
        for request in wanted:
            if request in self._slots:
                self._slots.move_to_end(request)
        for request in wanted:
            slot = self._slots.get(request)
            if slot is None:
                slot = self._take()
                self._slots[request] = slot
                fresh.append((request, slot))
            found.append(slot)
        return found, fresh

    def _take(self) -> int:
        if self._free:
            return self._free.pop()
        if len(self._slots) >= self.limit:
            return self._slots.popitem(last=False)[1]
        self.size += 1
        return self.size - 1

    def drop(self, request: int) -> None:
        """Free the slot of a request, if it has one."""
        slot = self._slots.pop(request, None)
        if slot is not None:
            self._free.append(slot)


def grown(rows: int, needed: int, limit: int) -> int:
    """Return how many rows a table of states should have: doubled until it holds `needed`."""
    rows = max(rows, 16)
    while rows < needed:
        rows *= 2
    return min(rows, max(limit, needed))


def parts_of(requests: IntArray, limit: int) -> list[slice]:
    """Cut the spans of one call so that no part holds more different requests than `limit`."""
    if len(requests) <= limit or len(np.unique(requests)) <= limit:
        return [slice(0, len(requests))]
    return [slice(i, min(i + limit, len(requests))) for i in range(0, len(requests), limit)]
