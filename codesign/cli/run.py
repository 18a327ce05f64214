"""`codesign run`: the main job."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.argument("experiment", type=click.Path(path_type=Path))
@click.option("-s", "--set", "overrides", multiple=True, metavar="PATH=VALUE",
              help="Override any field, as -s parallel.tensor=4; may be given again.")  # fmt: skip
@click.option("-o", "--output", type=click.Path(path_type=Path), metavar="DIR",
              help="Write summary.json, experiment.yaml and Parquet tables.")  # fmt: skip
@click.option("--tasks", type=click.IntRange(min=0), default=0, metavar="N",
              help="Record the tasks of the first N iterations (for `codesign timeline`).")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of the table.")
def run(experiment: Path, overrides: tuple[str, ...], output: Path | None, tasks: int, as_json: bool) -> None:
    """Simulate EXPERIMENT (a YAML file) and print how fast, how much energy, how much money, and why."""
    from codesign.api import simulate
    from codesign.experiment.override import parse_override
    from codesign.report.files import to_json

    result = simulate(experiment, [parse_override(text) for text in overrides], tasks=tasks)
    if output is not None:
        result.save(output)
    if as_json:
        click.echo(to_json(result.to_dict()))
        return
    from codesign.report.table import show

    show(result.to_dict(), wall_s=result.wall_s)
    if output is not None:
        click.echo(f"written to {output}", err=True)
