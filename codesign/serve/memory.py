"""The KV memory of one data group: blocks taken, grown, shared and given back."""

from __future__ import annotations

from codesign.lower.kv import KvShape
from codesign.serve.prefix import PrefixCache
from codesign.serve.sequence import Sequence


class KvMemory:
    """KV memory on a device of a group, in blocks.

    Law: ``capacity == free + own bytes of the running sequences + held bytes of the prefix cache``.
    `swapped_bytes` are of sequences that wait in another tier, at most `swap_bytes`.
    """

    def __init__(
        self, kv: KvShape, capacity_bytes: int, prefix: PrefixCache | None = None, swap_bytes: int = 0
    ) -> None:
        self.kv, self.capacity_bytes, self.free_bytes = kv, capacity_bytes, capacity_bytes
        self.prefix, self.swap_bytes, self.swapped_bytes = prefix, swap_bytes, 0

    @property
    def held_bytes(self) -> int:
        """Bytes that running sequences hold, alone or shared, and cached prefixes."""
        return self.capacity_bytes - self.free_bytes

    def fits_alone(self, sequence: Sequence) -> bool:
        """Tell whether a request fits when nothing else is there."""
        tokens = sequence.prompt + sequence.output
        if self.kv.least_bytes(tokens) > self.capacity_bytes:
            return False
        blocks = self.kv.blocks(tokens)
        return self.kv.sequence_bytes(blocks) <= self.capacity_bytes

    def take(self, sequence: Sequence) -> bool:
        """Take the blocks of a sequence's whole target; False, and nothing changes, if they do not fit.

        What the prefix cache knows of the prompt is shared, and counts as prefilled; the last token is
        always computed.
        """
        blocks = self.kv.blocks(sequence.target)
        need = self.kv.sequence_bytes(blocks)
        shared: list[int] = []
        if self.prefix is not None:
            shared = self.prefix.match(sequence.chain, sequence.prompt - 1)
            need -= self.prefix.use(shared)
        if not self._make_free(need):
            if self.prefix is not None:
                self.prefix.leave(shared)
            return False
        self.free_bytes -= need
        sequence.blocks, sequence.kv_bytes, sequence.shared = blocks, need, shared
        if self.prefix is not None:
            sequence.prefilled = len(shared) * self.prefix.block_tokens
            self.prefix.asked_tokens += sequence.prompt
            self.prefix.hit_tokens += sequence.prefilled
        return True

    def grow(self, sequence: Sequence) -> bool:
        """Take one more block; False, and nothing changes, if there is none."""
        need = self.kv.block_bytes(sequence.blocks)
        if not self._make_free(need):
            return False
        self.free_bytes -= need
        sequence.blocks += 1
        sequence.kv_bytes += need
        return True

    def swap_out(self, sequence: Sequence) -> bool:
        """Move a sequence's blocks to the other tier; False, and nothing changes, if they do not fit."""
        size = sequence.kv_bytes
        if self.swapped_bytes + size > self.swap_bytes:
            return False
        self.swapped_bytes += size
        self.free_bytes += size
        sequence.swapped_bytes, sequence.kv_bytes, sequence.blocks = size, 0, 0
        return True

    def swap_in(self, sequence: Sequence) -> bool:
        """Take the blocks of a sequence back, with room for its next entry; False if they do not fit."""
        blocks = self.kv.blocks(sequence.target + 1)
        need = self.kv.sequence_bytes(blocks)
        if need > self.free_bytes:
            return False
        self.free_bytes -= need
        self.swapped_bytes -= sequence.swapped_bytes
        sequence.swapped_bytes, sequence.kv_bytes, sequence.blocks = 0, need, blocks
        return True

    def share(self, sequence: Sequence) -> None:
        """Hand the full blocks of a prefilled prompt to the prefix cache."""
        if self.prefix is None:
            return
        whole = sequence.chain[: sequence.prompt // self.prefix.block_tokens]
        new, size = self.prefix.add(whole, len(sequence.shared))
        sequence.shared = sequence.shared + new
        sequence.kv_bytes -= size

    def release(self, sequence: Sequence) -> None:
        """Give everything back; what is shared stays until its memory is needed."""
        self.free_bytes += sequence.kv_bytes
        if self.prefix is not None:
            self.prefix.leave(sequence.shared)
        sequence.blocks, sequence.kv_bytes, sequence.shared = 0, 0, []

    def _make_free(self, need: int) -> bool:
        if need > self.free_bytes and self.prefix is not None:
            self.free_bytes += self.prefix.evict(need - self.free_bytes)
        return need <= self.free_bytes
