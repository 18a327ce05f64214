"""Tables in, tables out: what ``codesign cycle`` reads and writes."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from codesign.base.errors import ConfigError, nearest, read_text

from .standards import named_part, read_timings
from .streams import Stream, simulate

STREAM_COLUMNS = ("cfg", "channels", "queue", "refresh", "mapping", "kind", "n", "inject_frac")


def dram_table(streams: Path, output: Path, timings: Path | None = None) -> list[dict[str, Any]]:
    """Serve each stream of a table; write and return the rows with what came of it.

    Raises
    ------
    ConfigError   a missing column, an unknown part, a value out of range: file, line, column
    """
    parts = read_timings(timings) if timings else {}
    out = []
    for line, row in _rows(streams, STREAM_COLUMNS, "table of streams"):
        where = f"{streams}:{line}"
        part = parts.get(row["cfg"]) or named_part(row["cfg"], where, parts)
        stream = _stream(row, where)
        try:
            result = simulate(part, stream)
        except ConfigError as error:
            raise ConfigError(f"{where}: {error}") from None
        out.append({
            **row, "ck": result.clocks, "bw_frac": round(result.bandwidth, 6),
            "read_lat_mc_ck": round(result.read_latency, 4), "row_hits": result.hits,
            "row_misses": result.misses, "row_conflicts": result.conflicts,
        })  # fmt: skip
    outcome = ("ck", "bw_frac", "read_lat_mc_ck", "row_hits", "row_misses", "row_conflicts")
    write_table(output, out, (*STREAM_COLUMNS, *outcome))
    return out


def _stream(row: Mapping[str, str], where: str) -> Stream:
    load = None if row["inject_frac"] == "max" else number(row, "inject_frac", where)
    counts = {name: integer(row, name, where) for name in ("n", "channels", "queue")}
    return Stream(row["kind"], load=load, mapping=row["mapping"], refresh=row["refresh"], **counts)


def _rows(path: Path, columns: Iterable[str], what: str) -> list[tuple[int, dict[str, str]]]:
    reader = csv.DictReader(read_text(path, what).splitlines())
    known = reader.fieldnames or []
    for column in columns:
        if column not in known:
            near = nearest(column, known)
            hint = f" (is it the one called {near!r}?)" if near else ""
            raise ConfigError(f"{path}:1: the {what} has no column {column!r}{hint}")
    return [
        (line, {column: (row[column] or "").strip() for column in columns})
        for line, row in enumerate(reader, start=2)
    ]


def integer(row: Mapping[str, str], name: str, where: str) -> int:
    """Return a whole number of a row, or say where there is none."""
    value = number(row, name, where)
    if value != int(value):
        raise ConfigError(f"{where}: {name} = {row[name]!r}: a whole number is needed")
    return int(value)


def number(row: Mapping[str, str], name: str, where: str) -> float:
    """Return a number of a row, or say where there is none."""
    try:
        value = float(row[name])
    except ValueError:
        raise ConfigError(f"{where}: {name} = {row[name]!r}: is no number") from None
    if not abs(value) < 1e15:
        raise ConfigError(f"{where}: {name} = {row[name]!r}: must be finite")
    return value


def write_table(path: Path, rows: Iterable[Mapping[str, Any]], columns: Iterable[str]) -> None:
    """Write rows as CSV.

    Raises
    ------
    ConfigError   the file cannot be written
    """
    try:
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(columns), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written: {error.strerror}") from None
