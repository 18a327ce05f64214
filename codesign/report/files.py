"""A result in a folder: JSON, YAML and Parquet."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml

from codesign.base.errors import ConfigError, read_text

if TYPE_CHECKING:
    from codesign.report.result import Result

SUMMARY, EXPERIMENT, TIMING = "summary.json", "experiment.yaml", "timing.json"
TABLES = ("requests", "iterations", "tasks")


def save(result: Result, folder: Path) -> Path:
    """Write a result; see `Result.save`."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / SUMMARY).write_text(to_json(result.to_dict()) + "\n", encoding="utf-8")
        (folder / TIMING).write_text(to_json({"wall_s": result.wall_s}) + "\n", encoding="utf-8")
        text = yaml.safe_dump(result.experiment, sort_keys=False, allow_unicode=True)
        (folder / EXPERIMENT).write_text(text, encoding="utf-8")
        for name in TABLES:
            if getattr(result, name):
                write_table(folder / f"{name}.parquet", getattr(result, name))
    except OSError as error:
        raise ConfigError(f"{folder}: cannot be written: {error.strerror or error}") from None
    return folder


def to_json(value: Any) -> str:
    """Write plain data as JSON: shortest floats that read back the same, no NaN."""
    return json.dumps(value, indent=1, allow_nan=False, default=_plain)


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"cannot write {type(value).__name__} as JSON")


def write_table(path: Path, table: dict[str, Any]) -> None:
    """Write columns of equal length as Parquet; text columns as dictionaries."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = {}
    for name, values in table.items():
        column = pa.array(values)
        columns[name] = column.dictionary_encode() if pa.types.is_string(column.type) else column
    pq.write_table(pa.table(columns), path)


def read_table(path: Path) -> dict[str, Any]:
    """Read a table that `write_table` wrote.

    Raises
    ------
    ConfigError   not a Parquet file
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise ConfigError(f"{path}: not a Parquet file: {str(error).splitlines()[0]}") from None
    return {name: table.column(name).to_numpy(zero_copy_only=False) for name in table.column_names}


def read_summary(folder: Path) -> dict[str, Any]:
    """Read ``summary.json`` of a result folder.

    Raises
    ------
    ConfigError   the folder holds no result
    """
    if not folder.is_dir():
        raise ConfigError(f"{folder}: no such folder; give the folder that `codesign run -o DIR` wrote")
    try:
        summary: dict[str, Any] = json.loads(read_text(folder / SUMMARY, "result (summary.json)"))
    except json.JSONDecodeError as error:
        raise ConfigError(f"{folder / SUMMARY}:{error.lineno}: not valid JSON: {error.msg}") from None
    parts = {"summary", "breakdown_s", "elasticities", "utilization"}
    missing = parts - set(summary) if isinstance(summary, dict) else parts
    if missing:
        raise ConfigError(
            f"{folder / SUMMARY}: is not the summary of a run: {', '.join(sorted(missing))} missing"
        )
    return summary
