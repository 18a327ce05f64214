"""`Group`: the scheduler state of one data group: queue, prefills, decodes, KV memory.

A decode step costs no work per sequence: what changes with the step alone (contexts, blocks that fill up,
sequences that end) is kept in buckets by step, so that only sequences with an event are touched.
"""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from codesign.lower.batch import Batch
from codesign.lower.kv import View
from codesign.serve.gaps import Gaps
from codesign.serve.memory import KvMemory
from codesign.serve.sequence import Sequence

IntArray = NDArray[np.int64]


class ReadEntries:
    """The entries that all decoding sequences read under one view, step after step.

    A sequence's context at step s is ``s + offset``; under a limit it stops growing at the step
    ``limit - offset``.  Law: ``total(s) == sum of min(s + offset, limit)``, plus (compressed) the sum of
    all contexts over the compression.
    """

    def __init__(self, view: View) -> None:
        self.limit = (view.limit or 0) if view.compression > 1 else view.limit
        self.compression = view.compression
        self.count = self.all_offsets = 0
        self.growing = self.offsets = 0  # below the limit
        self.fills_at: dict[int, list[int]] = {}  # step -> [sequences, sum of offsets]

    def join(self, offset: int, step: int) -> None:
        """Add a sequence whose first step is `step`."""
        self.count += 1
        self.all_offsets += offset
        if self.limit is not None and step + offset < self.limit:
            event = self.fills_at.setdefault(self.limit - offset, [0, 0])
            self._grow(event, 1, offset)

    def leave(self, offset: int) -> None:
        """Take a sequence away between two steps."""
        self.count -= 1
        self.all_offsets -= offset
        if self.limit is not None and self.limit - offset in self.fills_at:
            event = self.fills_at[self.limit - offset]
            self._grow(event, -1, -offset)
            if not event[0]:
                del self.fills_at[self.limit - offset]

    def _grow(self, event: list[int], count: int, offset: int) -> None:
        event[0] += count
        event[1] += offset
        self.growing += count
        self.offsets += offset

    def total(self, step: int) -> int:
        """Return the entries read in step `step`; every step is asked for once, in order."""
        if self.limit is None:
            return self.count * step + self.all_offsets
        filled = self.fills_at.pop(step, None)
        if filled:
            self.growing -= filled[0]
            self.offsets -= filled[1]
        near = self.growing * step + self.offsets + (self.count - self.growing) * self.limit
        if self.compression == 1:
            return near
        return near + (self.count * step + self.all_offsets) // self.compression


class Group:
    """One data group: what waits, what is prefilled, what decodes.

    Attributes
    ----------
    waiting : deque of Sequence     may be shared by all groups (a central queue)
    prefilling : deque of Sequence  admitted, prompt not done
    decoding : dict of Sequence     in order of joining
    swapped : deque of Sequence     preempted, their caches in another tier; back before others are admitted
    step : int                      decode steps done
    memory : KvMemory               of a device of the group
    """

    def __init__(
        self,
        index: int,
        memory: KvMemory,
        views: tuple[View, ...],
        gaps: Gaps,
        on_finish: Callable[[Sequence], None],
    ) -> None:
        self.index, self.memory = index, memory
        self.waiting: deque[Sequence] = deque()
        self.prefilling: deque[Sequence] = deque()
        self.decoding: dict[Sequence, None] = {}
        self.swapped: deque[Sequence] = deque()
        self.step = 0
        self.gaps, self.on_finish = gaps, on_finish
        self.chunks: list[tuple[Sequence, int]] = []  # of the iteration that runs
        self.decodes = False
        self.preemptions = 0
        self._moved = [0, 0, 0, 0]  # bytes and blocks out, then in, before the next iteration
        self.outstanding_tokens = 0  # assigned, not yet computed: what load balancing looks at
        self._views = views
        self._reads = [ReadEntries(view) for view in views]
        self._ends_at: dict[int, list[Sequence]] = {}
        self._grows_at: list[dict[Sequence, None]] = [{} for _ in range(memory.kv.block_tokens)]
        self._members: IntArray | None = None  # spans of the decoding sequences, while they stay the same
        self._offsets: IntArray = np.empty(0, dtype=np.int64)  # their positions at step 0
        self._newcomers: dict[Sequence, None] = {}  # joined since the last decode step
        self._step_gaps = array("d")  # between the ends of decode steps
        self._last_end_s = 0.0

    @property
    def running(self) -> int:
        """Admitted sequences."""
        return len(self.decoding) + len(self.prefilling) + len(self.swapped)

    def admit(self, now: float) -> Sequence | None:
        """Take the first waiting sequence if its prompt fits, with all its blocks; else None."""
        if not self.waiting or self.swapped:
            return None
        sequence = self.waiting[0]
        if not self.memory.take(sequence):
            return None
        self.waiting.popleft()
        self.outstanding_tokens -= sequence.prefilled  # known from the prefix cache
        sequence.group = self.index
        if sequence.admitted_s != sequence.admitted_s:  # not a number: first time
            sequence.admitted_s = now
        self.prefilling.append(sequence)
        return sequence

    def make_room(self) -> None:
        """Give a block to each decoding sequence that fills its last one, preempting the youngest.

        If none had to be preempted, sequences whose caches are in another tier come back as they fit.
        """
        before = self.preemptions
        bucket = self._grows_at[self.step % len(self._grows_at)]
        for sequence in list(bucket) if bucket else ():
            if sequence not in bucket:
                continue  # preempted for an earlier one
            while not self.memory.grow(sequence):
                self._preempt_youngest()
                if sequence not in bucket:
                    break  # it was the youngest itself
        while self.swapped and self.preemptions == before and self._swap_in():
            pass

    def _preempt_youngest(self) -> None:
        victim = self.prefilling.pop() if self.prefilling else next(reversed(self.decoding))
        victim.preemptions += 1
        self.preemptions += 1
        if victim in self.decoding:
            victim.generated += victim.decode_steps(self.step)
            victim.gap_start_s = self._last_end_s if victim not in self._newcomers else victim.gap_start_s
            self._ends_at[victim.last_step].remove(victim)
            self._leave(victim)
            if self._swap_out(victim):
                return
            self.outstanding_tokens -= 1  # the second prefill gives a token that a decode would have given
        self.memory.release(victim)
        self.outstanding_tokens += victim.prompt + victim.generated - (victim.target - victim.prefilled)
        victim.target, victim.prefilled = victim.prompt + victim.generated, 0
        self.waiting.appendleft(victim)

    def _swap_out(self, victim: Sequence) -> bool:
        """Let a sequence wait in another tier, if its cache fits there: all but its last token's entry."""
        size, blocks = victim.kv_bytes, victim.blocks
        if not self.memory.swap_out(victim):
            return False
        victim.target = victim.prefilled = victim.prompt + victim.generated - 1
        self._moved[0] += size
        self._moved[1] += blocks
        self.swapped.append(victim)
        return True

    def _swap_in(self) -> bool:
        """Let the first that waits in another tier decode on, if its cache fits here."""
        sequence, size = self.swapped[0], self.swapped[0].swapped_bytes
        if not self.memory.swap_in(sequence):
            return False
        self._moved[2] += size
        self._moved[3] += self.memory.kv.blocks(sequence.target)
        self.swapped.popleft()
        self._join(sequence)
        return True

    def start(self, chunks: list[tuple[Sequence, int]], decode: bool) -> Batch:
        """Begin an iteration: prefill chunks, and a decode step of all that decode."""
        self.chunks, self.decodes = chunks, decode and bool(self.decoding)
        batch = Batch()
        if any(self._moved):
            out_bytes, out_blocks, in_bytes, in_blocks = self._moved
            batch.swapped_out, batch.swapped_in = (out_bytes, out_blocks), (in_bytes, in_blocks)
            self._moved = [0, 0, 0, 0]
        if self.decodes:
            batch.decodes = batch.outputs = len(self.decoding)
            batch.entries = [reads.total(self.step) for reads in self._reads]
        for sequence, tokens in chunks:
            done = sequence.prefilled + tokens
            if tokens == 1 and done > 1:  # the last token of what is cached: attention is a decode's
                self._read_also(batch, done)
            else:
                batch.chunks.append((tokens, done))
            batch.tokens += tokens
            batch.outputs += done == sequence.target
        batch.tokens += batch.decodes
        batch.sequences = batch.decodes + len(chunks)
        return batch

    def _read_also(self, batch: Batch, context: int) -> None:
        read = batch.entries or [0] * len(self._views)
        batch.entries = [n + view.seen(context) for n, view in zip(read, self._views, strict=True)]
        batch.singles += 1

    def spans(self) -> list[IntArray]:
        """Return what this iteration computes, as int64[3, S]: request, first position, tokens of each span.

        Chunks come first, then the decodes, as two arrays (either may be missing).
        """
        parts = []
        if self.chunks:
            columns = zip(*((s.index, s.prefilled, n) for s, n in self.chunks), strict=True)
            parts.append(np.array(list(columns), dtype=np.int64))
        if self.decodes:
            if self._members is None:
                self._members = np.ones((3, len(self.decoding)), dtype=np.int64)
                self._members[0] = [s.index for s in self.decoding]
                self._offsets = np.array([s.target - s.first_step for s in self.decoding])
            np.add(self._offsets, self.step, out=self._members[1])
            parts.append(self._members)
        return parts

    def complete(self, end_s: float) -> int:
        """End the iteration; return the output tokens that it gave."""
        given = 0
        if self.decodes:
            given += self._complete_decode(end_s)
        for sequence, tokens in self.chunks:
            sequence.prefilled += tokens
            self.outstanding_tokens -= tokens
            if sequence.prefilled == sequence.target:
                self.prefilling.remove(sequence)
                self.memory.share(sequence)
                given += 1
                self._first_token(sequence, end_s)
        self.chunks, self.decodes = [], False
        return given

    def _complete_decode(self, end_s: float) -> int:
        given, gap_s = len(self.decoding), end_s - self._last_end_s
        self.outstanding_tokens -= given
        for sequence in self._newcomers:
            self._note_gap(sequence, end_s)
        self.gaps.add(gap_s, given - len(self._newcomers))
        self._step_gaps.append(gap_s)
        self._newcomers.clear()
        ended = self._ends_at.pop(self.step, None)
        self.step += 1
        self._last_end_s = end_s
        for sequence in ended or ():
            self._leave(sequence)
            sequence.generated = sequence.output
            self._finish(sequence, end_s)
        return given

    def _note_gap(self, sequence: Sequence, end_s: float) -> None:
        gap_s = end_s - sequence.gap_start_s
        self.gaps.add(gap_s, 1)
        sequence.longest_gap_s = max(sequence.longest_gap_s, gap_s)

    def _first_token(self, sequence: Sequence, end_s: float) -> None:
        if sequence.generated == 0:
            sequence.first_token_s = end_s
        else:  # after a preemption
            self._note_gap(sequence, end_s)
        sequence.gap_start_s = end_s
        sequence.generated += 1
        if sequence.generated == sequence.output:
            self._finish(sequence, end_s)
        else:
            self._join(sequence)

    def _join(self, sequence: Sequence) -> None:
        sequence.first_step = self.step
        sequence.last_step = self.step + sequence.output - sequence.generated - 1
        self.decoding[sequence] = None
        self._newcomers[sequence] = None
        self._members = None
        self._ends_at.setdefault(sequence.last_step, []).append(sequence)
        self._bucket(sequence)[sequence] = None
        for reads in self._reads:
            reads.join(sequence.offset(), self.step)

    def _bucket(self, sequence: Sequence) -> dict[Sequence, None]:
        """Return the bucket of the steps in which a sequence's last block is full."""
        return self._grows_at[(sequence.first_step - sequence.target) % len(self._grows_at)]

    def _leave(self, sequence: Sequence) -> None:
        done = self._step_gaps[sequence.first_step + 1 : self.step]
        sequence.longest_gap_s = max(sequence.longest_gap_s, max(done, default=0.0))
        del self.decoding[sequence]
        self._newcomers.pop(sequence, None)
        self._members = None
        del self._bucket(sequence)[sequence]
        for reads in self._reads:
            reads.leave(sequence.offset())

    def _finish(self, sequence: Sequence, end_s: float) -> None:
        sequence.finished_s = end_s
        self.memory.release(sequence)
        self.on_finish(sequence)
