"""The two executors of a task graph: compiled (the default) and SimPy (the reference)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def iteration_class(executor: str) -> Callable[..., Any]:
    """Return what builds an engine's `Iteration` for an executor, ``compiled`` or ``simpy``.

    Law: both give the same bits.
    """
    if executor == "simpy":
        from functools import partial

        from codesign.execute.simpy_executor import simpy_events
        from ext.iteration import reference

        return partial(reference.Iteration, execute=simpy_events)
    import ext.iteration

    compiled: Callable[..., Any] = ext.iteration.Iteration
    return compiled
