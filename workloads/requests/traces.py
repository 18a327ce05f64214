"""Read request traces: Azure 2023, Mooncake, BurstGPT, length lists, and a plain CSV of our own.

Rows with no output (failures) or no prompt are dropped and counted.  Rows out of time order are sorted,
and the number of them is noted.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from codesign.base.errors import ConfigError, nearest, unknown_name
from workloads.requests.files import Rows, read_trace_text
from workloads.requests.json_traces import read_length_lists, read_mooncake
from workloads.requests.raw import RawTrace
from workloads.requests.spec import FloatArray, Int32Array, Requests, take_ragged

FORMATS = ("auto", "azure", "mooncake", "burstgpt", "sharegpt", "csv")
_COLUMNS = {
    "azure": ("timestamp", "contexttokens", "generatedtokens"),
    "burstgpt": ("timestamp", "request tokens", "response tokens"),
    "csv": ("arrival_s", "prompt_tokens", "output_tokens"),
}
_OPTIONAL = {"azure": (), "burstgpt": ("session id",), "csv": ("tenant", "domain", "conversation")}
_BLOCK_COLUMNS = ("prefix_ids", "block_tokens")


@dataclass(frozen=True)
class Trace:
    """A stream as read; `timed` is False where the file holds lengths alone (times are then 0)."""

    requests: Requests
    timed: bool
    format: str


def read_trace(path: str | Path, *, format: str = "auto", skip: int = 0, limit: int | None = None) -> Trace:
    """Read a trace file (plain or gzip).

    Parameters
    ----------
    format : str        one of `FORMATS`; ``auto`` looks at the header
    skip, limit : int   leave out the first requests; keep at most so many (in the file's order)

    Raises
    ------
    ConfigError   broken file or row (line, row, column, value, rule), missing column, nothing left
    """
    text, name = read_trace_text(path), str(path)
    chosen = _detect(text, name) if format == "auto" else format
    if chosen not in FORMATS:
        raise unknown_name("trace format", format, FORMATS)
    raw = _read_lists(text, name) if chosen == "sharegpt" else _read_table(text, name, chosen)
    return Trace(_assemble(raw, name, skip, limit), raw.time_s is not None, chosen)


def _read_lists(text: str, path: str) -> RawTrace:
    if text.lstrip()[:1] in "[{":
        return read_length_lists(text, path)
    return _read_csv(text, path, _detect(text, path), times=False)


def _read_table(text: str, path: str, format: str) -> RawTrace:
    if format == "mooncake":
        return read_mooncake(text, path)
    return _read_csv(text, path, format)


def _header(text: str) -> list[str]:
    first = next(line for line in text.splitlines() if line.strip())
    try:
        return [cell.strip() for cell in next(csv.reader([first]))]
    except (csv.Error, StopIteration):
        return []


def _detect(text: str, path: str) -> str:
    start = text.lstrip()[:1]
    if start == "{" and '"input_length"' in text[:100_000]:
        return "mooncake"
    if start in ("[", "{"):
        return "sharegpt"
    found = [name.lower() for name in _header(text)]
    hits = {name: sum(column in found for column in columns) for name, columns in _COLUMNS.items()}
    best = max(hits, key=lambda name: hits[name])
    if hits[best] == 0 and len(found) == 2 and all(cell.isdigit() for cell in found):
        return "csv"
    if hits[best] < 2 and not (hits[best] == 1 and best == "csv"):
        shown = "; ".join(f"{name}: {', '.join(columns)}" for name, columns in _COLUMNS.items())
        raise ConfigError(f"{path}:1: no trace format is known by this header; columns needed: {shown}")
    return best


def _read_csv(text: str, path: str, format: str, times: bool = True) -> RawTrace:
    table, lines = _rows(text, path)
    header = [name.strip().lower() for name in table[0]]
    if format == "csv" and len(header) == 2 and all(cell.isdigit() for cell in header):
        columns = dict(zip(("prompt_tokens", "output_tokens"), zip(*table, strict=True), strict=True))
        return _csv_raw(Rows(path, lines), columns, "csv", False)
    if len(table) < 2:
        raise ConfigError(f"{path}: has a header and no row; a trace has at least one request")
    needed = _COLUMNS[format][0 if times and format != "csv" else 1 :]
    for name in needed:
        if name not in header:
            near = nearest(name, header)
            hint = f" (nearest: {near!r})" if near else ""
            rule = f"is missing{hint}; needs {', '.join(needed)}"
            raise ConfigError(f"{path}:{lines[0]}: column {name!r} {rule}")
    if len(set(header)) < len(header):
        raise ConfigError(f"{path}:{lines[0]}: two columns have the same name")
    columns = dict(zip(header, zip(*table[1:], strict=True), strict=True))
    return _csv_raw(Rows(path, lines[1:]), columns, format, times)


def _rows(text: str, path: str) -> tuple[list[list[str]], Sequence[int]]:
    """Split into rows and their line numbers; blank lines are skipped, ragged rows refused."""
    split = text.splitlines()
    try:
        table = list(csv.reader(split))
    except csv.Error as error:
        raise ConfigError(f"{path}: not a CSV file: {error}") from None
    lines: Sequence[int] = range(1, len(table) + 1)
    if len(table) != len(split):
        raise ConfigError(f"{path}: a quoted cell spans lines, or a quote is not closed")
    if not all(table) or not all(map(str.strip, split)):
        lines = [i for i, line in zip(lines, split, strict=True) if line.strip()]
        table = [table[i - 1] for i in lines]
    width = len(table[0])
    for line, row in zip(lines, table, strict=True):
        if len(row) != width:
            raise ConfigError(f"{path}:{line}: row has {len(row)} cells; the header has {width}")
    return table, lines


def _csv_raw(rows: Rows, columns: Mapping[str, Sequence[str]], format: str, times: bool) -> RawTrace:
    when, prompt, output = _COLUMNS[format]
    raw = RawTrace(rows.tokens(prompt, columns[prompt]), rows.tokens(output, columns[output]))
    raw.keep_origin = format == "csv"
    if times and when in columns:
        raw.time_s = _times(rows, when, columns[when], format)
    for name in _OPTIONAL[format]:
        if name in columns:
            raw.labels["conversation" if name == "session id" else name] = _labels(columns[name])
    if format == "csv" and any(name in columns for name in _BLOCK_COLUMNS):
        _block_columns(raw, rows, columns)
    return raw


def _block_columns(raw: RawTrace, rows: Rows, columns: Mapping[str, Sequence[str]]) -> None:
    """Read ``prefix_ids`` (numbers with blanks between) and ``block_tokens`` (the same in every row)."""
    if not all(name in columns for name in _BLOCK_COLUMNS):
        raise ConfigError(f"{rows.path}: columns {' and '.join(_BLOCK_COLUMNS)} belong together")
    sizes = rows.tokens("block_tokens", columns["block_tokens"])
    rows.check("block_tokens", columns["block_tokens"], (sizes < 1) | (sizes != sizes[0]), "must be one size")
    raw.block_tokens, cells = int(sizes[0]), columns["prefix_ids"]
    lists = [rows.identifiers(i, "prefix_ids", cell) for i, cell in enumerate(cells)]
    counts = np.fromiter(map(len, lists), dtype=np.int64, count=len(lists))
    too_many = counts > -(-raw.prompt_tokens // raw.block_tokens)
    rows.check("prefix_ids", cells, too_many & (raw.prompt_tokens > 0), "are more blocks than the prompt has")
    raw.prefix_ptr = np.concatenate(([0], np.cumsum(counts))).astype(np.int64)
    raw.prefix_ids = np.concatenate([np.array(ids, dtype=np.int64) for ids in lists])


def _times(rows: Rows, column: str, cells: Sequence[str], format: str) -> FloatArray | None:
    if format != "azure":
        return rows.seconds(column, cells)
    if set(cells) <= {"XXX", ""}:  # a length list that kept the header
        return None
    return rows.dates(column, cells)


def _labels(cells: Sequence[str]) -> tuple[Int32Array, tuple[str, ...]]:
    """Number the labels in order of appearance; an empty cell is -1."""
    number: dict[str, int] = {"": -1}
    codes = [number.setdefault(cell.strip(), len(number) - 1) for cell in cells]
    return np.array(codes, dtype=np.int32), tuple(list(number)[1:])


def _assemble(raw: RawTrace, path: str, skip: int, limit: int | None) -> Requests:
    no_output, no_prompt = raw.output_tokens < 1, raw.prompt_tokens < 1
    dropped = {
        "no_output": int(no_output.sum()), "no_prompt": int((no_prompt & ~no_output).sum()),
    }  # fmt: skip
    kept = np.flatnonzero(~(no_output | no_prompt))
    valid = len(kept)
    kept = kept[skip : None if limit is None else skip + limit]
    if not len(kept):
        found = f"{valid} usable rows, {skip} skipped, dropped: {dropped}"
        raise ConfigError(f"{path}: no request is left: {found}")
    time_s = np.zeros(len(kept)) if raw.time_s is None else raw.time_s[kept]
    late = int((np.diff(time_s) < 0).sum())
    order = np.argsort(time_s, kind="stable")
    kept, time_s = kept[order], time_s[order]
    if skip or not raw.keep_origin:
        time_s = time_s - time_s[0]
    more: dict[str, Any] = {name: codes[kept] for name, (codes, _) in raw.labels.items()}
    more |= {f"{n}_names": words for n, (_, words) in raw.labels.items() if n != "conversation"}
    if raw.prefix_ptr is not None and raw.prefix_ids is not None:
        ptr, ids = take_ragged(raw.prefix_ptr, raw.prefix_ids, kept)
        more |= {"prefix_ptr": ptr, "prefix_ids": ids, "block_tokens": raw.block_tokens}
    return Requests(
        time_s, raw.prompt_tokens[kept], raw.output_tokens[kept],
        name=Path(path).name, source=path, dropped={k: n for k, n in dropped.items() if n},
        notes=(f"sorted by time: {late} rows came before their predecessor",) if late else (),
        **more,
    )  # fmt: skip
