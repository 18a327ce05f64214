"""`codesign predict`: operator times for a table of shapes."""

from __future__ import annotations

from pathlib import Path

import click

FILE = click.Path(path_type=Path)


@click.command()
@click.argument("operator", metavar="OP")
@click.argument("shapes", metavar="SHAPES.csv|parquet", type=FILE)
@click.option("--device", required=True, metavar="NAME", help="Device or system: library name or file.")
@click.option("-o", "--output", required=True, metavar="OUT", type=FILE, help="A .csv or .parquet file.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def predict(operator: str, shapes: Path, device: str, output: Path, as_json: bool) -> None:
    """Predict the times of OP for every row of a table.

    OP is gemm, moe, attention_prefill, attention_decode, mla, collectives or moe_alltoall.  The same rows
    come out with predicted_us added; rows that the model does not cover have none, and a reason.  Times are
    those of a benchmark that runs the operator over and over.
    """
    import json

    from codesign.validation.files import check_suffix, columns_of, read_table, with_prediction, write_table
    from hwmodels.costs.rows import predict as predict_rows
    from hwmodels.costs.rows import table_of
    from hwmodels.load import load

    table_of(operator)
    check_suffix(output)
    hardware, table = load(device), read_table(shapes)
    found = predict_rows(operator, columns_of(table), hardware)
    write_table(with_prediction(table, found.seconds * 1e6, found.reason), output)
    covered = int((found.reason == "").sum())
    reasons = sorted({str(reason) for reason in found.reason if reason})
    if as_json:
        click.echo(json.dumps({"output": str(output), "rows": len(found.reason), "covered": covered,
                               "reasons": reasons}))  # fmt: skip
        return
    click.echo(f"{output}: {covered} of {len(found.reason)} rows predicted for {hardware.name}")
    for reason in reasons:
        click.echo(f"  not covered ({int((found.reason == reason).sum())} rows): {reason}")
