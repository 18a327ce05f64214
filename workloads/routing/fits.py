"""Fit files: a latent-logit model as JSON, with what it stands on and what could not be identified."""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from binascii import Error as Base64Error
from dataclasses import asdict, dataclass, field, replace
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from codesign.base.document import Document, Strict, validate
from codesign.base.errors import ConfigError, read_text, unknown_name
from codesign.base.random import stream
from workloads.routing.latent import Float32, LatentModel, LatentStream, LayerLaw, random_coupling
from workloads.routing.stream import GENERATORS, FloatArray, RoutingShape, RoutingStream

Finite = Annotated[float, Field(allow_inf_nan=False)]
_LAW_FIELDS = ("domain", "request", "slow", "slow_rho", "fast", "fast_rho", "coupling", "decay")


class Shape(Strict):
    """The router that a fit describes."""

    layers: Annotated[int, Field(ge=1, le=4096)]
    experts: Annotated[int, Field(ge=1, le=4096)]
    top_k: Annotated[int, Field(ge=1)]
    n_group: Annotated[int, Field(ge=1, le=64)] = 1
    topk_group: Annotated[int, Field(ge=1, le=64)] = 1
    scoring: Literal["softmax", "sigmoid"] = "softmax"


class Pull(Strict):
    """Matrices of the pull between layers: given (int8 of a scale per layer, base64), or drawn."""

    scale: list[Finite]
    data: str = ""  # layers x experts x experts; empty: standard normal draws times the scale


class FitFile(Strict):
    """One fit file, version 1."""

    format: Literal["codesign.routing.fit"] = "codesign.routing.fit"
    version: Literal[1] = 1
    model: str = ""
    source: str = ""
    extrapolated: bool = False
    unidentified: list[str] = Field(default_factory=list)
    shape: Shape
    laws: dict[Literal["domain", "request", "slow", "slow_rho", "fast", "fast_rho", "coupling", "decay"],
               list[Finite]]  # fmt: skip
    popularity: list[list[Finite]]
    pull: Pull
    sequence_lengths: list[Annotated[int, Field(ge=1)]] = Field(default_factory=lambda: [256])
    domains: dict[str, Annotated[float, Field(ge=0)]] = Field(default_factory=lambda: {"all": 1.0})
    errors: dict[str, Finite] = Field(default_factory=dict)


@dataclass(frozen=True)
class Fit:
    """A fitted model with the lengths and domains of the sequences that it was fitted on.

    lengths : int64      quantiles of the sequences' lengths, evenly spaced from the shortest to the longest
    """

    model: LatentModel
    name: str = ""
    source: str = ""
    extrapolated: bool = False
    unidentified: tuple[str, ...] = ()
    lengths: tuple[int, ...] = (256,)
    domains: dict[str, float] = field(default_factory=lambda: {"all": 1.0})
    errors: dict[str, float] = field(default_factory=dict)

    def shape(self) -> RoutingShape:
        """Return the router that the fit describes."""
        m = self.model
        layers = tuple(range(len(m.laws)))
        return RoutingShape(layers, m.n_experts, m.top_k, m.n_group, m.topk_group, m.scoring)


def write_fit(fit: Fit, path: str | Path) -> None:
    """Write a fit as JSON."""
    place = Path(path)
    try:
        place.write_text(json.dumps(fit_json(fit), indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{place}: cannot be written: {error.strerror}") from None


def fit_json(fit: Fit) -> dict[str, Any]:
    """Return the content of a fit file."""
    m = fit.model
    rows = [asdict(law) for law in m.laws]
    drawn = m.provenance.get("pull_scale")
    scale = np.abs(m.coupling).max(axis=(1, 2)) / 127 if drawn is None else np.asarray(drawn)
    data = "" if drawn is not None else _packed(m.coupling, scale)
    return {
        "format": "codesign.routing.fit",
        "version": 1,
        "model": fit.name,
        "source": fit.source,
        "extrapolated": fit.extrapolated,
        "unidentified": list(fit.unidentified),
        "shape": {
            "layers": len(m.laws), "experts": m.n_experts, "top_k": m.top_k, "n_group": m.n_group,
            "topk_group": m.topk_group, "scoring": m.scoring,
        },
        "laws": {name: [row[name] for row in rows] for name in _LAW_FIELDS},
        "popularity": [[round(float(x), 3) for x in row] for row in m.popularity],
        "pull": {"scale": [round(float(x), 7) for x in scale], "data": data},
        "sequence_lengths": list(fit.lengths),
        "domains": {name: round(share, 5) for name, share in fit.domains.items()},
        "errors": fit.errors,
    }  # fmt: skip


def _packed(coupling: Float32, scale: FloatArray) -> str:
    safe = np.where(scale > 0, scale, 1.0)[:, None, None]
    return b64encode(np.rint(coupling / safe).astype(np.int8).tobytes()).decode()


def read_fit(path: str | Path) -> Fit:
    """Read a fit file.

    Raises
    ------
    ConfigError   not JSON, an unknown or missing key, tables that do not suit the shape
    """
    text = read_text(path, "fit file")
    try:
        data = json.loads(text)
    except ValueError as error:
        raise ConfigError(f"{path}: not valid JSON: {error}") from None
    except RecursionError:
        raise ConfigError(f"{path}: nested too deeply") from None
    return fit_of(validate(FitFile, Document(data, str(path))), str(path))


def fit_of(file: FitFile, origin: str) -> Fit:
    """Check the tables of a fit file against its shape and build the fit."""
    s = file.shape
    table = np.array(_rows(file.popularity, s.layers, s.experts, origin), np.float32)
    for name in _LAW_FIELDS:
        if len(file.laws.get(name, ())) != s.layers:  # type: ignore[call-overload]
            raise ConfigError(f"{origin}: laws.{name}: needs {s.layers} numbers, one per layer")
    _check_laws(file, origin)
    _check_shape(s, origin)
    if not file.sequence_lengths or not file.domains or not sum(file.domains.values()) > 0:
        raise ConfigError(f"{origin}: sequence_lengths and domains must not be empty or all zero")
    columns = zip(*(file.laws[name] for name in _LAW_FIELDS), strict=True)  # type: ignore[index]
    pull, scale = _pull(file, origin)
    model = LatentModel(
        tuple(LayerLaw(*row) for row in columns), table, pull, s.top_k, len(file.domains), s.n_group,
        s.topk_group, s.scoring, {} if file.pull.data else {"pull_scale": scale},
    )  # fmt: skip
    total = sum(file.domains.values())
    return Fit(
        model, file.model, file.source, file.extrapolated, tuple(file.unidentified),
        tuple(file.sequence_lengths), {n: x / total for n, x in file.domains.items()}, dict(file.errors),
    )  # fmt: skip


def _rows(rows: list[list[float]], layers: int, experts: int, origin: str) -> list[list[float]]:
    if len(rows) != layers or any(len(row) != experts for row in rows):
        raise ConfigError(f"{origin}: popularity: must be {layers} rows of {experts} numbers")
    return rows


def _check_shape(shape: Shape, origin: str) -> None:
    from workloads.routing.build import check_shape

    try:
        check_shape(RoutingShape(
            tuple(range(shape.layers)), shape.experts, shape.top_k, shape.n_group, shape.topk_group
        ))  # fmt: skip
    except ConfigError as error:
        raise ConfigError(f"{origin}: shape: {error}") from None


def _check_laws(file: FitFile, origin: str) -> None:
    for name, values in file.laws.items():
        high = 1.0 if name.endswith("rho") or name == "decay" else 30.0
        bad = [x for x in values if not 0 <= x <= high]
        if bad:
            raise ConfigError(f"{origin}: laws.{name}: {bad[0]} must be between 0 and {high:g}")


def _pull(file: FitFile, origin: str) -> tuple[Float32, list[float]]:
    s, scale = file.shape, file.pull.scale
    if len(scale) != s.layers:
        raise ConfigError(f"{origin}: pull.scale: needs {s.layers} numbers, one per layer")
    factors = np.array(scale, np.float32)[:, None, None]
    if not file.pull.data:
        return random_coupling(s.layers, s.experts, 0) * factors, scale
    try:
        raw = b64decode(file.pull.data, validate=True)
    except (Base64Error, ValueError):
        raise ConfigError(f"{origin}: pull.data: not valid base64") from None
    if len(raw) != s.layers * s.experts**2:
        raise ConfigError(
            f"{origin}: pull.data: holds {len(raw)} numbers; {s.layers} layers of {s.experts} x"
            f" {s.experts} are needed"
        )
    return np.frombuffer(raw, np.int8).reshape(s.layers, s.experts, s.experts) * factors, scale


def presets() -> list[str]:
    """Return the names of the fits that ship with the package."""
    folder = resources.files("workloads.routing") / "presets"
    return sorted(item.name[: -len(".json")] for item in folder.iterdir() if item.name.endswith(".json"))


def read_preset(name: str) -> Fit:
    """Read a fit that ships with the package, by name."""
    if name not in presets():
        raise unknown_name("routing preset", name, presets())
    with resources.as_file(resources.files("workloads.routing") / "presets" / f"{name}.json") as path:
        return replace(read_fit(path), name=name)


def adapt_fit(fit: Fit, shape: RoutingShape, seed: int) -> Fit:
    """Bend a fit to another router: layers by relative depth, experts' popularity by its quantiles.

    Notes
    -----
    What is kept: skew, deviations and correlations of the layer at the same relative depth, and the size of
    the pull (its matrix is drawn).  What is invented: which experts are popular, and which pull which.
    """
    m, depth = fit.model, len(fit.model.laws)
    source = [i * depth // shape.n_layers for i in range(shape.n_layers)]
    laws = tuple(replace(m.laws[j], coupling=m.laws[max(j, 1) if depth > 1 else 0].coupling) for j in source)
    laws = (replace(laws[0], coupling=0.0), *laws[1:])
    popularity = np.empty((shape.n_layers, shape.n_experts), np.float32)
    at = (np.arange(shape.n_experts) + 0.5) / shape.n_experts
    for i, (j, layer) in enumerate(zip(source, shape.moe_layers, strict=True)):
        order = stream(seed, "routing", "adapt", layer).permutation(shape.n_experts)
        popularity[i, order] = np.quantile(m.popularity[j], at)
    scale = np.array([m.coupling[max(j, 1) if depth > 1 else 0].std() for j in source])
    coupling = random_coupling(shape.n_layers, shape.n_experts, seed) * scale[:, None, None]
    model = LatentModel(
        laws, popularity, coupling.astype(np.float32), shape.top_k, m.n_domains, shape.n_group,
        shape.topk_group, shape.scoring, {"pull_scale": scale.tolist()},
    )  # fmt: skip
    return replace(fit, model=model, extrapolated=True, errors={})


def open_fit(fit: Fit, shape: RoutingShape, seed: int, adapt: bool) -> RoutingStream:
    """Return the stream of a fit for one model; refuse another shape unless `adapt`."""
    own = fit.shape()
    found, wanted = ((s.n_layers, s.n_experts, s.top_k, s.n_group, s.topk_group) for s in (own, shape))
    if found != wanted:
        if not adapt:
            raise ConfigError(
                f"the fit of {fit.name or fit.source!r} has {found[0]} layers of {found[1]} experts,"
                f" top-{found[2]}, {found[4]} of {found[3]} groups; the model has {wanted[0]} of {wanted[1]},"
                f" top-{wanted[2]}, {wanted[4]} of {wanted[3]}: use another fit, or 'adapt: true'"
            )
        fit = adapt_fit(fit, shape, seed)
    return LatentStream(fit.model, seed)


@GENERATORS.register("fit")
@dataclass(frozen=True)
class Fitted:
    """Draws from a fit file (``codesign routing fit``); `adapt` bends it to a model of another shape."""

    path: str
    adapt: bool = False

    def open(self, shape: RoutingShape, seed: int) -> RoutingStream:
        """Return the stream for one model; refuse a fit of another shape unless `adapt`."""
        return open_fit(read_fit(self.path), shape, seed, self.adapt)


@GENERATORS.register("preset")
@dataclass(frozen=True)
class Preset:
    """Draws from a fit that ships with the package; `adapt` bends it to a model of another shape."""

    name: str
    adapt: bool = False

    def open(self, shape: RoutingShape, seed: int) -> RoutingStream:
        """Return the stream for one model; refuse a fit of another shape unless `adapt`."""
        return open_fit(read_preset(self.name), shape, seed, self.adapt)
