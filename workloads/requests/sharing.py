"""Prompts that begin as an earlier one began: fitted to recorded block ids, and drawn again.

A request either begins afresh or continues an earlier one.  Who continues depends on how long the prompt is;
how far back the earlier one lies, and how many blocks are new, are tables.  Times and lengths stay as drawn.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from codesign.base.random import stream
from workloads.requests.lengths import Lengths, quantile_table
from workloads.requests.spec import FloatArray, IntArray, Requests, refuse_blocks

CELLS = 12  # classes of prompt length, each as large
CANDIDATES = 32  # earlier requests, of which the first that is long enough is continued
CHUNK = 20_000  # requests whose candidates are held at once


@dataclass(frozen=True)
class Sharing:
    """How requests continue earlier ones.

    Parameters
    ----------
    block_tokens : int                    tokens of a block
    edges : float array, shape (cells-1,) prompt tokens that part the classes of length
    reuse : float array, shape (cells,)   share of requests that continue another, by class of length
    age : Lengths                         how many requests back the other one lies
    fresh : Lengths                       blocks after the shared ones, plus one
    """

    block_tokens: int
    edges: FloatArray
    reuse: FloatArray
    age: Lengths
    fresh: Lengths


def fit_sharing(requests: Requests) -> dict[str, Any] | None:
    """Fit the tables of `Sharing`; None where the stream has no block ids or reuses none."""
    if requests.prefix_ptr is None:
        return None
    reused, age = reuse_and_age(requests)
    if (reused > 0).sum() < 20:
        return None
    rank = np.argsort(np.argsort(requests.prompt_tokens, kind="stable"), kind="stable")
    cell = rank * CELLS // len(requests)
    fresh = np.diff(requests.prefix_ptr) - reused
    return {
        "block_tokens": requests.block_tokens,
        "reuse": [round(float((reused[cell == c] > 0).mean()), 4) for c in range(CELLS)],
        "age": quantile_table(age[reused > 0]),
        "fresh": quantile_table(fresh[reused > 0] + 1),
    }


def reuse_and_age(requests: Requests) -> tuple[IntArray, IntArray]:
    """Return the leading blocks that an earlier request had, and how many requests back the last such was."""
    last: dict[int, int] = {}
    n = len(requests)
    reused, age = np.zeros(n, dtype=np.int64), np.zeros(n, dtype=np.int64)
    for i in range(n):
        ids = requests.blocks(i).tolist()
        reused[i] = k = next((k for k, block in enumerate(ids) if block not in last), len(ids))
        if k:
            age[i] = i - last[ids[k - 1]]
        last.update(dict.fromkeys(ids, i))
    return reused, age


def share_prefixes(prompt_tokens: IntArray, sharing: Sharing, seed: int) -> tuple[IntArray, IntArray]:
    """Draw block ids for prompts of given lengths.

    Returns
    -------
    int arrays, shape (N + 1,) and (M,)   pointers and ids, as in `Requests`

    Notes
    -----
    Law: ids are a prefix tree: a block id is always preceded by the same block id.
    """
    blocks = -(-prompt_tokens // sharing.block_tokens)
    parent, shared = _parents(prompt_tokens, blocks, sharing, seed)
    ptr = np.concatenate(([0], np.cumsum(blocks))).astype(np.int64)
    refuse_blocks(int(ptr[-1]), sharing.block_tokens)
    ids, counter = np.empty(int(ptr[-1]), dtype=np.int64), 0
    columns = (ptr[:-1].tolist(), blocks.tolist(), parent.tolist(), shared.tolist())
    for at, size, other, same in zip(*columns, strict=True):
        if same:
            start = ptr[other]
            ids[at : at + same] = ids[start : start + same]
        ids[at + same : at + size] = np.arange(counter, counter + size - same)
        counter += size - same
    return ptr, ids


def _parents(
    prompt_tokens: IntArray, blocks: IntArray, sharing: Sharing, seed: int
) -> tuple[IntArray, IntArray]:
    """Choose who continues whom (-1: nobody), and how many leading blocks they share."""
    n = len(blocks)
    draws = [stream(seed, "requests", name) for name in ("reuse", "reuse_age", "reuse_fresh")]
    fresh = np.rint(sharing.fresh.quantile(draws[2].random(n))).astype(np.int64) - 1
    wanted = np.maximum(blocks - fresh, 1)
    share = sharing.reuse[np.searchsorted(sharing.edges, prompt_tokens, side="right")]
    reuses = draws[0].random(n) < share
    parent, shared = np.full(n, -1), np.zeros(n, dtype=np.int64)
    for start in range(0, n, CHUNK):
        rows = np.arange(start, min(start + CHUNK, n))
        age = np.rint(sharing.age.quantile(draws[1].random(len(rows) * CANDIDATES))).astype(np.int64)
        other = rows[:, None] - np.maximum(age.reshape(-1, CANDIDATES), 1)
        held = np.where(other >= 0, blocks[np.maximum(other, 0)], 0)
        short = np.maximum(wanted[rows, None] - held, 0)
        best = np.argmin(short, axis=1)[:, None]
        room = np.take_along_axis(held, best, axis=1)[:, 0]
        kept = reuses[rows] & (room > 0)
        parent[rows[kept]] = np.take_along_axis(other, best, axis=1)[kept, 0]
        shared[rows[kept]] = np.minimum(wanted[rows], room)[kept]
    return parent, shared
