"""`codesign timeline`: tasks as a Perfetto trace."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), metavar="FILE",
              help="Where to write; DIR/timeline.json unless given.")  # fmt: skip
@click.option("--iterations", type=click.IntRange(min=1), default=20, show_default=True, metavar="N",
              help="Iterations to show, if the run recorded none.")  # fmt: skip
@click.option("--first", type=click.IntRange(min=0), default=0, show_default=True, metavar="I",
              help="The first iteration to show, if the run recorded none.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print the trace instead of writing it.")
def timeline(folder: Path, output: Path | None, iterations: int, first: int, as_json: bool) -> None:
    """Write the tasks of the run in DIR as a trace for ui.perfetto.dev or chrome://tracing.

    If the run did not record its tasks (`codesign run --tasks N`), it is run again from its own
    experiment.yaml up to the iterations that are shown.
    """
    import json

    from codesign.api import load_tasks
    from codesign.base.errors import ConfigError
    from codesign.report.timeline import trace_events

    trace = json.dumps(trace_events(load_tasks(folder, first, iterations)))
    if as_json:
        click.echo(trace)
        return
    place = output or folder / "timeline.json"
    try:
        place.write_text(trace, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{place}: cannot be written: {error.strerror or error}") from None
    click.echo(f"written to {place}; open it in ui.perfetto.dev")
