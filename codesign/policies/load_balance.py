"""Slot "load_balance": which data group serves a request."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence as Seq
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from codesign.base.registry import Registry

if TYPE_CHECKING:
    from codesign.serve.sequence import Sequence


class Queue(Protocol):
    """What a load balancer sees of a data group (or of an engine that serves many models)."""

    waiting: deque[Sequence]

    @property
    def running(self) -> int:
        """Requests in the batch."""
        ...

    @property
    def outstanding_tokens(self) -> int:
        """Tokens given to it and not yet computed."""
        ...


class LoadBalance(Protocol):
    """Which data group serves a request."""

    def share_queues(self, groups: Seq[Queue]) -> None:
        """Prepare the groups' queues; most do nothing."""
        ...

    def choose(self, sequence: Sequence, groups: Seq[Queue]) -> int:
        """Return the index of the group whose queue the request joins."""
        ...


LOAD_BALANCES: Registry[LoadBalance] = Registry("load_balance")


@LOAD_BALANCES.register("round_robin")
@dataclass
class RoundRobin:
    """One after the other, in order of arrival."""

    def share_queues(self, groups: Seq[Queue]) -> None:
        """Start at the first group."""
        self._next = 0

    def choose(self, sequence: Sequence, groups: Seq[Queue]) -> int:
        """See `LoadBalance.choose`."""
        chosen, self._next = self._next, (self._next + 1) % len(groups)
        return chosen


@LOAD_BALANCES.register("least_loaded")
@dataclass(frozen=True)
class LeastLoaded:
    """The group with the fewest tokens to compute; the first among equals."""

    def share_queues(self, groups: Seq[Queue]) -> None:
        """Nothing to prepare."""

    def choose(self, sequence: Sequence, groups: Seq[Queue]) -> int:
        """See `LoadBalance.choose`."""
        return min(range(len(groups)), key=lambda i: groups[i].outstanding_tokens)


@LOAD_BALANCES.register("shared_queue")
@dataclass(frozen=True)
class SharedQueue:
    """One queue for all groups: whoever has room takes the next request (an idle one first)."""

    def share_queues(self, groups: Seq[Queue]) -> None:
        """Let all groups wait on one queue."""
        queue: deque[Sequence] = deque()
        for group in groups:
            group.waiting = queue

    def choose(self, sequence: Sequence, groups: Seq[Queue]) -> int:
        """See `LoadBalance.choose`."""
        return min(range(len(groups)), key=lambda i: groups[i].running)
