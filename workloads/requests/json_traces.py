"""Read traces written as JSON: Mooncake's lines with prefix block ids, and lists of lengths."""

from __future__ import annotations

import json
from collections.abc import Iterable
from itertools import chain
from typing import Any

import numpy as np

from codesign.base.errors import ConfigError
from workloads.requests.files import Rows
from workloads.requests.raw import RawTrace
from workloads.requests.spec import MAX_TOKENS, IntArray

_BLOCKS = (512, 256, 128, 64, 32, 16)  # tokens per prefix block: Mooncake's first, then smaller ones
_IN = ("prompt_tokens", "prompt_len", "input_length", "input_len", "input_tokens")
_OUT = ("output_tokens", "output_len", "output_length", "completion_tokens")


def read_mooncake(text: str, path: str) -> RawTrace:
    """Read lines of ``{"timestamp": ms, "input_length", "output_length", "hash_ids": [...]}``."""
    lines = [i for i, line in enumerate(text.split("\n"), 1) if line.strip()]
    rows = Rows(path, lines)
    items = [_object(rows, i, line) for i, line in enumerate(filter(str.strip, text.split("\n")))]
    column = {
        key: [_field(rows, i, item, key) for i, item in enumerate(items)]
        for key in ("timestamp", "input_length", "output_length")
    }
    raw = RawTrace(
        rows.tokens("input_length", column["input_length"]),
        rows.tokens("output_length", column["output_length"]),
        rows.seconds("timestamp", column["timestamp"], 1e-3),
    )
    if any("hash_ids" in item for item in items):
        _prefixes(raw, rows, [item.get("hash_ids", []) for item in items])
    return raw


def _loads(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except RecursionError:
        raise ConfigError(f"{where}: nested too deeply") from None
    except ValueError as error:
        raise ConfigError(f"{where}: not valid JSON: {error}") from None


def _object(rows: Rows, row: int, line: str) -> dict[str, Any]:
    item = _loads(line, f"{rows.path}:{rows.lines[row] if rows.lines else 0}: row {row + 1} of the data")
    if not isinstance(item, dict):
        rows.fail(row, "the row", item, "must be an object {timestamp, input_length, output_length}")
    return item


def _field(rows: Rows, row: int, item: dict[str, Any], key: str) -> Any:
    value = item.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float):
        rows.fail(row, key, value, "is missing" if key not in item else "must be a number")
    return value


def _prefixes(raw: RawTrace, rows: Rows, lists: list[Any]) -> None:
    for row, ids in enumerate(lists):
        if not isinstance(ids, list) or not all(type(i) is int and 0 <= i < 2**63 for i in ids):
            rows.fail(row, "hash_ids", ids, "must be a list of whole numbers from 0")
    counts = np.fromiter(map(len, lists), dtype=np.int64, count=len(lists))
    raw.block_tokens = next((b for b in _BLOCKS if _fits(raw.prompt_tokens, counts, b)), 0)
    if not raw.block_tokens:
        bad = counts > -(-raw.prompt_tokens // _BLOCKS[0])
        row = int(np.argmax(bad)) if bad.any() else 0
        rows.fail(row, "len(hash_ids)", int(counts[row]), f"does not cover {raw.prompt_tokens[row]} tokens")
    raw.prefix_ptr = np.concatenate(([0], np.cumsum(counts))).astype(np.int64)
    raw.prefix_ids = np.fromiter(chain.from_iterable(lists), dtype=np.int64, count=int(counts.sum()))


def _fits(prompt: IntArray, counts: IntArray, block: int) -> bool:
    # a prompt may leave its last, partial block without an id
    return bool(((counts == -(-prompt // block)) | (counts == prompt // block)).all())


def read_length_lists(text: str, path: str) -> RawTrace:
    """Read ``[[in, out], ...]``, ``[{prompt_tokens, output_tokens}, ...]`` or conversations of turns.

    A conversation is a list of ``[in, out]`` turns, or ``{"conversations": [...]}`` whose items hold a
    ``length``; each turn's prompt holds everything said before.
    """
    if text.lstrip()[:1] == "[":
        items = _loads(text, path)
        rows = Rows(path, None)
    else:
        lines = [i for i, line in enumerate(text.split("\n"), 1) if line.strip()]
        rows = Rows(path, lines)
        items = [_object(rows, i, line) for i, line in enumerate(filter(str.strip, text.split("\n")))]
    if not items:
        raise ConfigError(f"{path}: is an empty list; a trace has at least one request")
    turns = [_turns(rows, i, item) for i, item in enumerate(items)]
    raw = RawTrace(
        np.array([prompt for talk in turns for prompt, _ in talk], dtype=np.int64),
        np.array([output for talk in turns for _, output in talk], dtype=np.int64),
    )
    if any(len(talk) != 1 for talk in turns):
        codes = np.repeat(np.arange(len(turns), dtype=np.int32), [len(talk) for talk in turns])
        raw.labels["conversation"] = (codes, ())
    return raw


def _turns(rows: Rows, row: int, item: Any) -> list[tuple[int, int]]:
    if isinstance(item, dict) and "conversations" not in item:
        item = [_first(rows, row, item, _IN), _first(rows, row, item, _OUT)]
    if isinstance(item, dict):
        item = _spoken(rows, row, item["conversations"])
    if isinstance(item, list) and item and all(isinstance(turn, list) for turn in item):
        return _told(rows, row, item)
    return [_pair(rows, row, item)]


def _first(rows: Rows, row: int, item: dict[str, Any], names: Iterable[str]) -> Any:
    for name in names:
        if name in item:
            return item[name]
    rows.fail(row, "the row", sorted(item), f"needs one of {', '.join(names)}, or conversations")


def _spoken(rows: Rows, row: int, talk: Any) -> list[list[Any]]:
    rule = "must be turns with a length; a file of text needs its tokens counted first"
    if not isinstance(talk, list) or not all(isinstance(t, dict) and "length" in t for t in talk):
        rows.fail(row, "conversations", talk, rule)
    said = [t["length"] for t in talk]
    return [list(pair) for pair in zip(said[::2], said[1::2], strict=False)] or [[0, 0]]


def _told(rows: Rows, row: int, talk: list[Any]) -> list[tuple[int, int]]:
    history, turns = 0, []
    for turn in talk:
        new, output = _pair(rows, row, turn)
        turns.append((history + new, output))
        history += new + output
    return turns


def _pair(rows: Rows, row: int, item: Any) -> tuple[int, int]:
    if not isinstance(item, list) or len(item) != 2:
        rows.fail(row, "the row", item, "must be [prompt tokens, output tokens]")
    return _checked(rows, row, item[0]), _checked(rows, row, item[1])


def _checked(rows: Rows, row: int, cell: Any) -> int:
    number = isinstance(cell, int | float) and not isinstance(cell, bool)
    if not number or not 0 <= cell <= MAX_TOKENS or cell != int(cell):
        rows.fail(row, "the row", cell, f"must be a whole number, 0 ... {MAX_TOKENS}")
    return int(cell)
