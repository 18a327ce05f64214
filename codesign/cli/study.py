"""`codesign study`: published systems beside their figures."""

from __future__ import annotations

from pathlib import Path

import click


@click.group()
def study() -> None:
    """Reproduce published systems, beside their figures."""


@study.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def list_studies(as_json: bool) -> None:
    """List the studies: what they reproduce, and what their reference is."""
    from codesign.report.files import to_json
    from codesign.study.library import load_study, names

    found = [load_study(name).spec for name in names()]
    if as_json:
        rows = [
            {"name": s.name, "title": s.title, "paper": s.paper, "reference": s.reference,
             "figures": len(s.figures)}
            for s in found
        ]  # fmt: skip
        click.echo(to_json({"studies": rows}))
        return
    width = max(len(s.name) for s in found)
    for s in found:
        click.echo(f"{s.name.ljust(width)}  {s.title} ({s.paper}; {s.reference}; {len(s.figures)} figures)")


@study.command()
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option("--all", "everything", is_flag=True, help="Run every shipped study.")
@click.option("--full", is_flag=True, help="Run the full grids, not the reduced ones.")
@click.option("--strict", is_flag=True, help="Exit with 1 if a figure is outside its tolerance.")
@click.option("--workers", type=click.IntRange(min=1), help="Worker processes [default: the cores].")
@click.option("--markdown", "page", type=click.Path(path_type=Path), metavar="FILE",
              help="Write the table as a page of Markdown.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.pass_context
def run(
    ctx: click.Context, names: tuple[str, ...], everything: bool, full: bool, strict: bool,
    workers: int | None, page: Path | None, as_json: bool,
) -> None:  # fmt: skip
    """Run studies (by NAME, or a path to a study file) and print ours beside theirs."""
    from codesign.base.errors import ConfigError
    from codesign.cli.progress import progress_bar
    from codesign.report.files import to_json
    from codesign.study import library, table
    from codesign.study.evaluate import run_study

    if everything == bool(names):
        raise ConfigError(f"codesign study run: name studies ({', '.join(library.names())}), or give --all")
    found = []
    for loaded in [library.load_study(name) for name in (names or library.names())]:
        with progress_bar("runs") as bar:
            found.append(run_study(loaded, full, workers, bar).to_dict())
        if not as_json:
            click.echo(table.text(found[-1]))
    if page is not None:
        page.write_text(table.markdown(found), encoding="utf-8")
    if as_json:
        click.echo(to_json({"studies": found, "tally": table.tally(found)}))
    elif len(found) > 1:
        click.echo(f"all: {table.tally(found)}")
    failed = any(figure["verdict"] == "fail" for one in found for figure in one["figures"])
    if strict and failed:
        ctx.exit(1)
