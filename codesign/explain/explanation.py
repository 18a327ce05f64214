"""`explain`: why a run, or the front of a sweep or search, is as it is, and what to change first."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from codesign.base.errors import ConfigError, unknown_name
from codesign.explain.ledger import Ledger, bottlenecks, ledger
from codesign.explain.numbers import numbers_of
from codesign.explain.sensitivity import STEP, Elasticity, Progress, Takeover, elasticities, takeover
from codesign.explain.variants import Metrics, Variants
from codesign.explore.evaluate import Setup, flat
from codesign.explore.objective import Objective, read_objective

if TYPE_CHECKING:
    from codesign.explore.plan import SweepPlan
    from codesign.explore.results import Sweep

LEVELS = ("roofline", "event", "cycle")
OBJECTIVES = (
    "max output_tokens_per_s", "ttft_s.mean", "tpot_s.mean", "energy_j_per_token", "usd_per_million_tokens",
)  # fmt: skip
AFFORDABLE = {"event": 500, "cycle": 50}  # iterations, of all points together, that are run again unasked
POINTS = 5  # of a front
SCANNED = 3  # numbers whose takeover is looked for
_PRICES = ("price", "electricity", "power_usage_effectiveness")


@dataclass
class Reason:
    """Why one design point is as it is.

    Attributes
    ----------
    metrics : dict        of the point as it was run
    ledger : Ledger       where time, energy and money went
    bottlenecks : dict    resource -> share of the busy time that it decides
    objectives : dict     objective -> value, as it was run
    measured : dict       objective -> value at the level of the elasticities
    """

    name: str
    changes: dict[str, Any]
    metrics: Metrics
    ledger: Ledger
    bottlenecks: dict[str, float]
    objectives: dict[str, float]
    measured: dict[str, float] = field(default_factory=dict)
    elasticities: list[Elasticity] = field(default_factory=list)
    takeovers: list[Takeover] = field(default_factory=list)

    def first(self, objective: Objective, part: str, most: int = 3) -> list[dict[str, Any]]:
        """Return what to change first for an objective: numbers, direction, elasticity; prices apart.

        `part`: hardware (with the engine's own time) or model.
        """
        text, model = objective.text, part == "model"
        found = [e for e in self.elasticities if e.number.path.startswith("model.") == model]
        found = [e for e in found if not any(word in e.number.path for word in _PRICES)]
        found = [e for e in found if isfinite(e.of[text]) and abs(e.of[text]) >= 0.01]
        found.sort(key=lambda e: -abs(e.of[text]))
        return [
            {"number": e.number.path, "now": e.number.written, "elasticity": e.of[text],
             "change": "more" if (e.of[text] > 0) == objective.maximise else "less"}
            for e in found[:most]
        ]  # fmt: skip

    def to_dict(self, objectives: Sequence[Objective]) -> dict[str, Any]:
        """Return plain data."""
        return {
            "point": self.name, "changes": self.changes, "objectives": _finite(self.objectives),
            "measured": _finite(self.measured), **self.ledger.to_dict(), "bottlenecks": self.bottlenecks,
            "elasticities": {e.number.path: _finite(e.of) for e in self.elasticities},
            "takeovers": [
                {"number": t.number.path, "now": t.number.written, "at": t.at, "before": t.before,
                 "after": t.after, "factor": t.factor if isfinite(t.factor) else None,
                 "gains": _finite(t.gains)}
                for t in self.takeovers
            ],
            "first": {o.text: {p: self.first(o, p) for p in ("hardware", "model")} for o in objectives},
        }  # fmt: skip


@dataclass
class Explanation:
    """Why a run, or each of some points of a front.

    Attributes
    ----------
    kind : str      run, sweep, search
    level : str     fidelity at which elasticities were measured
    runs : int      points that were run for them
    """

    kind: str
    level: str
    objectives: list[Objective]
    reasons: list[Reason]
    runs: int
    summary: dict[str, Any] | None = None  # of a run

    def over_front(self) -> dict[str, dict[str, dict[str, float]]]:
        """Return number -> objective -> median, lowest and highest elasticity over the points."""
        found: dict[str, dict[str, list[float]]] = {}
        for reason in self.reasons:
            for e in reason.elasticities:
                for text, value in e.of.items():
                    if isfinite(value):
                        found.setdefault(e.number.path, {}).setdefault(text, []).append(value)
        out = {
            path: {t: {"median": median(v), "low": min(v), "high": max(v)} for t, v in of.items()}
            for path, of in found.items()
        }
        return dict(sorted(out.items(), key=lambda item: -_strength(item[1])))

    def to_dict(self) -> dict[str, Any]:
        """Return plain data, as ``--json`` prints it."""
        return {
            "kind": self.kind, "fidelity": self.level, "runs": self.runs,
            "objectives": [o.text for o in self.objectives],
            "points": [reason.to_dict(self.objectives) for reason in self.reasons],
            "front": self.over_front() if self.kind != "run" else {},
        }  # fmt: skip


def explain(
    folder: str | Path,
    *,
    objectives: Sequence[str] = (),
    fidelity: str | None = None,
    points: int = POINTS,
    step: float = STEP,
    workers: int | None = None,
    progress: Progress | None = None,
) -> Explanation:
    """Explain what `codesign run`, `sweep` or `search` left in a folder.

    Parameters
    ----------
    objectives : metrics or formulas; none: those of the sweep, or the usual five
    fidelity : str      where elasticities are measured; None: as it was run, if that takes at most
        `AFFORDABLE` iterations (or if the closed form does not know the experiment), else roofline
    points : int        of the front, spread evenly
    step : float        relative change of a number, up and down

    Raises
    ------
    ConfigError   no result there, an unknown level or metric
    """
    if fidelity is not None and fidelity not in LEVELS:
        raise unknown_name("fidelity", fidelity, LEVELS)
    place = Path(folder)
    given = [read_objective(text) for text in objectives]
    if (place / "store.sqlite").is_file():
        found, setups, finish, summary = *_exploration(place, given, points), None
    else:
        found, setups, finish, summary = _run(place, given)
    if not found.reasons:
        raise ConfigError(f"{place}: no point ran, there is nothing to explain")
    found.level = fidelity or _level(found, setups)
    for i, (reason, setup) in enumerate(zip(found.reasons, setups, strict=True)):
        variants = Variants(*setup, found.level, workers, finish)
        _measure(reason, variants, found.objectives, step, None if found.kind != "run" else progress)
        found.runs += variants.runs
        if progress is not None and found.kind != "run":
            progress(i + 1, len(found.reasons))
    found.summary = summary
    return found


Setups = list[tuple[Setup, dict[str, Any], int]]


def _run(place: Path, given: list[Objective]) -> tuple[Explanation, Setups, Any, dict[str, Any]]:
    from codesign.base.document import read_yaml
    from codesign.explore.evaluate import build
    from codesign.report.files import EXPERIMENT, read_summary

    summary = read_summary(place)
    metrics = flat(summary)
    setup = Setup(read_yaml(place / EXPERIMENT, "YAML experiment file"), place)
    seed = setup.document.get(("seed",))
    reason = _reason("run", {}, metrics, build(setup, {}), objectives := _known(given, metrics))
    found = Explanation("run", "", objectives, [reason], 0)
    return found, [(setup, {}, seed if isinstance(seed, int) else 1)], dict, summary


def _exploration(place: Path, given: list[Objective], points: int) -> tuple[Explanation, Setups, Any]:
    from codesign.explore.evaluate import build
    from codesign.explore.results import Sweep, opened, plan_of

    sweep = Sweep.open(place)
    with opened(place) as store:
        plan, noted = plan_of(store), json.loads(store.meta("search") or "null")
    texts = noted["objectives"] if noted else plan.spec.objectives
    ran = [m for row, m in zip(sweep.rows, sweep.metrics, strict=True) if row["status"] == "ok"]
    wanted = given or [read_objective(text) for text in texts]
    objectives = _known(wanted, ran[0]) if ran else wanted
    found = Explanation("search" if noted else "sweep", "", objectives, [], 0)
    setups: Setups = []
    for i in _front(sweep, objectives, points):
        row, metrics = sweep.rows[i], sweep.metrics[i]
        task = next(iter(_tasks(place, [row["id"]])))
        experiment = build(plan.setup, {**task.changes, "seed": task.seed})
        found.reasons.append(_reason(str(row["point"]), task.changes, metrics, experiment, objectives))
        setups.append((plan.setup, task.changes, task.seed))
    return found, setups, lambda changes: _finished(plan, changes)


def _tasks(place: Path, ids: list[str]) -> Any:
    from codesign.explore.results import opened

    with opened(place) as store:
        return store.tasks(ids)


def _finished(plan: SweepPlan, changes: dict[str, Any]) -> dict[str, Any]:
    """Work out a sweep's derived fields again, its conditions apart."""
    return plan.design.derive(changes)


def _front(sweep: Sweep, objectives: Sequence[Objective], points: int) -> list[int]:
    """Return rows of the front, at most so many, spread over the first objective."""
    import numpy as np

    from codesign.explore.pareto import nondominated

    rows = [i for i, row in enumerate(sweep.rows) if row["status"] == "ok" and row["replicate"] == 0]
    rows = [i for i in rows if sweep.rows[i]["feasible"]] or rows
    if not rows:
        return []
    costs = np.array([[o.cost(sweep.metrics[i]) for o in objectives] for i in rows])
    front = np.flatnonzero(nondominated(costs))
    front = front[np.argsort(costs[front, 0], kind="stable")]
    picked = np.unique(np.linspace(0, len(front) - 1, min(points, len(front))).round().astype(int))
    return [rows[front[i]] for i in picked]


def _known(wanted: list[Objective], metrics: Mapping[str, Any]) -> list[Objective]:
    """Return the objectives asked for, or the usual ones that have a value."""
    for objective in wanted:
        objective.value(metrics)  # an unknown metric is told here
    usual = [read_objective(text) for text in OBJECTIVES if not wanted]
    return wanted or [o for o in usual if all(metrics.get(name) for name in o.formula.names)]


def _reason(
    name: str, changes: dict[str, Any], metrics: Metrics, experiment: Any, objectives: Sequence[Objective]
) -> Reason:
    values = {o.text: o.value(metrics) for o in objectives}
    return Reason(name, changes, metrics, ledger(metrics, experiment), bottlenecks(metrics), values)


def _level(found: Explanation, setups: Setups) -> str:
    """Return the level as run if affordable, or if the closed form does not know these experiments."""
    setup, changes, seed = setups[0]
    own = changes.get("fidelity", setup.document.get(("fidelity",)))
    own = own if own in LEVELS else "event"
    iterations = sum(reason.metrics.get("iterations", 0) for reason in found.reasons)
    if own == "roofline" or iterations <= AFFORDABLE[own]:
        return str(own)
    (closed,) = Variants(setup, changes, seed, "roofline").run([{}])
    return "roofline" if closed else str(own)


def _measure(
    reason: Reason, variants: Variants, objectives: list[Objective], step: float, progress: Progress | None
) -> None:
    (base,) = variants.run([{}])
    if base is None:
        return
    reason.measured = {o.text: o.value(base) for o in objectives}
    numbers = numbers_of(variants.experiment.resolved)
    reason.elasticities = elasticities(variants, numbers, objectives, step, progress)
    for e, better in _scanned(reason.elasticities, objectives):
        reason.takeovers.append(takeover(variants, e.number, objectives, base, better))


def _scanned(found: list[Elasticity], objectives: list[Objective]) -> list[tuple[Elasticity, float]]:
    """Return the hardware rates that matter most for speed, and whether more (> 0) is better."""
    timed = _timed(objectives)
    rates = [e for e in found if e.number.path.startswith(("system", "engine")) and not e.number.whole]
    rates = [e for e in rates if not any(word in e.number.path for word in _PRICES)]
    weighed = [
        (
            max(
                (abs(e.of[o.text]), o.maximise == (e.of[o.text] > 0)) for o in timed if isfinite(e.of[o.text])
            ),
            e,
        )
        for e in rates
        if any(isfinite(e.of[o.text]) for o in timed)
    ]
    strong = sorted((pair for pair in weighed if pair[0][0] >= 0.02), key=lambda pair: -pair[0][0])
    return [(e, 1.0 if more else -1.0) for (_, more), e in strong[:SCANNED]]


def _timed(objectives: list[Objective]) -> list[Objective]:
    """Return the objective that tells most plainly how long iterations take."""
    for word in ("tpot_s", "output_tokens_per_s", "requests_per_s", "e2e_s", "ttft_s"):
        found = [o for o in objectives if word in o.text]
        if found:
            return found[:1]
    return objectives


def _finite(values: Mapping[str, float]) -> dict[str, float | None]:
    return {name: value if isfinite(value) else None for name, value in values.items()}


def _strength(of: Mapping[str, Mapping[str, float]]) -> float:
    return max(abs(spread["median"]) for spread in of.values())
