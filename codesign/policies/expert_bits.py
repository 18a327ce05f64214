"""Slot "expert bits": how many bits a value of each expert's weights is stored in.

Experts differ: in how often they are chosen, and in how much their error weighs.  A policy sees the shares
of the tokens that a profile of the experiment's own routing gave to each expert (of other requests than
those that are then served), and what the gate weighed them with, where that is known.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from typing import Annotated, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from codesign.base.errors import ConfigError
from codesign.base.random import stream
from codesign.base.registry import Registry

F64 = NDArray[np.float64]
Bits = Annotated[float, Field(gt=0, le=64)]
Choices = Annotated[list[Bits], Field(min_length=1, max_length=16)]
_ROUNDING = 1e-9


class ExpertBits(Protocol):
    """An allocation of bits.

    Law: the mean over a layer's experts is the largest that the choices can make without exceeding
    `average`.
    """

    profile_tokens: int

    def allocate(self, shares: F64, seed: int) -> F64:
        """Return the bits of a value, shape (L, E), from the experts' shares of the tokens, (L, E)."""
        ...


EXPERT_BITS: Registry[ExpertBits] = Registry("expert_bits")


@dataclass(frozen=True)
class _Budget:
    average: Bits  # of a value, mean over a layer's experts
    choices: Choices = field(default_factory=lambda: [1.0, 2.0, 3.0])
    profile_tokens: Annotated[int, Field(ge=1, le=10_000_000)] = 4096

    def total(self, n_experts: int) -> float:
        """Return the most bits that a layer's experts may have together, as the choices allow."""
        if min(self.choices) > self.average:
            raise ConfigError(f"average = {self.average:g}: below the least of the choices, {self.choices}")
        return _reachable(tuple(sorted(set(self.choices))), n_experts, self.average * n_experts)


@EXPERT_BITS.register("lp")
@dataclass(frozen=True)
class Lp(_Budget):
    """Solves a linear program in whole numbers for each layer (MC-MoE, arXiv 2410.06270, section 3.2).

    It minimises the sum over experts of ``share**share_power * error(bits)``, each expert having one of the
    choices.  The error of a value is ``error_per_bit ** bits``: rounding to one more bit halves it, and its
    square, 1/4, is the default.

    average : bits of a value, the mean over a layer's experts
    choices : the bits that an expert may have
    profile_tokens : of the routing profile
    at_least : experts of a layer that each choice must have, as far as the average allows
    """

    share_power: Annotated[float, Field(ge=0, le=16)] = 1.0
    error_per_bit: Annotated[float, Field(gt=0, lt=1)] = 0.25
    at_least: Annotated[int, Field(ge=0, le=1_000_000)] = 0

    def allocate(self, shares: F64, seed: int) -> F64:
        """See `ExpertBits.allocate`."""
        choices = np.array(sorted(set(self.choices)))
        total = self.total(shares.shape[1])
        errors = self.error_per_bit**choices
        rows = [solve(share**self.share_power, errors, choices, total, self.at_least) for share in shares]
        return np.array(rows).reshape(shares.shape)


@EXPERT_BITS.register("popular")
@dataclass(frozen=True)
class Popular(_Budget):
    """Gives the popular experts the most bits and the others the least, one of them what is left."""

    def allocate(self, shares: F64, seed: int) -> F64:
        """See `ExpertBits.allocate`."""
        deal = deal_out(sorted(set(self.choices)), shares.shape[1], self.total(shares.shape[1]))
        order = np.argsort(np.argsort(-shares, axis=1, kind="stable"), axis=1, kind="stable")
        return deal[order]


@EXPERT_BITS.register("random")
@dataclass(frozen=True)
class Random(_Budget):
    """Gives as many experts as `popular` each number of bits, whichever they are."""

    def allocate(self, shares: F64, seed: int) -> F64:
        """See `ExpertBits.allocate`."""
        deal = deal_out(sorted(set(self.choices)), shares.shape[1], self.total(shares.shape[1]))
        draws = stream(seed, "expert_bits")
        return np.stack([draws.permutation(deal) for _ in shares]).reshape(shares.shape)


def solve(weights: F64, errors: F64, choices: F64, total: float, at_least: int = 0) -> F64:
    """Return the bits of each expert that minimise ``sum weights[e] * errors[bits[e]]``.

    Parameters
    ----------
    weights : float, shape (E,)          of an expert's error
    errors, choices : float, shape (B,)  error of a value stored in so many bits
    total : float                        bits of all experts together; one that can be reached

    Law: the optimum over all allocations with this total, and with `at_least` experts at each choice if
    there is one.
    """
    from scipy.optimize import Bounds, LinearConstraint, milp

    n, b = len(weights), len(choices)
    cost = np.outer(weights / max(float(weights.max(initial=0.0)), 1e-300), errors).ravel()
    one_each = np.kron(np.eye(n), np.ones(b))
    rules = [LinearConstraint(one_each, 1, 1), LinearConstraint(np.tile(choices, n)[None], total, total)]
    counted = LinearConstraint(np.tile(np.eye(b), n), at_least, np.inf)
    for extra in ([counted], []) if at_least else ([],):
        found = milp(cost, constraints=rules + extra, integrality=np.ones(n * b), bounds=Bounds(0, 1))
        if found.x is not None:
            return np.asarray(choices[found.x.reshape(n, b).argmax(axis=1)])
    raise ConfigError(f"no allocation of {choices.tolist()} bits to {n} experts has {total:g} in all")


def deal_out(choices: list[float], n_experts: int, total: float) -> F64:
    """Return bits, most first, of `n_experts` experts: as unequal as the total allows."""
    found, left = [], total
    for rest in range(n_experts - 1, -1, -1):
        fits = [bits for bits in choices if _fits(choices, rest, left - bits)]
        found.append(max(fits))
        left -= found[-1]
    return np.array(found)


def _fits(choices: list[float], n_experts: int, total: float) -> bool:
    return abs(_reachable(tuple(choices), n_experts, total) - total) < 1e-6


@lru_cache(maxsize=4096)
def _reachable(choices: tuple[float, ...], n_experts: int, most: float) -> float:
    """Return the largest sum of one choice for each expert that does not exceed `most`; -inf if none."""
    sums = np.zeros(1)
    for left in range(n_experts - 1, -1, -1):
        sums = np.unique(np.round(np.add.outer(sums, choices), 9))
        sums = sums[sums + left * min(choices) <= most + _ROUNDING]
    return float(sums.max(initial=-np.inf))
