"""Which tokens of a trace are of which sequence, and where each belongs if sequences are interleaved."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from workloads.routing.stream import IntArray

_RUNS = 2**20  # runs that are kept before equal ones are put together


class Sequences:
    """Gathers the sequences of a trace from its columns, block by block.

    Law: memory grows with the sequences, not with the tokens, however they are interleaved.  Sequences stand
    in the order they come in, by number if they are interleaved; each has the domain of its first token.
    """

    def __init__(self) -> None:
        self.interleaved = False
        self._runs = np.zeros((0, 3), np.int64)  # sequence, tokens, domain
        self._fresh: list[IntArray] = []
        self._n_fresh = 0

    def add(self, sequence: npt.NDArray[np.integer], domain: npt.NDArray[np.integer]) -> None:
        """Add the next tokens: the sequence and the domain of each, whole numbers (T,)."""
        starts = np.flatnonzero(np.diff(sequence, prepend=sequence[:1] - 1))
        lengths = np.diff(starts, append=len(sequence))
        self._fresh.append(np.stack([sequence[starts], lengths, domain[starts]], axis=1).astype(np.int64))
        self._n_fresh += len(starts)
        if self._n_fresh > _RUNS:
            self._gather()

    def _gather(self) -> None:
        """Join neighbouring runs of one sequence; of a sequence that comes again put all runs together."""
        runs = np.concatenate([self._runs, *self._fresh])
        self._fresh, self._n_fresh = [], 0
        starts = np.flatnonzero(np.diff(runs[:, 0], prepend=runs[:1, 0] - 1))
        lengths = np.add.reduceat(runs[:, 1], starts) if len(starts) else runs[:0, 1]
        runs = np.stack([runs[starts, 0], lengths, runs[starts, 2]], axis=1)
        numbers, first, which = np.unique(runs[:, 0], return_index=True, return_inverse=True)
        if len(numbers) < len(runs) or self.interleaved:
            self.interleaved = True
            lengths = np.zeros(len(numbers), np.int64)
            np.add.at(lengths, which, runs[:, 1])
            runs = np.stack([numbers, lengths, runs[first, 2]], axis=1)
        self._runs = runs

    def close(self) -> Sequences:
        """Put together what was added, so that the properties hold."""
        self._gather()
        return self

    @property
    def offsets(self) -> IntArray:
        """First row of each sequence, and the number of rows; shape (S + 1,)."""
        return np.concatenate([[0], np.cumsum(self._runs[:, 1])]).astype(np.int64)

    @property
    def domains(self) -> IntArray:
        """Domain of each sequence, shape (S,)."""
        return self._runs[:, 2].copy()

    def placer(self) -> Callable[[npt.NDArray[np.integer]], IntArray]:
        """Return what tells interleaved tokens, block after block, the rows where they belong."""
        free, numbers = self.offsets[:-1], self._runs[:, 0]

        def rows(sequence: npt.NDArray[np.integer]) -> IntArray:
            which = np.searchsorted(numbers, sequence)
            order = np.argsort(which, kind="stable")
            found, counts = np.unique(which, return_counts=True)
            rank = np.arange(len(which)) - np.repeat(np.cumsum(counts) - counts, counts)
            out = np.empty(len(which), np.int64)
            out[order] = np.repeat(free[found], counts) + rank
            free[found] += counts
            return out

        return rows
