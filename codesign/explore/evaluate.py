"""One design point: from the experiment and what a point changes to its metrics.

`Setup` travels to the workers once; `evaluator_of` builds there what a worker keeps between points.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from codesign.base.document import Document
from codesign.base.errors import CodesignError, ConfigError
from codesign.base.hashing import canonical_json, content_hash
from codesign.explore.expression import Expression, MissingError, parse

if TYPE_CHECKING:
    from codesign.experiment import Experiment
    from hwmodels.spec import System
    from workloads.models import Model

Changes = dict[str, Any]
DEFAULT = "codesign.explore.evaluate:Evaluator"
OK, REFUSED, EXCLUDED, FAILED, TIMEOUT, KILLED = "ok", "refused", "excluded", "failed", "timeout", "killed"
# what a point costs and needs, known before it runs: usable in input constraints
BEFORE = ("devices", "area_m2", "peak_power_w", "purchase_usd", "usd_per_hour", "weight_bytes", "kv_bytes")
# parts of a result whose names depend on what ran: a name that one point lacks another may have
OPEN = ("breakdown_s", "elasticities", "energy_j", "memory", "counters")


@dataclass(frozen=True)
class Setup:
    """What every point of a sweep shares.

    Attributes
    ----------
    document, base_dir     the experiment with the sweep's `set` laid over it
    limits, wanted         input constraints that need a built point; output constraints
    evaluator              "module:name" of what is called with a Setup, giving ``f(changes, seed)``
    """

    document: Document
    base_dir: Path
    limits: tuple[str, ...] = ()
    wanted: tuple[str, ...] = ()
    evaluator: str = DEFAULT
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """Name of the setup, to tell whether a worker has it already."""
        parts = [self.document.data, str(self.base_dir), self.limits, self.wanted, self.evaluator]
        return content_hash([*parts, dict(self.options)])


@dataclass(frozen=True)
class Task:
    """A point to run."""

    id: str
    changes: Changes
    seed: int


@dataclass(frozen=True)
class Outcome:
    """What came of a point.

    `status`: ok; refused (the input does not suit: `error` says why); excluded (an input constraint);
    failed; timeout; killed.  `violation` is the largest relative miss of an output constraint, <= 0 if all
    hold.
    """

    id: str
    status: str
    metrics: dict[str, float | int | str | None] = field(default_factory=dict)
    error: str = ""
    hash: str = ""
    violation: float | None = None
    wall_s: float = 0.0

    @property
    def lasting(self) -> bool:
        """Tell whether running the point again must give the same."""
        return self.status in (OK, REFUSED, EXCLUDED, FAILED)


def evaluator_of(setup: Setup) -> Callable[[Task], Outcome]:
    """Build the setup's evaluator; every error of a point becomes its outcome."""
    module, _, name = setup.evaluator.partition(":")
    evaluate = getattr(import_module(module), name)(setup)
    wanted = [parse(text) for text in setup.wanted]

    def run(task: Task) -> Outcome:
        begun = perf_counter()
        try:
            outcome = _judged(evaluate(task), wanted)
        except ConfigError as error:
            outcome = Outcome(task.id, REFUSED, error=_line(error))
        except CodesignError as error:
            outcome = Outcome(task.id, FAILED, error=_line(error))
        except Exception as error:
            outcome = Outcome(task.id, FAILED, error=f"{type(error).__name__}: {_line(error)}")
        return replace(outcome, wall_s=perf_counter() - begun)

    return run


def _judged(outcome: Outcome, wanted: list[Expression]) -> Outcome:
    """Return an outcome with its largest miss; refused if a constraint cannot be worked out."""
    if outcome.status != OK or not wanted:
        return outcome
    look = metric_lookup(outcome.metrics)
    try:
        return replace(outcome, violation=max(formula.violation(look) for formula in wanted))
    except ConfigError as error:
        return replace(outcome, status=REFUSED, error=_line(error))


def _line(error: Exception) -> str:
    return " ".join(str(error).split())


class Evaluator:
    """Simulates points; keeps models and systems that several points share."""

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        self.limits = [parse(text) for text in setup.limits]

    def __call__(self, task: Task) -> Outcome:
        """Build the point, check what it needs, run it."""
        experiment = build(self.setup, {**task.changes, "seed": task.seed})
        before = needs(experiment) if self.setup.limits else {}
        for limit in self.limits:
            if not _holds(limit, before, experiment):
                return Outcome(task.id, EXCLUDED, before, f"constraint {limit.text!r}", experiment.hash)
        metrics = self.metrics(experiment, before)
        return Outcome(task.id, OK, metrics, hash=experiment.hash)

    def metrics(self, experiment: Experiment, before: dict[str, Any]) -> dict[str, Any]:
        """Run a point; return its metrics."""
        if experiment.spec.fidelity == "roofline" and not self.setup.options.get("events_only"):
            from codesign.explore.steady_state import metrics_of

            return {**before, **metrics_of(experiment)}
        from codesign.api import simulate

        return {**needs(experiment), **before, **flat_metrics(simulate(experiment))}


def build(setup: Setup, changes: Changes) -> Experiment:
    """Build a point; its parts are checked against each other when it runs.

    Raises
    ------
    ConfigError   as `codesign.experiment.read_experiment`
    """
    from codesign.experiment.experiment import from_document
    from codesign.experiment.override import override

    pairs = sorted(changes.items(), key=lambda pair: pair[0].count("."))
    document = override(setup.document, pairs)
    return from_document(
        document, setup.base_dir, lambda model: _model(_Keyed(model)), lambda system: _system(_Keyed(system))
    )


class _Keyed:
    """A document that is equal to others with the same data and place (a key of a cache)."""

    def __init__(self, document: Document) -> None:
        self.document = document
        self.key = (canonical_json(document.data), document.origins.get((), document.origin))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Keyed) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)


@lru_cache(maxsize=64)
def _model(keyed: _Keyed) -> tuple[Document, Model]:
    from codesign.experiment.experiment import load_model

    return load_model(keyed.document)


@lru_cache(maxsize=256)
def _system(keyed: _Keyed) -> tuple[Document, System]:
    from codesign.experiment.experiment import load_system

    return load_system(keyed.document)


def needs(experiment: Experiment) -> dict[str, Any]:
    """Return what a point needs, by the names in `BEFORE` (None: the files do not say)."""
    from codesign.explore.fit import fit_of
    from codesign.lower.parallel import resolve_parallel
    from hwmodels.energy import peak_power_w
    from hwmodels.money import usd_per_s

    system = experiment.system
    parallel = resolve_parallel(experiment.spec.parallel, experiment.model, system, experiment.document)
    fit = fit_of(experiment, parallel)
    devices = parallel.devices * parallel.replicas
    peak_w = peak_power_w(system, devices)
    area, purchase = system.device.area, system.device.price.purchase
    rate = usd_per_s(system, devices, peak_w)
    values = (
        devices, None if area is None else area * devices, peak_w,
        None if purchase is None else purchase * devices, None if rate is None else rate * 3600.0,
        fit.weight_bytes, fit.kv_bytes,
    )  # fmt: skip
    return dict(zip(BEFORE, values, strict=True))


def _holds(limit: Expression, before: Mapping[str, Any], experiment: Experiment) -> bool:
    def look(name: str) -> Any:
        if name in before:
            if before[name] is None:
                raise ConfigError(f"constraint {limit.text!r}: the hardware files do not say {name}")
            return before[name]
        return value_at(experiment, name)

    try:
        return bool(limit(look))
    except MissingError:
        return False


def value_at(experiment: Experiment, path: str) -> Any:
    """Return the resolved experiment's value at a dotted path: as written, else the default.

    Raises
    ------
    MissingError   there is none
    """
    node: Any = experiment.resolved
    for step in path.split("."):
        if not isinstance(node, dict) or step not in node:
            return _default(experiment, path)
        node = node[step]
    return node


def _default(experiment: Experiment, path: str) -> Any:
    node: Any = experiment
    first, _, rest = path.partition(".")
    node = {"model": experiment.model, "system": experiment.system}.get(first, experiment.spec)
    for step in (rest if node is not experiment.spec else path).split("."):
        node = node.get(step, ...) if isinstance(node, dict) else getattr(node, step, ...)
        if node is ...:
            raise MissingError(path)
    return node


def metric_lookup(metrics: Mapping[str, Any]) -> Callable[[str], Any]:
    """Return a lookup of metrics that names the nearest one for what is not there."""
    from codesign.base.errors import unknown_name

    def look(name: str) -> Any:
        if name not in metrics:
            raise unknown_name("metric", name, metrics)
        value = metrics[name]
        return float("inf") if value is None else value  # no request finished: no limit is met

    return look


def flat_metrics(result: Any) -> dict[str, Any]:
    """Return a result's numbers under dotted names."""
    return flat(result.to_dict())


def flat(whole: Mapping[str, Any]) -> dict[str, Any]:
    """Return the numbers of a result's plain data (``summary.json``) under dotted names."""
    out = flattened(whole["summary"])
    for part in ("breakdown_s", "elasticities", "energy_j", "memory"):
        out |= flattened(whole[part], f"{part}.")
    out["usd_per_hour"] = whole["cost"]["usd_per_hour"]
    out["facility_energy_j"] = whole["cost"]["facility_energy_j"]
    out |= flattened(whole["cost"]["counters"], "counters.")
    plain: dict[str, Any] = json.loads(json.dumps(out, default=lambda value: value.item()))
    return plain


def flattened(node: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested values under dotted names."""
    out: dict[str, Any] = {}
    for key, value in node.items():
        name = f"{prefix}{key}"
        out |= flattened(value, f"{name}.") if isinstance(value, Mapping) else {name: value}
    return out
