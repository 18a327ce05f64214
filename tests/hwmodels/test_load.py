"""From a name, a path or a mapping to hardware: composition, places of values, refusals."""

from __future__ import annotations

from pathlib import Path

import pytest

import hwmodels
from codesign.base.errors import ConfigError
from hwmodels.load import kind_of, load, load_described, load_device, load_system, names, resolve
from hwmodels.spec import Device, System

MINE = """\
from: h100
name: mine
memory:
  hbm: {bandwidth: 4 TB/s}
"""


def write(folder: Path, name: str, text: str) -> str:
    (folder / name).write_text(text)
    return str(folder / name)


def test_load_gives_what_the_name_is() -> None:
    assert isinstance(load("h100"), Device)
    assert isinstance(load("dgx-h100"), System)
    assert hwmodels.load("h200").name == "h200"


def test_a_device_where_a_system_is_needed_becomes_a_workstation_with_one() -> None:
    system = load_system("h100")
    assert (system.devices, system.device, system.name) == (1, load_device("h100"), "workstation-h100")


def test_nodes_by_name() -> None:
    system = load_system("dgx-h100-x4")
    assert (system.nodes, system.devices, system.name) == (4, 32, "dgx-h100-x4")
    assert system.device == load_system("dgx-h100").device


@pytest.mark.parametrize("name", [*names("system"), "h100", "dgx-h100-x2"])
def test_resolving_twice_changes_nothing(name: str) -> None:
    once = resolve(name)
    assert resolve(once).data == once.data


def test_a_file_lays_its_numbers_over_its_base(tmp_path: Path) -> None:
    mine, base = load_device(write(tmp_path, "mine.yaml", MINE)), load_device("h100")
    assert mine.memory["hbm"].bandwidth == 4e12
    assert mine.memory["hbm"].capacity == base.memory["hbm"].capacity
    assert mine.compute == base.compute


def test_paths_are_relative_to_the_file_in_which_they_stand(tmp_path: Path) -> None:
    (tmp_path / "devices").mkdir()
    write(tmp_path / "devices", "mine.yaml", MINE)
    text = "from: dgx-h100\nname: ours\ndevice: devices/mine.yaml\ndevices_per_node: 4\n"
    system = load_system(write(tmp_path, "ours.yaml", text))
    assert (system.device.name, system.devices, system.name) == ("mine", 4, "ours")


def test_a_mapping_without_from_is_laid_over_the_systems_own_device() -> None:
    system = load_system({"from": "dgx-h100", "device": {"power": {"idle": "80 W"}}})
    assert (system.device.power.idle, system.device.name) == (80.0, "h100")


def test_another_device_replaces_the_systems_whole_device() -> None:
    assert load_system("dgx-h100", {"device": "a100"}).device == load_device("a100")


def test_overrides_are_dotted_paths() -> None:
    system = load_system("dgx-h100", {"device.memory.hbm.bandwidth": "5 TB/s", "nodes": 2})
    assert (system.device.memory["hbm"].bandwidth, system.nodes) == (5e12, 2)
    assert load_system("dgx-h100").device.memory["hbm"].bandwidth == 3.352e12


def test_calibration_constants_may_be_given_flat_or_nested() -> None:
    flat = load_device("h100", {"calibration": {"gemm.compute_efficiency": 0.7}})
    assert load_device("h100", {"calibration.gemm.compute_efficiency": 0.7}) == flat
    assert flat.calibration == {"gemm.compute_efficiency": 0.7}


def test_what_a_caller_changes_stays_with_the_caller() -> None:
    resolve("h100", "device").data["memory"]["hbm"]["bandwidth"] = "1 TB/s"
    assert load_device("h100").memory["hbm"].bandwidth == 3.352e12


def test_a_folder_of_the_same_name_does_not_hide_the_library(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "h100").mkdir()
    monkeypatch.chdir(tmp_path)
    assert load_device("h100").name == "h100"


def test_kind_is_read_from_keys_or_from_what_a_file_is_built_from(tmp_path: Path) -> None:
    assert kind_of(resolve("dgx-h100")) == "system"
    assert load_described(write(tmp_path, "mine.yaml", MINE))[1].name == "mine"


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        (
            "from: h100\nmemory:\n  hbm: {bandwidth: 4 TBs}\n",
            3,
            ["hbm.bandwidth", '"4 TBs"', "'TB/s'"],
        ),
        ("from: h100\nmemory:\n  hbm: {bandwith: 4 TB/s}\n", 3, ["bandwith", "did you mean 'bandwidth'"]),
        ("from: h100\nmemory:\n  hbm: {bandwidth: 4}\n", 3, ["has no unit"]),
        ("from: h100\nmemory:\n  hbm: {bandwidth: 4 GB}\n", 3, ["another kind"]),
        ("from: h100\nmain_memory: hmb\n", 2, ["did you mean 'hbm'"]),
        ("from: h100\nl2: hbm\n", 2, ["before the main memory"]),
        ("from: h100\npower: {idle: 650 W}\n", None, ["exceed peak (700 W)"]),
        ("from: h1000\n", 1, ["unknown system or device", "h100"]),
        ("from: dgx-h100\ndevice: h1000\n", 2, ["unknown device"]),
        ("from: dgx-h100\ndevice: dgx-a100\n", 2, ["is a system"]),
        ("from: workstation\ndevices_per_node: 4\n", 2, ["need an intra_node link"]),
        ("from: workstation\nnodes: 4\n", 2, ["need an inter_node link"]),
        ("from: h100\ncompute: {peak_flop_rate: {fp9: 1 TFLOP/s}}\n", 2, ["did you mean"]),
        ("from: h100\nmemory:\n  hbm: {energy_per_byte: 4.9 nJ/bit}\n", None, ["check the units"]),
        ("from: h100\nmemory:\n  hbm: {capacity: 1e30 GB}\n", 3, ["no hardware is outside"]),
        ("from: h100\ncalibration: {gemm.compute_eficiency: 0.7}\n", 2, ["gemm.compute_efficiency"]),
        ("from: h100\nfrom: h200\n", 2, ["duplicate key"]),
        ("from: h100\npower: lots\n", 2, ["must be a mapping", "idle, peak"]),
        ("name: mine\ncompute:\n  units: 4\n  launch_overhed: 2 us\n", 4, ["'launch_overhead'"]),
        ("from: dgx-h100\nhost:\n  peak: 10 W\n", 3, ["below idle"]),
        ("from: dgx-h100\nhost: {links: {pcie: {target: gpu}}}\n", 2, ["device (its main memory)"]),
        ("- 1\n", None, ["mapping"]),
    ],
)
def test_faults_are_named_with_place_and_rule(
    tmp_path: Path, text: str, line: int | None, words: list[str]
) -> None:
    path = write(tmp_path, "bad.yaml", text)
    with pytest.raises(ConfigError) as caught:
        load(path)
    assert all(word in str(caught.value) for word in words)
    assert len(str(caught.value)) < 1200  # a long list is cut
    if line is not None:
        assert f"{path}:{line}:" in str(caught.value)


def test_a_fault_of_the_base_is_placed_in_the_base(tmp_path: Path) -> None:
    base = write(tmp_path, "base.yaml", "from: h100\nname: base\npower: {idle: -1 W}\n")
    path = write(tmp_path, "top.yaml", "from: ./base.yaml\nname: top\n")
    with pytest.raises(ConfigError, match=r"base\.yaml:3: power\.idle") as caught:
        load(path)
    assert base in str(caught.value)


@pytest.mark.parametrize(
    "name", ["", " ", "no/such.yaml", "a" * 5000 + ".yaml", "dgx-h100-x0", "h100-x2", "\0"]
)
def test_names_that_are_nothing_are_refused(name: str) -> None:
    with pytest.raises(ConfigError):
        load(name)


def test_files_that_are_built_from_themselves_are_refused(tmp_path: Path) -> None:
    write(tmp_path, "a.yaml", "from: ./b.yaml\n")
    write(tmp_path, "b.yaml", "from: ./a.yaml\n")
    with pytest.raises(ConfigError, match="built from itself"):
        load(str(tmp_path / "a.yaml"))
