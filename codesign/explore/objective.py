"""Objectives: a metric or a formula, and whether more or less of it is better."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from codesign.base.errors import ConfigError
from codesign.explore.evaluate import metric_lookup
from codesign.explore.expression import Expression, parse

# what is plainly better when larger; of everything else, less is better
LARGER_IS_BETTER = (
    "output_tokens_per_s",
    "requests_per_s",
    "slo_attainment",
    "requests.completed",
    "kv_bytes",
)
SHORT = {
    "tokens/s": "output_tokens_per_s", "joules/token": "energy_j_per_token", "J/token": "energy_j_per_token",
    "$/Mtoken": "usd_per_million_tokens", "latency": "e2e_s.p50", "ttft": "ttft_s.p99", "tpot": "tpot_s.p99",
    "area": "area_m2", "power": "average_power_w",
}  # fmt: skip


@dataclass(frozen=True)
class Objective:
    """One objective; `cost` is what is made small."""

    text: str
    formula: Expression
    maximise: bool

    def value(self, metrics: Any) -> float:
        """Return its value; NaN where a metric is missing from a point."""
        try:
            return float(self.formula(metric_lookup(metrics)))
        except (TypeError, ValueError):
            return float("nan")

    def cost(self, metrics: Any) -> float:
        """Return its value, negated if more is better."""
        value = self.value(metrics)
        return -value if self.maximise else value


def read_objective(text: str) -> Objective:
    """Read ``[max|min] METRIC-OR-FORMULA``; without a word, throughput and attainment are made large.

    Raises
    ------
    ConfigError   an empty objective, or what is no formula
    """
    word, _, rest = text.strip().partition(" ")
    told = {
        "max": True,
        "maximise": True,
        "maximize": True,
        "min": False,
        "minimise": False,
        "minimize": False,
    }
    plain = rest.strip() if word in told else text.strip()
    if not plain:
        raise ConfigError(f"objective {text!r}: is written as 'max output_tokens_per_s' or a metric's name")
    formula = parse(SHORT.get(plain, plain), f"objective {text!r}")
    if not formula.names:
        raise ConfigError(f"objective {text!r}: names no metric")
    return Objective(text, formula, told.get(word, formula.text in LARGER_IS_BETTER))
