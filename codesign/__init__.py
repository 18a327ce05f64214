"""Hardware-aware co-design of Mixture-of-Experts inference: model x hardware x policies x workload.

Everything public is reached lazily, so that ``import codesign`` costs nothing and so that the leaf
``codesign.base`` can be imported by ``hwmodels``, ``workloads`` and ``ext`` without pulling in the rest.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_PUBLIC = {
    "simulate": "codesign.api",
    "sweep": "codesign.explore.api",
    "search": "codesign.explore.search",
    "load_experiment": "codesign.api",
    "Experiment": "codesign.experiment",
    "Result": "codesign.report.result",
    "Sweep": "codesign.explore.results",
    "ConfigError": "codesign.base.errors",
    "CapacityError": "codesign.base.errors",
    "InvariantError": "codesign.base.errors",
    "CodesignError": "codesign.base.errors",
}

__all__ = ["__version__", *_PUBLIC]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'codesign' has no attribute {name!r}")
    return getattr(import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
