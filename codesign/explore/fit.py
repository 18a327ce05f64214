"""What the devices of a design point must hold, without building its plan."""

from __future__ import annotations

from codesign.experiment import Experiment
from codesign.lower.parallel import Parallel
from codesign.lower.plan import portions_of, stored_by_expert
from codesign.lower.precision import resolve_precision
from codesign.lower.residency import Residency, residency
from codesign.lower.streams import build_streams
from codesign.policies import build_policies


def fit_of(experiment: Experiment, parallel: Parallel) -> Residency:
    """Return the bytes of the fullest device of an engine.

    Raises
    ------
    ConfigError     tiers or policies that do not suit the model or the machine
    CapacityError   the model does not fit

    Notes
    -----
    Law: equal to ``build_plan(experiment).residency`` where no pool computes attention.
    """
    spec, model, system = experiment.spec, experiment.model, experiment.system
    precision = resolve_precision(spec.precision, model, experiment.document)
    tokens = build_policies(experiment).batching.max_tokens
    stored = stored_by_expert(experiment, parallel, precision)
    cache = portions_of(experiment).cache
    streams = build_streams(experiment, parallel, precision)
    return residency(model, system, parallel, precision, spec.memory, tokens, cache, stored, streams)
