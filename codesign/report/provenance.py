"""Where a result comes from: enough to run it again and to know whether it would be the same."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from codesign import __version__
from ext.backend import chosen

if TYPE_CHECKING:
    from codesign.experiment import Experiment
    from workloads.requests import Requests


def provenance(experiment: Experiment, requests: Requests) -> dict[str, Any]:
    """Return hash, versions, seed, fidelity, backends, and notes on the inputs."""
    spec = experiment.spec
    return {
        "experiment": spec.name or experiment.model.name,
        "hash": experiment.hash,
        "seed": spec.seed,
        "fidelity": spec.fidelity,
        "executor": spec.executor,
        "model": experiment.model.name,
        "system": experiment.system.name,
        "requests": requests.name,
        "versions": {"codesign": __version__, **{name: _version(name) for name in ("numpy", "simpy")}},
        "kernels": _kernels(experiment),
        "notes": [*experiment.model.notes, *requests.notes],
    }


def _kernels(experiment: Experiment) -> dict[str, str]:
    """Return the backend of each kernel package that this experiment uses, whatever else was imported."""
    used = {"ext.graph", "ext.iteration"}
    if experiment.model.moe_layers:
        used.add("ext.routing")
    if experiment.spec.policies.expert_cache is not None:
        used.add("ext.cache")
    return {package: backend for package, backend in chosen().items() if package in used}


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "unknown"
