"""`Experiment`: one frozen, validated design point with everything it names resolved."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hwmodels
import workloads.models
from codesign import engines
from codesign.base.document import Document, validate
from codesign.base.hashing import content_hash
from codesign.experiment.override import override
from codesign.experiment.schema import ExperimentSpec
from hwmodels.spec import System
from workloads.models import Model

if TYPE_CHECKING:
    from workloads.requests import Requests
    from workloads.routing import RoutingStream


@dataclass(frozen=True, eq=False)
class Experiment:
    """model x hardware x policies x workload.

    Attributes
    ----------
    spec : ExperimentSpec          what the file says, checked
    model : Model, system : System resolved
    document : Document            the file with overrides, names and lines, not expanded
    resolved : dict                the same with every name and `from` expanded: runs again from itself
    base_dir : Path                where relative paths start
    """

    spec: ExperimentSpec
    model: Model
    system: System
    document: Document
    resolved: dict[str, Any]
    base_dir: Path

    @cached_property
    def hash(self) -> str:
        """Name of the design point: SHA-256 of the resolved experiment."""
        return content_hash(self.resolved)

    @property
    def seed(self) -> int:
        """The one seed."""
        return self.spec.seed

    def part(self, *keys: str) -> Document:
        """Return a part of the file as a document whose errors name file, line and full key."""
        return _part(self.document, keys, self.spec)

    def replace(self, overrides: Mapping[str, Any] | None = None, **changes: Any) -> Experiment:
        """Return another experiment with fields changed by dotted path.

        >>> experiment.replace({"parallel.tensor": 4}, seed=2)  # doctest: +SKIP
        """
        return from_document(override(self.document, {**(overrides or {}), **changes}), self.base_dir)

    def requests(self) -> Requests:
        """Build the stream of requests."""
        from workloads.requests import build_requests

        return build_requests(self.part("workload", "requests"), seed=self.seed, base_dir=self.base_dir)

    def routing(self) -> RoutingStream | None:
        """Build the routing stream; None for a dense model."""
        from codesign.experiment.routing import open_routing

        return open_routing(self)


def _part(document: Document, keys: tuple[str, ...], spec: ExperimentSpec) -> Document:
    value: Any = document.get(keys)
    if value is ...:
        value = spec
        for key in keys:
            value = getattr(value, key)
        return Document(value, document.origin, prefix=keys)
    for key in keys:
        document = document.child(key)
    return document


def from_document(
    document: Document,
    base_dir: Path,
    model_of: Callable[[Document], tuple[Document, Model]] | None = None,
    system_of: Callable[[Document], tuple[Document, System]] | None = None,
) -> Experiment:
    """Check a document and resolve what it names; see `codesign.load_experiment`.

    Parameters
    ----------
    model_of, system_of : callables    resolve and load a part; for those who keep what they loaded before
    """
    expanded = engines.expand(document)
    spec = validate(ExperimentSpec, expanded)
    model_document, model = (model_of or load_model)(document.child("model"))
    system_document, system = (system_of or load_system)(document.child("system"))
    resolved = _resolved(expanded, spec, model_document, system_document, base_dir)
    return Experiment(spec, model, system, document, resolved, base_dir)


def load_model(document: Document) -> tuple[Document, Model]:
    """Return a model's document with every name expanded, and the model."""
    resolved = workloads.models.resolve(document)
    return resolved, workloads.models.load(resolved)


def load_system(document: Document) -> tuple[Document, System]:
    """Return a system's document with every name expanded, and the system."""
    resolved = hwmodels.resolve(document, "system")
    return resolved, hwmodels.load_system(resolved)


def _resolved(
    document: Document, spec: ExperimentSpec, model: Document, system: Document, base_dir: Path
) -> dict[str, Any]:
    """Return the experiment as plain data with every name expanded; defaults are written out."""
    written = spec.model_dump(mode="json", exclude={"model", "system"}, exclude_unset=True)
    written["seed"], written["fidelity"] = spec.seed, spec.fidelity
    written |= {key: document.data[key] for key in document.data}  # quantities keep their units
    requests = written["workload"].get("requests")
    if isinstance(requests, dict) and isinstance(requests.get("trace"), str):
        beside = base_dir / requests["trace"]
        if beside.exists():
            place = {**requests, "trace": str(beside.resolve())}
            written["workload"] = {**written["workload"], "requests": place}
    written |= {"model": model.data, "system": system.data}
    return {key: written[key] for key in ExperimentSpec.model_fields if key in written}
