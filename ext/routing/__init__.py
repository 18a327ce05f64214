"""Kernels over routing: counter-based draws, the fitted generator's inner loop, counts and reuse.

``iid()`` and ``counts()`` return the fastest module that is built; ``reference`` is the plain twin.
"""

from __future__ import annotations

from types import ModuleType

from ext.backend import kernels


def iid() -> ModuleType:
    """Return the twin in use of the independent draws (`draw_joint`, `draw_sequential`) and of `counts`."""
    return kernels("ext.routing", cython="iid")
