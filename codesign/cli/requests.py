"""`codesign requests`: look at, fit, make and convert request traces."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from workloads.requests import Requests

_JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of a table.")
_SEED = click.option(
    "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of the draws."
)
_COUNT = click.option("--count", type=click.IntRange(min=1), help="So many requests [default: the source's].")
_RATE = click.option("--rate", metavar="RATE", help="Requests per time, as '6 /s' [default: the source's].")


@click.group()
def requests() -> None:
    """Look at, fit, make and convert request traces.

    A SOURCE is a trace file (Azure, Mooncake, BurstGPT, length lists, our CSV), a shipped dataset
    (azure-conv-2023, ...), a fitted dataset, or a YAML file with `workload.requests`.
    """


@requests.command()
@click.argument("source")
@_COUNT
@_RATE
@_SEED
@_JSON
def stats(source: str, count: int | None, rate: str | None, seed: int, as_json: bool) -> None:
    """Tell how long, how often and how bursty the requests of SOURCE are."""
    from workloads.requests.source import open_stream
    from workloads.requests.stats import describe

    _show(describe(open_stream(source, seed=seed, count=count, rate=rate)), as_json)


@requests.command()
@click.argument("source")
@click.option(
    "-o", "--output", required=True, type=click.Path(path_type=Path), help="CSV or JSON lines; .gz too."
)
@_COUNT
@_RATE
@_SEED
@_JSON
def generate(
    source: str, output: Path, count: int | None, rate: str | None, seed: int, as_json: bool
) -> None:
    """Draw requests as SOURCE describes them, and write them to a trace file."""
    from workloads.requests.source import open_stream

    _write(open_stream(source, seed=seed, count=count, rate=rate), output, as_json)


@requests.command()
@click.argument("trace")
@click.option(
    "-o", "--output", required=True, type=click.Path(path_type=Path), help="CSV or JSON lines; .gz too."
)
@_JSON
def convert(trace: str, output: Path, as_json: bool) -> None:
    """Read TRACE in any known format and write it in another."""
    from workloads.requests.traces import read_trace

    _write(read_trace(trace).requests, output, as_json)


@requests.command()
@click.argument("trace")
@click.option(
    "-o", "--output", required=True, type=click.Path(path_type=Path), help="The dataset file (YAML)."
)
@click.option("--name", help="Name of the dataset [default: of the output file].")
@click.option("--source", "origin", help="Where the trace is from [default: its file name].")
@click.option("--lengths", metavar="NPZ", help="TRACE is a table of ServeGen's clients; their lengths.")
@_JSON
def fit(
    trace: str, output: Path, name: str | None, origin: str | None, lengths: str | None, as_json: bool
) -> None:
    """Describe TRACE by quantile tables, for `dataset: FILE.yaml` in an experiment."""
    from workloads.requests.fit import fit_clients, fit_dataset, fit_errors, write_dataset

    labels = {"name": name or output.stem, "source": origin or Path(trace).name}
    if lengths is not None:
        from workloads.requests.client_files import read_clients, read_length_frequencies

        fitted = fit_clients(read_clients(trace), read_length_frequencies(lengths), **labels)
        write_dataset(fitted, output)
        _show({"written": str(output), "clients": len(fitted["clients"])}, as_json)
        return
    from workloads.requests.traces import read_trace

    found = read_trace(trace).requests
    write_dataset(fit_dataset(found, **labels), output)
    _show({"written": str(output)} | fit_errors(found, output), as_json)


def _write(found: Requests, output: Path, as_json: bool) -> None:
    from workloads.requests.write import write_requests

    lost = write_requests(found, output)
    report = {"written": str(output), "requests": len(found), "left_out": list(lost)}
    _show(report | {"dropped": dict(found.dropped), "notes": list(found.notes)}, as_json)


def _show(report: dict[str, Any], as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(report, indent=2, allow_nan=False))
        return
    for key, value in _flat(report):
        click.echo(f"{key:28} {f'{value:.6g}' if isinstance(value, float) else value}")


def _flat(report: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Return (dotted key, value) of every leaf that says something."""
    rows: list[tuple[str, Any]] = []
    for key, value in report.items():
        if isinstance(value, dict):
            rows += _flat(value, f"{prefix}{key}.")
        elif value is not None and value != []:
            rows.append((prefix + key, value))
    return rows
