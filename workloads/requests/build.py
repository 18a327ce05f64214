"""From an experiment's ``workload.requests`` to a stream of requests."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from codesign.base.document import Document
from codesign.base.errors import ConfigError
from codesign.base.random import stream, stream_key
from workloads.requests.arrivals import Arrivals, Poisson
from workloads.requests.clients import ClientMix
from workloads.requests.joint import GaussianCopula, draw_lengths
from workloads.requests.lengths import Lengths
from workloads.requests.sessions import Pairs, draw_sessions
from workloads.requests.settings import (
    ClientsForm,
    DatasetForm,
    DrawnForm,
    RequestSettings,
    SyntheticForm,
    TenantsForm,
    TraceForm,
    read_settings,
)  # fmt: skip
from workloads.requests.sharing import share_prefixes
from workloads.requests.spec import MAX_TIME_S, FloatArray, IntArray, Requests
from workloads.requests.tenants import merge_streams
from workloads.requests.traces import Trace, read_trace


def build_requests(
    requests: Document | Mapping[str, Any] | RequestSettings, *, seed: int, base_dir: str | Path | None = None
) -> Requests:
    """Build the stream that ``workload.requests`` describes (forms: `workloads.requests.settings`).

    Parameters
    ----------
    requests : Document, mapping or RequestSettings   a Document keeps file and line for errors
    seed : int                                        the experiment's seed
    base_dir : path                                   where relative trace paths start; then the current one

    Raises
    ------
    ConfigError   wrong settings, a broken or empty trace

    Notes
    -----
    Laws: the same settings and seed give the same stream; another rate changes times alone, and scales
    them; the first n requests do not depend on the count.
    """
    settings = requests if isinstance(requests, RequestSettings) else read_settings(requests)
    form = settings.form
    if isinstance(form, TraceForm):
        return _from_trace(settings, form, seed, base_dir)
    if isinstance(form, TenantsForm):
        return _from_tenants(settings, form, seed, base_dir)
    if isinstance(form, ClientsForm):
        return _from_clients(settings, form, seed, base_dir)
    if isinstance(form, DatasetForm):
        return _from_dataset(settings, form, seed, base_dir)
    return _synthetic(settings, form, seed)


def midway(requests: Requests, seed: int) -> Requests:
    """Return a closed loop as it is met after it has run for long.

    The first `concurrency` requests are somewhere in their answers, evenly: what is already given counts as
    prompt and is in KV memory, but for the last token.  Law: prompt + output stays what it was.
    """
    first = min(requests.concurrency or 0, len(requests))
    share = np.zeros(len(requests))
    share[:first] = stream(seed, "requests", "midway").random(first)
    given = np.floor(share * requests.output_tokens).astype(np.int64)
    prompt = requests.prompt_tokens + given
    held = np.where(np.arange(len(requests)) < first, prompt - 1, 0)
    output = requests.output_tokens - given
    return replace(requests, prompt_tokens=prompt, output_tokens=output, held_tokens=held)


def _begun(requests: Requests, form: DrawnForm, seed: int) -> Requests:
    """Return the stream with what is computed of it before it is met."""
    found = midway(requests, seed) if form.midway else requests
    if not form.prefilled:
        return found
    return replace(found, held_tokens=np.maximum(found.prompt_tokens - 1, 0))


def find_file(name: str, base_dir: str | Path | None) -> Path:
    """Return the path that a file of settings means: beside that file, or in the current directory."""
    path = Path(name).expanduser()
    if base_dir is not None and not path.is_absolute() and (Path(base_dir) / path).exists():
        return Path(base_dir) / path
    return path


def arrival_times(
    settings: RequestSettings, process: Arrivals, n: int, rate_per_s: float, seed: int
) -> FloatArray:
    """Draw n arrival times from the stream that is theirs alone."""
    times = process.times(n, rate_per_s, stream(seed, "requests", "arrivals"))
    if n and not times[-1] <= MAX_TIME_S:
        raise settings.document.error(("rate",), "is so low that the last request comes after centuries")
    return times


def _synthetic(settings: RequestSettings, form: SyntheticForm, seed: int) -> Requests:
    process, prompt, output = settings.arrivals, settings.prompt, settings.output
    if process is None or prompt is None or output is None:
        raise ConfigError("requests: a synthetic stream needs arrivals, prompt_tokens and output_tokens")
    copula = GaussianCopula(form.correlation)

    def pairs(n: int) -> tuple[IntArray, IntArray]:
        return draw_lengths(n, prompt, output, copula, seed)

    found = _drawn(settings, form, pairs, process, form.rate or 1.0, seed)
    found = replace(found, concurrency=form.concurrency, name="synthetic", source="drawn")
    return _begun(found, form, seed)


def _from_dataset(
    settings: RequestSettings, form: DatasetForm, seed: int, base_dir: str | Path | None
) -> Requests:
    from workloads.requests.datasets import load_dataset

    table = load_dataset(form.dataset, base_dir, settings.document.where(("dataset",)))
    process = settings.arrivals or table.arrivals
    rate = form.rate or table.rate
    if process.needs_rate and rate is None:
        rule = f"is required: dataset {table.name} holds lengths alone (or concurrency, or batch: true)"
        raise settings.document.error(("rate",), rule)

    def pairs(n: int) -> tuple[IntArray, IntArray]:
        return draw_lengths(n, table.prompt, table.output, table.copula, seed)

    found = _drawn(settings, form, pairs, process, rate or 1.0, seed)
    if table.sharing is not None and settings.sessions is None:
        ptr, ids = share_prefixes(found.prompt_tokens, table.sharing, seed)
        found = replace(found, prefix_ptr=ptr, prefix_ids=ids, block_tokens=table.sharing.block_tokens)
    found = replace(found, concurrency=form.concurrency, name=table.name, source=table.source)
    return _begun(found, form, seed)


def _from_clients(
    settings: RequestSettings, form: ClientsForm, seed: int, base_dir: str | Path | None
) -> Requests:
    from workloads.requests.client_files import read_clients, read_length_frequencies
    from workloads.requests.datasets import dataset_names, load_dataset

    try:
        record = read_clients(find_file(form.clients, base_dir))
        if form.lengths in dataset_names():
            table = load_dataset(form.lengths)
            lengths: tuple[Lengths, Lengths] = (table.prompt, table.output)
        else:
            lengths = read_length_frequencies(find_file(form.lengths, base_dir))
        if form.start >= record.end_s:
            raise ConfigError(f"start is {form.start:g} s; the record ends at {record.end_s:g} s")
        rng = stream(seed, "requests", "arrivals")
        times, who = record.draw(form.count, form.rate, form.start, rng)
    except ConfigError as error:
        raise ConfigError(f"{settings.document.where(('clients',))}: clients: {error}") from None
    if form.batch or form.concurrency is not None:
        times = np.zeros(len(times))
    tokens = draw_lengths(form.count, *lengths, GaussianCopula(), seed)
    names = tuple(f"client {client.id}" for client in record.clients)
    found = Requests(times, *tokens, tenant=who, tenant_names=names)
    return replace(found, concurrency=form.concurrency, name=Path(form.clients).name, source=form.clients)


def _drawn(
    settings: RequestSettings, form: DrawnForm, pairs: Pairs, process: Arrivals, rate_per_s: float, seed: int
) -> Requests:
    """Draw times and lengths, of single requests or of the turns of conversations."""
    sessions = settings.sessions
    if sessions is None and isinstance(process, ClientMix):
        drawn, who = process.draw(form.count, rate_per_s, stream(seed, "requests", "arrivals"))
        names = tuple(f"client {i}" for i in range(len(process.shares)))
        return Requests(drawn, *pairs(form.count), tenant=who, tenant_names=names)
    if sessions is None:
        times = arrival_times(settings, process, form.count, rate_per_s, seed)
        return Requests(times, *pairs(form.count))
    if not process.needs_rate:  # all at once: nobody stops to think
        sessions = replace(sessions, think_time_s=0.0)
    start_rate = rate_per_s / sessions.mean_turns

    def starts(n: int) -> FloatArray:
        return arrival_times(settings, process, n, start_rate, seed)

    return draw_sessions(form.count, sessions, starts, pairs, seed)


def _from_tenants(
    settings: RequestSettings, form: TenantsForm, seed: int, base_dir: str | Path | None
) -> Requests:
    """Draw each tenant's stream from its own seed, and keep the first `count` of all."""
    streams = []
    for tenant in settings.tenants:
        own_seed = stream_key(seed, "requests", "tenant", tenant.name)
        streams.append(build_requests(tenant.settings, seed=own_seed, base_dir=base_dir))
    found = merge_streams(streams, settings.tenants)[: form.count]
    times = found.arrival_s
    if form.rate is not None:
        pairs = zip(settings.tenants, streams, strict=True)
        rates = [_own_rate(tenant.settings, part, base_dir) for tenant, part in pairs]
        if None in rates:
            raise settings.document.error(("rate",), "needs tenants with a rate of their own")
        times = times * (sum(rate for rate in rates if rate) / form.rate)
    if form.batch or form.concurrency is not None:
        times = np.zeros(len(times))
    return found.at(times, concurrency=form.concurrency)


def _own_rate(settings: RequestSettings, found: Requests, base_dir: str | Path | None) -> float | None:
    """Return the rate that a stream was described with; of a recorded one, its mean."""
    if isinstance(settings.form, DatasetForm) and settings.form.rate is None:
        from workloads.requests.datasets import load_dataset

        return load_dataset(settings.form.dataset, base_dir).rate
    return settings.form.rate or _mean_rate(found.arrival_s)


def _from_trace(
    settings: RequestSettings, form: TraceForm, seed: int, base_dir: str | Path | None
) -> Requests:
    place = settings.document.where(("trace",))
    try:
        path = find_file(form.trace, base_dir)
        trace = read_trace(path, format=form.format, skip=form.skip, limit=form.limit)
    except ConfigError as error:
        raise ConfigError(f"{place}: trace: {error}{_dataset_hint(form.trace)}") from None
    times, notes = _retimed(settings, form, trace, seed)
    if not times[-1] <= MAX_TIME_S:
        raise settings.document.error(("trace",), "the last request comes after centuries at this scale")
    found = trace.requests
    return found.at(times, concurrency=form.concurrency, notes=(*found.notes, *notes))


def _dataset_hint(name: str) -> str:
    from workloads.requests.datasets import dataset_names

    stem = Path(name).stem
    return f" (did you mean dataset: {stem}?)" if stem in dataset_names() else ""


def _retimed(
    settings: RequestSettings, form: TraceForm, trace: Trace, seed: int
) -> tuple[FloatArray, tuple[str, ...]]:
    """Return the times that the form asks for, and what was done to the recorded ones."""
    times, n = trace.requests.arrival_s, len(trace.requests)
    process, own_rate = settings.arrivals, _mean_rate(times)
    if process is None and not trace.timed:
        process = Poisson()
    if process is not None:
        rate = form.rate or (own_rate if trace.timed else None)
        if process.needs_rate and rate is None:
            rule = "is required: the trace holds lengths alone (or concurrency, or batch: true)"
            raise settings.document.error(("rate",), rule)
        return arrival_times(settings, process, n, rate or 1.0, seed), ("times drawn, not recorded",)
    scale = (form.time_scale or 1.0) / (form.speedup or 1.0)
    if form.rate is not None and own_rate is not None:
        scale = own_rate / form.rate
    return times * scale, () if scale == 1.0 else (f"recorded times multiplied by {scale:.6g}",)


def _mean_rate(times_s: FloatArray) -> float | None:
    """Return arrivals per s from the first to the last; None where they are all at once."""
    span = float(times_s[-1] - times_s[0]) if len(times_s) else 0.0
    return (len(times_s) - 1) / span if span > 0 else None
