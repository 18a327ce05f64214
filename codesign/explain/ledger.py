"""Where the time, the energy and the money of a design point went, from its metrics."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from codesign.experiment import Experiment

Metrics = Mapping[str, Any]
Shares = dict[str, float]


@dataclass(frozen=True)
class Ledger:
    """What a design point spends.

    Attributes
    ----------
    time : dict      kind of work (or resource, in the closed form) -> share of the time; sums to 1
    energy : dict    what drew it -> joules per output token; sums to `energy_j_per_token`
    money : dict     rental, purchase, electricity -> USD per million output tokens; sums to the whole
    spent : dict     kind of work -> USD per million tokens of the hardware's price; as `time`
    """

    time: Shares
    energy: Shares
    money: Shares
    spent: Shares

    def to_dict(self) -> dict[str, Any]:
        """Return plain data."""
        return asdict(self)


def ledger(metrics: Metrics, experiment: Experiment) -> Ledger:
    """Return where a point's time, energy and money went.

    Parameters
    ----------
    metrics : mapping    of a run (`codesign.explore.evaluate.flat_metrics`) or of the closed form
    """
    time = _normal(_group(metrics, "breakdown_s.") or _group(metrics, "share."))
    money = _money(metrics, experiment)
    price = sum(value for name, value in money.items() if name != "electricity")
    return Ledger(time, _energy(metrics), money, {kind: share * price for kind, share in time.items()})


def bottlenecks(metrics: Metrics) -> Shares:
    """Return resource -> share of the busy time that it decides, largest first.

    From the critical path of a run, or from the sums of the closed form.
    """
    path = {name: -value for name, value in _group(metrics, "elasticities.").items()}
    return _normal(path or _group(metrics, "share."))


def _group(metrics: Metrics, prefix: str) -> Shares:
    found = {name.removeprefix(prefix): value for name, value in metrics.items() if name.startswith(prefix)}
    return {name: float(value) for name, value in found.items() if value}


def _normal(values: Shares) -> Shares:
    total = sum(values.values())
    ordered = sorted(values.items(), key=lambda item: -item[1])
    return {name: value / total for name, value in ordered} if total > 0 else {}


def _energy(metrics: Metrics) -> Shares:
    per_token = metrics.get("energy_j_per_token")
    drawn = {k: v for k, v in _group(metrics, "energy_j.").items() if k != "total"}
    drawn = drawn or _group(metrics, "token_j.")
    return {} if per_token is None else {name: s * per_token for name, s in _normal(drawn).items()}


def _money(metrics: Metrics, experiment: Experiment) -> Shares:
    from hwmodels.money import rental_usd_per_s

    total, joules = metrics.get("usd_per_million_tokens"), metrics.get("energy_j_per_token")
    if total is None:
        return {}
    if rental_usd_per_s(experiment.system, 1) is not None:
        return {"rental": total}
    system = experiment.system
    fed = (joules or 0.0) * 1e6 * system.power_usage_effectiveness * system.electricity
    return {"purchase": total - fed, "electricity": fed}
