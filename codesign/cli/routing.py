"""`codesign routing`: look at, fit, make and convert routing streams."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from workloads.routing.fits import Fit
    from workloads.routing.trace import Block, RoutingTrace

F = TypeVar("F", bound=Callable[..., Any])
PLACE = click.Path(path_type=Path)


def _as_json(command: F) -> F:
    return click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")(command)


def _log_shape(command: F) -> F:
    for name, what in (
        ("experts", "experts per layer"),
        ("layers", "MoE layers"),
        ("top-k", "experts per token"),
    ):
        command = click.option(
            f"--{name}",
            type=click.IntRange(min=1),
            help=f"Number of {what}, where the file does not say.",
        )(command)
    return command


@click.group()
def routing() -> None:
    """Look at, fit, make and convert routing streams."""


@routing.command()
@click.argument("file", type=PLACE)
@_log_shape
@_as_json
def stats(file: Path, experts: int | None, layers: int | None, top_k: int | None, as_json: bool) -> None:
    """Tell what hardware sees of the routing in FILE (.npz, .parquet or a JSON-lines log)."""
    from workloads.routing.stats import routing_stats

    trace = _read(file, experts, layers, top_k)
    found = routing_stats(trace)
    _say_notes(trace)
    if as_json:
        click.echo(json.dumps(found))
        return
    for line in _stats_lines(found):
        click.echo(line)


def _read(file: Path, experts: int | None, layers: int | None, top_k: int | None) -> RoutingTrace:
    from codesign.base.errors import ConfigError
    from workloads.routing.files import read_trace
    from workloads.routing.logs import drop_warm_up, read_log

    if file.suffix in (".pt", ".pth", ".pkl", ".pickle"):
        raise ConfigError(
            f"{file}: pickled tensors are never read; save plain numbers: experts of tokens as .npz"
            " (experts [tokens, layers, k], num_experts) or JSON lines, counts as .npz (counts [domains,"
            " layers, experts]) or .csv (layer_id,expert_id,count)"
        )
    if file.suffix == ".csv":
        raise ConfigError(f"{file}: a .csv holds counts of experts, not tokens in order: only 'fit' reads it")
    if file.suffix in (".jsonl", ".json", ".log"):
        return read_log(file, n_experts=experts, layers=layers, top_k=top_k)
    return drop_warm_up(read_trace(file, experts))


def _say_notes(trace: RoutingTrace) -> None:
    for note in trace.notes:
        click.echo(f"note: {note}", err=True)


def _stats_lines(found: dict[str, Any]) -> Iterator[str]:
    tokens, layers, k, experts = (found[key] for key in ("tokens", "layers", "top_k", "experts"))
    yield f"{tokens} tokens, {layers} layers, top-{k} of {experts} experts"
    yield f"Gini of the loads           {found['gini']['mean']:.3f} (mean over layers)"
    for title, key in (
        ("reuse after n tokens", "overlap"),
        ("LRU hit rate by capacity", "lru_hit"),
        ("Belady hit rate", "belady_hit"),
    ):
        values = "  ".join(f"{k}: {_number(v)}" for k, v in found[key].items())
        yield f"{title:<28}{values}"
    for kind, title in (("contiguous", "active, consecutive tokens"), ("random", "active, random tokens")):
        values = "  ".join(f"{k}: {_number(v, 2)}" for k, v in found["active_experts"][kind].items())
        yield f"{title:<28}{values}"
    values = "  ".join(f"{k}: {v:.3f}" for k, v in found["affinity"].items())
    yield f"{'affinity between layers':<28}{values}"


def _number(value: float | None, digits: int = 3) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


@routing.command()
@click.argument("trace", type=PLACE)
@click.option("-o", "--output", type=PLACE, required=True, help="The fit, a JSON file.")
@click.option(
    "--iterations", type=click.IntRange(1, 40), default=7, show_default=True, help="Steps of the fit."
)
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of the simulated draws.")
@click.option("--scoring", type=click.Choice(["softmax", "sigmoid"]), default="softmax", show_default=True)
@click.option(
    "--groups", type=(int, int), default=(1, 1), metavar="N TOP", help="Group-limited: TOP of N groups."
)
@click.option("--name", default="", help="Name of the model; by default as the trace says.")
@click.option(
    "--like",
    default="gpt-oss-20b",
    show_default=True,
    help="For a histogram (.npz with counts by domain, layer and expert): the fit that gives all other laws.",
)
@_log_shape
@_as_json
def fit(
    trace: Path, output: Path, iterations: int, seed: int, scoring: str, groups: tuple[int, int], name: str,
    like: str, experts: int | None, layers: int | None, top_k: int | None, as_json: bool,
) -> None:  # fmt: skip
    """Fit the latent-logit generator to the recorded routing in TRACE."""
    from workloads.routing.fits import write_fit
    from workloads.routing.fitting import fit_of_trace
    from workloads.routing.transfer import is_histogram

    if is_histogram(trace):
        write_fit(_from_histogram(trace, like, layers, top_k, name, seed), output)
        click.echo(json.dumps({"fit": str(output), "like": like}) if as_json else f"wrote {output}")
        return
    source = _read(trace, experts, layers, top_k)
    _say_notes(source)
    with _progress(iterations, "fitting") as bar:
        done = fit_of_trace(
            source, str(trace.name), name=name, scoring=scoring, n_group=groups[0], topk_group=groups[1],
            iterations=iterations, seed=seed, progress=lambda step, off: bar.update(1),
        )  # fmt: skip
    write_fit(done, output)
    if as_json:
        click.echo(json.dumps({"fit": str(output), "tokens": len(source.experts), "errors": done.errors}))
        return
    click.echo(f"wrote {output}; rms error over layers: {_errors(done)}")


def _from_histogram(
    file: Path, like: str, layers: int | None, top_k: int | None, name: str, seed: int
) -> Fit:
    from codesign.base.errors import ConfigError
    from workloads.routing.transfer import fit_histogram, read_histogram

    if top_k is None:
        raise ConfigError(f"{file}: is a histogram, which does not tell experts per token: give --top-k")
    histogram = read_histogram(file, layers)
    return fit_histogram(histogram, _fit_named(like), top_k=top_k, n_layers=layers, name=name, seed=seed)


def _fit_named(text: str) -> Fit:
    """Return a fit by the path of its file, or by the name of one that ships with the package."""
    from workloads.routing.fits import read_fit, read_preset

    is_file = text.endswith(".json") or "/" in text or Path(text).exists()
    return read_fit(text) if is_file else read_preset(text)


def _errors(done: Fit) -> str:
    return ", ".join(f"{name} {value:.3f}" for name, value in done.errors.items())


def _progress(length: int, label: str) -> Any:
    """Return a progress bar on stderr, shown on a terminal only."""
    import sys

    return click.progressbar(length=length, label=label, file=sys.stderr, hidden=not sys.stderr.isatty())


@routing.command()
@click.argument("fit", metavar="FIT")
@click.option("--tokens", type=click.IntRange(min=1), required=True, help="Tokens to draw.")
@click.option("-o", "--output", type=PLACE, required=True, help="A .npz or .parquet file.")
@click.option("--seed", type=int, default=0, show_default=True)
@_as_json
def generate(fit: str, tokens: int, output: Path, seed: int, as_json: bool) -> None:
    """Draw a routing stream from FIT: a fit file, or the name of a fit that ships with the package."""
    from workloads.routing.generate import generate as drawn
    from workloads.routing.generate import header_of
    from workloads.routing.writing import write_blocks

    source = _fit_named(fit)
    with _progress(tokens, "drawing") as bar:
        write_blocks(output, header_of(source, seed), tokens, _counted(drawn(source, tokens, seed), bar))
    shape = source.shape()
    if as_json:
        about = {"layers": shape.n_layers, "experts": shape.n_experts, "top_k": shape.top_k}
        click.echo(json.dumps({"file": str(output), "tokens": tokens, **about}))
        return
    click.echo(
        f"wrote {output}: {tokens} tokens of {shape.n_layers} layers, top-{shape.top_k} of {shape.n_experts}"
    )


def _counted(blocks: Iterator[Block], bar: Any) -> Iterator[Block]:
    for block in blocks:
        yield block
        bar.update(len(block.experts))


@routing.command()
@click.argument("file", type=PLACE)
@click.option("-o", "--output", type=PLACE, required=True, help="A .npz or .parquet file.")
@_log_shape
@_as_json
def convert(
    file: Path, output: Path, experts: int | None, layers: int | None, top_k: int | None, as_json: bool
) -> None:
    """Convert FILE (.npz, .parquet, a JSON-lines router log) to .npz or .parquet; drop warm-up rows."""
    from workloads.routing.files import write_trace

    trace = _read(file, experts, layers, top_k)
    write_trace(trace, output)
    tokens, n_layers, slots = trace.experts.shape
    if as_json:
        about = {"tokens": tokens, "layers": n_layers, "experts": trace.n_experts, "top_k": slots}
        click.echo(json.dumps({"file": str(output), **about, "notes": list(trace.notes)}))
        return
    _say_notes(trace)
    click.echo(f"wrote {output}: {tokens} tokens of {n_layers} layers, top-{slots} of {trace.n_experts}")


@routing.command()
@click.argument("fit", metavar="FIT")
@click.option("-o", "--output", type=PLACE, required=True, help="The fit, a JSON file.")
@click.option("--layers", type=click.IntRange(min=1), required=True, help="Number of MoE layers.")
@click.option("--experts", type=click.IntRange(min=1), required=True, help="Number of experts per layer.")
@click.option("--top-k", type=click.IntRange(min=1), required=True, help="Number of experts per token.")
@click.option("--scoring", type=click.Choice(["softmax", "sigmoid"]), default="softmax", show_default=True)
@click.option(
    "--groups", type=(int, int), default=(1, 1), metavar="N TOP", help="Group-limited: TOP of N groups."
)
@click.option("--name", default="", help="Name of the model.")
@click.option("--seed", type=int, default=0, show_default=True)
@_as_json
def adapt(
    fit: str, output: Path, layers: int, experts: int, top_k: int, scoring: str, groups: tuple[int, int],
    name: str, seed: int, as_json: bool,
) -> None:  # fmt: skip
    """Bend FIT to a router of another shape; the result is marked as extrapolated."""
    from dataclasses import replace

    from workloads.routing.build import check_shape
    from workloads.routing.fits import adapt_fit, write_fit
    from workloads.routing.stream import RoutingShape

    source = _fit_named(fit)
    shape = RoutingShape(tuple(range(layers)), experts, top_k, groups[0], groups[1], scoring)
    check_shape(shape)
    about = f"the fit of {source.name}, bent to {layers} layers of {experts} experts; {source.source}"
    done = replace(adapt_fit(source, shape, seed), name=name, source=about, unidentified=("all",))
    write_fit(done, output)
    click.echo(json.dumps({"fit": str(output)}) if as_json else f"wrote {output}")


@routing.command()
@_as_json
def presets(as_json: bool) -> None:
    """List the fits that ship with the package, with their sources."""
    from workloads.routing.fits import presets as names
    from workloads.routing.fits import read_preset

    found = {name: read_preset(name) for name in names()}
    if as_json:
        click.echo(json.dumps({n: {"source": f.source, "extrapolated": f.extrapolated,
                                   "unidentified": f.unidentified} for n, f in found.items()}))  # fmt: skip
        return
    for name, one in found.items():
        click.echo(f"{name:<22}{'extrapolated; ' if one.extrapolated else ''}{one.source}")
