"""What is known ahead of the routing: profiles, and predictors that have learned from them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from codesign.base.document import Document
from codesign.base.random import stream
from codesign.experiment.routing import open_routing
from codesign.policies.expert_cache import Prefetch
from codesign.policies.expert_predictors import PREDICTORS, Guesser, Predictor

if TYPE_CHECKING:
    from codesign.experiment import Experiment

Int16 = NDArray[np.int16]
Int64 = NDArray[np.int64]
FIRST_REQUEST = 2**40  # of a profile: no request of the workload has such a number
SEQUENCE_TOKENS = 64  # of a profile
KEY = ("policies", "expert_cache")


def profile_ids(experiment: Experiment, profile: Any, tokens: int, *keys: str) -> Int16:
    """Draw the routing of tokens that are not the workload's own, int16, shape (tokens, L, k).

    Parameters
    ----------
    profile : any    None: other requests under ``workload.routing``; a path ``*.npz`` or ``*.parquet``: a
                     recorded trace; else as `workload.routing` is written
    keys : str       where the profile stands below ``policies.expert_cache``, for errors

    Raises
    ------
    ConfigError   the profile is no routing, or does not suit the model
    """
    part = None
    if profile is not None:
        written = experiment.document.where((*KEY, *keys, "profile"))
        if isinstance(profile, str) and profile.endswith((".npz", ".parquet")):
            profile = {"generator": "trace", "path": profile}
        part = Document(profile, written, prefix=(*KEY, *keys, "profile"))
    source = open_routing(experiment, part)
    shape = (0, len(experiment.model.moe_layers), experiment.model.top_k)
    if source is None:
        return np.zeros(shape, np.int16)
    count = -(-tokens // SEQUENCE_TOKENS)
    requests = FIRST_REQUEST + np.arange(count, dtype=np.int64)
    lengths = np.full(count, SEQUENCE_TOKENS, np.int64)
    return source.draw(requests, np.zeros(count, np.int64), lengths)[:tokens]


def usage(ids: Int16, n_experts: int) -> Int64:
    """Count how often each expert of each layer is used; int64, shape (L, E)."""
    n_layers = ids.shape[1]
    nodes = np.arange(n_layers)[None, :, None] * n_experts + ids
    counts = np.bincount(nodes[ids >= 0], minlength=n_layers * n_experts)
    return counts.reshape(n_layers, n_experts).astype(np.int64)


def build_predictor(experiment: Experiment, prefetch: Prefetch) -> Predictor:
    """Build the predictor that a prefetch names.

    Raises
    ------
    ConfigError   unknown name or setting
    """
    key = (*KEY, "prefetch", "predictor")
    return PREDICTORS.build(Document(prefetch.component, experiment.document.where(key), prefix=key))


class Foresight:
    """A predictor at work: how many tokens are foretold to each expert of an iteration."""

    def __init__(self, experiment: Experiment, prefetch: Prefetch, n_layers: int, n_experts: int) -> None:
        self.n_layers, self.n_experts = n_layers, n_experts
        predictor = build_predictor(experiment, prefetch)
        learned = np.zeros((0, n_layers, experiment.model.top_k), np.int16)
        if predictor.learns:
            learned = profile_ids(experiment, prefetch.profile, prefetch.profile_tokens, "prefetch")
        lead = prefetch.lead
        self.guesser: Guesser = predictor.learn(learned, n_experts, lead)
        self.draws = stream(experiment.seed, "prefetch")

    def foretell(self, ids: Int16) -> Int64:
        """Return the tokens that are foretold to each expert; int64, shape (L, E)."""
        return usage(self.guesser.guess(ids, self.draws), self.n_experts)
