"""Slot "switching": which expert model an engine serves next, when each request is of one of several.

An engine serves one model at a time: all requests of it that wait become its batch, and the engine stays
until they are done.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

from codesign.base.registry import Registry
from codesign.base.units import Time


class Switching(Protocol):
    """Which model is served next.

    Law: the choice is one of the models of which a request waits.
    """

    def choose(self, waiting: Sequence[tuple[int, float]], held: Collection[int], now: float) -> int:
        """Return the model to serve.

        Parameters
        ----------
        waiting : (model, time of arrival) of each request, oldest first; at least one
        held : models in main memory, or on their way there
        """
        ...


SWITCHINGS: Registry[Switching] = Registry("switching")


@SWITCHINGS.register("oldest")
@dataclass(frozen=True)
class Oldest:
    """The model of the request that has waited longest: nobody is passed over."""

    def choose(self, waiting: Sequence[tuple[int, float]], held: Collection[int], now: float) -> int:
        """See `Switching.choose`."""
        return waiting[0][0]


@SWITCHINGS.register("held_first")
@dataclass(frozen=True)
class HeldFirst:
    """The oldest request whose model is held, unless another has waited for longer than `patience`."""

    patience: Time = 10.0

    def choose(self, waiting: Sequence[tuple[int, float]], held: Collection[int], now: float) -> int:
        """See `Switching.choose`."""
        oldest, since_s = waiting[0]
        if now - since_s > self.patience:
            return oldest
        return next((model for model, _ in waiting if model in held), oldest)
