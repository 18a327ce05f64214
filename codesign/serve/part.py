"""`Part`: what the iterations of one model run on; an engine usually has one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from codesign.lower.costs import BatchCosts
from codesign.lower.plan import Plan
from codesign.lower.portions import Assigner
from codesign.serve.lane import RoutingFeed


@dataclass(frozen=True)
class Part:
    """A model's plan, costs and routing, and its iteration on each engine."""

    plan: Plan
    costs: BatchCosts
    routing: RoutingFeed
    engines: list[Any]
    assigners: list[Assigner]
