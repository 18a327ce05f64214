"""Run the benchmarks: ``python -m benchmarks [NAME ...] [--json]``, each figure beside its goal.

A benchmark is a module here with a function ``run() -> list[dict]`` of rows with `name`, `value`, `unit` and
`goal` (``<= number``, ``>= number`` or nothing).  Exit code 1 if a goal is missed.
"""

from __future__ import annotations

import json
import os
from typing import Any

ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
os.environ.update(dict.fromkeys(ONE_THREAD, "1"))  # before anything imports NumPy

import importlib  # noqa: E402
import pkgutil  # noqa: E402
from pathlib import Path  # noqa: E402

import click  # noqa: E402

Row = dict[str, Any]


def names() -> list[str]:
    """List the modules beside this one."""
    found = pkgutil.iter_modules([str(Path(__file__).parent)])
    return sorted(module.name for module in found if not module.name.startswith("_"))


def passed(row: Row) -> bool | None:
    """Tell whether a figure reaches its goal; None if it has none."""
    if not row.get("goal"):
        return None
    sign, number = str(row["goal"]).split()
    if sign not in ("<=", ">="):
        raise ValueError(f"{row['name']}: goal {row['goal']!r}: write '<= number' or '>= number'")
    reached = row["value"] <= float(number) if sign == "<=" else row["value"] >= float(number)
    return bool(reached)


def collect(chosen: list[str]) -> list[Row]:
    """Run the chosen modules that have a `run`; each row gets `passed`."""
    rows: list[Row] = []
    for name in chosen:
        module = importlib.import_module(f"benchmarks.{name}")
        if hasattr(module, "run"):
            rows += [{**row, "passed": passed(row)} for row in module.run()]
    return rows


def table(rows: list[Row]) -> str:
    """Write the rows as text, a line each."""
    mark = {True: "ok", False: "MISSED", None: ""}
    cells = [("figure", "value", "unit", "goal", "")]
    for row in rows:
        value = f"{row['value']:,.4g}" if abs(row["value"]) < 1e4 else f"{row['value']:,.0f}"
        cells.append((row["name"], value, row["unit"], str(row.get("goal") or ""), mark[row["passed"]]))
    width = [max(len(line[column]) for line in cells) for column in range(5)]
    return "\n".join(
        f"{a:<{width[0]}}  {b:>{width[1]}} {c:<{width[2]}}  {d:<{width[3]}}  {e}".rstrip()
        for a, b, c, d, e in cells
    )


def on_one_core() -> None:
    """Stay on one core, where the system lets a process choose."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})


@click.command(help=__doc__)
@click.argument("chosen", nargs=-1, metavar="[NAME ...]")
@click.option("--json", "as_json", is_flag=True, help="Print the rows as JSON.")
def main(chosen: tuple[str, ...], as_json: bool) -> None:
    unknown = sorted(set(chosen) - set(names()))
    if unknown:
        raise click.BadParameter(f"{', '.join(unknown)}: choose from {', '.join(names())}")
    on_one_core()
    rows = collect(list(chosen) or names())
    click.echo(json.dumps(rows, indent=2) if as_json else table(rows))
    missed = [row["name"] for row in rows if row["passed"] is False]
    if missed:
        click.echo(f"{len(missed)} of {len(rows)} figures miss their goal", err=True)
        raise SystemExit(1)


if __name__ == "__main__":
    main()
