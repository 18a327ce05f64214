"""Router logs of serving engines as traces: JSON lines, with warm-up rows found and dropped.

A line is one of three things.  A response, as vLLM and SGLang return it: ``routed_experts`` (and
``prompt_routed_experts``) [tokens][layers][k], nested lists or base64 of int32 or int16 with `layers` and
`top_k` known, possibly inside ``choices`` or ``meta_info``.  A token: ``experts`` [layers][k] with
``request_id``.  Or one layer of a token: ``layer``, ``topk_ids`` (or ``experts``) [k], ``token`` (position)
and ``request_id``.
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
from workloads.routing.files import RoutingTrace, trace_from_arrays

_WARM_UP_ROWS = 16  # so many identical rows at the start are no routing of different tokens
Rows = npt.NDArray[np.int64]


def drop_warm_up(trace: RoutingTrace) -> RoutingTrace:
    """Drop the identical rows that a serving engine's dummy batches leave at the start of a log.

    Law: fewer than 16 identical leading rows stay; a note says how many rows were dropped.
    """
    ids = trace.experts
    differs = np.flatnonzero((ids[1:] != ids[:1]).any(axis=(1, 2)))
    same = int(differs[0]) + 1 if len(differs) else len(ids)
    if same < _WARM_UP_ROWS:
        return trace
    if same == len(ids):
        raise ConfigError("all rows are identical: this is warm-up, not routing")
    keep = trace.offsets[1:] > same
    offsets = np.concatenate([[0], trace.offsets[1:][keep] - same]).astype(np.int64)
    note = f"dropped {same} identical warm-up rows"
    return replace(
        trace, experts=np.ascontiguousarray(ids[same:]), offsets=offsets, domains=trace.domains[keep],
        notes=(*trace.notes, note),
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
    place, sequences, loose = Path(path), [], dict[tuple[str, int], dict[int, list[int]]]()
    names: list[str] = []
    for number, record in _records(place):
        where = f"{place}:{number}"
        blocks = list(_responses(record, where, layers, top_k))
        if blocks:
            sequences.append((str(record.get("domain", "all")), np.concatenate(blocks)))
        elif "layer" in record:
            _add_layer(record, loose, where)
        elif "experts" in record:
            rows = _array(record["experts"], where)[None]
            name = str(record.get("request_id", ""))
            if not names or names[-1] != name:
                names.append(name)
                sequences.append((str(record.get("domain", "all")), rows))
            else:
                domain, before = sequences[-1]
                sequences[-1] = domain, _join(before, rows, where)
        else:
            raise ConfigError(f"{where}: has none of routed_experts, experts, layer: not a router log")
    sequences += [("all", rows) for rows in _from_layers(loose, place)]
    return _assemble(sequences, n_experts, str(place))


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


def _join(before: Rows, rows: Rows, where: str) -> Rows:
    if before.shape[1:] != rows.shape[1:]:
        raise ConfigError(
            f"{where}: {list(rows.shape[1:])} experts, the lines before {list(before.shape[1:])}"
        )
    return np.concatenate([before, rows])


def _add_layer(
    record: dict[str, Any], loose: dict[tuple[str, int], dict[int, list[int]]], where: str
) -> None:
    value = record.get("topk_ids", record.get("experts"))
    token, layer = record.get("token", record.get("position")), record.get("layer")
    if not isinstance(token, int) or not isinstance(layer, int) or not isinstance(value, list):
        raise ConfigError(
            f"{where}: a layer's line needs whole numbers 'layer', 'token' and a list 'topk_ids'"
        )
    layers = loose.setdefault((str(record.get("request_id", "")), token), {})
    layers[layer] = [int(e) for e in _array(value, where)]


def _from_layers(loose: dict[tuple[str, int], dict[int, list[int]]], place: Path) -> list[Rows]:
    by_request: dict[str, list[tuple[int, list[list[int]]]]] = {}
    wanted = {layer for layers in loose.values() for layer in layers}
    for (request, token), layers in loose.items():
        if set(layers) != wanted:
            missing = sorted(wanted - set(layers))[0]
            raise ConfigError(f"{place}: token {token} of request {request!r} has no layer {missing}")
        by_request.setdefault(request, []).append((token, [layers[i] for i in sorted(layers)]))
    return [_array([rows for _, rows in sorted(tokens)], str(place)) for tokens in by_request.values()]


def _assemble(sequences: list[tuple[str, Rows]], n_experts: int | None, origin: str) -> RoutingTrace:
    if not sequences:
        raise ConfigError(f"{origin}: holds no routing")
    shapes = {rows.shape[1:] for _, rows in sequences}
    if len(shapes) > 1:
        raise ConfigError(f"{origin}: requests of different shapes: {sorted(shapes)}")
    ids = np.concatenate([rows for _, rows in sequences])
    names = sorted({domain for domain, _ in sequences})
    lengths = [len(rows) for _, rows in sequences]
    found = n_experts or int(ids.max()) + 1
    trace = trace_from_arrays({
        "experts": ids,
        "num_experts": np.array(found),
        "sequence": np.repeat(np.arange(len(lengths)), lengths),
        "domain": np.repeat([names.index(domain) for domain, _ in sequences], lengths),
        "domain_names": np.array(names),
    }, origin)  # fmt: skip
    if n_experts is None:
        trace = replace(trace, notes=(*trace.notes, f"experts: {found}, from the highest id"))
    try:
        return drop_warm_up(trace)
    except ConfigError as error:
        raise ConfigError(f"{origin}: {error}") from None
