"""docs/exploring.md is run: its sweep file, its commands, its Python; and the files it names are there."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

from codesign.cli.main import main

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "docs" / "exploring.md"
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def test_every_block_runs(tmp_path, monkeypatch, capsys):
    pytest.importorskip("optuna")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    for language, text in FENCE.findall(PAGE.read_text(encoding="utf-8")):
        if language == "yaml":
            Path(text.splitlines()[0].removeprefix("# file: ")).write_text(text, encoding="utf-8")
        elif language == "sh":
            for line in text.splitlines():
                words = shlex.split(line)
                assert words[0] == "codesign"
                code = main(words[1:])
                out, err = capsys.readouterr()
                assert code == 0, f"{line}\n{err}"
                if "--json" in words:
                    json.loads(out)
        elif language == "python":
            exec(compile(text, str(PAGE), "exec"), {"__name__": "page"})
            assert "J/token, 95 % within" in capsys.readouterr().out


def test_named_files_exist():
    for name in re.findall(r"examples/[\w/.-]+\.(?:yaml|py)", PAGE.read_text(encoding="utf-8")):
        assert (ROOT / name).is_file(), name
