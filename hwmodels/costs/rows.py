"""Predict whole tables: group the rows by implementation, evaluate each group, name what is not covered."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from codesign.base.errors import CodesignError, ConfigError, unknown_name
from hwmodels.spec import Device, System

from . import exchange
from .collectives import OPS
from .cost import Terms
from .machine import Constants, Machine, machine_of
from .tables import OP_NAMES, TABLES, TYPES, Batch, Columns, Names, Table, collective_link

Text = npt.NDArray[np.object_]
FloatArray = npt.NDArray[np.float64]
_MLA_OPS = (
    "mla_decode",
    "mla_prefill",
    "mla_gen_pre",
    "mla_gen_post",
    "mla_decode_module",
    "mla_prefill_module",
)
_MLA_MODELS = ("deepseek-v3", "deepseek-r1")


@dataclass(frozen=True)
class Prediction:
    """What a table costs, row by row."""

    seconds: FloatArray  # nan where not covered
    roofline_s: FloatArray  # the naive bound: peak FLOP/s, peak bandwidth, nothing else
    reason: Text  # why not covered; empty where covered
    section: Text  # constants that were used; empty where not covered


@dataclass(frozen=True)
class Group:
    """Rows that run the same implementation."""

    section: str
    names: Names
    rows: npt.NDArray[np.int64]


def predict(operator: str, columns: Columns, hardware: Device | System,
            constants: Constants | None = None) -> Prediction:  # fmt: skip
    """Predict the seconds of every row of a table, in the conditions of a benchmark (warm cache).

    Raises
    ------
    ConfigError   unknown operator, a column that is missing
    """
    table, columns = table_of(operator), complete(operator, columns)
    machine, system = warm_machine(hardware, constants)
    reason = invalid_rows(table, columns)
    nothing, unnamed = np.full(len(reason), np.nan), np.full(len(reason), "", dtype=object)
    out = Prediction(nothing, nothing.copy(), reason, unnamed)
    for group in list(groups(operator, columns, machine, reason)):
        why = uncovered(operator, group.names, machine, system)
        try:
            if not why:
                batch = batch_of(group, columns, machine, system)
                terms = table.run(batch)
                out.seconds[group.rows] = terms.seconds()
                out.roofline_s[group.rows] = roofline_s(batch, terms)
                out.section[group.rows] = group.section
        except CodesignError as error:
            why = str(error)
        if why:
            out.reason[group.rows] = why
    return out


def roofline_s(batch: Batch, terms: Terms) -> FloatArray:
    """Return the naive roofline of rows: their FLOPs at peak, or their bytes at peak, whichever is longer."""
    machine = batch.machine
    if batch.section.startswith("collectives"):
        return np.asarray(terms.bytes_link / collective_link(batch)[1].bandwidth)
    if batch.section.startswith("moe_alltoall") and batch.system and batch.system.intra_node:
        return np.asarray(terms.bytes_link / batch.system.intra_node.bandwidth)
    flop_s = terms.flop / machine.peak(batch.types()[1])
    return np.asarray(np.maximum(flop_s, terms.bytes_main / machine.bandwidth))


def table_of(operator: str) -> Table:
    """Return the description of an operator's table.

    Raises
    ------
    ConfigError   unknown operator
    """
    if operator not in TABLES:
        raise unknown_name("operator", operator, TABLES)
    return TABLES[operator]


def complete(operator: str, columns: Columns) -> dict[str, npt.NDArray[Any]]:
    """Return the columns that the operator's formulas read; missing names are empty, missing options 0.

    Raises
    ------
    ConfigError   a column of shapes is missing
    """
    table = table_of(operator)
    found: dict[str, npt.NDArray[Any]] = {}
    for name in table.numbers:
        if name not in columns:
            raise ConfigError(f"{operator}: column {name!r} is missing; the table has {', '.join(columns)}")
        found[name] = _numbers(columns[name], name)
    count = len(found[table.numbers[0]])
    for name in table.optional:
        found[name] = np.nan_to_num(_numbers(columns[name], name)) if name in columns else np.zeros(count)
    for name in table.names:
        found[name] = _text(columns[name]) if name in columns else np.full(count, "", dtype=object)
    return found


def _numbers(values: npt.NDArray[Any], name: str) -> FloatArray:
    try:
        return np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        raise ConfigError(f"column {name!r} holds something that is not a number") from None


def _text(values: npt.NDArray[Any]) -> Text:
    values = np.asarray(values)
    if values.dtype.kind == "f":
        return np.array([str(int(value)) if value == value else "" for value in values], dtype=object)
    return np.array(["" if value is None else str(value) for value in values.tolist()], dtype=object)


def invalid_rows(table: Table, columns: Columns) -> Text:
    """Return for each row what is wrong with its numbers; empty where nothing is."""
    reason = np.full(len(columns[table.numbers[0]]), "", dtype=object)
    for name in table.numbers:
        reason[~((columns[name] > 0) & np.isfinite(columns[name]))] = f"{name} must be positive"
    for name in table.optional:
        reason[~((columns[name] >= 0) & np.isfinite(columns[name]))] = f"{name} must not be negative"
    return reason


def groups(operator: str, columns: Columns, machine: Machine, reason: Text) -> Iterator[Group]:
    """Yield the rows of each combination of names, those with a reason left out."""
    table = TABLES[operator]
    names = {name: columns[name] for name in table.names}
    valid = np.flatnonzero(reason == "")
    if table.mode is not None:
        names["mode"] = np.full(len(reason), "", dtype=object)
        numbers = {name: columns[name][valid] for name in (*table.numbers, *table.optional)}
        names["mode"][valid] = table.mode(numbers, {name: names[name][valid] for name in table.names})
    codes = _codes(names.values(), len(reason))[valid]
    order = np.argsort(codes, kind="stable")
    for part in np.split(order, np.flatnonzero(np.diff(codes[order])) + 1):
        if len(part):
            rows = valid[part]
            own = {name: str(values[rows[0]]) for name, values in names.items()}
            yield Group(_section(table, own, machine), own, rows)


def _codes(columns: Any, count: int) -> npt.NDArray[np.int64]:
    """Return one number for each combination of words."""
    codes = np.zeros(count, dtype=np.int64)
    for values in columns:
        known = {word: i for i, word in enumerate(dict.fromkeys(values.tolist()))}
        code = np.fromiter((known[word] for word in values.tolist()), dtype=np.int64, count=count)
        codes = np.unique(codes * len(known) + code, return_inverse=True)[1]
    return codes


def _section(table: Table, names: Names, machine: Machine) -> str:
    known = table.section(names)
    return next((name for name in known if name in machine.sections), known[-1])


def batch_of(group: Group, columns: Columns, machine: Machine, system: System | None) -> Batch:
    """Return what a formula reads of a group."""
    numbers = {name: values[group.rows] for name, values in columns.items() if values.dtype.kind == "f"}
    return Batch(machine, group.section, group.names, numbers, system)


def uncovered(operator: str, names: Names, machine: Machine, system: System | None) -> str:
    """Return why no model covers rows with these names; empty if one does."""
    if operator == "collectives":
        return _uncovered_collective(names, system)
    if operator == "moe_alltoall":
        return _uncovered_exchange(names, system)
    kind = names["dtype"] or "bfloat16"
    for column in ("dtype", "kv_dtype"):
        if names.get(column) and names[column] not in TYPES:
            return f"{column} {names[column]!r} is not modelled"
    if operator == "mla" and names["op"] not in _MLA_OPS:
        return f"op {names['op']!r} is not modelled"
    if operator == "mla" and names["model"] and not names["model"].lower().endswith(_MLA_MODELS):
        return f"the projections of {names['model']!r} are not known"
    needed = TYPES[kind][1]
    if needed not in machine.flop_rate and not (needed == "fp16" and "bf16" in machine.flop_rate):
        return f"the device does not multiply {needed}"
    return ""


def _uncovered_collective(names: Names, system: System | None) -> str:
    if OP_NAMES.get(names["op"], names["op"]) not in OPS:
        return f"op {names['op']!r} is not modelled"
    if system is None:
        return "the library has no system of this device; name a system, it has the links"
    try:
        ranks, nodes = int(names["num_gpus"]), int(names["nodes"] or 1)
    except ValueError:
        return "num_gpus and nodes must be whole numbers"
    if ranks < 2 or nodes < 1 or ranks % nodes:
        return "num_gpus must be at least 2 and a multiple of nodes"
    return ""


def _uncovered_exchange(names: Names, system: System | None) -> str:
    if names["op"] not in exchange.OPS:
        return f"op {names['op']!r} is not modelled"
    if names["dtype"] not in ("", "default") and names["dtype"] not in TYPES:
        return f"dtype {names['dtype']!r} is not modelled"
    if system is None or system.intra_node is None:
        return "the library has no system of this device; name a system, it has the links"
    return ""


def warm_machine(
    hardware: Device | System, constants: Constants | None = None
) -> tuple[Machine, System | None]:
    """Return the flattened device with a warm cache, and the system that gives its links (or None)."""
    if isinstance(hardware, System):
        return machine_of(hardware.device, warm=True, constants=constants), hardware
    return machine_of(hardware, warm=True, constants=constants), system_of(hardware.name)


@lru_cache(maxsize=64)
def system_of(device: str) -> System | None:
    """Return the library's system of one node built from that device; the one with eight if there is."""
    from hwmodels.load import load_system, names

    found = [_try(load_system, name) for name in names("system")]
    own = [each for each in found if each and each.device.name == device and each.intra_node]
    return max(own, key=lambda each: (each.nodes == 1, each.devices_per_node == 8), default=None)


def _try(load: Any, name: str) -> System | None:
    try:
        system: System = load(name)
    except ConfigError:
        return None
    return system
