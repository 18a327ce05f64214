"""`Batch`: what a data group computes in one iteration, as the cost pass needs it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(slots=True)
class Batch:
    """One data group's part of an iteration.

    `entries[v]` is the number of cached entries that all decoding sequences, and those whose chunk is one
    token (`singles`: in attention they are decodes), read under view v.
    """

    tokens: int = 0
    outputs: int = 0  # tokens whose logits are needed
    sequences: int = 0
    decodes: int = 0
    singles: int = 0
    entries: Sequence[int] = ()
    chunks: list[tuple[int, int]] = field(default_factory=list)  # (tokens, context at their end)
    swapped_out: tuple[int, int] = (0, 0)  # bytes and blocks of caches that go to another tier before it
    swapped_in: tuple[int, int] = (0, 0)  # and come back
