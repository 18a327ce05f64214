"""Which twin of a kernel runs: the plain reference, Numba or Cython.

``CODESIGN_BACKEND=reference|numba|cython`` forces one; by default the fastest that is built is used.
Bounds checks are compiled in with ``CODESIGN_BOUNDSCHECK=1`` at build time (see setup.py).
"""

from __future__ import annotations

import os
from importlib import import_module
from types import ModuleType

BACKENDS = ("cython", "numba", "reference")
_chosen: dict[str, str] = {}


def kernels(package: str, *, cython: str | None = None, numba: str | None = None) -> ModuleType:
    """Return the module that implements a kernel package's functions.

    Parameters
    ----------
    package : str          for example ``ext.graph``; ``<package>.reference`` must exist
    cython, numba : str    names of the compiled twins' modules inside the package

    Raises
    ------
    ValueError   ``CODESIGN_BACKEND`` names no backend
    ImportError  the forced backend is not built
    """
    forced = os.environ.get("CODESIGN_BACKEND", "")
    if forced and forced not in BACKENDS:
        raise ValueError(f"CODESIGN_BACKEND={forced!r}: choose from {', '.join(BACKENDS)}")
    modules = {"cython": cython, "numba": numba, "reference": "reference"}
    for backend in (forced,) if forced else BACKENDS:
        module = modules[backend] or ("reference" if forced else None)
        if module is None:
            continue
        try:
            found = import_module(f"{package}.{module}")
        except ImportError:
            if forced:
                raise
            continue
        _chosen[package] = backend if module != "reference" else "reference"
        return found
    raise ImportError(f"{package}: no implementation found")


def chosen() -> dict[str, str]:
    """Return which backend each loaded kernel package uses (it stands in provenance)."""
    return dict(sorted(_chosen.items()))
