"""A result as tables on a terminal."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

_DEVICE = re.compile(r"^(gpu|host)\d+")


def show(result: Mapping[str, Any], wall_s: float | None = None, console: Console | None = None) -> None:
    """Print what `Result.to_dict` holds: summary, where the time went, utilisation, elasticities."""
    console = console or Console(highlight=False)
    provenance, summary = result["provenance"], result["summary"]
    console.print(f"[bold]{provenance['experiment']}[/bold]  {provenance['model']} on {provenance['system']}")
    console.print(_latencies(summary))
    console.print(_rates(summary, result["cost"]))
    console.print(_times(result))
    console.print(_resources(result))
    for row in _worst_by_block(result["details"].get("cycle_against_event") or ()):
        console.print(
            f"cycle against event: {row['operator']} in blocks of {row['block_bytes']:,.0f} B get"
            f" {100 * row['ratio']:.0f} % of the bandwidth: {row['cause']}"
        )
    laws = len(result["conservation"])
    tail = "" if wall_s is None else f", {wall_s:.2f} s of computing"
    console.print(
        f"{summary['simulated_s']:.1f} s simulated in {summary['iterations']:,} iterations{tail};"
        f" {laws} conservation laws held; seed {provenance['seed']}, experiment {provenance['hash'][:12]}"
    )


def _worst_by_block(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the lowest ratio of each operator and size of block; the rows ascend by ratio."""
    worst: dict[tuple[str, float], Mapping[str, Any]] = {}
    for row in rows:
        worst.setdefault((row["operator"], row["block_bytes"]), row)
    return list(worst.values())


def number(value: float | None, digits: int = 3) -> str:
    """Write a number with three significant digits, or a dash."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.{digits}g}"


def _latencies(summary: Mapping[str, Any]) -> Table:
    table = Table(
        "latency", *(f"{name} / ms" for name in ("mean", "p50", "p90", "p99")), box=None, pad_edge=False
    )
    rows = {
        "queueing": "queue_s", "time to first token (TTFT)": "ttft_s",
        "time per output token (TPOT)": "tpot_s",
        "time between tokens (TBT)": "tbt_s", "end to end": "e2e_s",
    }  # fmt: skip
    for label, key in rows.items():
        spread = summary[key]
        cells = [None if spread[q] is None else spread[q] * 1e3 for q in ("mean", "p50", "p90", "p99")]
        table.add_row(label, *(number(cell) for cell in cells))
    return table


def _rates(summary: Mapping[str, Any], cost: Mapping[str, Any]) -> Table:
    requests = summary["requests"]
    met = summary["slo_attainment"]
    table = Table(box=None, show_header=False, pad_edge=False)
    rows = [
        ("requests", ", ".join(f"{requests[key]:,} {key}" for key in requests if requests[key])),
        ("throughput", f"{number(summary['output_tokens_per_s'])} output tokens/s,"
                       f" {number(summary['requests_per_s'])} requests/s"),
        ("SLO attainment", "no limits given" if met is None else f"{100 * met:.1f} %"),
        ("energy", f"{number(summary['energy_j_per_token'])} J/token,"
                   f" {number(summary['average_power_w'])} W on average"),
        ("cost", f"{number(summary['usd_per_million_tokens'])} $/million output tokens,"
                 f" {number(cost['usd_per_hour'])} $/hour"),
    ]  # fmt: skip
    for row in rows:
        table.add_row(*row)
    return table


def _times(result: Mapping[str, Any]) -> Table:
    table = Table("where the time went", "s", "%", "mostly", box=None, pad_edge=False)
    total = sum(result["breakdown_s"].values()) or 1.0
    paths = result["details"]["path_s"]
    for kind, seconds in sorted(result["breakdown_s"].items(), key=lambda item: -item[1]):
        parts = paths.get(kind, {})
        worst = max(parts, key=lambda part: parts[part]) if parts else ""
        note = (
            f"{worst} ({100 * parts[worst] / sum(parts.values()):.0f} %)" if worst else _MEANING.get(kind, "")
        )
        table.add_row(kind.replace("_", " "), number(seconds), f"{100 * seconds / total:.1f}", note)
    return table


_MEANING = {"waiting": "for the slowest rank", "idle": "no requests"}


def _resources(result: Mapping[str, Any]) -> Table:
    table = Table("resource", "utilisation", "", "speed of", "elasticity", box=None, pad_edge=False)
    left = [(name, f"{100 * low:.0f} - {100 * high:.0f} %" if low != high else f"{100 * low:.0f} %")
            for name, (low, high) in _grouped(result["utilization"]).items()]  # fmt: skip
    ordered = sorted(result["elasticities"].items(), key=lambda item: item[1])
    right = [(name, f"{value:+.3f}") for name, value in ordered]
    for i in range(max(len(left), len(right))):
        first = left[i] if i < len(left) else ("", "")
        table.add_row(*first, "", *(right[i] if i < len(right) else ("", "")))
    return table


def _grouped(utilization: Mapping[str, float]) -> dict[str, tuple[float, float]]:
    """Gather equal resources of all devices: lowest and highest share."""
    ranges: dict[str, tuple[float, float]] = {}
    for name, share in utilization.items():
        kind = _DEVICE.sub(r"\1", name)
        low, high = ranges.get(kind, (share, share))
        ranges[kind] = min(low, share), max(high, share)
    return ranges


def show_reason(result: Mapping[str, Any], advice: Sequence[Any], waiting: float) -> None:
    """Print where the time went and what would shorten it."""
    console = Console(highlight=False)
    console.print(_times(result))
    table = Table("what would help", "1 % more saves", "at most", "how", box=None, pad_edge=False)
    for lever in advice:
        saved, most = f"{-lever.elasticity:.2f} %", f"{100 * lever.limit:.0f} %"
        table.add_row(lever.resource.replace("_", " "), saved, most, lever.how)
    console.print(table)
    if waiting > 0.02:
        console.print(
            f"{100 * waiting:.0f} % of the time, ranks wait for the slowest: try another placement of the"
            " experts (policies.placement), or fewer, larger expert groups."
        )
