"""Tables in, tables out: what ``codesign cycle`` reads and writes."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from codesign.base.errors import ConfigError, nearest, read_text
from ext.systolic import Array

from . import systolic
from .pim import gemm, load_unit
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


PIM_COLUMNS = ("unit", "m", "n", "k")


def pim_table(shapes: Path, output: Path) -> list[dict[str, Any]]:
    """Cost each matrix product of a table on its PIM unit; write and return the rows.

    Raises
    ------
    ConfigError   a missing column, an unknown unit, a value out of range: file, line, column
    """
    out = []
    for line, row in _rows(shapes, PIM_COLUMNS, "table of PIM products"):
        where = f"{shapes}:{line}"
        m, n, k = (_positive(row, name, where) for name in ("m", "n", "k"))
        try:
            unit = load_unit(row["unit"])
        except ConfigError as error:
            raise ConfigError(f"{where}: {error}") from None
        cost = gemm(unit, m, n, k)
        out.append({
            **row, "time_s": cost.seconds, "flop": cost.flop, "weight_bytes": cost.weight_bytes,
            "transfer_bytes": cost.transfer_bytes, "flop_per_s": cost.flop / cost.seconds,
            "weight_bytes_per_s": cost.weight_bytes / cost.seconds, "energy_j": cost.joules,
            "energy_delay_area": cost.energy_delay_area, "openings": cost.openings,
            "refreshes": cost.refreshes,
        })  # fmt: skip
    counted = (
        "time_s", "flop", "weight_bytes", "transfer_bytes", "flop_per_s", "weight_bytes_per_s", "energy_j",
        "energy_delay_area", "openings", "refreshes",
    )  # fmt: skip
    write_table(output, out, (*PIM_COLUMNS, *counted))
    return out


GEMM_COLUMNS = ("rows", "columns", "dataflow", "m", "n", "k")
GEMM_DEFAULTS = {"value_bytes": 2.0, "sram_bytes": math.inf, "bytes_per_cycle": math.inf}


def gemm_table(shapes: Path, output: Path) -> list[dict[str, Any]]:
    """Cost each matrix product of a table on its systolic array; write and return the rows.

    Raises
    ------
    ConfigError   a missing column, an unknown dataflow, a value out of range: file, line, column
    """
    out = []
    for line, row in _rows(shapes, GEMM_COLUMNS, "table of matrix products", tuple(GEMM_DEFAULTS)):
        where = f"{shapes}:{line}"
        whole = {name: _positive(row, name, where) for name in ("rows", "columns", "m", "n", "k")}
        given = {name: _size(row, name, where) for name in GEMM_DEFAULTS}
        buffer = given["sram_bytes"]
        array = Array(whole["rows"], whole["columns"], row["dataflow"], buffer, buffer, buffer)
        shape = (whole["m"], whole["n"], whole["k"])
        try:
            cost = systolic.gemm(array, *shape, given["value_bytes"], given["bytes_per_cycle"])
        except ConfigError as error:
            raise ConfigError(f"{where}: {error}") from None
        out.append({**row, **{name: given[name] for name in GEMM_DEFAULTS}, **asdict(cost)})
    counted = tuple(field.name for field in fields(systolic.ArrayCost))
    write_table(output, out, (*GEMM_COLUMNS, *GEMM_DEFAULTS, *counted))
    return out


def _size(row: Mapping[str, str], name: str, where: str) -> float:
    if not row[name] or row[name] == "inf":
        return GEMM_DEFAULTS[name]
    value = number(row, name, where)
    if value <= 0:
        raise ConfigError(f"{where}: {name} = {row[name]!r}: must be positive, or inf")
    return value


def _positive(row: Mapping[str, str], name: str, where: str) -> int:
    value = integer(row, name, where)
    if value < 1:
        raise ConfigError(f"{where}: {name} = {value}: must be at least 1")
    return value


def _stream(row: Mapping[str, str], where: str) -> Stream:
    load = None if row["inject_frac"] in ("", "max") else number(row, "inject_frac", where)
    counts = {name: integer(row, name, where) for name in ("n", "channels", "queue")}
    return Stream(row["kind"], load=load, mapping=row["mapping"], refresh=row["refresh"], **counts)


def _rows(
    path: Path, columns: Iterable[str], what: str, optional: tuple[str, ...] = ()
) -> list[tuple[int, dict[str, str]]]:
    reader = csv.DictReader(read_text(path, what).splitlines())
    known = reader.fieldnames or []
    for column in columns:
        if column not in known:
            near = nearest(column, known)
            hint = f" (is it the one called {near!r}?)" if near else ""
            raise ConfigError(f"{path}:1: the {what} has no column {column!r}{hint}")
    return [
        (line, {column: (row.get(column) or "").strip() for column in (*columns, *optional)})
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
