"""Where tokens go: generators, recorded traces, fits, statistics and routers.  Knows no hardware."""

from workloads.routing import fits as _fits
from workloads.routing import independent as _independent
from workloads.routing import replay as _replay
from workloads.routing import routed as _routed
from workloads.routing import synthetic as _synthetic
from workloads.routing.build import build_routing, read_generator
from workloads.routing.files import read_trace, write_trace
from workloads.routing.stream import (
    GENERATORS,
    RoutingGenerator,
    RoutingShape,
    RoutingStream,
    set_domain,
)
from workloads.routing.trace import RoutingTrace

__all__ = [
    "GENERATORS",
    "RoutingGenerator",
    "RoutingShape",
    "RoutingStream",
    "RoutingTrace",
    "build_routing",
    "read_generator",
    "read_trace",
    "set_domain",
    "write_trace",
]

_COMPONENTS = (_fits, _independent, _replay, _routed, _synthetic)
