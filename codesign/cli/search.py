"""`codesign search`: the best points of a design space."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click


@click.command()
@click.argument("file", metavar="SWEEP", type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), metavar="DIR", required=True,
              help="Folder of the store, of Optuna's journal and of results.parquet.")  # fmt: skip
@click.option("--objective", "objectives", multiple=True, metavar="OBJECTIVE",
              help="As 'max output_tokens_per_s' or energy_j_per_token; again for several.")  # fmt: skip
@click.option("--trials", type=click.IntRange(min=1), default=100, show_default=True,
              help="Points to propose.")  # fmt: skip
@click.option("--sampler", default="tpe", show_default=True, help="tpe, nsga2, nsga3 or random.")
@click.option("--fidelity", multiple=True, metavar="LEVEL",
              help="roofline, event, cycle: again for a ladder, cheapest first.")  # fmt: skip
@click.option("--confirm", type=click.IntRange(min=1), metavar="N",
              help="Points run again at the second level; default a tenth of the trials.")  # fmt: skip
@click.option("--warm-start", multiple=True, type=click.Path(path_type=Path), metavar="DIR",
              help="Learn from the points of a sweep or search.")  # fmt: skip
@click.option("-s", "--set", "overrides", multiple=True, metavar="PATH=VALUE",
              help="Override any field of every point; may be given again.")  # fmt: skip
@click.option("--seed", type=click.IntRange(min=0), default=1, show_default=True, help="Of the proposals.")
@click.option("--resume", is_flag=True, help="Go on with the search in DIR.")
@click.option("--workers", type=click.IntRange(min=0), metavar="N",
              help="Processes; default one for each core, 0: none.")  # fmt: skip
@click.option("--scheduler", metavar="ADDRESS", help="Run on a Dask cluster, as tcp://HOST:8786.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def search(file: Path, output: Path, overrides: tuple[str, ...], as_json: bool, **options: Any) -> None:
    """Search the design space of SWEEP (a YAML file; ranges need no steps) for its best points."""
    from codesign.cli.progress import progress_bar
    from codesign.experiment.override import parse_override
    from codesign.explore.search import search as run

    changes = dict(parse_override(text) for text in overrides)
    with progress_bar("trials") as progress:
        found = run(file, output, overrides=changes, progress=progress, **options)
    report = _report(found, output)
    if as_json:
        from codesign.report.files import to_json

        click.echo(to_json(report))
        return
    _show(report)


def _report(found: Any, output: Path) -> dict[str, Any]:
    """Return counts by level, the front, and how often the levels disagreed."""
    from codesign.explore.results import RESULTS

    names = [name for objective in found.objectives for name in objective.formula.names]
    wanted = dict.fromkeys(["point", *found.sweep.paths, *names])
    front = found.pareto().to_pylist() if any(row["feasible"] for row in found.sweep.rows) else []
    disagreement = {
        pair: {name: None if share != share else share for name, share in shares.items()}
        for pair, shares in found.disagreement.items()
    }
    return {
        "objectives": [objective.text for objective in found.objectives],
        "levels": {level: sweep.counts for level, sweep in found.levels.items()},
        "front": [{name: row[name] for name in wanted if name in row} for row in front],
        "disagreement": disagreement, "results": str(output / RESULTS),
    }  # fmt: skip


def _show(report: dict[str, Any]) -> None:
    from rich.console import Console

    from codesign.cli.front import show_front

    console = Console(highlight=False)
    for level, counts in report["levels"].items():
        console.print(f"{level}: " + ", ".join(f"{n:,} {status}" for status, n in counts.items()))
    for pair, shares in report["disagreement"].items():
        said = ", ".join(f"{name} {'-' if s is None else f'{100 * s:.0f} %'}" for name, s in shares.items())
        console.print(f"{pair}: pairs of points ordered otherwise: {said}", markup=False)
    show_front(console, report["front"])
    console.print(f"written to {report['results']}")
