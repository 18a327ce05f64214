"""The cost model "cycle" in the slot of cost models; what it needs is imported when it is built."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from hwmodels.costs.machine import Framework
from hwmodels.costs.model import COST_MODELS

if TYPE_CHECKING:
    from hwmodels.spec import Device

    from .model import CycleModel


@COST_MODELS.register("cycle")
@dataclass(frozen=True)
class Cycle:
    """The analytical model with the bandwidth that each access pattern gets from simulated DRAM.

    queue : entries of the controller's read queue.  refresh : as the controller does it.
    constants, kernels : as of the analytical model.
    """

    queue: int = 128
    refresh: Literal["all_bank", "per_bank", "none"] = "all_bank"
    constants: dict[str, float] = field(default_factory=dict)
    kernels: Framework | None = None

    def on(self, device: Device, speed: Mapping[str, float] | None = None) -> CycleModel:
        """Build the model of a device."""
        from .model import CycleModel

        return CycleModel(device, speed, self)
