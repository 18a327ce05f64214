"""Slot "expert cache": which experts are held in main memory when they live in a slower tier.

Each device (expert group) has its own cache.  A layer's experts that are missed are fetched before they
compute, in `chunks` so that the first compute while the next are on their way; with a `prefetch`, those that
a predictor names are fetched from the layer before.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal, Protocol

from pydantic import Field

from codesign.base.document import Strict
from codesign.base.registry import Registry

Slots = Annotated[int, Field(ge=0, le=10_000_000)]


class Prefetch(Strict):
    """A predictor of the next layer's experts, by its accuracy.

    Of the experts that a layer will miss, each is named with probability `accuracy` while the layer before
    computes; for each that is not, another is fetched in vain.
    """

    accuracy: float = Field(ge=0, le=1)


class ExpertCache(Protocol):
    """Settings of a cache; `policy` names the kernel of `ext.cache`."""

    policy: str
    slots: int
    scope: str
    chunks: int
    prefetch: Prefetch | None


EXPERT_CACHES: Registry[ExpertCache] = Registry("expert_cache")


@dataclass(frozen=True)
class _Cache:
    slots: Slots  # experts held: per layer, or (scope: global) of all layers together
    scope: Literal["layer", "global"] = "layer"
    chunks: Annotated[int, Field(ge=1, le=64)] = 2
    prefetch: Prefetch | None = None
    policy = "lru"


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


@EXPERT_CACHES.register("ring")
@dataclass(frozen=True)
class Ring:
    """No cache: all experts of a layer are brought while the layer before computes (SE-MoE's ring memory).

    Whole layers go through buffers that take turns; which experts a layer uses does not matter.
    """

    slots: Slots = 0  # of a layer, that stay
    policy = "ring"
    scope = "layer"
    chunks = 1
    prefetch = Prefetch(accuracy=1.0)
