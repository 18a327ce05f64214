"""Fits the latent-logit generator to a recorded trace, by matching moments layer by layer.

Popularity and the pull between layers come from the trace's counts; the deviations, correlations and the gain
of the pull are moved by damped Gauss-Newton steps until simulated moments meet the recorded ones.  Draws are
hashes of counters, so that two simulations differ by their parameters alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from codesign.base.errors import ConfigError
from ext.routing import iid_kernels
from workloads.routing.files import RoutingTrace
from workloads.routing.latent import Float32, LatentModel, LatentStream, LayerLaw
from workloads.routing.measures import indicator
from workloads.routing.moments import NAMES, Sample, moments, sample_of
from workloads.routing.stream import FloatArray

# parameters of a layer, as the steps see them: log deviations, logit correlations, log gain, popularity scale
PARAMETERS = ("domain", "request", "slow", "slow_rho", "fast", "fast_rho", "coupling", "scale")
START = np.array([np.log(0.6), np.log(1.0), np.log(0.7), 3.0, np.log(1.0), 0.0, np.log(0.6), 0.0])
LOW = np.array([-3.0, -3.0, -3.0, 1.5, -3.0, -1.5, -4.0, -1.5])
HIGH = np.array([1.2, 1.6, 1.4, 5.0, 1.5, 1.3, 1.0, 0.5])
STEP = np.array([0.25, 0.25, 0.25, 0.4, 0.25, 0.4, 0.2, 0.15])
PRIOR = np.array([1.2, 1.0, 1.0, 1.5, 1.0, 1.0, 1.0, 0.6])  # deviations of a layer around the mean layer
ERROR = {"same_domain": 0.02, "other_domain": 0.015, "gini": 0.015, "information": 0.015, "set_hit": 0.015}
_MOMENT_ERROR = 0.008
_WORK = 120e6  # experts x layers x tokens that one simulation may draw


@dataclass(frozen=True)
class FitReport:
    """What a fit reached: root mean square error of each moment over layers, before noise is taken off."""

    errors: dict[str, float]
    iterations: int
    tokens: int


def log_popularity(sample: Sample) -> Float32:
    """Return the log share of each expert of each layer, centred; float32 (L, E)."""
    counts = iid_kernels().counts(np.ascontiguousarray(sample.ids), sample.n_experts) + 0.5
    logs = np.log(counts / counts.sum(axis=1, keepdims=True))
    return np.asarray(logs - logs.mean(axis=1, keepdims=True), np.float32)


def pull_matrices(sample: Sample) -> Float32:
    """Return the log-odds pull of each expert of the layer before on each expert; float32 (L, E, E).

    Notes
    -----
    ``log p(e | b) / p(e)``, shrunk where b was seen rarely: 2 pseudo-draws per expert by popularity.  Rows are
    centred by the experts' popularity, so that the pull moves no popularity on average.
    """
    n_layers, n = sample.ids.shape[1], sample.n_experts
    out = np.zeros((n_layers, n, n), np.float32)
    here = indicator(sample.ids[:, 0], n)
    for layer in range(1, n_layers):
        before, here = here, indicator(sample.ids[:, layer], n)
        share = (here.mean(axis=0) + 1e-6) / (here.mean(axis=0) + 1e-6).sum()
        joint = before.T @ here + 2.0 * n * share
        out[layer] = np.log(joint / joint.sum(axis=1, keepdims=True) / share)
    return out


def laws_of(parameters: FloatArray) -> tuple[LayerLaw, ...]:
    """Return the laws of all layers from parameters (L, 8)."""
    rho = 1 / (1 + np.exp(-parameters))
    size = np.exp(parameters)
    return tuple(
        LayerLaw(
            *(round(float(x), 5) for x in (
                size[i, 0], size[i, 1], size[i, 2], rho[i, 3], size[i, 4], rho[i, 5], size[i, 6] if i else 0.0
            ))
        )
        for i in range(len(parameters))
    )  # fmt: skip


class Fitter:
    """Holds what one fit needs: the recorded moments, the simulated sequences, the current model."""

    def __init__(self, trace: RoutingTrace, model: LatentModel, seed: int, replicates: int) -> None:
        self.sample = sample_of(trace)
        self.target = moments(self.sample)
        self.wanted = log_popularity(self.sample)
        self.base = model
        self.bias = self.wanted.copy()
        self.seed, self.replicates = seed, replicates
        self.parameters = np.tile(START, (len(model.laws), 1))
        self.error = np.array([ERROR.get(name, _MOMENT_ERROR) for name in NAMES])

    def model(self, parameters: FloatArray) -> LatentModel:
        """Return the model of some parameters at the current popularity."""
        return replace(self.base, laws=laws_of(parameters), popularity=self.bias)

    def simulate(self, parameters: FloatArray, replicate: int) -> Sample:
        """Draw the recorded sequences anew: same lengths, same domains, other requests."""
        stream = LatentStream(self.model(parameters), self.seed + replicate)
        lengths = np.diff(self.sample.offsets)
        requests = np.arange(len(lengths)) + 1
        for request, domain in zip(requests.tolist(), self.sample.domains.tolist(), strict=True):
            stream.set_domain(request, domain)
        ids = stream.draw(requests, np.zeros_like(requests), lengths)
        return Sample(ids, self.sample.offsets, self.sample.domains, self.sample.n_experts)

    def simulated(self, parameters: FloatArray) -> FloatArray:
        """Return the mean moments of the replicates, (L, M)."""
        return np.mean([moments(self.simulate(parameters, r)) for r in range(self.replicates)], axis=0)

    def residual(self, found: FloatArray) -> FloatArray:
        """Return (recorded - simulated) / error, 0 where one is missing; (L, M)."""
        return np.nan_to_num((self.target - found) / self.error)

    def jacobian(self, found: FloatArray) -> FloatArray:
        """Return the change of the scaled moments with each parameter, (L, M, P)."""
        out = np.zeros((*found.shape, len(PARAMETERS)))
        for p in range(len(PARAMETERS) - 1):
            moved = self.parameters.copy()
            moved[:, p] += STEP[p]
            out[:, :, p] = np.nan_to_num((self.simulated(moved) - found) / self.error) / STEP[p]
        kept, scale = self.bias, np.exp(STEP[-1])
        self.bias = (kept * scale).astype(np.float32)
        out[:, :, -1] = np.nan_to_num((self.simulated(self.parameters) - found) / self.error) / STEP[-1]
        self.bias = kept
        return out

    def advance(self, jacobian: FloatArray, residual: FloatArray, damping: float) -> None:
        """Take one damped step; layers are drawn to the mean layer where the data say little."""
        middle = self.parameters.mean(axis=0)
        pull = np.diag(1 / PRIOR**2)
        for layer, (slope, off) in enumerate(zip(jacobian, residual, strict=True)):
            normal = slope.T @ slope
            normal += damping * np.diag(np.diag(normal)) + pull
            gradient = slope.T @ off - pull @ (self.parameters[layer] - middle)
            change = np.clip(np.linalg.solve(normal, gradient), -2 * STEP, 2 * STEP)
            self.parameters[layer] = np.clip(self.parameters[layer] + change, LOW, HIGH)

    def rebalance(self, rate: float) -> None:
        """Move the bias of each expert so that simulated popularity meets the recorded one, scaled."""
        samples = [self.simulate(self.parameters, 1000 + r) for r in range(2 * self.replicates)]
        pooled = Sample(np.concatenate([s.ids for s in samples]), np.zeros(1, np.int64), np.zeros(0, np.int64),
                        self.sample.n_experts)  # fmt: skip
        scale = np.exp(self.parameters[:, -1:])
        wanted = self.wanted * scale
        self.bias = (self.bias + rate * (wanted - log_popularity(pooled))).astype(np.float32)


def fit_trace(
    trace: RoutingTrace,
    *,
    scoring: str = "softmax",
    n_group: int = 1,
    topk_group: int = 1,
    iterations: int = 6,
    seed: int = 0,
    progress: Callable[[int, float], None] | None = None,
) -> tuple[LatentModel, FitReport]:
    """Fit a latent-logit model to a recorded trace.

    Parameters
    ----------
    iterations : int      Gauss-Newton steps
    progress : callable   told each step and its mean squared scaled residual

    Raises
    ------
    ConfigError   the trace has unused slots, or too few tokens
    """
    trace = _reduced(trace)
    _, n_layers, top_k = trace.experts.shape
    sample = sample_of(trace)
    model = LatentModel(
        laws_of(np.tile(START, (n_layers, 1))), log_popularity(sample), pull_matrices(sample), top_k,
        max(1, len(trace.domain_names)), n_group, topk_group, scoring,
    )  # fmt: skip
    work = len(trace.experts) * n_layers * trace.n_experts
    fitter = Fitter(trace, model, seed, int(np.clip(_WORK // work, 1, 4)))
    for _ in range(3):
        fitter.rebalance(0.7)
    for step in range(iterations):
        found = fitter.simulated(fitter.parameters)
        residual = fitter.residual(found)
        if progress is not None:
            progress(step, float((residual**2).mean()))
        fitter.advance(fitter.jacobian(found), residual, damping=0.3)
        fitter.rebalance(0.7)
        fitter.rebalance(0.5)
    return fitter.model(fitter.parameters), _report(fitter, iterations)


def _report(fitter: Fitter, iterations: int) -> FitReport:
    off = fitter.target - fitter.simulated(fitter.parameters)
    known = ~np.isnan(off).all(axis=0)
    errors = {
        name: round(float(np.sqrt(np.nanmean(column**2))), 5)
        for name, column, use in zip(NAMES, off.T, known, strict=True)
        if use
    }
    return FitReport(errors, iterations, len(fitter.sample.ids))


def _reduced(trace: RoutingTrace) -> RoutingTrace:
    """Refuse what cannot be fitted; of a long trace take whole sequences spread over it."""
    tokens, n_layers, top_k = trace.experts.shape
    if (trace.experts < 0).any():
        raise ConfigError("the trace has unused slots (-1); only a fixed top-k can be fitted")
    if tokens < 1000:
        raise ConfigError(f"the trace has {tokens} tokens; a fit needs at least 1000")
    most = max(int(_WORK // (n_layers * trace.n_experts)), 4000)
    if tokens <= most:
        return trace
    every = int(np.ceil(tokens / most))
    if len(trace.lengths) >= 20 * every:
        return trace.select(np.arange(0, len(trace.lengths), every))
    keep: npt.NDArray[np.int64] = np.minimum(trace.lengths, max(most // max(len(trace.lengths), 1), 200))
    rows = np.concatenate([np.arange(a, a + n) for a, n in zip(trace.offsets[:-1], keep, strict=True)])
    offsets = np.concatenate([[0], np.cumsum(keep)]).astype(np.int64)
    return replace(trace, experts=trace.experts[rows], offsets=offsets)
