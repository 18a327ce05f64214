"""Which expert model each request is of: popularity over whole models (Composition of Experts)."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BeforeValidator

from codesign.base.document import Document, validate
from codesign.base.random import stream
from workloads.requests.spec import IntArray
from workloads.routing.popularity import Skew, ranked

CYCLIC = "cyclic"


def _readable(value: object) -> object:
    if value == "uniform":
        return Skew(zipf=0.0)
    if value != CYCLIC and not isinstance(value, dict | Skew):
        raise ValueError("a popularity is 'uniform', 'cyclic', {zipf: EXPONENT} or {gini: COEFFICIENT}")
    return value


ModelPopularity = Annotated[Skew | Literal["cyclic"], BeforeValidator(_readable)]


def draw_models(
    n_requests: int, n_models: int, popularity: Skew | Literal["cyclic"], repeat: float, seed: int
) -> IntArray:
    """Draw the expert model of each request.

    Parameters
    ----------
    popularity : Skew or "cyclic"   shares of the models, dealt to them at random; or each model in turn, the
                                    order in which a cache that drops the longest unused never hits
    repeat : float                  chance that a request is of the same model as the one before

    Returns
    -------
    int64, shape (N,)   0 ... n_models - 1

    Raises
    ------
    ValueError   a Gini coefficient that so few models cannot have

    Notes
    -----
    Laws: the first n requests do not depend on how many follow; hardware and policies change nothing.
    """
    if not isinstance(popularity, Skew):
        models = np.arange(n_requests, dtype=np.int64) % n_models
    else:
        shares = np.cumsum(ranked(popularity, n_models, 1))
        ranks = np.searchsorted(shares, stream(seed, "expert models", "requests").random(n_requests))
        models = by_popularity(n_models, popularity, seed)[np.minimum(ranks, n_models - 1)]
    stays = stream(seed, "expert models", "repeat").random(n_requests) < repeat
    stays[:1] = False
    return np.asarray(models[np.maximum.accumulate(np.where(stays, 0, np.arange(n_requests)))], np.int64)


def by_popularity(n_models: int, popularity: Skew | Literal["cyclic"], seed: int) -> IntArray:
    """Return the models, most popular first; int64, shape (n_models,)."""
    if popularity == CYCLIC:
        return np.arange(n_models, dtype=np.int64)
    return np.asarray(stream(seed, "expert models", "ranks").permutation(n_models), np.int64)


def read_popularity(written: object) -> Skew | Literal["cyclic"]:
    """Read a popularity as an experiment writes it.

    Raises
    ------
    ConfigError   no such popularity
    """
    document = written if isinstance(written, Document) else Document(written, "popularity")
    kind: Any = ModelPopularity
    found: Skew | Literal["cyclic"] = validate(kind, document)
    return found
