"""Prompt and output lengths drawn together: ranks from a copula, lengths from their own quantiles.

The draws of the prompts, of the outputs and of the arrivals come from three named streams: changing one
distribution changes nothing of the others, and the first n requests do not depend on how many follow.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import pi, sin, sqrt
from typing import Protocol

import numpy as np

from codesign.base.random import stream
from workloads.requests.lengths import Lengths, normal_cdf, normal_quantile, whole_tokens
from workloads.requests.spec import FloatArray, IntArray


class Copula(Protocol):
    """How the rank of the output follows the rank of the prompt."""

    def output_rank(self, prompt_rank: FloatArray, fresh: FloatArray) -> FloatArray:
        """Return output ranks in (0, 1), uniform in all, from prompt ranks and independent uniforms."""
        ...


@dataclass(frozen=True)
class GaussianCopula:
    """Normal dependence with the given Spearman rank correlation."""

    rank_correlation: float = 0.0

    def output_rank(self, prompt_rank: FloatArray, fresh: FloatArray) -> FloatArray:
        """Mix the normal scores; pearson = 2 sin(pi spearman / 6) (Kruskal 1958)."""
        if self.rank_correlation == 0:
            return fresh
        pearson = 2 * sin(pi * self.rank_correlation / 6)
        rest = sqrt(max(1 - pearson**2, 0.0))
        score = pearson * normal_quantile(prompt_rank) + rest * normal_quantile(fresh)
        return normal_cdf(np.asarray(score))


@dataclass(frozen=True)
class GridCopula:
    """Dependence as recorded: a K x K table of how often prompt rank and output rank fall together.

    Law: rows and columns of `cells` sum to 1 each, so both ranks stay uniform.
    """

    cells: FloatArray

    def output_rank(self, prompt_rank: FloatArray, fresh: FloatArray) -> FloatArray:
        """Invert the distribution within the row of each prompt rank, linear within a cell."""
        k = len(self.cells)
        row = np.minimum((prompt_rank * k).astype(np.int64), k - 1)
        knots = np.arange(k)[:, None] + np.hstack([np.zeros((k, 1)), np.cumsum(self.cells, axis=1)])
        ranks = np.tile(np.linspace(0, 1, k + 1), k)
        place: FloatArray = row + np.minimum(fresh, 1 - 1e-9)
        return np.asarray(np.interp(place, knots.ravel(), ranks), dtype=np.float64)


def balanced(counts: FloatArray) -> FloatArray:
    """Scale a table of counts until rows and columns sum to 1 (iterative proportional fitting)."""
    cells = np.asarray(counts, dtype=np.float64) + 1e-12
    for _ in range(200):
        cells = cells / cells.sum(axis=0)
        cells = cells / cells.sum(axis=1, keepdims=True)
    return cells


def draw_lengths(
    n: int, prompt: Lengths, output: Lengths, copula: Copula, seed: int, scope: str = "requests"
) -> tuple[IntArray, IntArray]:
    """Draw n pairs of prompt and output tokens.

    Returns
    -------
    two int arrays, shape (n,)   tokens, at least 1
    """
    prompt_rank = stream(seed, scope, "prompt_tokens").random(n)
    fresh = stream(seed, scope, "output_tokens").random(n)
    output_rank = copula.output_rank(prompt_rank, fresh)
    return whole_tokens(prompt.quantile(prompt_rank)), whole_tokens(output.quantile(output_rank))
