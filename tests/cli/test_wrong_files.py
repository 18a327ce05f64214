"""Every command that reads a file refuses what is none of its kind: one line, exit code 2, no output."""

from __future__ import annotations

import random
import shlex

import pytest

from codesign.cli.main import main

# the command, with FILE where a file is read
COMMANDS = [
    "run FILE",
    "run FILE -o out",
    "sweep FILE -o out",
    "explain FILE",
    "timeline FILE",
    "hw check FILE",
    "hw show ./FILE",
    "models show ./FILE",
    "requests stats FILE",
    "requests convert FILE -o out.csv",
    "requests fit FILE -o out.yaml",
    "routing stats FILE",
    "routing convert FILE -o out.npz",
    "routing fit FILE -o out.json",
    "predict gemm FILE --device h100 -o out.csv",
    "cycle dram FILE -o out.csv",
    "cycle gemm FILE -o out.csv",
    "cycle pim FILE -o out.csv",
]
SUFFIXES = ["", ".yaml", ".json", ".csv", ".npz", ".parquet"]
CONTENTS = {
    "missing": None,
    "directory": ...,
    "empty": b"",
    "binary": b"\x89PNG\r\n\x1a\n\x00" + random.Random(1).randbytes(300),
    "words": b"just words\n",
    "list": b"[]\n",
    "other keys": b'{"a": 1}\n',
    "other columns": b"a,b\n1,2\n",
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Make the broken files; be where they are."""
    monkeypatch.chdir(tmp_path)
    for name, content in CONTENTS.items():
        for suffix in SUFFIXES:
            place = tmp_path / f"{name.replace(' ', '-')}{suffix}"
            if content is ...:
                place.mkdir()
            elif content is not None:
                place.write_bytes(content)
    return tmp_path


@pytest.mark.parametrize("command", COMMANDS)
def test_a_file_of_no_use_is_refused(folder, capsys, command):
    before = sorted(folder.iterdir())
    for name in CONTENTS:
        for suffix in SUFFIXES:
            file = f"{name.replace(' ', '-')}{suffix}"
            code = main(shlex.split(command.replace("FILE", file)))
            out, err = capsys.readouterr()
            assert (code, out) == (2, ""), f"{file}: {err}"
            assert err.startswith("ConfigError: "), f"{file}: {err}"
            assert err.count("\n") == 1, f"{file}: {err}"
    assert sorted(folder.iterdir()) == before


@pytest.mark.parametrize("text", ["{}", "[]", "3", "{", '{"summary": 1}'])
@pytest.mark.parametrize("command", ["explain", "timeline"])
def test_a_folder_with_another_summary_is_refused(tmp_path, capsys, command, text):
    (tmp_path / "summary.json").write_text(text)
    assert main([command, str(tmp_path)]) == 2
    assert "summary.json" in capsys.readouterr().err
