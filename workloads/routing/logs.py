"""Router logs of serving engines as traces: JSON lines, with warm-up rows found and dropped.

A line is one of three things.  A response, as vLLM and SGLang return it: ``routed_experts`` (and
``prompt_routed_experts``) [tokens][layers][k], nested lists or base64 of int32 or int16 with `layers` and
`top_k` known, possibly inside ``choices`` or ``meta_info``.  A token: ``experts`` [layers][k] with
``request_id``.  Or one layer of a token: ``layer``, ``topk_ids`` (or ``experts``) [k], ``token`` (position)
and ``request_id``.  Lines of several requests may alternate.  A log is read once, from front to back; memory
holds a number for each request, and the layers' lines of some tens of thousands of tokens.
"""

from __future__ import annotations

import json
from base64 import b64decode
from binascii import Error as Base64Error
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from codesign.base.errors import ConfigError
from workloads.routing.files import trace_from_arrays
from workloads.routing.tables import Spool
from workloads.routing.trace import RoutingTrace

_WARM_UP_ROWS = 16  # so many identical rows at the start are no routing of different tokens
_OPEN_TOKENS = 65536  # tokens whose layers' lines may still come
_BUFFERED = 4096  # rows that are written at once
Rows = npt.NDArray[np.int64]
Layers = dict[int, list[int]]


def drop_warm_up(trace: RoutingTrace) -> RoutingTrace:
    """Drop the identical rows that a serving engine's dummy batches leave at the start of a log.

    Law: fewer than 16 identical leading rows stay; a note says how many rows were dropped.
    """
    same, first = 0, trace.experts[:1].copy()
    for block in trace.blocks():
        differs = np.flatnonzero((block.experts != first).any(axis=(1, 2)))
        same += int(differs[0]) if len(differs) else len(block.experts)
        if len(differs):
            break
    if same < _WARM_UP_ROWS:
        return trace
    if same == len(trace.experts):
        raise ConfigError("all rows are identical: this is warm-up, not routing")
    keep = trace.offsets[1:] > same
    offsets = np.concatenate([[0], trace.offsets[1:][keep] - same]).astype(np.int64)
    note = f"dropped {same} identical warm-up rows"
    return replace(
        trace, experts=trace.experts[same:], offsets=offsets, domains=trace.domains[keep],
        gates=None if trace.gates is None else trace.gates[same:], notes=(*trace.notes, note),
    )  # fmt: skip


def read_log(
    path: str | Path, *, n_experts: int | None = None, layers: int | None = None, top_k: int | None = None
) -> RoutingTrace:
    """Read a router log in JSON lines.

    Parameters
    ----------
    n_experts : int       E; without it, one more than the highest id, and a note says so
    layers, top_k : int   shape of base64 data

    Raises
    ------
    ConfigError   a line that is none of the known forms, or of another shape, with its number
    """
    log = _Log(str(path), layers)
    for number, record in _records(Path(path)):
        where = f"{path}:{number}"
        blocks = list(_responses(record, where, layers, top_k))
        if blocks:
            log.add_response(np.concatenate(blocks), record, where)
        elif "layer" in record:
            log.add_layer(record, where)
        elif "experts" in record:
            log.add_token(record, where)
        else:
            found = ", ".join(record)[:80] or "nothing"
            raise ConfigError(
                f"{where}: has none of routed_experts, experts, layer: not a router log; it has {found}"
            )
    trace = log.trace(n_experts)
    try:
        return drop_warm_up(trace)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


class _Log:
    """Gathers the rows of a log, each with the number of its request; sequences are requests."""

    def __init__(self, origin: str, layers: int | None) -> None:
        self.origin, self.highest = origin, -1
        self._columns: dict[str, Spool] = {}
        self._waiting: list[tuple[Rows, int]] = []  # rows (n, L, k) and their sequence
        self._shape: tuple[int, ...] | None = None
        self._domains: dict[str, int] = {}
        self._domain_of: list[int] = []  # by sequence
        self._requests: dict[str, int] = {}
        self._layers = OpenTokens(origin, layers)

    def add_response(self, rows: Rows, record: dict[str, Any], where: str) -> None:
        """Add a whole request."""
        self._push(rows, self._new_sequence(record), where)

    def add_token(self, record: dict[str, Any], where: str) -> None:
        """Add one token of a request."""
        self._push(_array(record["experts"], where)[None], self._sequence(record), where)

    def add_layer(self, record: dict[str, Any], where: str) -> None:
        """Add one layer of one token of a request."""
        for sequence, rows in self._layers.add(record, self._sequence(record), where):
            self._push(rows, sequence, where)

    def _sequence(self, record: dict[str, Any]) -> int:
        name = str(record.get("request_id", ""))
        if name not in self._requests:
            self._requests[name] = self._new_sequence(record)
        return self._requests[name]

    def _new_sequence(self, record: dict[str, Any]) -> int:
        domain = str(record.get("domain", "all"))
        self._domain_of.append(self._domains.setdefault(domain, len(self._domains)))
        return len(self._domain_of) - 1

    def _push(self, rows: Rows, sequence: int, where: str) -> None:
        self._shape = self._shape or rows.shape[1:]
        if rows.shape[1:] != self._shape or rows.ndim != 3:
            raise ConfigError(
                f"{where}: {list(rows.shape[1:])} experts, the lines before {list(self._shape)}"
            )
        low, high = int(rows.min()), int(rows.max())
        if low < -1 or high > 32766:
            raise ConfigError(f"{where}: expert {low if low < -1 else high}: must be -1 .. 32766")
        self.highest = max(self.highest, high)
        self._waiting.append((rows, sequence))
        if len(self._waiting) >= _BUFFERED or rows.size > 2**20:
            self._write()

    def _write(self) -> None:
        ids = np.concatenate([rows for rows, _ in self._waiting])
        sequence = np.repeat([s for _, s in self._waiting], [len(rows) for rows, _ in self._waiting])
        domain = np.array(self._domain_of)[sequence]
        for name, rows in (("experts", ids), ("sequence", sequence), ("domain", domain)):
            kind = np.int32 if name == "sequence" else np.int16
            self._columns.setdefault(name, Spool(kind, rows.shape[1:], self.origin)).append(rows)
        self._waiting = []

    def trace(self, n_experts: int | None) -> RoutingTrace:
        """Return what was gathered as a checked trace."""
        for sequence, rows in self._layers.close():
            self._push(rows, sequence, self.origin)
        if self._waiting:
            self._write()
        if not self._columns:
            raise ConfigError(f"{self.origin}: holds no routing")
        found = n_experts or self.highest + 1
        arrays = {name: spool.table() for name, spool in self._columns.items()}
        arrays |= {"num_experts": np.array(found), "domain_names": np.array(list(self._domains))}
        trace = trace_from_arrays(arrays, self.origin)
        if n_experts is None:
            return replace(trace, notes=(*trace.notes, f"experts: {found}, from the highest id"))
        return trace


class OpenTokens:
    """Puts the layers' lines of tokens together; gives tokens whose layers are all there.

    Law: a token is given once, the tokens of a request by rising position.  How many layers a token has is
    known from `layers`, or once a new token begins with a lower layer than the line before.
    """

    def __init__(self, origin: str, layers: int | None) -> None:
        self._origin, self._depth = origin, layers
        self._open: dict[tuple[int, int], Layers] = {}
        self._most = _OPEN_TOKENS
        self._seen: set[int] = set()
        self._before = -1
        self._last: dict[int, int] = {}  # position given last, by request

    def add(self, record: dict[str, Any], request: int, where: str) -> Iterator[tuple[int, Rows]]:
        """Add one line; yield (request, rows) of tokens that are whole, when many wait."""
        value = record.get("topk_ids", record.get("experts"))
        token, layer = record.get("token", record.get("position")), record.get("layer")
        if not isinstance(token, int) or not isinstance(layer, int) or not isinstance(value, list):
            raise ConfigError(
                f"{where}: a layer's line needs whole numbers 'layer', 'token' and a list 'topk_ids'"
            )
        if (request, token) not in self._open and layer < self._before and self._depth is None:
            self._depth = len(self._seen)
        self._seen.add(layer)
        self._before = layer
        self._open.setdefault((request, token), {})[layer] = [int(e) for e in _array(value, where)]
        if len(self._open) > self._most and self._depth is not None:
            yield from self._whole([key for key, held in self._open.items() if len(held) == self._depth])
            self._most = max(_OPEN_TOKENS, 2 * len(self._open))

    def close(self) -> Iterator[tuple[int, Rows]]:
        """Yield what is left."""
        yield from self._whole(list(self._open))

    def _whole(self, keys: list[tuple[int, int]]) -> Iterator[tuple[int, Rows]]:
        for request, token in sorted(keys):
            layers = self._open.pop((request, token))
            missing = sorted(self._seen - set(layers))
            if missing:
                raise ConfigError(
                    f"{self._origin}: token {token} of request {request + 1} has no layer {missing[0]}"
                )
            if token <= self._last.get(request, -1):
                raise ConfigError(
                    f"{self._origin}: token {token} of request {request + 1} comes again, or far behind"
                    f" token {self._last[request]}: sort the log by token"
                )
            self._last[request] = token
            yield request, _array([[layers[i] for i in sorted(layers)]], self._origin)


def _records(place: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        with place.open(encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                if not line.strip():
                    continue
                try:
                    record = json.loads(line)
                except (ValueError, RecursionError) as error:
                    raise ConfigError(f"{place}:{number}: not valid JSON: {error}") from None
                if not isinstance(record, dict):
                    raise ConfigError(f"{place}:{number}: each line is a JSON object")
                yield number, record
    except UnicodeDecodeError:
        raise ConfigError(f"{place}: not a text file; a router log is JSON lines") from None
    except OSError as error:
        raise ConfigError(f"{place}: cannot be read: {error.strerror}") from None


def _responses(record: dict[str, Any], where: str, layers: int | None, top_k: int | None) -> Iterator[Rows]:
    holders = [record]
    for key in ("meta_info", "choices"):
        inner = record.get(key)
        holders += [h for h in (inner if isinstance(inner, list) else [inner]) if isinstance(h, dict)]
    for key in ("prompt_routed_experts", "routed_experts"):
        for holder in holders:
            value = holder.get(key)
            if value is None:
                continue
            rows = _decoded(value, where, layers, top_k) if isinstance(value, str) else _array(value, where)
            if rows.ndim != 3:
                raise ConfigError(f"{where}: {key}: has shape {rows.shape}; must be [tokens][layers][k]")
            yield rows


def _decoded(text: str, where: str, layers: int | None, top_k: int | None) -> Rows:
    if layers is None or top_k is None:
        raise ConfigError(f"{where}: routed_experts is base64: its layers and top_k must be given")
    try:
        raw = b64decode(text, validate=True)
    except (Base64Error, ValueError):
        raise ConfigError(f"{where}: routed_experts: not valid base64") from None
    for kind in (np.int32, np.int16):
        size = np.dtype(kind).itemsize
        if raw and len(raw) % (size * layers * top_k) == 0:
            ids = np.frombuffer(raw, kind).reshape(-1, layers, top_k).astype(np.int64)
            if ids.min() >= -1 and ids.max() < 32767:
                return ids
    raise ConfigError(f"{where}: routed_experts: {len(raw)} bytes are no [tokens][{layers}][{top_k}]")


def _array(value: object, where: str) -> Rows:
    try:
        rows = np.array(value)
    except ValueError:
        rows = np.array([], object)
    if rows.dtype.kind not in "iu" or rows.size == 0:
        raise ConfigError(f"{where}: expert ids must be whole numbers in lists of equal length")
    return rows.astype(np.int64)
