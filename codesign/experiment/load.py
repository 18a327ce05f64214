"""From a file, a mapping or a document to a checked `Experiment`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import hwmodels
import workloads.models
from codesign import engines
from codesign.base.document import Document, read_yaml, validate
from codesign.experiment.experiment import Experiment
from codesign.experiment.override import override
from codesign.experiment.schema import ExperimentSpec


def read_experiment(
    source: str | Path | Mapping[str, Any],
    overrides: Mapping[str, Any] | Iterable[tuple[str, Any]] | None = None,
) -> Experiment:
    """Read an experiment, and resolve its model and system; see `codesign.load_experiment`.

    Parameters
    ----------
    source : path of a YAML file, or a mapping of the same form
    overrides : mapping or pairs, dotted path -> value    ``{"workload.requests.limit": 100}``

    Raises
    ------
    ConfigError   file:line, key, value, rule, nearest name
    """
    if isinstance(source, Mapping):
        document, base_dir = Document(dict(source), "experiment"), Path()
    else:
        document, base_dir = read_yaml(source, "YAML experiment file"), Path(source).parent
    return from_document(override(document, overrides or {}), base_dir)


def from_document(document: Document, base_dir: Path) -> Experiment:
    """Check a document; see `read_experiment`."""
    expanded = engines.expand(document)
    spec = validate(ExperimentSpec, expanded)
    model_document = workloads.models.resolve(document.child("model"))
    system_document = hwmodels.resolve(document.child("system"), "system")
    return Experiment(
        spec=spec,
        model=workloads.models.load(model_document),
        system=hwmodels.load_system(system_document),
        document=document,
        resolved=_resolved(expanded, spec, model_document, system_document, base_dir),
        base_dir=base_dir,
    )


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
