"""Slot "expert cache": which experts are held in main memory when they live in a slower tier.

Each device (expert group) has its own cache.  A layer's experts that are missed are fetched before they
compute, in `chunks` so that the first compute while the next are on their way; with a `prefetch`, those that
a predictor names are fetched from an earlier layer on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal, Protocol

from pydantic import Field, model_validator

from codesign.base.document import Strict
from codesign.base.registry import Registry
from codesign.base.units import Latency

Slots = Annotated[int, Field(ge=0, le=10_000_000)]
Misses = Literal["fetch", "near", "min_time", "co_process"]
Buffers = Annotated[int, Field(ge=1, le=10_000)]


class Prefetch(Strict):
    """Fetches before they are needed: who foretells, how far ahead, and what that costs.

    `predictor` is a component of the slot "predictor", by name or as ``{name: ..., settings}``; `accuracy`
    alone stands for the predictor of that name.  What is named and not held lands in the layer's slots or
    in the cache's `buffers`, as far as they reach, those named by most tokens first.
    """

    predictor: Any = None
    accuracy: float | None = Field(default=None, ge=0, le=1)
    lead: int = Field(default=1, ge=1, le=1024)  # layers between the prediction and its use
    before: bool = False  # the whole path is known before the pass; else from the routing of earlier layers
    most: int | None = Field(default=None, ge=1)  # experts of a layer, at most
    cost: Latency = 0.0  # time of a prediction, of a layer or (before) the pass: the fetch begins later by it
    profile: Any = None  # routing to learn from (generator, trace); None: other requests of the workload
    profile_tokens: int = Field(default=4096, ge=1, le=1_000_000)

    @model_validator(mode="after")
    def _one_predictor(self) -> Prefetch:
        if (self.predictor in (None, "accuracy")) != (self.accuracy is not None):
            raise ValueError("give either 'accuracy' or a 'predictor' of another name")
        return self

    @property
    def component(self) -> Any:
        """Return how the predictor is written: its name, or a mapping with its settings."""
        if self.accuracy is not None:
            return {"name": "accuracy", "accuracy": self.accuracy}
        return self.predictor


class ExpertCache(Protocol):
    """Settings of a cache; `policy` names the kernel of `ext.cache`, or one of those below."""

    policy: str
    misses: Misses
    slots: int
    scope: str
    chunks: int
    buffers: int
    prefetch: Prefetch | None


EXPERT_CACHES: Registry[ExpertCache] = Registry("expert_cache")


@dataclass(frozen=True)
class _Cache:
    slots: Slots  # experts held: per layer, or (scope: global) of all layers together
    scope: Literal["layer", "global"] = "layer"
    chunks: Annotated[int, Field(ge=1, le=64)] = 2
    buffers: Buffers = 2  # experts on their way through, beside the slots
    prefetch: Prefetch | None = None
    policy = "lru"
    misses = "fetch"


@dataclass(frozen=True)
class _Profiled(_Cache):
    profile: Any = None  # routing that the scores are learned from; None: other requests of the workload
    profile_tokens: Annotated[int, Field(ge=1, le=1_000_000)] = 4096


@EXPERT_CACHES.register("lru")
@dataclass(frozen=True)
class Lru(_Cache):
    """The expert that was used longest ago leaves."""


@EXPERT_CACHES.register("lfu")
@dataclass(frozen=True)
class Lfu(_Cache):
    """The expert that was used least often since it came leaves."""

    policy = "lfu"


@EXPERT_CACHES.register("fifo")
@dataclass(frozen=True)
class Fifo(_Cache):
    """The expert that came first leaves."""

    policy = "fifo"


@EXPERT_CACHES.register("random")
@dataclass(frozen=True)
class Random(_Cache):
    """Any expert leaves."""

    policy = "random"


@EXPERT_CACHES.register("frequency_distance")
@dataclass(frozen=True)
class FrequencyDistance(_Cache):
    """The expert leaves whose uses so far, times how soon its layer comes again, are least.

    Made for ``scope: global`` (EdgeMoE, arXiv 2308.14352); with slots per layer the distance is always one.
    """

    policy = "frequency_distance"


@EXPERT_CACHES.register("score")
@dataclass(frozen=True)
class Score(_Profiled):
    """The expert that a profile used least leaves; whatever is missed comes in."""

    policy = "score"


@EXPERT_CACHES.register("pinned")
@dataclass(frozen=True)
class Pinned(_Profiled):
    """The experts that a profile used most are held for ever, by layer or of all; others pass through.

    `misses` says who computes what is not held: the device, which fetches it (``fetch``), the unit beside the
    tier where it lies (``near``; a processor, or near-data processing), each expert where it is done sooner
    (``min_time``, as Fiddler, arXiv 2402.07033), or dealt so that both end soonest, the device having those
    with the most tokens (``co_process``, as MoNDE, arXiv 2405.18832).
    """

    misses: Misses = "fetch"
    policy = "pinned"


@EXPERT_CACHES.register("belady")
@dataclass(frozen=True)
class Belady(_Cache):
    """The expert leaves whose next use is farthest: the bound of all policies that let every miss in.

    The run is rehearsed to learn the future, so batches must not depend on time: a batch of requests, or
    a fixed number of them in flight on one engine.
    """

    policy = "belady"


@EXPERT_CACHES.register("ring")
@dataclass(frozen=True)
class Ring:
    """No cache: all experts of a layer are brought while the layers before compute (SE-MoE's ring memory).

    Whole layers go through `layers` buffers that take turns; which experts a layer uses does not matter.
    """

    slots: Slots = 0  # of a layer, that stay
    layers: Annotated[int, Field(ge=2, le=1024)] = 2  # in memory at once, K
    policy = "ring"
    misses = "fetch"
    scope = "layer"
    chunks = 1
    buffers = 2

    @property
    def prefetch(self) -> Prefetch:
        """Every layer is known to come."""
        return Prefetch(predictor="oracle", lead=self.layers - 1)
