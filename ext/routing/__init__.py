"""Kernels over routing: independent draws, copying draws, the latent-logit generator, counts.

Each function returns the fastest module that is built; ``reference``, ``copying_reference`` and
``latent_reference`` are the plain twins.
"""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

from ext.backend import kernels


def iid_kernels() -> ModuleType:
    """Return the twin in use of the independent draws (`draw_joint`, ...) and of `counts`."""
    return kernels("ext.routing", cython="iid")


def copying_kernels() -> ModuleType:
    """Return the twin in use of `copying.draw`: draws that repeat the token or follow the layer before."""
    return _twin("copying")


def latent_kernels() -> ModuleType:
    """Return the twin in use of the latent-logit generator's `draw`."""
    return _twin("latent")


def _twin(name: str) -> ModuleType:
    if not iid_kernels().__name__.endswith("reference"):
        try:
            return import_module(f"ext.routing.{name}")
        except ImportError:
            pass
    return import_module(f"ext.routing.{name}_reference")
