"""`Requests`: a stream of requests as arrays, checked once when it is made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from codesign.base.errors import ConfigError

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
Int32Array = NDArray[np.int32]

MAX_TOKENS = 100_000_000  # of one request: ten times the longest context that anyone has announced
MAX_BLOCKS = 100_000_000  # prefix block ids of all prompts: 800 MB
MAX_TIME_S = 1e10  # three centuries

_PER_REQUEST: dict[str, Any] = {
    "arrival_s": np.float64, "prompt_tokens": np.int64, "output_tokens": np.int64,
    "conversation": np.int32, "tenant": np.int32, "domain": np.int32, "held_tokens": np.int64,
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Requests:
    """A stream of N requests in order of arrival.

    Parameters
    ----------
    arrival_s : float array, shape (N,)        s since the start, ascending, first at >= 0
    prompt_tokens, output_tokens : int (N,)    both at least 1
    conversation, tenant, domain : int32 (N,)  or None; -1 where a request has none
    prefix_ptr, prefix_ids : int (N+1,), (M,)  or None; ids of the prompt's blocks of `block_tokens`
                                               tokens: two prompts share a prefix as long as ids agree
    held_tokens : int (N,)                     or None; of the prompt, already in KV memory when it comes
    concurrency : int or None                  closed loop: at most so many in flight, times are 0
    dropped : {reason: count}                  rows of the source that are not requests
    notes : tuple of str                       what was done to the source, for provenance

    Raises
    ------
    ConfigError   a length, an order or a value that no stream can have, with its index
    """

    arrival_s: FloatArray
    prompt_tokens: IntArray
    output_tokens: IntArray
    conversation: Int32Array | None = None
    tenant: Int32Array | None = None
    domain: Int32Array | None = None
    held_tokens: IntArray | None = None
    prefix_ptr: IntArray | None = None
    prefix_ids: IntArray | None = None
    block_tokens: int = 0
    concurrency: int | None = None
    name: str = "requests"
    source: str = "<python>"
    dropped: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    tenant_names: tuple[str, ...] = ()
    domain_names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name, dtype in _PER_REQUEST.items():
            given = getattr(self, name)
            if given is not None:
                object.__setattr__(self, name, _frozen(given, dtype, name))
        self._check_values()
        if self.prefix_ptr is not None or self.prefix_ids is not None:
            self._check_prefix()

    def _check_values(self) -> None:
        n = len(self.arrival_s)
        for name in _PER_REQUEST:
            given = getattr(self, name)
            if given is not None and given.shape != (n,):
                raise ConfigError(f"requests.{name}: has shape {given.shape}; needs ({n},) as arrival_s")
        _refuse("arrival_s", self.arrival_s, ~np.isfinite(self.arrival_s), "must be finite")
        _refuse("arrival_s", self.arrival_s, self.arrival_s < 0, "must not be negative")
        _refuse("arrival_s", self.arrival_s[1:], np.diff(self.arrival_s) < 0, "must ascend")
        for name in ("prompt_tokens", "output_tokens"):
            tokens = getattr(self, name)
            _refuse(name, tokens, (tokens < 1) | (tokens > MAX_TOKENS), f"must be 1 ... {MAX_TOKENS}")
        if self.held_tokens is not None:
            held, rule = self.held_tokens, "must be 0 ... prompt_tokens - 1"
            _refuse("held_tokens", held, (held < 0) | (held >= self.prompt_tokens), rule)
        if self.concurrency is not None and self.concurrency < 1:
            raise ConfigError(f"requests.concurrency = {self.concurrency}: must be at least 1")

    def _check_prefix(self) -> None:
        if self.prefix_ptr is None or self.prefix_ids is None or self.block_tokens < 1:
            raise ConfigError("requests.prefix_ptr, prefix_ids and block_tokens belong together")
        for name in ("prefix_ptr", "prefix_ids"):
            object.__setattr__(self, name, _frozen(getattr(self, name), np.int64, name))
        counts = np.diff(self.prefix_ptr)
        if len(counts) != len(self) or self.prefix_ptr[0] != 0 or self.prefix_ptr[-1] != len(self.prefix_ids):
            raise ConfigError("requests.prefix_ptr: must run from 0 to len(prefix_ids) in N + 1 steps")
        room = -(-self.prompt_tokens // self.block_tokens)
        _refuse("prefix_ptr", counts, (counts < 0) | (counts > room), "more blocks than the prompt has")

    def __len__(self) -> int:
        return len(self.arrival_s)

    def __getitem__(self, which: slice | NDArray[Any]) -> Requests:
        """Return some of the requests, by slice, mask or index array; times stay as they are."""
        index = np.arange(len(self))[which]
        part: dict[str, Any] = {
            name: None if getattr(self, name) is None else getattr(self, name)[index] for name in _PER_REQUEST
        }
        if self.prefix_ptr is not None and self.prefix_ids is not None:
            part["prefix_ptr"], part["prefix_ids"] = take_ragged(self.prefix_ptr, self.prefix_ids, index)
        return replace(self, **part)

    @property
    def duration_s(self) -> float:
        """Time of the last arrival."""
        return float(self.arrival_s[-1]) if len(self) else 0.0

    def blocks(self, i: int) -> IntArray:
        """Return the prefix block ids of request `i` (empty if the stream has none)."""
        if self.prefix_ptr is None or self.prefix_ids is None:
            return np.empty(0, dtype=np.int64)
        return self.prefix_ids[self.prefix_ptr[i] : self.prefix_ptr[i + 1]]

    def at(self, arrival_s: FloatArray, **changes: Any) -> Requests:
        """Return the same requests at other times."""
        return replace(self, arrival_s=arrival_s, **changes)

    def equals(self, other: Requests) -> bool:
        """Return whether every field of two streams is the same, to the bit."""
        return all(_same(getattr(self, f.name), getattr(other, f.name)) for f in fields(self))


def refuse_blocks(blocks: int, block_tokens: int) -> None:
    """Refuse to write more block ids than memory should hold."""
    if blocks > MAX_BLOCKS:
        raise ConfigError(
            f"requests: the prompts have {blocks} blocks of {block_tokens} tokens, more than {MAX_BLOCKS}:"
            " use larger block_tokens, shorter prompts or fewer requests"
        )


def take_ragged(ptr: IntArray, ids: IntArray, index: IntArray) -> tuple[IntArray, IntArray]:
    """Take rows of a ragged array (`ptr`, `ids`) in the order of `index`."""
    counts = np.diff(ptr)[index]
    new_ptr = np.concatenate(([0], np.cumsum(counts))).astype(np.int64)
    offsets = np.repeat(ptr[:-1][index] - new_ptr[:-1], counts)
    return new_ptr, ids[offsets + np.arange(new_ptr[-1])]


def _frozen(given: Any, dtype: Any, name: str) -> NDArray[Any]:
    try:
        array = np.array(given, dtype=dtype, ndmin=1)
    except (TypeError, ValueError, OverflowError) as error:
        raise ConfigError(f"requests.{name}: cannot be read as {np.dtype(dtype).name}: {error}") from None
    array.setflags(write=False)
    return array


def _refuse(name: str, values: NDArray[Any], bad: NDArray[np.bool_], rule: str) -> None:
    if bad.any():
        i = int(np.argmax(bad))
        raise ConfigError(f"requests.{name}[{i}] = {values[i]}: {rule}")


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, np.ndarray) or isinstance(b, np.ndarray):
        return a is not None and b is not None and np.array_equal(a, b)
    return bool(a == b)
