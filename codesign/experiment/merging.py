"""Merged experts: several share one expert's weights, and a token that chose two of them uses these once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from codesign.experiment.schema import ExpertsSpec
from workloads.routing import RoutingStream, set_domain

if TYPE_CHECKING:
    from codesign.experiment.experiment import Experiment

F64 = NDArray[np.float64]
Int16 = NDArray[np.int16]
Ints = NDArray[np.int64]
_PROFILE = (64, 64)  # requests, tokens of each
_FIRST_REQUEST = 1 << 24  # beyond those that are served


def merged_experts(experiment: Experiment, routing: RoutingStream) -> Int16 | None:
    """Return whose weights each expert uses, int16[L, E], from a profile of the routing; None: its own.

    Raises
    ------
    ConfigError   more distinct experts than a layer has
    """
    spec = experiment.spec.precision.experts
    if not isinstance(spec, ExpertsSpec) or spec.merge is None:
        return None
    if spec.merge > routing.n_experts:
        rule = f"a layer has {routing.n_experts} experts"
        raise experiment.document.error(("precision", "experts", "merge"), rule, spec.merge)
    if spec.merge == routing.n_experts:
        return None
    count, tokens = _PROFILE
    requests = _FIRST_REQUEST + np.arange(count, dtype=np.int64)
    ids = routing.draw(requests, np.zeros(count, np.int64), np.full(count, tokens, np.int64))
    counts = [np.bincount(layer[layer >= 0], minlength=routing.n_experts) for layer in ids.swapaxes(0, 1)]
    return leaders(np.array(counts, dtype=np.float64), spec.merge)


def leaders(shares: F64, distinct: int) -> Int16:
    """Choose whose weights each expert uses, int16[L, E], from the experts' shares of the tokens.

    The `distinct` most popular experts of a layer keep their own (MC-SMoE, arXiv 2310.01334, section 3.2);
    the others go, most popular first, to the one that has the least to do, since which of them resemble
    each other is not known here.

    Law: ``leader[leader] == leader``, and a layer has `distinct` different ones.
    """
    out = np.empty(shares.shape, np.int16)
    for m, share in enumerate(shares):
        order = np.argsort(-share, kind="stable")
        kept, load = order[:distinct], share[order[:distinct]].copy()
        out[m, kept] = kept
        for expert in order[distinct:]:
            least = int(load.argmin())
            out[m, expert] = kept[least]
            load[least] += share[expert]
    return out


class MergedStream:
    """A routing stream whose experts are merged: see `workloads.routing.RoutingStream`."""

    def __init__(self, inner: RoutingStream, leader: Int16) -> None:
        self.inner, self.leader = inner, leader
        self.n_layers, self.n_experts, self.top_k = inner.n_layers, inner.n_experts, inner.top_k

    def draw(self, requests: Ints, starts: Ints, lengths: Ints, out: Int16 | None = None) -> Int16:
        """Return the experts whose weights the tokens use, each once."""
        ids = self.inner.draw(requests, starts, lengths, out)
        used = ids >= 0
        merged = self.leader[np.arange(self.n_layers)[:, None], np.where(used, ids, 0)]
        ids[:] = np.where(used, merged, -1)
        for slot in range(1, self.top_k):
            again = (ids[:, :, :slot] == ids[:, :, slot : slot + 1]).any(axis=2)
            ids[:, :, slot][again] = -1
        return ids

    def forget(self, request: int) -> None:
        """Free what is kept for a request."""
        self.inner.forget(request)

    def set_domain(self, request: int, domain: int) -> None:
        """Say of which domain a request is, if the stream knows domains."""
        set_domain(self.inner, request, domain)
