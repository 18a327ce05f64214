"""Several streams merged by time into one that says who asked, and about what."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from codesign.base.errors import ConfigError
from workloads.requests.spec import Int32Array, IntArray, Requests, take_ragged


class Named(Protocol):
    """Who asks, and about what."""

    @property
    def name(self) -> str: ...

    @property
    def domain(self) -> str: ...


def merge_streams(streams: Sequence[Requests], tenants: Sequence[Named]) -> Requests:
    """Merge streams by time; ties go to the first.

    Parameters
    ----------
    streams, tenants : sequences of the same length   at least one

    Raises
    ------
    ConfigError   block ids of different sizes

    Notes
    -----
    Laws: every request is there once; those of one tenant keep their order, and share no block id and no
    conversation with another's.
    """
    sizes = np.array([len(part) for part in streams])
    times = np.concatenate([part.arrival_s for part in streams])
    order = np.argsort(times, kind="stable")
    domains = list(dict.fromkeys(tenant.domain for tenant in tenants))
    domain = np.array([domains.index(tenant.domain) for tenant in tenants], dtype=np.int32)
    who = np.repeat(np.arange(len(streams), dtype=np.int32), sizes)[order]
    ptr, ids, block_tokens = _blocks(streams, order)
    return Requests(
        times[order],
        np.concatenate([part.prompt_tokens for part in streams])[order],
        np.concatenate([part.output_tokens for part in streams])[order],
        conversation=_conversations(streams, order), tenant=who, domain=domain[who],
        prefix_ptr=ptr, prefix_ids=ids, block_tokens=block_tokens, name="tenants",
        source="; ".join(dict.fromkeys(part.source for part in streams)),
        tenant_names=tuple(tenant.name for tenant in tenants), domain_names=tuple(domains),
        notes=tuple(note for part in streams for note in part.notes),
    )  # fmt: skip


def _conversations(streams: Sequence[Requests], order: IntArray) -> Int32Array | None:
    if all(part.conversation is None for part in streams):
        return None
    codes, base = [], 0
    for part in streams:
        own = np.full(len(part), -1, dtype=np.int32) if part.conversation is None else part.conversation
        codes.append(np.where(own < 0, -1, own + base))
        base += int(own.max(initial=-1)) + 1
    return np.concatenate(codes)[order].astype(np.int32)


def _blocks(streams: Sequence[Requests], order: IntArray) -> tuple[IntArray | None, IntArray | None, int]:
    sizes = {part.block_tokens for part in streams if part.prefix_ptr is not None}
    if not sizes:
        return None, None, 0
    if len(sizes) > 1:
        given = ", ".join(map(str, sorted(sizes)))
        raise ConfigError(
            f"requests.tenants: prefix blocks of {given} tokens: all tenants need one block_tokens"
        )
    counts, ids, base = [], [], 0
    for part in streams:
        if part.prefix_ptr is None or part.prefix_ids is None:
            counts.append(np.zeros(len(part), dtype=np.int64))
            continue
        counts.append(np.diff(part.prefix_ptr))
        ids.append(part.prefix_ids + base)
        base += int(part.prefix_ids.max(initial=-1)) + 1
    ptr = np.concatenate(([0], np.cumsum(np.concatenate(counts)))).astype(np.int64)
    return *take_ragged(ptr, np.concatenate(ids), order), sizes.pop()
