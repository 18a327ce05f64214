"""`codesign validate`: errors against measurements: operator costs, serving end to end, energy."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from codesign.validation.errors import ErrorRow
    from codesign.validation.whole import Whole

_SPLIT = (
    "Shapes are split in two by a hash of the shape alone (all devices, frameworks, kernels and types of a"
    " shape on one side): constants were fitted to 70 % of the shapes, the errors are of the other 30 %."
)
_HEADER = ("operator", "device", "type", "rows", "covered", "median", "mean", "P90", "bias", "weighted",
           "roofline", "noise")  # fmt: skip
_WHOLE_HEADER = ("rows", "figure", "n", "median", "mean", "P90", "bias", "goal")


@click.command()
@click.argument("operators", nargs=-1, metavar="[OP|serving|energy]...")
@click.option("--data", type=click.Path(path_type=Path), default=Path("../shared/data/measured"),
              show_default=True, help="Folder of the measured tables.")  # fmt: skip
@click.option("--points", type=click.IntRange(min=0), default=100, show_default=True, metavar="N",
              help="About so many end-to-end points of each kind, evenly chosen; 0: all.")  # fmt: skip
@click.option("-o", "--output", type=click.Path(path_type=Path), metavar="DIR", help="Write plots there.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def validate(operators: tuple[str, ...], data: Path, points: int, output: Path | None, as_json: bool) -> None:
    """Show errors against measurements that no constant was fitted to; nothing named: all of them.

    Operator costs: beside the error stand the naive roofline's median on the same rows, and the noise floor:
    how far repeated measurements of one shape lie from their median.  Collectives: of 16 MiB and more.

    serving: time to first token, time per output token and throughput of vLLM, TensorRT-LLM and SGLang,
    through the whole simulator.  energy: joules per token and average power, likewise.
    """
    import json

    from codesign.validation import errors, plots
    from codesign.validation.whole import WHOLE

    rows: list[ErrorRow] = []
    places: list[str] = []
    kernels = [name for name in operators if name not in WHOLE]
    for operator in errors.operators(kernels) if kernels or not operators else ():
        found = errors.validate_operator(operator, data)
        rows += errors.error_rows(found)
        if output is not None:
            places += [str(place) for place in plots.draw(found, output)]
    whole = {
        name: run(data, points or None, output)
        for name, run in WHOLE.items()
        if name in operators or not operators
    }
    if as_json:
        shown = {"split": _SPLIT, "rows": [row.as_dict() for row in rows], "plots": places}
        click.echo(json.dumps(shown | {name: found.as_dict() for name, found in whole.items()}))
        return
    if rows:
        _print(rows, places, errors.GOALS)
    for each in whole.values():
        _print_whole(each)


def _print_whole(whole: Whole) -> None:
    click.echo(whole.split)
    for name, count in whole.counts.items():
        if isinstance(count, int):
            click.echo(f"  rows {name}: {count}")
    for reason, count in whole.counts["left_out"].items():
        click.echo(f"  rows left out: {count}: {reason}")
    click.echo(f"  fitted constants: {len(whole.constants)}")
    for constant in whole.constants:
        click.echo(f"    {constant['name']} {constant.get('value', '')}".rstrip())
    _print_table([_WHOLE_HEADER, *(_whole_line(row) for row in whole.rows)], words=2)
    for row in whole.rows:
        if row["goal"] is not None:
            word = "met" if row["error"] <= row["goal"] else "missed"
            click.echo(
                f"{row['metric']} ({row['name']}): median {row['error']:.1%}, goal {row['goal']:.0%}: {word}"
            )
    for place in whole.places:
        click.echo(place)


def _whole_line(row: dict[str, Any]) -> tuple[str, ...]:
    figures = tuple(f"{row[key]:.1%}" for key in ("error", "mean", "p90", "bias"))
    goal = "-" if row["goal"] is None else f"{row['goal']:.0%}"
    return (row["name"], row["metric"], str(row["n"]), *figures, goal)


def _print_table(lines: list[tuple[str, ...]], words: int) -> None:
    """Print lines of equal length; the first `words` columns flush left, the others right."""
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    for line in lines:
        shown = [cell.ljust(width) if i < words else cell.rjust(width)
                 for i, (cell, width) in enumerate(zip(line, widths, strict=True))]  # fmt: skip
        click.echo("  ".join(shown).rstrip())


def _print(rows: list[ErrorRow], places: list[str], goals: dict[str, float]) -> None:
    click.echo(_SPLIT)
    lines = [_HEADER, *(_line(row) for row in rows)]
    _print_table(lines, words=3)
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
