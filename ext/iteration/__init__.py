"""One iteration of an engine, fused: count the routing, cost the experts and exchanges, run the graph.

A *layout* holds what stays the same from one iteration to the next (the graph, who holds which expert, the
cost tables); `Iteration` holds the state of one engine and runs it.  See `ext.iteration.layout.Layout`.
"""

from ext.backend import kernels
from ext.iteration.layout import KINDS, PARTS, TALLY, Layout

_impl = kernels("ext.iteration", cython="_iteration")

Iteration = _impl.Iteration
count = _impl.count

__all__ = ["KINDS", "PARTS", "TALLY", "Iteration", "Layout", "count"]
