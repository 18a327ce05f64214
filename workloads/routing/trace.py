"""A recorded trace: experts of tokens, sequence after sequence, in memory or mapped from a file."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from workloads.routing.stream import Int16Array, IntArray
from workloads.routing.tables import Rows, Table, forget_pages

FORMAT_VERSION = 1
_BLOCK_BYTES = 8 * 2**20  # ids and gate weights of one block, as they are stored


@dataclass(frozen=True)
class Header:
    """What a routing file says about itself."""

    n_experts: int
    top_k: int
    layer_ids: tuple[int, ...]
    domain_names: tuple[str, ...] = ("all",)
    model: str = ""
    provenance: str = ""

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Return the header as arrays, as they stand in an ``.npz``."""
        return {
            "domain_names": np.array(self.domain_names),
            "layer_ids": np.array(self.layer_ids, np.int64),
            "num_experts": np.array(self.n_experts),
            "top_k": np.array(self.top_k),
            "model": np.array(self.model),
            "provenance": np.array(self.provenance),
            "format_version": np.array(FORMAT_VERSION),
        }


@dataclass(frozen=True)
class Block:
    """Some tokens in order: experts int16 (T, L, k), sequence and domain int64 (T,), gates (T, L, k)."""

    experts: Int16Array
    sequence: IntArray
    domain: IntArray
    gates: Table | None = None


@dataclass(frozen=True)
class RoutingTrace:
    """Routing of recorded sequences, one after the other.

    Law: sequence s holds rows ``offsets[s]`` to ``offsets[s + 1] - 1``; ids are -1 .. n_experts - 1, and no
    expert stands twice in one (token, layer).  `experts` and `gates` may be mapped files of any length: read
    them by `blocks` or by `Rows`, which hold a bounded part in memory.
    """

    experts: npt.NDArray[np.signedinteger[Any]]  # int8, int16 or int32 (T, L, k)
    offsets: IntArray  # (S + 1,)
    n_experts: int
    domains: IntArray  # (S,)
    domain_names: tuple[str, ...] = ("all",)
    layer_ids: tuple[int, ...] = ()
    model: str = ""
    provenance: str = ""
    notes: tuple[str, ...] = field(default=(), compare=False)  # what the reader dropped or assumed
    gates: Table | None = None  # weights of the chosen experts (T, L, k): float, or uint8 of 255ths

    @property
    def lengths(self) -> IntArray:
        """Tokens of each sequence, shape (S,)."""
        return np.diff(self.offsets)

    @property
    def header(self) -> Header:
        """What a file of this trace says about itself."""
        layers = self.layer_ids or tuple(range(self.experts.shape[1]))
        top_k = self.experts.shape[2]
        return Header(self.n_experts, top_k, layers, self.domain_names, self.model, self.provenance)

    def blocks(self, tokens: int | None = None) -> Iterator[Block]:
        """Yield all tokens in order, some at a time; memory holds one block."""
        width = self.experts.dtype.itemsize + (0 if self.gates is None else self.gates.dtype.itemsize)
        tokens = tokens or max(_BLOCK_BYTES // (width * int(np.prod(self.experts.shape[1:]))), 1)
        for first in range(0, len(self.experts), tokens):
            rows = slice(first, min(first + tokens, len(self.experts)))
            sequence = np.searchsorted(self.offsets, np.arange(rows.start, rows.stop), side="right") - 1
            experts = np.array(self.experts[rows], np.int16)
            gates = None if self.gates is None else np.array(self.gates[rows])
            for table in (self.experts, self.gates):
                if table is not None:
                    forget_pages(table)
            yield Block(experts, sequence, self.domains[sequence], gates)

    def take(self, rows: IntArray, offsets: IntArray, domains: IntArray) -> RoutingTrace:
        """Return a trace in memory of some rows, cut into sequences by `offsets`."""
        gates = None if self.gates is None else Rows(self.gates).take(rows)
        experts = Rows(self.experts).take(rows)
        return replace(self, experts=experts, offsets=offsets, domains=domains, gates=gates)

    def select(self, sequences: npt.ArrayLike) -> RoutingTrace:
        """Return a trace of some of the sequences, in the order given."""
        chosen = np.asarray(sequences, np.int64)
        rows = [np.arange(self.offsets[s], self.offsets[s + 1]) for s in chosen]
        index = np.concatenate(rows) if rows else np.zeros(0, np.int64)
        offsets = np.concatenate([[0], np.cumsum(self.lengths[chosen])]).astype(np.int64)
        return self.take(index, offsets, self.domains[chosen])


def gate_weights(gates: Table) -> npt.NDArray[np.float32]:
    """Return gate weights as numbers: uint8 are 255ths."""
    return np.asarray(gates * np.float32(1 / 255) if gates.dtype == np.uint8 else gates, np.float32)
