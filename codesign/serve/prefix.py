"""A cache of prompt prefixes in KV memory: blocks that earlier requests left, shared by reference.

A prompt is a chain of block ids (`Requests.blocks`); two prompts share the cache of a prefix as long as their
ids agree.  A block stays until its memory is needed: those that no running request uses leave first, the one
used longest ago before the others.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence as Seq

from codesign.lower.kv import KvShape


class PrefixCache:
    """The cached blocks of one data group.

    Laws: a block that a running request uses never leaves; `held_bytes` is the sum over all blocks here.

    Attributes
    ----------
    held_bytes : int           KV bytes of the cached blocks
    hit_tokens, asked_tokens   of all admitted prompts
    """

    def __init__(self, kv: KvShape, block_tokens: int) -> None:
        self.kv, self.block_tokens = kv, block_tokens
        self.held_bytes = self.hit_tokens = self.asked_tokens = 0
        self._used: dict[int, list[int]] = {}  # id -> [bytes, running requests that use it]
        self._idle: OrderedDict[int, int] = OrderedDict()  # id -> bytes, longest unused first

    def match(self, ids: Seq[int], most_tokens: int) -> list[int]:
        """Return the leading ids that are here, at most `most_tokens` tokens of them."""
        found: list[int] = []
        for block in ids[: most_tokens // self.block_tokens]:
            if block not in self._used and block not in self._idle:
                break
            found.append(block)
        return found

    def use(self, ids: Seq[int]) -> int:
        """Count one more user of some blocks; return their bytes."""
        total = 0
        for block in ids:
            if block in self._idle:
                self._used[block] = [self._idle.pop(block), 0]
            self._used[block][1] += 1
            total += self._used[block][0]
        return total

    def leave(self, ids: Seq[int]) -> None:
        """Count one user less; blocks without one may be evicted, the end of a chain first."""
        for block in reversed(ids):
            size_and_users = self._used[block]
            size_and_users[1] -= 1
            if not size_and_users[1]:
                self._idle[block] = self._used.pop(block)[0]

    def add(self, ids: Seq[int], first: int) -> tuple[list[int], int]:
        """Take over the blocks of a prefilled prompt from position `first` of its chain on.

        Returns
        -------
        the ids that were new (in use by one request), and their bytes
        """
        new: list[int] = []
        total = 0
        for place, block in enumerate(ids[first:], first):
            if block in self._used or block in self._idle:
                continue
            size = self.block_bytes(place)
            self._used[block] = [size, 1]
            new.append(block)
            total += size
        self.held_bytes += total
        return new, total

    def evict(self, need_bytes: int) -> int:
        """Let unused blocks go until `need_bytes` are freed or none is left; return the bytes freed."""
        freed = 0
        while freed < need_bytes and self._idle:
            freed += self._idle.popitem(last=False)[1]
        self.held_bytes -= freed
        return freed

    def block_bytes(self, place: int) -> int:
        """Return the KV bytes of the block at a place of the chain."""
        each = self.block_tokens // self.kv.block_tokens
        return sum(self.kv.block_bytes(i) for i in range(place * each, (place + 1) * each))
