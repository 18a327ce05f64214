"""`codesign sweep`: every point of a design space."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click


@click.command()
@click.argument("file", metavar="SWEEP", type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), metavar="DIR", required=True,
              help="Folder of the store and of results.parquet.")  # fmt: skip
@click.option("-s", "--set", "overrides", multiple=True, metavar="PATH=VALUE",
              help="Override any field of every point; may be given again.")  # fmt: skip
@click.option("--resume", is_flag=True, help="Go on: run only what DIR has no outcome of.")
@click.option("--retry", is_flag=True, help="Run points again that were killed or timed out.")
@click.option("--merge", multiple=True, type=click.Path(path_type=Path), metavar="DIR",
              help="Take over what another sweep found for the same points.")  # fmt: skip
@click.option("--workers", type=click.IntRange(min=0), metavar="N",
              help="Processes; default one for each core, 0: none.")  # fmt: skip
@click.option("--scheduler", metavar="ADDRESS", help="Run on a Dask cluster, as tcp://HOST:8786.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def sweep(file: Path, output: Path, overrides: tuple[str, ...], as_json: bool, **options: Any) -> None:
    """Run every point of SWEEP (a YAML file) that has not run yet; keep each outcome as it comes."""
    from codesign.cli.progress import progress_bar
    from codesign.experiment.override import parse_override
    from codesign.explore.api import sweep as run

    changes = dict(parse_override(text) for text in overrides)
    with progress_bar("points") as progress:
        found = run(file, output, overrides=changes, progress=progress, **options)
    report = _report(found, output)
    if as_json:
        from codesign.report.files import to_json

        click.echo(to_json(report))
        return
    _show(report)


def _report(found: Any, output: Path) -> dict[str, Any]:
    """Return counts, the front or the best point, the failures' reasons, and where the table is."""
    from codesign.base.errors import ConfigError
    from codesign.explore.results import RESULTS

    best: list[dict[str, Any]] = []
    if found.spec.objectives:
        names = [*found.paths, *_metrics(found.spec.objectives)]
        try:
            front = found.pareto().to_pylist()
        except ConfigError:
            front = []
        best = [{name: row[name] for name in ("point", *names) if name in row} for row in front]
    errors: dict[str, int] = {}
    for row in found.rows:
        if row["error"]:
            errors[row["error"]] = errors.get(row["error"], 0) + 1
    commonest = sorted(errors.items(), key=lambda item: -item[1])[:10]
    return {
        "points": len(found), "counts": found.counts, "feasible": sum(row["feasible"] for row in found.rows),
        "results": str(output / RESULTS), "front": best,
        "errors": [{"error": text, "points": n} for text, n in commonest],
    }  # fmt: skip


def _metrics(objectives: list[str]) -> list[str]:
    from codesign.explore.objective import read_objective

    return [name for text in objectives for name in read_objective(text).formula.names]


def _show(report: dict[str, Any]) -> None:
    from rich.console import Console

    console = Console(highlight=False)
    counts = ", ".join(f"{n:,} {status}" for status, n in report["counts"].items())
    console.print(f"{report['points']:,} points: {counts}; {report['feasible']:,} meet the constraints")
    for fault in report["errors"][:3]:
        console.print(f"  {fault['points']:,} x {fault['error']}", markup=False)
    show_front(console, report["front"])
    console.print(f"written to {report['results']}")


def show_front(console: Any, front: list[dict[str, Any]], most: int = 40) -> None:
    """Print the points of a front: a line each, or a column each where whole names need more room."""
    if not front:
        return
    names = list(front[0])
    rows = [[_cell(value) for value in row.values()] for row in front[:most]]
    console.print(f"the front, {len(front)} points:")
    heads = _short(names)
    wide = [max(len(head), *(_width(row[i]) for row in rows)) for i, head in enumerate(heads)]
    if sum(wide) + len(wide) <= console.width:
        _print_table(console, [heads, *rows])
        return
    rows = rows[:_COLUMNS]
    while rows:
        part = _fitting(rows, max(map(len, heads)), console.width)
        _print_table(console, [list(line) for line in zip(heads, *rows[:part], strict=True)])
        rows = rows[part:]
        console.print()
    if len(front) > _COLUMNS:
        console.print(f"... and {len(front) - _COLUMNS} more in the table")


def _cell(value: Any) -> str:
    """Write one value; a mapping (kept as JSON) with a line for each of its settings."""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, str) and value.startswith("{"):
        import json

        return "\n".join(f"{key} {setting}" for key, setting in json.loads(value).items())
    return str(value)


def _width(cell: str) -> int:
    return max(map(len, cell.split("\n")))


_COLUMNS = 24  # points of a front that are shown as columns


def _fitting(rows: list[list[str]], head: int, width: int) -> int:
    """Return how many points fit side by side; at least one."""
    taken = head
    for n, row in enumerate(rows):
        taken += 1 + max(map(_width, row))
        if taken > width:
            return max(n, 1)
    return len(rows)


def _print_table(console: Any, lines: list[list[str]]) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    for head in lines[0]:
        table.add_column(Text(head), overflow="fold")
    for line in lines[1:]:
        table.add_row(*map(Text, line))
    console.print(table)


def _short(names: list[str]) -> list[str]:
    """Return the last step of each dotted name, or more steps where two would be alike."""
    for steps in range(1, 9):
        short = [".".join(name.split(".")[-steps:]) for name in names]
        if len(set(short)) == len(names):
            return short
    return names
