"""`codesign cycle`: the cycle models alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

FILE = click.Path(path_type=Path)


@click.group()
def cycle() -> None:
    """Run the cycle models of DRAM, PIM and systolic arrays on tables of requests."""


def _report(rows: list[dict[str, Any]], output: Path, as_json: bool) -> None:
    import json

    if as_json:
        finite = [
            {key: None if value == float("inf") else value for key, value in row.items()} for row in rows
        ]
        click.echo(json.dumps({"rows": finite, "output": str(output)}, allow_nan=False))
    else:
        click.echo(f"{output}: {len(rows)} rows")


@cycle.command()
@click.argument("streams", metavar="STREAMS.csv", type=FILE)
@click.option("-o", "--output", required=True, metavar="OUT.csv", type=FILE, help="Where results go.")
@click.option("--timings", metavar="FILE.csv", type=FILE, help="Organisations and timings of the parts.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def dram(streams: Path, output: Path, timings: Path | None, as_json: bool) -> None:
    """Serve streams of bursts by DRAM channels.

    STREAMS.csv has columns cfg, channels, queue, refresh, mapping, kind, n, inject_frac.  OUT.csv has these
    and ck, bw_frac, read_lat_mc_ck, row_hits, row_misses, row_conflicts.  A part (cfg) is a row of the
    timings, or GRADE_ORGANISATION of the library: HBM3_6400_16Gb_8hi.
    """
    from hwmodels.cycle.tables import dram_table

    _report(dram_table(streams, output, timings), output, as_json)


@cycle.command()
@click.argument("shapes", metavar="SHAPES.csv", type=FILE)
@click.option("-o", "--output", required=True, metavar="OUT.csv", type=FILE, help="Where results go.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def pim(shapes: Path, output: Path, as_json: bool) -> None:
    """Multiply matrices by units in memory.

    SHAPES.csv has columns unit, m, n, k: y[m, n] = x[m, k] w[k, n] with the weights (FP16) in the banks of
    one stack.  OUT.csv has these and time, bytes, rates, energy, energy-delay-area, counts of commands.
    """
    from hwmodels.cycle.tables import pim_table

    _report(pim_table(shapes, output), output, as_json)


@cycle.command()
@click.argument("shapes", metavar="SHAPES.csv", type=FILE)
@click.option("-o", "--output", required=True, metavar="OUT.csv", type=FILE, help="Where results go.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def gemm(shapes: Path, output: Path, as_json: bool) -> None:
    """Multiply matrices on systolic arrays.

    SHAPES.csv has columns rows, columns, dataflow (ws, os, is), m, n, k, and may have value_bytes (2),
    sram_bytes (of each buffer; inf) and bytes_per_cycle (of DRAM; inf).  OUT.csv has these and cycles,
    stalls, folds, utilisation and DRAM traffic.
    """
    from hwmodels.cycle.tables import gemm_table

    _report(gemm_table(shapes, output), output, as_json)
