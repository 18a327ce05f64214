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

    from codesign.cli.front import show_front

    console = Console(highlight=False)
    counts = ", ".join(f"{n:,} {status}" for status, n in report["counts"].items())
    console.print(f"{report['points']:,} points: {counts}; {report['feasible']:,} meet the constraints")
    for fault in report["errors"][:3]:
        console.print(f"  {fault['points']:,} x {fault['error']}", markup=False)
    show_front(console, report["front"])
    console.print(f"written to {report['results']}")
