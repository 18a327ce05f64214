"""Slot "placement": which expert group holds each expert."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from codesign.base.random import stream
from codesign.base.registry import Registry


class Placement(Protocol):
    """A map from experts to expert groups.

    Law: every group of a layer holds the same number of experts, and every expert has one group.
    """

    def place(self, n_layers: int, n_experts: int, n_groups: int, seed: int) -> NDArray[np.int16]:
        """Return int16[L, E]: the group of each expert in each MoE layer."""
        ...


PLACEMENTS: Registry[Placement] = Registry("placement")


@PLACEMENTS.register("contiguous")
@dataclass(frozen=True)
class Contiguous:
    """Experts 0..E/G-1 in group 0, and so on: what frameworks do unless told otherwise."""

    def place(self, n_layers: int, n_experts: int, n_groups: int, seed: int) -> NDArray[np.int16]:
        """See `Placement.place`."""
        layer = (np.arange(n_experts) // (n_experts // n_groups)).astype(np.int16)
        return np.tile(layer, (n_layers, 1))


@PLACEMENTS.register("round_robin")
@dataclass(frozen=True)
class RoundRobin:
    """Expert e in group e mod G."""

    def place(self, n_layers: int, n_experts: int, n_groups: int, seed: int) -> NDArray[np.int16]:
        """See `Placement.place`."""
        return np.tile((np.arange(n_experts) % n_groups).astype(np.int16), (n_layers, 1))


@PLACEMENTS.register("random")
@dataclass(frozen=True)
class Random:
    """Each layer's experts in a random order, dealt out evenly."""

    def place(self, n_layers: int, n_experts: int, n_groups: int, seed: int) -> NDArray[np.int16]:
        """See `Placement.place`."""
        draws = stream(seed, "placement")
        return np.stack([(draws.permutation(n_experts) % n_groups).astype(np.int16) for _ in range(n_layers)])
