"""The command that holds the others: what it lists, what it imports, what it makes of errors."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import click
import pytest

from codesign import __version__
from codesign.base.errors import CapacityError, CodesignError, ConfigError, InvariantError
from codesign.cli import main as cli

ROOT = Path(__file__).parents[2]
HEAVY = {"numpy", "pydantic", "yaml", "numba", "pandas", "matplotlib", "scipy", "pyarrow", "simpy", "rich"}


def failing(error: BaseException) -> click.Command:
    """Return a command that raises."""

    @click.command("run")
    def command() -> None:
        raise error

    return command


@pytest.fixture
def raising(monkeypatch: pytest.MonkeyPatch):
    """Let ``codesign run`` raise an error; return its exit code."""

    def invoke(error: BaseException) -> int:
        monkeypatch.setattr(cli.LazyGroup, "list_commands", lambda self, ctx: ["run"])
        monkeypatch.setattr(cli.LazyGroup, "get_command", lambda self, ctx, name: failing(error))
        return cli.main(["run"])

    return invoke


@pytest.mark.parametrize(
    ("error", "code", "shown"),
    [
        (ConfigError("a.yaml:3: seed = -1: too small"), 2, "ConfigError: a.yaml:3: seed = -1: too small\n"),
        (CapacityError("61 GB do not fit\nin 48 GB"), 2, "CapacityError: 61 GB do not fit in 48 GB\n"),
        (CodesignError("no such run"), 1, "CodesignError: no such run\n"),
        (OSError(28, "No space left on device", "out/x"), 1, "OSError: out/x: No space left on device\n"),
    ],
)
def test_an_error_is_one_line_and_its_kind_is_the_exit_code(raising, capsys, error, code, shown):
    assert raising(error) == code
    out, err = capsys.readouterr()
    assert (out, err) == ("", shown)


def test_a_violated_law_is_the_programs_fault(raising, capsys):
    assert raising(InvariantError("bytes sent", "layer 3", "1 != 2", seed=7)) == 1
    assert "seed 7" in capsys.readouterr().err


def test_a_fault_of_ours_says_so_in_one_line(raising, capsys, monkeypatch):
    monkeypatch.delenv("CODESIGN_DEBUG", raising=False)
    assert raising(ZeroDivisionError("division by zero")) == 1
    err = capsys.readouterr().err
    assert err.startswith("internal error at test_main.py:")
    assert err.count("\n") == 1


def test_debug_lets_the_traceback_through(raising, monkeypatch):
    monkeypatch.setenv("CODESIGN_DEBUG", "1")
    with pytest.raises(ConfigError):
        raising(ConfigError("a"))


def test_an_interrupt_ends_with_130(raising):
    assert raising(KeyboardInterrupt()) == 130


def test_click_keeps_its_exit_codes(raising, capsys):
    assert raising(click.exceptions.Exit(3)) == 3
    assert raising(click.UsageError("bad option")) == 2
    assert "bad option" in capsys.readouterr().err


def test_version(capsys):
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"codesign, version {__version__}\n"


def test_a_misspelt_command_names_the_nearest(capsys):
    assert cli.main(["ruin"]) == 2
    assert "did you mean 'run'?" in capsys.readouterr().err


def commands() -> list[str]:
    """Return the files that define a function of their own name: the commands."""
    files = sorted((ROOT / "codesign/cli").glob("[!_]*.py"))
    return [path.stem for path in files if f"\ndef {path.stem}(" in path.read_text() and path.stem != "main"]


@pytest.mark.parametrize("name", commands())
def test_each_file_is_a_listed_command_with_help(name, capsys):
    assert name in cli.COMMANDS
    assert cli.main([name, "--help"]) == 0
    assert "Usage: codesign " + name in capsys.readouterr().out


def test_help_lists_each_command_that_has_a_file(capsys):
    assert cli.main(["--help"]) == 0
    out = capsys.readouterr().out
    for name, text in cli.COMMANDS.items():
        assert (f"  {name} " in out) == (ROOT / f"codesign/cli/{name}.py").is_file()
        assert len(text) < 90


def test_a_reader_that_leaves_ends_it_quietly():
    command = f"set -o pipefail; {sys.executable} -m codesign.cli.main --help | true"
    done = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    assert done.returncode in (0, cli.EXIT_BROKEN_PIPE)


def test_help_imports_no_command_and_nothing_heavy():
    script = (
        "import sys, json; from codesign.cli.main import main; main(['--help']);"
        "print(json.dumps(sorted(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    loaded = json.loads(done.stderr)
    assert not {"numpy", "pydantic", "yaml", "numba", "pandas", "matplotlib", "scipy", "pyarrow"} & set(
        loaded
    )
    ours = [name for name in loaded if name.startswith("codesign.cli.")]
    assert ours == ["codesign.cli.main"]


def test_help_takes_less_than_a_quarter_second():
    def cpu_s() -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(
            [sys.executable, "-m", "codesign.cli.main", "--help"],
            cwd=ROOT,
            check=True,
            stdout=subprocess.DEVNULL,
            env=os.environ,
        )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    assert min(cpu_s() for _ in range(5)) < 0.25  # processor time: other work on the machine does not count
