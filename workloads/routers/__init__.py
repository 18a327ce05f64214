"""Routers: how tokens choose experts, what that costs.  Each is a small registered class; see `ROUTERS`."""

from workloads.routers import conditioned as _conditioned
from workloads.routers import dynamic as _dynamic
from workloads.routers import requests as _requests
from workloads.routers import sequence as _sequence
from workloads.routers import structured as _structured
from workloads.routers import token_choice as _token_choice
from workloads.routers.base import (
    ROUTERS,
    Choice,
    Context,
    GateShape,
    Router,
    RouterCost,
    executed_flop,
)

__all__ = ["ROUTERS", "Choice", "Context", "GateShape", "Router", "RouterCost", "executed_flop"]

_COMPONENTS = (_conditioned, _dynamic, _requests, _sequence, _structured, _token_choice)
