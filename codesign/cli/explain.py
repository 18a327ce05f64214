"""`codesign explain`: the reason."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click


@click.command()
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--objective", "objectives", multiple=True, metavar="OBJECTIVE",
              help="As 'max output_tokens_per_s'; again for several.  Default: those of the sweep, or the"
              " usual five.")  # fmt: skip
@click.option("--fidelity", metavar="LEVEL",
              help="Where elasticities are measured: roofline, event, cycle.  Default: as it was run if that"
              " is quick, else roofline.")  # fmt: skip
@click.option("--points", type=click.IntRange(min=1), default=5, show_default=True, metavar="N",
              help="Points of a front.")  # fmt: skip
@click.option("--step", type=click.FloatRange(min=1e-6, max=0.5), default=0.05, show_default=True,
              help="Relative change of a number, up and down.")  # fmt: skip
@click.option("--workers", type=click.IntRange(min=0), metavar="N",
              help="Processes; default one for each core, 0: none.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def explain(folder: Path, as_json: bool, **options: Any) -> None:
    """Tell why the run in DIR, or the front of the sweep or search in DIR, is as it is.

    Where time, energy and money went; what each objective gains from each number of the hardware and the
    model; what to change first; which bottleneck comes next, and from where on.
    """
    from codesign.cli.progress import progress_bar
    from codesign.explain.explanation import explain as find

    with progress_bar("runs") as progress:
        found = find(folder, progress=progress, **options)
    if as_json:
        from codesign.report.files import to_json

        click.echo(to_json({**_of_run(found.summary), **found.to_dict()}))
        return
    from codesign.explain.show import show_explanation

    if found.summary is not None:
        _show_run(found.summary)
    show_explanation(found)


def _of_run(summary: dict[str, Any] | None) -> dict[str, Any]:
    """Return what the run itself told: times, critical path, advice."""
    from dataclasses import asdict

    from codesign.explain.advice import advise, imbalance

    if summary is None:
        return {}
    parts = {key: summary[key] for key in ("breakdown_s", "elasticities", "utilization")}
    return {**parts, "waiting_share": imbalance(summary), "advice": [asdict(a) for a in advise(summary)]}


def _show_run(summary: dict[str, Any]) -> None:
    from codesign.explain.advice import advise, imbalance
    from codesign.report.table import show_reason

    show_reason(summary, advise(summary), imbalance(summary))
