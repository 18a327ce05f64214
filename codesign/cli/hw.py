"""`codesign hw`: list, show and check hardware files."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from codesign.base.document import Document
    from hwmodels.spec import Device, System

F = TypeVar("F", bound=Callable[..., Any])
_KINDS = ("device", "system")


def _as_json(command: F) -> F:
    return click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")(command)


def _overrides(command: F) -> F:
    return click.option(
        "-s", "--set", "overrides", multiple=True, metavar="PATH=VALUE",
        help="Override a value, as -s 'memory.hbm.bandwidth=4 TB/s'; may be repeated.",
    )(command)  # fmt: skip


@click.group()
def hw() -> None:
    """List, show and check hardware: devices and systems, of the library or of a file."""


@hw.command("list")
@click.option("--kind", type=click.Choice(_KINDS), help="Devices or systems alone.")
@_as_json
def list_hardware(kind: str | None, as_json: bool) -> None:
    """List the library; NAME-xN is the system NAME with N nodes."""
    from hwmodels import load_device, load_system, names

    rows: dict[str, list[dict[str, Any]]] = {}
    if kind != "system":
        rows["devices"] = [_device_row(load_device(name)) for name in names("device")]
    if kind != "device":
        rows["systems"] = [_system_row(load_system(name)) for name in names("system")]
    if as_json:
        _echo_json(rows)
        return
    for title, table in rows.items():
        click.echo(f"{title}\n" + "\n".join(f"  {line}" for line in _table(table)))


@hw.command()
@click.argument("name_or_file")
@_overrides
@_as_json
def show(name_or_file: str, overrides: tuple[str, ...], as_json: bool) -> None:
    """Show every number of a device or system, as written, with its source."""
    document, hardware = _load(name_or_file, overrides)
    kind, device = _kind_and_device(hardware)
    if as_json:
        from hwmodels.plausible import derived

        _echo_json({"name": hardware.name, "kind": kind, "si": hardware.model_dump(mode="json"),
                    "as_written": document.data, "derived": derived(device)})  # fmt: skip
        return
    click.echo(f"{kind} {hardware.name}")
    for line in _value_lines(document):
        click.echo(f"  {line}")
    for line in _derived_lines(device):
        click.echo(f"  {line}")


@hw.command()
@click.argument("name_or_file")
@_overrides
@_as_json
def check(name_or_file: str, overrides: tuple[str, ...], as_json: bool) -> None:
    """Check a hardware file: refuse what cannot be (exit code 2), warn of what is doubtful or unsourced."""
    from hwmodels.plausible import derived, warnings_of

    document, hardware = _load(name_or_file, overrides)
    kind, device = _kind_and_device(hardware)
    found = warnings_of(document, hardware)
    if as_json:
        _echo_json({"name": hardware.name, "kind": kind, "valid": True, "warnings": found,
                    "derived": derived(device)})  # fmt: skip
        return
    for line in found:
        click.echo(f"warning: {line}")
    count = f"{len(found)} warning{'s' if len(found) != 1 else ''}" if found else "no warnings"
    click.echo(f"{kind} {hardware.name}: valid, {count}")


def _load(name: str, overrides: tuple[str, ...]) -> tuple[Document, Device | System]:
    from codesign.base.document import Document
    from codesign.experiment.override import parse_override
    from hwmodels.load import load_described

    changes = dict(parse_override(text) for text in overrides)
    return load_described(Document(name, "codesign hw"), changes)


def _kind_and_device(hardware: Device | System) -> tuple[str, Device]:
    from hwmodels.spec import System

    return ("system", hardware.device) if isinstance(hardware, System) else ("device", hardware)


def _device_row(device: Device) -> dict[str, Any]:
    rates, main = device.compute.peak_flop_rate, device.memory[device.main_memory]
    return {
        "name": device.name,
        "peak_16bit_flop_per_s": rates.get("bf16", rates.get("fp16")),
        "memory": main.kind,
        "capacity_bytes": main.capacity,
        "bandwidth_bytes_per_s": main.bandwidth,
        "peak_power_w": device.power.peak,
        "rental_usd_per_s": device.price.rental,
        "purchase_usd": device.price.purchase,
    }


def _system_row(system: System) -> dict[str, Any]:
    return {
        "name": system.name,
        "device": system.device.name,
        "devices_per_node": system.devices_per_node,
        "link_bytes_per_s": system.intra_node.bandwidth if system.intra_node else None,
        "network_bytes_per_s": system.inter_node.bandwidth if system.inter_node else None,
        "host_tiers": list(system.host.memory),
    }


# column -> (header, how a cell is written)
_COLUMNS: dict[str, tuple[str, Callable[[Any], str]]] = {
    "name": ("name", str),
    "peak_16bit_flop_per_s": ("16-bit TFLOP/s", lambda value: f"{value / 1e12:.1f}"),
    "memory": ("memory", str),
    "capacity_bytes": ("GB", lambda value: f"{value / 1e9:.1f}"),
    "bandwidth_bytes_per_s": ("GB/s", lambda value: f"{value / 1e9:.0f}"),
    "peak_power_w": ("W", lambda value: f"{value:.0f}"),
    "rental_usd_per_s": ("USD/h", lambda value: f"{value * 3600:.2f}"),
    "purchase_usd": ("USD", lambda value: f"{value:.0f}"),
    "device": ("device", str),
    "devices_per_node": ("devices", str),
    "link_bytes_per_s": ("link GB/s", lambda value: f"{value / 1e9:.0f}"),
    "network_bytes_per_s": ("network GB/s", lambda value: f"{value / 1e9:.1f}"),
    "host_tiers": ("host memory", lambda value: ", ".join(value) or "-"),
}


def _table(rows: list[dict[str, Any]]) -> list[str]:
    columns = list(rows[0])
    cells = [[_COLUMNS[column][0] for column in columns]]
    cells += [[_cell(column, row[column]) for column in columns] for row in rows]
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
            for line in cells]  # fmt: skip


def _cell(column: str, value: Any) -> str:
    return "-" if value is None else _COLUMNS[column][1](value)


def _value_lines(document: Document) -> Iterator[str]:
    """Yield ``path: value  [source]`` for every value as written; a repeated source is written once."""
    from codesign.base.document import dotted
    from hwmodels.plausible import source_of

    last = None
    for path, value in _leaves(document.data, ()):
        source = source_of(document, path, ("device",) if path[0] == "device" else ())
        source = source or source_of(document, path)
        note = "" if source is None else "  [as above]" if source == last else f"  [{source}]"
        yield f"{dotted(path)}: {value}{note}"
        last = source


def _leaves(data: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    if not isinstance(data, dict):
        yield path, data
        return
    for key, value in data.items():
        if key != "sources":
            yield from _leaves(value, (*path, str(key)))


def _derived_lines(device: Device) -> Iterator[str]:
    from hwmodels.plausible import derived

    for title, values in derived(device).items():
        if values:
            listed = ", ".join(f"{name} {value:.4g}" for name, value in values.items())
            yield f"derived {title}: {listed}"


def _echo_json(data: Any) -> None:
    click.echo(json.dumps(data, indent=2, allow_nan=False))
