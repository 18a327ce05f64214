"""An explanation as tables on a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite, isnan
from typing import Any

from rich.console import Console
from rich.table import Table

from codesign.explain.explanation import Explanation, Reason
from codesign.explain.sensitivity import Takeover
from codesign.explore.objective import Objective

ROWS = 16  # numbers that are shown
LEAST = 0.005  # elasticities below are not
_SHORT = {
    "output_tokens_per_s": "tokens/s", "ttft_s.mean": "TTFT", "tpot_s.mean": "TPOT",
    "energy_j_per_token": "J/token", "usd_per_million_tokens": "$/Mtoken",
}  # fmt: skip


def head(objective: Objective) -> str:
    """Return a short name of an objective."""
    text = objective.formula.text
    return _SHORT.get(text, text)


def show_explanation(found: Explanation, console: Console | None = None) -> None:
    """Print where time, energy and money went, elasticities, what to change first, and what comes next."""
    console = console or Console(highlight=False)
    for reason in found.reasons:
        if found.kind != "run":
            console.print(f"[bold]point {reason.name}[/bold]  {_values(reason.objectives, found)}")
        _ledger(console, reason, found.kind == "run")
        if found.kind != "run":
            _next(console, reason, found)
    if found.kind == "run":
        _at_a_point(console, found.reasons[0], found)
        _next(console, found.reasons[0], found)
    else:
        _over_front(console, found)


def _values(values: Mapping[str, float], found: Explanation) -> str:
    return ", ".join(f"{head(o)} {values[o.text]:.4g}" for o in found.objectives)


def _ledger(console: Console, reason: Reason, whole: bool) -> None:
    """Print shares; a run's time is shown by `codesign.report.table`."""
    lines = {
        "time": _shares(reason.ledger.time), "decided by": _shares(reason.bottlenecks),
        "energy": _amounts(reason.ledger.energy, "J/token"),
        "money": _amounts(reason.ledger.money, "$/Mtoken"),
        "spent on": _amounts(reason.ledger.spent, "$/Mtoken"),
    }  # fmt: skip
    table = Table("where it went", "", box=None, pad_edge=False, show_header=False)
    for name, text in lines.items():
        if text and not (whole and name == "time"):
            table.add_row(name, text)
    console.print(table)


def _shares(values: Mapping[str, float]) -> str:
    return ", ".join(f"{_plain(name)} {100 * v:.0f} %" for name, v in values.items() if v >= 0.01)


def _amounts(values: Mapping[str, float], unit: str) -> str:
    total = sum(values.values())
    parts = [f"{_plain(n)} {v:.3g}" for n, v in values.items() if total > 0 and v >= 0.01 * total]
    return f"{', '.join(parts)} {unit}" if parts else ""


def _plain(name: str) -> str:
    return name.replace("_", " ")


def _at_a_point(console: Console, reason: Reason, found: Explanation) -> None:
    _told(console, reason, found)
    table = Table(
        "1 % more of", "now", *(f"{head(o)} / %" for o in found.objectives), box=None, pad_edge=False
    )
    strong = [e for e in reason.elasticities if e.strength >= LEAST]
    for e in strong[:ROWS]:
        table.add_row(
            e.number.path, str(e.number.written), *(_signed(e.of[o.text]) for o in found.objectives)
        )
    console.print(table)
    left, inert = len(strong[ROWS:]), len(reason.elasticities) - len(strong)
    console.print(f"and {left} weaker ones; {inert} numbers change nothing by themselves (--json has all)")


def _told(console: Console, reason: Reason, found: Explanation) -> None:
    """Say at what level elasticities were measured, and how far that level is from the run."""
    text = f"elasticities at fidelity {found.level}, {found.runs} runs"
    gaps = [
        f"{head(o)} {reason.measured[o.text] / value:.2f}"
        for o, value in ((o, reason.objectives[o.text]) for o in found.objectives)
        if value and o.text in reason.measured and reason.measured[o.text] != value
    ]
    if gaps:
        text += (
            f" (of the run's value it gives: {', '.join(gaps)}; --fidelity event measures at the run's own)"
        )
    console.print(text)


def _signed(value: float) -> str:
    if isnan(value):
        return "-"
    return "0" if abs(value) < LEAST else f"{value:+.2f}"


def _next(console: Console, reason: Reason, found: Explanation) -> None:
    table = Table("to improve", "in", "change first", box=None, pad_edge=False)
    for objective in found.objectives:
        for part in ("hardware", "model"):
            said = [
                f"{w['change']} {w['number']} ({w['elasticity']:+.2f})" for w in reason.first(objective, part)
            ]
            table.add_row(head(objective), part, "; ".join(said) or "no number by itself")
    console.print(table)
    for t in reason.takeovers:
        console.print(_takeover(t, found), markup=False)


def _takeover(t: Takeover, found: Explanation) -> str:
    if not isfinite(t.factor):
        return f"{t.number.path}: {_plain(t.before)} stays the bottleneck however much it improves alone"
    gains = ", ".join(
        f"{head(o)} x {t.gains[o.text]:.2f}" for o in found.objectives if isfinite(t.gains[o.text])
    )
    return (
        f"{t.number.path}: from {_rounded(t.at)} ({t.factor:.2f} x) on, {_plain(t.after)} decides more than"
        f" {_plain(t.before)}; there {gains}"
    )


def _rounded(written: Any) -> str:
    if isinstance(written, str):
        number, _, unit = written.partition(" ")
        return f"{float(number):.4g} {unit}"
    return f"{written:.4g}"


def _over_front(console: Console, found: Explanation) -> None:
    console.print(f"over these {len(found.reasons)} points, at fidelity {found.level}, {found.runs} runs:")
    table = Table("1 % more of", *(f"{head(o)} / %" for o in found.objectives), box=None, pad_edge=False)
    for path, of in list(found.over_front().items())[:ROWS]:
        if max(abs(s["median"]) for s in of.values()) >= LEAST:
            table.add_row(path, *(_spread(of.get(o.text)) for o in found.objectives))
    console.print(table)


def _spread(spread: Mapping[str, float] | None) -> str:
    if spread is None:
        return "-"
    if spread["high"] - spread["low"] < LEAST:
        return _signed(spread["median"])
    return f"{_signed(spread['median'])} ({_signed(spread['low'])} to {_signed(spread['high'])})"
