"""The cycle level: DRAM channels, processing in memory, systolic arrays, and the cost model made of them.

Modules: `standards` (DRAM parts from files), `streams` (streams of bursts), `memory` (bandwidth of access
patterns), `pim`, `systolic`, `model` (the cost model "cycle"), `tables` (CSV in, CSV out).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hwmodels.costs import CostModel
    from hwmodels.spec import Device


def build_cycle_model(device: Device, speed: Mapping[str, float] | None = None) -> CostModel:
    """Build the operator costs of a device with simulated DRAM (also ``build_cost_model("cycle", device)``).

    Raises
    ------
    ConfigError   the main memory is no DRAM, or its standard is not in the library
    """
    from .model import CycleModel

    return CycleModel(device, speed)
