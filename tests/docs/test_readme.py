"""The documentation is run: every command, file and snippet of README and CONTRIBUTING, in order.

A fenced block whose first line is ``# file: NAME`` (or, in JSON, has ``_file``) is written; a ``sh`` block is
run line by line; a ``python`` block without a file is run as a script.  ``make`` lines must name a target.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from codesign.cli.main import main

ROOT = Path(__file__).parents[2]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
NAMED = re.compile(r"# file: (\S+)\n")
PAGES = ["README.md", "CONTRIBUTING.md"]


def blocks(page: str) -> Iterator[tuple[str, str]]:
    """Return language and text of each fenced block."""
    text = (ROOT / page).read_text(encoding="utf-8")
    return ((found[1], found[2]) for found in FENCE.finditer(text))


def file_of(language: str, text: str) -> tuple[str, str] | None:
    """Return name and content of a block that is a file."""
    if language == "json":
        data = json.loads(text)
        return data.pop("_file"), json.dumps(data)
    found = NAMED.match(text)
    return (found[1], text[found.end() :]) if found else None


def run(arguments: list[str], folder: Path) -> str:
    """Run a command as the documentation's reader would; fail with what it said."""
    environment = {**os.environ, "PYTHONPATH": f"{folder}{os.pathsep}{ROOT}", "COLUMNS": "100"}
    done = subprocess.run(
        arguments, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, f"{shlex.join(arguments)}\n{done.stderr}"
    assert done.stderr.count("Warning") == 0, done.stderr
    return done.stdout


def run_line(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Run one line of a ``sh`` block in the working directory."""
    words = shlex.split(line, comments=True)
    if not words:
        return
    if words[0] == "make":
        makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
        assert re.search(rf"^{words[1]}:.*## ", makefile, re.MULTILINE), f"make has no target {words[1]}"
        return
    assert words[0] == "codesign", f"a command that this test does not know: {line}"
    code = main(words[1:])
    out, err = capsys.readouterr()
    assert code == 0, f"{line}\n{err}"
    if "--json" in words:
        json.loads(out)


@pytest.mark.parametrize("page", PAGES)
def test_every_block_of_a_page_runs(page, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    for language, text in blocks(page):
        named = file_of(language, text) if language != "sh" else None
        if named:
            place = tmp_path / named[0]
            place.parent.mkdir(exist_ok=True)
            place.write_text(named[1], encoding="utf-8")
        elif language == "python":
            assert run([sys.executable, "-c", text], tmp_path)
        elif language == "sh":
            for line in text.splitlines():
                run_line(line, capsys)


@pytest.mark.parametrize("page", PAGES)
def test_every_link_and_path_is_there(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    linked = [target for target in re.findall(r"\]\(([^)#\s]+)\)", text) if "://" not in target]
    quoted = re.findall(r"`((?:codesign|workloads|hwmodels|ext|tests|examples|docs)/[\w./-]+)`", text)
    places = [target for target in linked + quoted if "NAME" not in target]
    assert [target for target in places if not (ROOT / target).exists()] == []


def test_the_readmes_python_example_is_short():
    example = next(text for language, text in blocks("README.md") if language == "python")
    assert example.count("\n") <= 12


def test_a_policy_of_another_package_is_found_by_its_entry_point(tmp_path):
    """Install the example of CONTRIBUTING as pip would: a module and its metadata on the path."""
    for language, text in blocks("CONTRIBUTING.md"):
        named = file_of(language, text) if language in ("python", "toml") else None
        if named:
            (tmp_path / named[0]).write_text(named[1], encoding="utf-8")
    project = (tmp_path / "pyproject.toml").read_text(encoding="utf-8")
    group, point = re.search(r'entry-points\."([\w.]+)"\]\n(.+)\n', project).groups()
    metadata = tmp_path / "my_policies-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: my-policies\nVersion: 1.0\n", encoding="utf-8"
    )
    (metadata / "entry_points.txt").write_text(f"[{group}]\n{point.replace(chr(34), '')}\n", encoding="utf-8")
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    command = [sys.executable, "-m", "codesign.cli.main", "run", "examples/mixtral-dgx-h100.yaml", "--json"]
    settings = ["-s", "workload.requests.count=20", "-s", "policies.batching.name=shortest_first"]
    result = json.loads(run([*command, *settings], tmp_path))
    assert result["summary"]["requests"]["completed"] == 20
