"""The KV cache of a data group on one of its devices: bytes of each block, and what a decode step reads."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import ceil

from codesign.lower.parallel import Parallel
from codesign.lower.residency import stage_layers
from workloads.models import Attention, Model


@dataclass(frozen=True)
class View:
    """How far back attention reads: the last `limit` entries (None: all), older ones compressed.

    Law: ``seen(c) <= c``, and without limit and compression ``seen(c) == c``.
    """

    limit: int | None = None
    compression: int = 1

    def seen(self, context: int) -> int:
        """Count the cached entries that a query at the end of `context` tokens reads."""
        if self.compression > 1:
            return min(context, self.limit or 0) + context // self.compression
        return context if self.limit is None else min(context, self.limit)


def view_of(attention: Attention) -> View:
    """Return what one layer's attention reads."""
    limit = attention.window
    if attention.sparse_top_k:
        limit = min(limit or attention.sparse_top_k, attention.sparse_top_k)
    return View(limit, attention.compression)


@dataclass
class KvShape:
    """Bytes that a sequence takes on the fullest device, in whole blocks of `block_tokens` tokens.

    All integers, so that what was taken is given back exactly.
    """

    block_tokens: int
    state_bytes: int  # recurrent state of a sequence, whatever its length
    layers: tuple[tuple[float, Attention], ...]  # (bytes of one entry on one rank, layer's attention)
    _totals: list[int] = field(default_factory=lambda: [0])  # bytes of the first blocks

    def blocks(self, tokens: int) -> int:
        """Count the blocks of a context."""
        return -(-tokens // self.block_tokens)

    def block_bytes(self, index: int) -> int:
        """Return the bytes that the block of this index (from 0) adds: 0 once all windows are full."""
        return self._total(index + 1) - self._total(index)

    def sequence_bytes(self, blocks: int) -> int:
        """Return the bytes of a sequence with so many blocks, its state included."""
        return self.state_bytes + self._total(blocks)

    def _total(self, blocks: int) -> int:
        while len(self._totals) <= blocks:
            end = len(self._totals) * self.block_tokens
            added = ceil(self._bytes(end) - self._bytes(end - self.block_tokens))
            self._totals.append(self._totals[-1] + added)
        return self._totals[blocks]

    def least_bytes(self, tokens: int) -> float:
        """Return a lower bound of a sequence's bytes, at once for any number of tokens."""
        return self.state_bytes + self._bytes(tokens)

    def _bytes(self, tokens: int) -> float:
        return sum(entry * attention.kv_tokens(tokens) for entry, attention in self.layers)


def kv_shape(model: Model, parallel: Parallel, value_bytes: float, block_tokens: int) -> KvShape:
    """Return the cache of the stage that holds most of it.

    Key and value heads are dealt over the tensor ranks (each keeps at least one); an MLA latent is kept
    by each rank.
    """
    shapes = []
    for stage in stage_layers(len(model.layers), parallel.pipeline):
        attentions = [a for i in stage if (a := model.layers[i].attention) is not None]
        grouped: dict[Attention, float] = {}
        for attention in attentions:
            entry = entry_bytes(attention, parallel.tensor, value_bytes)
            grouped[attention] = grouped.get(attention, 0.0) + entry
        state = sum(a.state_values / parallel.tensor * value_bytes for a in attentions)
        layers = tuple((entry, attention) for attention, entry in grouped.items() if entry)
        shapes.append(KvShape(block_tokens, ceil(state), layers))
    return max(shapes, key=lambda shape: shape.sequence_bytes(64))


def entry_bytes(attention: Attention, tensor: int, value_bytes: float) -> float:
    """Return the bytes of one token in one layer's cache on one rank."""
    return attention.kv_values_per_token * _share(attention, tensor) * value_bytes


def _share(attention: Attention, tensor: int) -> float:
    if attention.kind == "mla":
        return 1.0
    return 1.0 / min(tensor, attention.kv_heads)
