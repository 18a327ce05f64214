"""Conversations of several turns, and system prompts that many requests share.

A turn's prompt holds all that was said before in its conversation, after the system prompt.  Block ids say
so: the ids of one turn's full blocks are the first ids of the next one's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from codesign.base.document import Document, Strict, validate
from codesign.base.random import stream
from codesign.base.units import Latency
from workloads.requests.fields import Count
from workloads.requests.lengths import Fixed, Lengths, whole_tokens
from workloads.requests.spec import FloatArray, IntArray, Requests, refuse_blocks

MAX_TURNS = 10_000


class SharedPrefix(Strict):
    """System prompts: `tokens` before every prompt, of one of `groups` texts; popularity ~ rank^-skew."""

    tokens: Count
    groups: Annotated[Count, Field(le=10_000_000)] = 1
    skew: Annotated[float, Field(ge=0, le=10)] = 0.0


class Conversations(Strict):
    """Turns per conversation, and the mean time from one turn's arrival to the next one's (exponential)."""

    turns: Any
    think_time: Latency
    max_tokens: Count | None = None  # a conversation ends before a turn that would pass this context


@dataclass(frozen=True)
class Sessions:
    """How drawn lengths become turns and prefixes."""

    turns: Lengths
    think_time_s: float
    max_tokens: int | None
    prefix: SharedPrefix | None
    block_tokens: int
    talks: bool  # False: each request stands alone

    @property
    def mean_turns(self) -> float:
        """Mean of the turns, before the limit of the context."""
        return float(np.mean(whole_turns(self.turns, (np.arange(10_000) + 0.5) / 10_000)))


def read_sessions(
    document: Document, form: Any, build: Callable[[Document, str], Lengths]
) -> Sessions | None:
    """Read ``conversations`` and ``shared_prefix`` of a form; None where it has neither."""
    if form.conversations is None and form.shared_prefix is None:
        return None
    if form.conversations is None:
        return Sessions(Fixed(1), 0.0, None, form.shared_prefix, form.block_tokens, False)
    below = document.child("conversations")
    talk = validate(Conversations, below)
    turns = build(below, "turns")
    return Sessions(turns, talk.think_time, talk.max_tokens, form.shared_prefix, form.block_tokens, True)


def whole_turns(turns: Lengths, u: FloatArray) -> IntArray:
    """Return whole numbers of turns, 1 ... MAX_TURNS."""
    return np.minimum(whole_tokens(turns.quantile(u)), MAX_TURNS)


Starts = Callable[[int], FloatArray]
Pairs = Callable[[int], tuple[IntArray, IntArray]]


def draw_sessions(count: int, sessions: Sessions, starts: Starts, pairs: Pairs, seed: int) -> Requests:
    """Draw the first `count` requests of conversations.

    Parameters
    ----------
    starts : n -> times, shape (n,)             when conversations begin
    pairs : n -> new prompt and output tokens   of n turns, in order of conversations

    Notes
    -----
    Law: the first n requests do not depend on `count`.  Enough conversations are drawn that no later one
    could still bring a turn among the first `count`.
    """
    n = int(count / sessions.mean_turns * 1.3) + 16
    while True:
        begin = starts(n)
        found = _turns(begin, sessions, pairs, seed)
        settled = len(found) if n >= count else int((found.arrival_s <= begin[-1]).sum())
        if settled >= count:
            return found[:count]
        n = min(n * 2, count)


def _turns(begin: FloatArray, sessions: Sessions, pairs: Pairs, seed: int) -> Requests:
    turns = whole_turns(sessions.turns, stream(seed, "requests", "turns").random(len(begin)))
    talk = np.repeat(np.arange(len(begin)), turns)
    first = np.repeat(np.cumsum(turns) - turns, turns)
    think = stream(seed, "requests", "think_time").standard_exponential(len(talk)) * sessions.think_time_s
    times = begin[talk] + _since(np.where(np.arange(len(talk)) == first, 0.0, think), first)
    new, output = pairs(len(talk))
    group = _groups(len(begin), sessions.prefix, seed)
    system = sessions.prefix.tokens if sessions.prefix else 0
    history = _since((new + output).astype(np.float64), first).astype(np.int64) - output
    prompt = system + history
    kept = np.ones(len(talk), dtype=bool)
    if sessions.max_tokens is not None:
        fits = np.logical_or(prompt + output <= sessions.max_tokens, np.arange(len(talk)) == first)
        kept = _since((~fits).astype(np.float64), first) == 0
    order = np.flatnonzero(kept)[np.argsort(times[kept], kind="stable")]
    ptr, ids = _blocks(prompt, talk, group, sessions, order)
    who = talk[order].astype(np.int32) if sessions.talks else None
    return Requests(
        times[order], prompt[order], output[order], conversation=who,
        prefix_ptr=ptr, prefix_ids=ids, block_tokens=sessions.block_tokens,
    )  # fmt: skip


def _since(values: FloatArray, first: IntArray) -> FloatArray:
    """Sum from the first turn of each conversation to each turn, both included."""
    total = np.concatenate(([0.0], np.cumsum(values)))
    return np.asarray(total[1:] - total[first], dtype=np.float64)


def _groups(n: int, prefix: SharedPrefix | None, seed: int) -> IntArray:
    if prefix is None:
        return np.zeros(n, dtype=np.int64)
    weight = np.cumsum(np.arange(1, prefix.groups + 1, dtype=np.float64) ** -prefix.skew)
    place = stream(seed, "requests", "prefix_group").random(n) * weight[-1]
    found = np.searchsorted(weight, place, side="right")
    return np.asarray(np.minimum(found, prefix.groups - 1), dtype=np.int64)


def _blocks(
    prompt: IntArray, talk: IntArray, group: IntArray, sessions: Sessions, order: IntArray
) -> tuple[IntArray, IntArray]:
    """Number the full blocks: those of the system prompt by its group, the others by their conversation."""
    full = prompt // sessions.block_tokens
    groups = sessions.prefix.groups if sessions.prefix else 0
    system = sessions.prefix.tokens // sessions.block_tokens if sessions.prefix else 0
    own = np.zeros(int(talk[-1]) + 1 if len(talk) else 0, dtype=np.int64)
    np.maximum.at(own, talk, full)
    base = groups * system + np.cumsum(own) - own
    counts, whose = full[order], talk[order]
    ptr = np.concatenate(([0], np.cumsum(counts))).astype(np.int64)
    refuse_blocks(int(ptr[-1]), sessions.block_tokens)
    ids = np.arange(ptr[-1])
    ids -= np.repeat(ptr[:-1] - base[whose], counts)
    if system:
        same = np.minimum(counts, system)
        at = np.arange(same.sum()) - np.repeat(np.cumsum(same) - same, same)
        ids[np.repeat(ptr[:-1], same) + at] = np.repeat(group[whose] * system, same) + at
    return ptr, ids
