"""`codesign hw`: what a user sees, as text and as JSON, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from codesign.cli.main import main
from hwmodels.load import names


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = main(["hw", *arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def run_json(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    code, out, err = run(capsys, *arguments, "--json")
    assert (code, err) == (0, "")
    found: dict[str, Any] = json.loads(out)
    return found


def test_list_names_the_whole_library(capsys: pytest.CaptureFixture[str]) -> None:
    found = run_json(capsys, "list")
    assert [row["name"] for row in found["devices"]] == names("device")
    assert [row["name"] for row in found["systems"]] == names("system")
    code, out, _ = run(capsys, "list", "--kind", "device")
    assert code == 0
    assert all(f"  {name} " in out for name in names("device"))
    assert "dgx-h100" not in out


def test_show_gives_numbers_in_si_as_written_and_what_follows(capsys: pytest.CaptureFixture[str]) -> None:
    found = run_json(capsys, "show", "dgx-h100-x2")
    assert (found["kind"], found["si"]["nodes"]) == ("system", 2)
    assert found["si"]["device"]["memory"]["hbm"]["bandwidth"] == 3.352e12
    assert found["as_written"]["device"]["memory"]["hbm"]["bandwidth"] == "3352 GB/s"
    assert found["derived"]["flop_per_clock_and_unit"]["bf16"] == pytest.approx(4096, rel=1e-3)


def test_show_writes_the_source_beside_the_number_that_it_covers(capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = run(capsys, "show", "h100")
    assert "memory.hbm.bandwidth: 3352 GB/s  [NVIDIA H100" in out
    _, out, _ = run(capsys, "show", "h100", "-s", "memory.hbm.bandwidth=4 TB/s")
    assert "memory.hbm.bandwidth: 4 TB/s\n" in out


def test_check_of_a_library_file_finds_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "check", "dgx-b200") == (0, "system dgx-b200: valid, no warnings\n", "")


def test_check_warns_of_what_is_doubtful(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("from: h100\nname: mine\nmemory:\n  hbm: {bandwidth: 5.5 TB/s}\n")
    found = run_json(capsys, "check", str(path))
    assert (found["name"], found["kind"], found["valid"]) == ("mine", "device", True)
    assert [line.split(":")[0] for line in found["warnings"]] == ["memory.hbm.bandwidth"] * 2
    code, out, _ = run(capsys, "check", str(path))
    assert code == 0
    assert out.endswith("device mine: valid, 2 warnings\n")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("check", "h10"), "did you mean"),
        (("check", "nowhere.yaml"), "no such file"),
        (("show", "h100", "-s", "memory.hbm.bandwith=4 TB/s"), "did you mean 'bandwidth'"),
        (("show", "h100", "-s", "memory.hbm.bandwidth"), "path=value"),
        (("show", "h100", "-s", "memory.hbm.bandwidth=4"), "has no unit"),
        (("list", "--kind", "devices"), "device"),
    ],
)
@pytest.mark.parametrize("flags", [(), ("--json",)])
def test_what_is_wrong_is_said_on_stderr_with_exit_code_2(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], words: str, flags: tuple[str, ...]
) -> None:
    code, out, err = run(capsys, *arguments, *flags)
    assert (code, out) == (2, "")
    assert words in err
    assert "Traceback" not in err


def test_check_places_the_fault(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text("from: h100\nmain_memory: hmb\n")
    code, _, err = run(capsys, "check", str(path))
    assert code == 2
    assert err.startswith(f"ConfigError: {path}:2: main_memory")
