"""What an operator costs on a device: seconds by resource, FLOPs, bytes by memory tier.

``build_cost_model("analytical", device)`` gives the model; its methods take shapes and return a `Cost`.
"""

from __future__ import annotations

import hwmodels.cycle.slot  # noqa: F401  registers the cost model "cycle"

from .analytical import Analytical, AnalyticalModel
from .cost import PARTS, Cost, CostArrays
from .experts import ExpertTables
from .model import COLLECTIVES, COST_MODELS, CostModel, build_cost_model
from .roofline import Roofline, RooflineModel

__all__ = [
    "COLLECTIVES", "COST_MODELS", "PARTS", "Analytical", "AnalyticalModel", "Cost", "CostArrays", "CostModel",
    "ExpertTables", "Roofline", "RooflineModel", "build_cost_model",
]  # fmt: skip
