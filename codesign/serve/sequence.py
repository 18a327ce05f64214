"""`Sequence`: a request while it is served."""

from __future__ import annotations

import math


class Sequence:
    """One request's progress.

    A prompt of P tokens is prefilled and gives the first output token; each decode step then reads the
    cache, adds one entry and gives one more.  After a preemption, prompt and output so far are prefilled
    again (``target``), or, if its blocks were kept in another tier, it goes on from there.

    Attributes
    ----------
    index : int                       place in the stream, and its name in the routing
    prompt, output : int              tokens
    target, prefilled : int           tokens to prefill before the next token comes, and done so far
    generated : int                   output tokens so far
    first_step, last_step : int       the group's decode steps in which this sequence decodes first and last
    gap_start_s, longest_gap_s        time of its last token before a wait; longest wait between tokens
    blocks, kv_bytes : int            KV blocks, and the bytes of those that are its own
    swapped_bytes : int               of its blocks in another tier, while it waits there
    chain, shared : list of int       ids of the prompt's blocks; those whose cache is shared
    """

    __slots__ = (
        "admitted_s", "arrival_s", "blocks", "chain", "finished_s", "first_step", "first_token_s",
        "gap_start_s", "generated", "group", "index", "kv_bytes", "last_step", "longest_gap_s", "output",
        "preemptions", "prefilled", "prompt", "refused", "shared", "swapped_bytes", "target",
    )  # fmt: skip

    def __init__(
        self, index: int, arrival_s: float, prompt: int, output: int, chain: list[int] | None = None
    ) -> None:
        self.index, self.arrival_s, self.prompt, self.output = index, arrival_s, prompt, output
        self.target, self.prefilled, self.generated = prompt, 0, 0
        self.first_step = self.last_step = self.blocks = self.kv_bytes = self.preemptions = 0
        self.swapped_bytes = 0
        self.chain: list[int] = chain or []
        self.shared: list[int] = []
        self.group = -1
        self.admitted_s = self.first_token_s = self.finished_s = math.nan
        self.gap_start_s, self.longest_gap_s = math.nan, 0.0
        self.refused = False

    def decode_steps(self, step: int) -> int:
        """Count the decode steps done before the group's step `step`, since the last prefill."""
        return step - self.first_step

    def offset(self) -> int:
        """Return what a decode step's index lacks to the context that it reads."""
        return self.target - self.first_step + 1
