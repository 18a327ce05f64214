"""Slot "predictor": which experts a prefetch expects, from the layers that are already routed.

A predictor is learned from a profile (routing of other tokens) and asked about each iteration; what it names
wrongly is fetched in vain, what it does not name is fetched when the layer needs it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from codesign.base.registry import Registry

Int16 = NDArray[np.int16]
Int64 = NDArray[np.int64]
Codes = NDArray[np.uint64]
Depth = Annotated[int, Field(ge=1, le=16)]
Guesses = Annotated[int, Field(ge=1, le=64)] | None  # experts named for a token in a layer; None: its top-k


class Guesser(Protocol):
    """A predictor that has learned what it needs."""

    def guess(self, ids: Int16, draws: np.random.Generator) -> Int16:
        """Name experts for every token and layer.

        Parameters
        ----------
        ids : int16, shape (T, L, k)      where the tokens of an iteration go; -1 where unused
        draws : Generator                 of the prediction alone

        Returns
        -------
        int16, shape (T, L, w)            experts named, the likeliest first; -1: none

        Notes
        -----
        Law of a learned predictor: the names for layer m do not change with ``ids[:, m - lead + 1:]``.
        """
        ...


class Predictor(Protocol):
    """Settings of a predictor; `learns` says whether it needs a profile."""

    learns: bool

    def learn(self, profile: Int16, n_experts: int, lead: int) -> Guesser:
        """Learn from the routing of other tokens, int16, shape (N, L, k), to look `lead` layers ahead."""
        ...


PREDICTORS: Registry[Predictor] = Registry("predictor")


@PREDICTORS.register("oracle")
@dataclass(frozen=True)
class Oracle:
    """Knows: pre-gating, or the bound of what any predictor can give."""

    learns = False

    def learn(self, profile: Int16, n_experts: int, lead: int) -> Guesser:
        """See `Predictor.learn`."""
        return self

    def guess(self, ids: Int16, draws: np.random.Generator) -> Int16:
        """See `Guesser.guess`."""
        return ids


@PREDICTORS.register("accuracy")
@dataclass(frozen=True)
class Accuracy:
    """Names each expert of a token rightly with a given probability, else any other expert."""

    accuracy: Annotated[float, Field(ge=0, le=1)]
    learns = False

    def learn(self, profile: Int16, n_experts: int, lead: int) -> Guesser:
        """See `Predictor.learn`."""
        return _Flipped(self.accuracy, n_experts)


@dataclass(frozen=True)
class _Flipped:
    accuracy: float
    n_experts: int

    def guess(self, ids: Int16, draws: np.random.Generator) -> Int16:
        """See `Guesser.guess`."""
        wrong = (draws.random(ids.shape) >= self.accuracy) & (ids >= 0)
        shift = 1 + draws.integers(0, max(1, self.n_experts - 1), ids.shape)
        return np.where(wrong, (ids + shift) % self.n_experts, ids).astype(np.int16)


@PREDICTORS.register("popularity")
@dataclass(frozen=True)
class Popularity:
    """Names each layer's most used experts of the profile, for any token."""

    guesses: Guesses = None
    learns = True

    def learn(self, profile: Int16, n_experts: int, lead: int) -> Guesser:
        """See `Predictor.learn`."""
        return _Table.of_paths(profile, n_experts, lead, 0, self.guesses or profile.shape[2])


@PREDICTORS.register("next_layer")
@dataclass(frozen=True)
class NextLayer:
    """Names what followed a token's experts of one layer most often, each expert counted for itself."""

    guesses: Guesses = None
    learns = True

    def learn(self, profile: Int16, n_experts: int, lead: int) -> Guesser:
        """See `Predictor.learn`."""
        follows = np.zeros((profile.shape[1], n_experts + 1, n_experts), np.float32)
        for m in range(lead, profile.shape[1]):
            before, after = profile[:, m - lead, :, None], profile[:, m, None, :]
            both = (before >= 0) & (after >= 0)
            pairs = (before.astype(np.int64) * n_experts + after)[both]
            counts = np.bincount(pairs, minlength=n_experts * n_experts).reshape(n_experts, n_experts)
            follows[m, :n_experts] = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
        return _Follows(follows, lead, self.guesses or profile.shape[2])


@dataclass(frozen=True)
class _Follows:
    """How often expert j of layer m was used after expert i of layer m - lead; float32[L, E + 1, E]."""

    follows: NDArray[np.float32]
    lead: int
    width: int

    def guess(self, ids: Int16, draws: np.random.Generator) -> Int16:
        """See `Guesser.guess`; the last row of `follows`, -1, is empty."""
        width = min(self.width, self.follows.shape[2])
        out = np.full((*ids.shape[:2], width), -1, np.int16)
        for m in range(self.lead, ids.shape[1]):
            chance = self.follows[m][ids[:, m - self.lead]].sum(axis=1)
            best = np.argsort(-chance, axis=1, kind="stable")[:, :width]
            out[:, m] = np.where(np.take_along_axis(chance, best, axis=1) > 0, best, -1)
        return out


@PREDICTORS.register("path_table")
@dataclass(frozen=True)
class PathTable:
    """Looks a token's last experts up in a table of what the profile's tokens did next.

    A path that the profile has not seen is cut at its far end until it has; with nothing left, the layer's
    most used experts are named (EdgeMoE, arXiv 2308.14352: the last two layers).
    """

    depth: Depth = 2
    guesses: Guesses = None
    learns = True

    def learn(self, profile: Int16, n_experts: int, lead: int) -> Guesser:
        """See `Predictor.learn`."""
        return _Table.of_paths(profile, n_experts, lead, self.depth, self.guesses or profile.shape[2])


Layer = list[tuple[Codes, Int16]]  # by length of path: sorted codes, experts by code


@dataclass(frozen=True)
class _Table:
    """What followed each path, for every layer and length of path from 0 (no path: popularity) on."""

    layers: list[Layer]
    lead: int
    width: int

    @classmethod
    def of_paths(cls, profile: Int16, n_experts: int, lead: int, depth: int, width: int) -> _Table:
        codes = choice_codes(profile)
        width = min(width, n_experts)
        layers: list[Layer] = []
        for m in range(profile.shape[1]):
            longest = min(depth, m - lead + 1) if m >= lead else -1
            paths = [path_codes(codes, m - lead, d) for d in range(longest + 1)]
            layers.append([_most_used(path, profile[:, m], n_experts, width) for path in paths])
        return cls(layers, lead, width)

    def guess(self, ids: Int16, draws: np.random.Generator) -> Int16:
        """See `Guesser.guess`."""
        out = np.full((*ids.shape[:2], self.width), -1, np.int16)
        codes = choice_codes(ids)
        for m, tables in enumerate(self.layers):
            for d, (known, experts) in enumerate(tables):  # the longest path that is known wins
                path = path_codes(codes, m - self.lead, d)
                place = np.minimum(np.searchsorted(known, path), max(len(known) - 1, 0))
                found = known[place] == path if len(known) else np.zeros(len(path), np.bool_)
                out[found, m] = experts[place[found]]
        return out


def choice_codes(ids: Int16) -> Codes:
    """Return one number for the experts of a token in a layer, whatever their order; uint64, shape (T, L)."""
    x = (ids.astype(np.int64) + 1).astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    out: Codes = (x ^ (x >> np.uint64(27))).sum(axis=2, dtype=np.uint64)
    return out


def path_codes(codes: Codes, last: int, length: int) -> Codes:
    """Return one number for the `length` choices that end with layer `last`; uint64, shape (T,)."""
    out = np.full(len(codes), length, np.uint64)
    for layer in range(last - length + 1, last + 1):
        out = out * np.uint64(0x94D049BB133111EB) + codes[:, layer]
        out ^= out >> np.uint64(31)
    return out


def _most_used(path: Codes, ids: Int16, n_experts: int, width: int) -> tuple[Codes, Int16]:
    """Return the paths that occur, and the experts that followed each most often, -1 behind."""
    known, at = np.unique(path, return_inverse=True)
    used = ids >= 0
    pairs = (np.broadcast_to(at[:, None], ids.shape) * n_experts + ids)[used]
    counts = np.bincount(pairs, minlength=len(known) * n_experts).reshape(len(known), n_experts)
    best = np.argsort(-counts, axis=1, kind="stable")[:, :width]
    named = np.where(np.take_along_axis(counts, best, axis=1) > 0, best, -1)
    return known, named.astype(np.int16)
