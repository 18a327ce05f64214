"""Execution of a task graph: longest-path sweep, first-come and shared resources, critical path.

A graph is arrays, in program order (a task's predecessors have smaller indices):

    row       int32[n]      task -> row of the duration table (tasks of one shape share a row)
    resource  int32[n]      the resource that the task holds; -1: none (a barrier node)
    pred_ptr  int32[n + 1]  predecessors of task i are pred[pred_ptr[i]:pred_ptr[i + 1]]
    pred      int32[m]
    row_s     float64[r]    duration of each row

Tasks start as soon as their resource lets them; who was waited for is the task's *cause*, and the chain
of causes from the last finish is the critical path.
"""

from ext.backend import kernels

_impl = kernels("ext.graph", cython="_graph")

sweep = _impl.sweep
events = _impl.events
critical_path = _impl.critical_path

__all__ = ["critical_path", "events", "sweep"]
