"""`Experiment`: one frozen, validated design point with everything it names resolved."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from codesign.base.document import Document
from codesign.base.hashing import content_hash
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
        from codesign.experiment.load import from_document
        from codesign.experiment.override import override

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
