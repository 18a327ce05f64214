"""`codesign validate`: errors of operator costs against measurements."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from codesign.validation.errors import ErrorRow

_SPLIT = (
    "Shapes are split in two by a hash of the shape alone (all devices, frameworks, kernels and types of a"
    " shape on one side): constants were fitted to 70 % of the shapes, the errors are of the other 30 %."
)
_HEADER = ("operator", "device", "type", "rows", "covered", "median", "mean", "P90", "bias", "weighted",
           "roofline", "noise")  # fmt: skip


@click.command()
@click.argument("operators", nargs=-1, metavar="[OP]...")
@click.option("--data", type=click.Path(path_type=Path), default=Path("../shared/data/measured"),
              show_default=True, help="Folder of the measured tables.")  # fmt: skip
@click.option("-o", "--output", type=click.Path(path_type=Path), metavar="DIR", help="Write plots there.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def validate(operators: tuple[str, ...], data: Path, output: Path | None, as_json: bool) -> None:
    """Show the error of operator costs on measured shapes that no constant was fitted to.

    Beside it stand the naive roofline's median on the same rows, and the noise floor: how far repeated
    measurements of one shape lie from their median.  Collectives are those of 16 MiB and more.
    """
    import json

    from codesign.validation import errors, plots

    rows: list[ErrorRow] = []
    places: list[str] = []
    for operator in errors.operators(operators):
        found = errors.validate_operator(operator, data)
        rows += errors.error_rows(found)
        if output is not None:
            places += [str(place) for place in plots.draw(found, output)]
    if as_json:
        shown = {"split": _SPLIT, "rows": [row.as_dict() for row in rows], "plots": places}
        click.echo(json.dumps(shown))
        return
    _print(rows, places, errors.GOALS)


def _print(rows: list[ErrorRow], places: list[str], goals: dict[str, float]) -> None:
    click.echo(_SPLIT)
    lines = [_HEADER, *(_line(row) for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(_HEADER))]
    for line in lines:
        shown = [cell.ljust(width) if i < 3 else cell.rjust(width)
                 for i, (cell, width) in enumerate(zip(line, widths, strict=True))]  # fmt: skip
        click.echo("  ".join(shown).rstrip())
    for row in rows:
        if row.device == "all":
            goal = goals[row.operator]
            word = "met" if row.median <= goal else "missed"
            click.echo(f"{row.operator}: median {row.median:.1%}, goal {goal:.0%}: {word}")
    for place in places:
        click.echo(place)


def _line(row: ErrorRow) -> tuple[str, ...]:
    figures = (row.median, row.mean, row.p90, row.bias, row.latency_weighted, row.roofline_median,
               row.noise_median)  # fmt: skip
    shown = ["-" if figure != figure else f"{figure:.1%}" for figure in figures]
    return (row.operator, row.device, row.dtype, str(row.rows), str(row.covered), *shown)
