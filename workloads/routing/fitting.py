"""Fits the latent-logit generator to a recorded trace, by matching moments layer by layer.

Popularity and the pull between layers come from the trace's counts; the deviations, correlations and the gain
of the pull are moved by damped Gauss-Newton steps until simulated moments meet the recorded ones.  Draws are
hashes of counters, so that two simulations differ by their parameters alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from codesign.base.errors import ConfigError
from codesign.base.random import stream_key
from ext.routing import iid_kernels
from workloads.routing.fits import Fit
from workloads.routing.latent import Float32, LatentModel, LatentStream, LayerLaw
from workloads.routing.moments import NAMES, Sample, moments, sample_of
from workloads.routing.popularity import log_shares
from workloads.routing.stream import FloatArray, Int16Array
from workloads.routing.tables import Rows
from workloads.routing.trace import RoutingTrace

# of a layer, as the steps see them: logs of deviations and gain, logits of the rest, log scale of popularity
DECAY = 0.7  # weight of each next slot where the pull matrices are estimated
_RIDGE = 4.0  # pseudo-tokens by which the pull matrices are drawn to zero
PARAMETERS = ("domain", "request", "slow", "slow_rho", "fast", "fast_rho", "coupling", "decay", "scale")
START = np.array([0.8, 1.2, 1.0, 2.3, 0.4, -0.2, 1.9, 0.85, -0.1])
LOW = np.array([-3.0, -3.0, -3.0, 1.5, -3.0, -1.5, -4.0, -0.85, -1.5])
HIGH = np.array([2.2, 2.4, 2.2, 4.2, 2.4, 0.4, 3.0, 3.0, 0.5])
STEP = np.array([0.25, 0.25, 0.25, 0.4, 0.25, 0.4, 0.2, 0.4, 0.15])
PRIOR = np.array([1.2, 1.0, 1.0, 1.5, 1.0, 1.0, 1.0, 1.0, 0.6])  # deviations of a layer around the mean layer
ERROR = {
    "lag1": 0.004,
    "same_domain": 0.02,
    "other_domain": 0.01,
    "gini": 0.007,
    "information": 0.01,
    "set_hit": 0.006,
}
_MOMENT_ERROR = 0.008
_WORK = 60e6  # experts x layers x tokens that one simulation may draw
_SMALL = 25e6  # of the same: balances popularity twice before each slope is taken
_PULL_WORK = 1.2e10  # tokens x layers x experts squared that the pull matrices are estimated from
_PULL_TOKENS = 500_000  # and tokens: more would say little more, and need the memory


@dataclass(frozen=True)
class FitReport:
    """What a fit reached: root mean square error of each moment over layers, before noise is taken off."""

    errors: dict[str, float]
    iterations: int
    tokens: int


def log_popularity(sample: Sample) -> Float32:
    """Return the log share of each expert of each layer, centred; float32 (L, E)."""
    counts = iid_kernels().counts(np.ascontiguousarray(sample.ids), sample.n_experts)
    return log_shares(counts).astype(np.float32)


def counts_of(trace: RoutingTrace) -> npt.NDArray[np.int64]:
    """Return the tokens of each expert of each layer, int64 (L, E); refuse a trace with unused slots."""
    counts = np.zeros((trace.experts.shape[1], trace.n_experts), np.int64)
    for block in trace.blocks():
        counts += iid_kernels().counts(block.experts, trace.n_experts)
    if counts.sum() < trace.experts.size:
        raise ConfigError("the trace has unused slots (-1); only a fixed top-k can be fitted")
    return counts


def weighted(ids: Int16Array, n_experts: int, decay: float) -> Float32:
    """Return the weight of each expert in a token, ``decay**slot``; float32, shape (T, E) of ids (T, k)."""
    out = np.zeros((len(ids), n_experts), np.float32)
    weights = np.broadcast_to(np.float32(decay) ** np.arange(ids.shape[1], dtype=np.float32), ids.shape)
    np.put_along_axis(out, ids.astype(np.int64), weights, axis=1)
    return out


def pull_matrix(before: Float32, here: Float32, steps: int = 60) -> Float32:
    """Return the pull of each expert of the layer before on each expert here, float32 (E, E).

    Parameters
    ----------
    before, here : float32, shape (T, E)     weights of the experts of each token in both layers

    Notes
    -----
    Multinomial logistic regression with a ridge, by Adam: ``softmax(b + before @ W)`` nearest to `here`.
    With Gumbel noise on ``b + before @ W`` the best expert has exactly that law (Plackett-Luce).
    """
    goal = here / here.sum(axis=1, keepdims=True)
    share = goal.mean(axis=0) + np.float32(1e-6)
    weights, bias = np.zeros((before.shape[1], here.shape[1]), np.float32), np.log(share)
    mean, spread = np.zeros_like(weights), np.zeros_like(weights)
    ridge = np.float32(_RIDGE / len(before))
    for step in range(1, steps + 1):
        logits = before @ weights + bias
        logits -= logits.max(axis=1, keepdims=True)
        np.exp(logits, out=logits)
        logits /= logits.sum(axis=1, keepdims=True)
        slope = before.T @ (logits - goal) / np.float32(len(before)) + ridge * weights
        bias -= np.float32(0.5) * (logits.mean(axis=0) - share) / share
        mean = 0.9 * mean + 0.1 * slope
        spread = 0.99 * spread + 0.01 * slope**2
        rate = 0.15 / (1 - 0.9**step) * np.sqrt(1 - 0.99**step)
        weights -= rate * mean / (np.sqrt(spread) + 1e-8)
    return np.asarray(weights - weights.mean(axis=1, keepdims=True))


def pull_matrices(sample: Sample, decay: float = DECAY) -> Float32:
    """Return `pull_matrix` of every layer and the one before; float32 (L, E, E), the first zero."""
    n_layers, n = sample.ids.shape[1], sample.n_experts
    out = np.zeros((n_layers, n, n), np.float32)
    here = weighted(sample.ids[:, 0], n, decay)
    for layer in range(1, n_layers):
        before, here = here, weighted(sample.ids[:, layer], n, decay)
        out[layer] = pull_matrix(before, here, 60 if n <= 64 else 30)
    return out


def laws_of(parameters: FloatArray) -> tuple[LayerLaw, ...]:
    """Return the laws of all layers from parameters (L, 9)."""
    rho = 1 / (1 + np.exp(-parameters))
    size = np.exp(parameters)
    return tuple(
        LayerLaw(
            *(round(float(x), 5) for x in (
                size[i, 0], size[i, 1], size[i, 2], rho[i, 3], size[i, 4], rho[i, 5],
                size[i, 6] if i else 0.0, rho[i, 7],
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
        self.parameters[:, ~self.identified()] = -np.inf
        self.error = np.array([ERROR.get(name, _MOMENT_ERROR) for name in NAMES])

    def identified(self) -> npt.NDArray[np.bool_]:
        """Return which parameters the trace can tell: domains need two, requests eight sequences; (P,)."""
        known = np.ones(len(PARAMETERS), bool)
        known[0] = len(np.unique(self.sample.domains)) > 1
        known[1] = len(self.sample.domains) >= 8
        return known

    def model(self, parameters: FloatArray) -> LatentModel:
        """Return the model of some parameters at the current popularity."""
        return replace(self.base, laws=laws_of(parameters), popularity=self.bias)

    def simulate(self, parameters: FloatArray, replicate: int) -> Sample:
        """Draw the recorded sequences anew: same lengths, same domains, other requests."""
        seed = stream_key(self.seed, "routing", "fit", replicate)  # of no stream that a user draws
        stream = LatentStream(self.model(parameters), seed)
        lengths = np.diff(self.sample.offsets)
        requests = np.arange(len(lengths)) + 1
        for request, domain in zip(requests.tolist(), self.sample.domains.tolist(), strict=True):
            stream.set_domain(request, domain)
        ids = stream.draw(requests, np.zeros_like(requests), lengths)
        return Sample(ids, self.sample.offsets, self.sample.domains, self.sample.n_experts)

    def simulated(self, parameters: FloatArray, replicates: int = 1) -> FloatArray:
        """Return the mean moments of some replicates, (L, M)."""
        found = [moments(self.simulate(parameters, r)) for r in range(replicates)]
        return np.asarray(np.mean(found, axis=0))

    def residual(self, found: FloatArray) -> FloatArray:
        """Return (recorded - simulated) / error, 0 where one is missing; (L, M)."""
        return np.asarray(np.nan_to_num((self.target - found) / self.error))

    def jacobian(self) -> tuple[FloatArray, FloatArray]:
        """Return the moments (L, M) and the change of the scaled ones with each parameter, (L, M, P).

        Popularity is balanced anew after each move, so that a slope holds the marginals as they are.
        """
        kept, at = self.bias, self.parameters
        found = self._balanced(at, kept)
        out = np.zeros((*found.shape, len(PARAMETERS)))
        for p in np.flatnonzero(self.identified()):
            moved = at.copy()
            moved[:, p] += STEP[p]
            out[:, :, p] = np.nan_to_num((self._balanced(moved, kept) - found) / self.error) / STEP[p]
        self.bias, self.parameters = kept, at
        return self.simulated(at, self.replicates), out

    def _balanced(self, parameters: FloatArray, bias: Float32) -> FloatArray:
        self.parameters, self.bias = parameters, bias
        self.balance((1.6, 1.2) if self.sample.ids[..., 0].size * self.sample.n_experts < _SMALL else (1.6,))
        return self.simulated(parameters)

    def advance(self, jacobian: FloatArray, residual: FloatArray, damping: float) -> None:
        """Take one damped step; layers are drawn to the mean layer where the data say little."""
        known = np.flatnonzero(self.identified())
        at, step, low, high = self.parameters[:, known], STEP[known], LOW[known], HIGH[known]
        middle, pull = at.mean(axis=0), np.diag(1 / PRIOR[known] ** 2)
        for layer, (slope, off) in enumerate(zip(jacobian[:, :, known], residual, strict=True)):
            normal = slope.T @ slope
            normal += damping * np.diag(np.diag(normal)) + pull
            gradient = slope.T @ off - pull @ (at[layer] - middle)
            change = np.clip(np.linalg.solve(normal, gradient), -2 * step, 2 * step)
            self.parameters[layer, known] = np.clip(at[layer] + change, low, high)

    def balance(self, rates: tuple[float, ...]) -> None:
        """Move the bias of each expert so that simulated popularity meets the recorded one, scaled."""
        for rate in rates:
            samples = [self.simulate(self.parameters, 1000 + r).ids for r in range(self.replicates + 1)]
            pooled = replace(self.sample, ids=np.concatenate(samples))
            wanted = self.wanted * np.exp(self.parameters[:, -1:])
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
    tokens, n_layers, top_k = trace.experts.shape
    if tokens < 1000:
        raise ConfigError(f"the trace has {tokens} tokens; a fit needs at least 1000")
    start = laws_of(np.tile(START, (n_layers, 1)))
    popularity = log_shares(counts_of(trace)).astype(np.float32)
    model = LatentModel(
        start, popularity, pull_matrices(_spread(trace)), top_k,
        max(1, len(trace.domain_names)), n_group, topk_group, scoring,
    )  # fmt: skip
    trace = _reduced(trace)
    work = len(trace.experts) * n_layers * trace.n_experts
    fitter = Fitter(trace, model, seed, int(np.clip(_WORK // work, 2, 4)))
    fitter.balance((1.6,) * 5)
    for step in range(iterations):
        found, slopes = fitter.jacobian()
        residual = fitter.residual(found)
        if progress is not None:
            progress(step, float((residual**2).mean()))
        fitter.advance(slopes, residual, damping=0.1)
        fitter.balance((1.6, 1.6, 1.2))
    fitter.balance((1.2, 1.0, 0.8))
    return fitter.model(fitter.parameters), _report(fitter, iterations)


def _report(fitter: Fitter, iterations: int) -> FitReport:
    off = fitter.target - fitter.simulated(fitter.parameters, fitter.replicates)
    known = [bool(np.isfinite(column).any()) for column in off.T]
    errors = {
        name: round(float(np.sqrt(np.nanmean(column**2))), 5)
        for name, column, use in zip(NAMES, off.T, known, strict=True)
        if use
    }
    return FitReport(errors, iterations, len(fitter.sample.ids))


def _reduced(trace: RoutingTrace) -> RoutingTrace:
    """Take whole sequences spread over a long trace, as many tokens as a simulation may draw."""
    tokens, n_layers, _ = trace.experts.shape
    most = max(int(_WORK // (n_layers * trace.n_experts)), 4000)
    if tokens <= most:
        return trace
    every = int(np.ceil(tokens / most))
    if len(trace.lengths) >= 20 * every:
        return trace.select(np.arange(0, len(trace.lengths), every))
    keep: npt.NDArray[np.int64] = np.minimum(trace.lengths, max(most // max(len(trace.lengths), 1), 200))
    rows = np.concatenate([np.arange(a, a + n) for a, n in zip(trace.offsets[:-1], keep, strict=True)])
    return trace.take(rows, np.concatenate([[0], np.cumsum(keep)]).astype(np.int64), trace.domains)


def _spread(trace: RoutingTrace) -> Sample:
    """Return tokens spread over a trace, as many as pull matrices are estimated from in some minutes."""
    tokens, n_layers, _ = trace.experts.shape
    most = min(_PULL_WORK / (n_layers * trace.n_experts**2), _PULL_TOKENS)
    ids = Rows(trace.experts).take(np.arange(0, tokens, max(int(np.ceil(tokens / most)), 1)))
    return Sample(ids.astype(np.int16), trace.offsets, trace.domains, trace.n_experts)


def fit_of_trace(trace: RoutingTrace, source: str, *, name: str = "", **settings: Any) -> Fit:
    """Fit a trace (see `fit_trace` for the settings) and return the fit with its sequences and domains."""
    model, report = fit_trace(trace, **settings)
    at = np.linspace(0, 1, 33)
    lengths = tuple(int(x) for x in np.quantile(trace.lengths, at, method="nearest"))
    sequences = np.bincount(trace.domains, minlength=len(trace.domain_names)).astype(np.float64)
    shares = dict(zip(trace.domain_names, (sequences / sequences.sum()).tolist(), strict=True))
    about = f"fitted to {len(trace.experts)} tokens of {len(trace.lengths)} sequences in {source}"
    return Fit(model, name or trace.model, about, False, (), lengths, shares, report.errors)
