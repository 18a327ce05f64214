"""`codesign explain`: the reason."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def explain(folder: Path, as_json: bool) -> None:
    """Tell where the time of the run in DIR went, its elasticities, and what would shorten it."""
    from dataclasses import asdict

    from codesign.explain.advice import advise, imbalance
    from codesign.report.files import read_summary, to_json

    result = read_summary(folder)
    advice, waiting = advise(result), imbalance(result)
    if as_json:
        parts = {key: result[key] for key in ("breakdown_s", "elasticities", "utilization")}
        click.echo(to_json({**parts, "waiting_share": waiting, "advice": [asdict(a) for a in advice]}))
        return
    from codesign.report.table import show_reason

    show_reason(result, advice, waiting)
