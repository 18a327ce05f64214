"""Fits from histograms: popularity and domains from counts, all else from a fit of a recorded trace.

A histogram of experts by domain tells skew and how far domains differ.  It tells nothing of reuse by the
next tokens, of requests, or of neighbouring layers: those laws are taken from another model's fit, layer by
layer at the same relative depth, and are named as unidentified.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from codesign.base.errors import ConfigError, read_text
from codesign.base.random import stream
from ext.routing import iid_kernels
from workloads.routing.fits import Fit, adapt_fit
from workloads.routing.latent import Float32, LatentModel, LatentStream, LayerLaw
from workloads.routing.popularity import log_shares
from workloads.routing.sources import NpzSource
from workloads.routing.stream import FloatArray, Int16Array, RoutingShape

_TOKENS, _SEQUENCES = 8, 320  # of each simulated sequence; per domain: enough that requests average out
_ROUNDS = 16
_MOST = 1.5  # times the other model's deviations, at most
UNIDENTIFIED = (
    "request",
    "slow",
    "slow_rho",
    "fast",
    "fast_rho",
    "coupling",
    "decay",
    "pull",
    "sequence_lengths",
)


@dataclass(frozen=True)
class Histogram:
    """Counts of experts by domain and layer: int64 (D, L, E), the layers' places, the domains' names."""

    counts: npt.NDArray[np.int64]
    layers: tuple[int, ...]
    names: tuple[str, ...]
    origin: str


def is_histogram(path: str | Path) -> bool:
    """Return whether a file holds counts and no trace: an ``.npz`` of such, or a ``.csv``."""
    place = Path(path)
    if place.suffix == ".csv":
        return True
    if place.suffix != ".npz" or not place.is_file():
        return False
    held = NpzSource(place).names
    return "experts" not in held and any(name in held for name in ("counts", "expert_counts"))


def read_histogram(path: str | Path, n_layers: int | None = None) -> Histogram:
    """Read counts of experts: `counts` or `expert_counts` [domains, layers, experts] of an ``.npz``, or a
    ``.csv`` of layer_id, expert_id, count, as SGLang's recorder of expert distributions writes it.

    Parameters
    ----------
    n_layers : int    layers of the model; where `layer_ids` is absent the counted ones are spread over them

    Raises
    ------
    ConfigError   no counts, of another shape, negative, or a layer without any
    """
    place = Path(path)
    held = _read_csv(place) if place.suffix == ".csv" else _read_npz(place)
    counts = held.get("counts", held.get("expert_counts"))
    if counts is None or counts.ndim != 3 or counts.dtype.kind not in "iu":
        raise ConfigError(f"{place}: has no whole numbers 'counts' [domains, layers, experts]")
    if (counts < 0).any() or not counts.sum(axis=(0, 2)).all():
        raise ConfigError(f"{place}: counts must not be negative, and no layer without any")
    depth = counts.shape[1]
    spread = np.floor(np.linspace(0, (n_layers or depth) - 1, depth)).astype(int)
    layers = held.get("layer_ids", spread)
    names = held.get("names", held.get("domains", np.arange(len(counts))))
    if layers.shape != (depth,) or names.shape != (len(counts),):
        raise ConfigError(f"{place}: layer_ids or names do not suit counts {counts.shape}")
    return Histogram(
        counts.astype(np.int64), tuple(int(i) for i in layers), tuple(str(n) for n in names), place.name
    )


def _read_npz(place: Path) -> dict[str, npt.NDArray[Any]]:
    source = NpzSource(place)
    return {name: source.read(name) for name in source.names}


def _read_csv(place: Path) -> dict[str, npt.NDArray[np.int64]]:
    lines = read_text(place, "histogram").splitlines()
    if not lines or [w.strip() for w in lines[0].split(",")] != ["layer_id", "expert_id", "count"]:
        raise ConfigError(f"{place}:1: a histogram has the columns layer_id,expert_id,count")
    rows = []
    for number, line in enumerate(lines[1:], 2):
        words = line.split(",")
        if len(words) != 3 or not all(word.strip().isdigit() for word in words):
            raise ConfigError(f"{place}:{number}: {line[:60]!r}: three whole numbers are needed")
        rows.append([int(word) for word in words])
    table = np.array(rows, np.int64).reshape(-1, 3)
    if not len(table) or int(table[:, 1].max()) > 32766:
        raise ConfigError(f"{place}: holds no counts, or experts beyond 32766")
    layers, at = np.unique(table[:, 0], return_inverse=True)
    counts = np.zeros((1, len(layers), int(table[:, 1].max()) + 1), np.int64)
    np.add.at(counts[0], (at, table[:, 1]), table[:, 2])
    return {"counts": counts, "layer_ids": layers, "names": np.array(["all"])}


def domain_spread(counts: npt.NDArray[np.int64]) -> FloatArray:
    """Return how far domains lie apart per layer: deviation of log shares, less its noise; (L,)."""
    logs = log_shares(counts)
    apart = logs - logs.mean(axis=0)
    noise = (1.0 / (counts + 0.5)).mean(axis=(0, 2))
    scale = len(counts) / max(len(counts) - 1, 1)
    return np.asarray(np.sqrt(np.maximum((apart**2).mean(axis=(0, 2)) * scale - noise, 1e-4)))


def spread_over(histogram: Histogram, n_layers: int, seed: int) -> Float32:
    """Return the wanted log popularity of all layers, float32 (L, E).

    A layer that was not counted has the skew of the nearest counted one, its experts renamed at random.
    """
    logs = log_shares(histogram.counts.sum(axis=0))
    at = np.array(histogram.layers)
    out = np.empty((n_layers, logs.shape[1]), np.float32)
    for layer in range(n_layers):
        source = int(np.argmin(np.abs(at - layer)))
        order = stream(seed, "routing", "transfer", layer).permutation(logs.shape[1])
        out[layer] = logs[source] if at[source] == layer else logs[source][order]
    return out


def simulated_counts(model: LatentModel, n_domains: int, seed: int) -> npt.NDArray[np.int64]:
    """Return counts by domain and layer of some sequences of each domain; int64 (D, L, E)."""
    source, n = LatentStream(model, seed), n_domains * _SEQUENCES
    requests = np.arange(n)
    for request in requests.tolist():
        source.set_domain(request, request % n_domains)
    ids: Int16Array = source.draw(requests, np.zeros(n, np.int64), np.full(n, _TOKENS))
    rows = ids.reshape(_SEQUENCES, n_domains, _TOKENS, *ids.shape[1:])
    counts = [
        iid_kernels().counts(np.ascontiguousarray(rows[:, d]).reshape(-1, *ids.shape[1:]), model.n_experts)
        for d in range(n_domains)
    ]
    return np.array(counts, np.int64)


def fit_histogram(
    histogram: Histogram, like: Fit, *, top_k: int, n_layers: int | None = None, name: str = "", seed: int = 0
) -> Fit:
    """Fit popularity and domains to a histogram; take the other laws from the fit `like`.

    Raises
    ------
    ConfigError   counted layers beyond the model's
    """
    depth = n_layers or max(histogram.layers) + 1
    if max(histogram.layers) >= depth:
        raise ConfigError(
            f"{histogram.origin}: layer {max(histogram.layers)} is counted, the model has {depth}"
        )
    domains, _, n_experts = histogram.counts.shape
    wanted = spread_over(histogram, depth, seed)
    fit = adapt_fit(like, RoutingShape(tuple(range(depth)), n_experts, top_k), seed)
    model = replace(fit.model, popularity=wanted, n_domains=domains)
    at, ratio = np.array(histogram.layers), 1.0
    apart = float(domain_spread(histogram.counts).mean())
    for step in range(_ROUNDS if domains > 1 else _ROUNDS // 2):
        counts = simulated_counts(model, domains, seed + step)
        bias = model.popularity + 1.2 * (wanted - log_shares(counts.sum(axis=0)))
        if domains > 1:
            ratio *= float(np.clip(apart / domain_spread(counts)[at].mean(), 0.7, 1.4))
        laws = tuple(_scaled(law, min(ratio, _MOST)) for law in fit.model.laws)
        model = replace(model, popularity=bias.astype(np.float32), laws=laws)
    shares = histogram.counts.sum(axis=(1, 2)) / histogram.counts.sum()
    missing = tuple(f"popularity of layer {i}" for i in range(depth) if i not in histogram.layers)
    return Fit(
        model, name, f"popularity and domains from {histogram.origin}; all else as in {like.name}", False,
        UNIDENTIFIED + missing, like.lengths, dict(zip(histogram.names, shares.tolist(), strict=True)),
    )  # fmt: skip


def _scaled(law: LayerLaw, ratio: float) -> LayerLaw:
    """Return a law whose domain and request parts are scaled.

    Both are what a text is about: where domains lie less far apart than in the model of the recorded trace,
    requests are taken to do so too.  Drift within a request is left as it is.
    """
    parts = {name: round(getattr(law, name) * ratio, 5) for name in ("domain", "request")}
    return replace(law, **parts)
