"""Slot "batching": what a data group computes next."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Protocol

from pydantic import Field

from codesign.base.registry import Registry

if TYPE_CHECKING:
    from codesign.serve.group import Group
    from codesign.serve.sequence import Sequence

Count = Annotated[int, Field(gt=0, le=10_000_000)]
Chunks = list[tuple["Sequence", int]]


class Batching(Protocol):
    """What a data group computes next.

    Law: a sequence is given at most what its prefill lacks, and only after `Group.admit` took it.
    """

    @property
    def max_tokens(self) -> int:
        """The most tokens of one iteration: what activations are sized for."""
        ...

    def schedule(self, group: Group, now: float, more_to_come: bool) -> tuple[Chunks, bool] | None:
        """Return the prefill chunks and whether to decode, or None if there is nothing to do.

        Parameters
        ----------
        group : Group            `make_room` (once, also if nothing decodes) and `admit` change it
        more_to_come : bool      False once no further request can arrive
        """
        ...


BATCHINGS: Registry[Batching] = Registry("batching")


@BATCHINGS.register("chunked_prefill")
@dataclass(frozen=True)
class ChunkedPrefill:
    """Decodes first, then prompts in chunks, up to a token budget (Sarathi-Serve, OSDI 2024, section 4)."""

    token_budget: Count = 2048
    max_sequences: Count = 256

    @property
    def max_tokens(self) -> int:
        """See `Batching.max_tokens`."""
        return max(self.token_budget, self.max_sequences)

    def schedule(self, group: Group, now: float, more_to_come: bool) -> tuple[Chunks, bool] | None:
        """See `Batching.schedule`."""
        group.make_room()
        left = self.token_budget - len(group.decoding)
        chunks: Chunks = []
        for sequence in group.prefilling:
            left = _take(chunks, sequence, left)
        while left > 0 and group.waiting and group.running < self.max_sequences:
            admitted = group.admit(now)
            if admitted is None:
                break
            left = _take(chunks, admitted, left)
        return (chunks, True) if chunks or group.decoding else None


def _take(chunks: Chunks, sequence: Sequence, left: int) -> int:
    tokens = min(left, sequence.target - sequence.prefilled)
    if tokens > 0:
        chunks.append((sequence, tokens))
    return left - max(tokens, 0)


@BATCHINGS.register("prefill_first")
@dataclass(frozen=True)
class PrefillFirst:
    """Whole prompts as soon as they fit, alone; decodes otherwise (vLLM's first scheduler, SOSP 2023)."""

    max_batched_tokens: Count = 8192
    max_sequences: Count = 256

    @property
    def max_tokens(self) -> int:
        """See `Batching.max_tokens`."""
        return max(self.max_batched_tokens, self.max_sequences)

    def schedule(self, group: Group, now: float, more_to_come: bool) -> tuple[Chunks, bool] | None:
        """See `Batching.schedule`."""
        chunks: Chunks = []
        left = self.max_batched_tokens
        while group.waiting and group.running < self.max_sequences:
            if chunks and group.waiting[0].target > left:
                break  # a prompt longer than the whole budget still goes, alone
            admitted = group.admit(now)
            if admitted is None:
                break
            chunks.append((admitted, admitted.target - admitted.prefilled))
            left -= chunks[-1][1]
        if chunks:
            return chunks, False
        group.make_room()
        return ([], True) if group.decoding else None


@BATCHINGS.register("static")
@dataclass(frozen=True)
class Static:
    """A batch is formed, runs to its end, and only then the next one is formed.

    It starts when it is full, or when it holds all that will ever come; with ``wait: false``, with
    whatever waits.
    """

    batch_size: Count = 32
    wait: bool = True
    max_batched_tokens: Count = 8192

    @property
    def max_tokens(self) -> int:
        """See `Batching.max_tokens`."""
        return max(self.max_batched_tokens, self.batch_size)

    def schedule(self, group: Group, now: float, more_to_come: bool) -> tuple[Chunks, bool] | None:
        """See `Batching.schedule`."""
        if not group.running:
            if self.wait and more_to_come and len(group.waiting) < self.batch_size:
                return None
            while group.waiting and group.running < self.batch_size and group.admit(now):
                pass
        if group.prefilling:
            return self._prompts(group), False
        group.make_room()
        return ([], True) if group.decoding else None

    def _prompts(self, group: Group) -> Chunks:
        chunks: Chunks = []
        left = self.max_batched_tokens
        for sequence in group.prefilling:
            lacking = sequence.target - sequence.prefilled
            if chunks and lacking > left:
                break
            chunks.append((sequence, lacking))
            left -= lacking
        return chunks
