"""`codesign`: the command that holds the others, and what becomes of their errors.

A command lives in ``codesign/cli/<name>.py`` as a click command or group of the same name.  It is imported
only when it is invoked, so that ``codesign --help`` costs no more than click; the one-line helps stand here.

Exit code: 0 done; 1 the work failed; 2 the input is wrong; 130 interrupted.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path

import click

from codesign import __version__
from codesign.base.errors import CodesignError, ConfigError, nearest

COMMANDS = {
    "run": "Simulate one experiment: latency, throughput, energy, cost, and the reason.",
    "explain": "Tell where a run's time went, its elasticities, and what to change.",
    "report": "Write one self-contained HTML page about a run or a sweep.",
    "timeline": "Write a run's tasks as a Perfetto / Chrome trace.",
    "sweep": "Run every point of a design space.",
    "search": "Search a design space for the best points, under constraints.",
    "predict": "Predict operator times for a table of shapes.",
    "routing": "Look at, fit, make and convert routing streams.",
    "requests": "Look at, fit and make request traces.",
    "study": "Reproduce published systems, beside their figures.",
    "cycle": "Run the cycle models alone: DRAM, PIM, systolic arrays.",
    "validate": "Show the error against measurements and other simulators.",
    "hw": "List, show and check hardware.",
    "models": "List and show models.",
}

EXIT_FAILED, EXIT_WRONG_INPUT, EXIT_INTERRUPTED, EXIT_BROKEN_PIPE = 1, 2, 130, 141


class LazyGroup(click.Group):
    """A group whose commands are files beside this one; a command without a file is not listed."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the commands that are there, in the order of the help."""
        here = Path(__file__).parent
        return [name for name in COMMANDS if (here / f"{name}.py").is_file()]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import one command; None if there is no such command."""
        if cmd_name not in self.list_commands(ctx):
            return None
        command: click.Command = getattr(import_module(f"codesign.cli.{cmd_name}"), cmd_name)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command that the arguments begin with, or name the nearest one."""
        known = self.list_commands(ctx)
        if not ctx.resilient_parsing and not args[0].startswith("-") and args[0] not in known:
            near = nearest(args[0], known)
            hint = f" (did you mean {near!r}?)" if near else ""
            ctx.fail(f"unknown command {args[0]!r}; choose from {', '.join(known)}{hint}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the table of commands without importing any."""
        rows = [(name, COMMANDS[name]) for name in self.list_commands(ctx)]
        if rows:
            with formatter.section("Commands"):
                formatter.write_dl(rows)


@click.command(
    cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110}
)
@click.version_option(__version__, prog_name="codesign")
def codesign() -> None:
    """Co-design of Mixture-of-Experts inference: model x hardware x policies x workload.

    Every command takes --help and --json.
    """


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit code.

    A wrong input is one line on stderr and code 2; work that failed is one line and code 1.  Of a fault
    that is ours the line says so; ``CODESIGN_DEBUG=1`` lets every error through with its traceback.
    """
    try:
        code = _invoke(arguments)
        sys.stdout.flush()
    except BrokenPipeError:
        return _close_stdout()
    except Exception as error:
        if os.environ.get("CODESIGN_DEBUG"):
            raise
        return _report(error)
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    return code


def _invoke(arguments: Sequence[str] | None) -> int:
    stdout = sys.stdout
    try:
        code = codesign.main(arguments, prog_name="codesign", standalone_mode=False)
    except click.Abort:
        return EXIT_INTERRUPTED
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except SystemExit as end:
        if sys.stdout is not stdout:  # click wraps it, and exits, when the reader has gone
            raise BrokenPipeError from end
        raise
    return code if isinstance(code, int) else 0


def _report(error: Exception) -> int:
    """Write an error as one line on stderr; return its exit code."""
    text = " ".join(str(error).split())
    if isinstance(error, CodesignError):
        click.echo(f"{type(error).__name__}: {text}", err=True)
        return EXIT_WRONG_INPUT if isinstance(error, ConfigError) else EXIT_FAILED
    if isinstance(error, OSError):
        place = f"{error.filename}: " if error.filename else ""
        click.echo(f"{type(error).__name__}: {place}{error.strerror or text}", err=True)
        return EXIT_FAILED
    click.echo(
        f"internal error at {_place(error)}: {type(error).__name__}: {text}"
        "; CODESIGN_DEBUG=1 shows the traceback",
        err=True,
    )
    return EXIT_FAILED


def _place(error: Exception) -> str:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return f"{Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}" if trace else "?"


def _close_stdout() -> int:
    """Point stdout at nothing, so that the interpreter's last flush finds no broken pipe."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return EXIT_BROKEN_PIPE


if __name__ == "__main__":
    sys.exit(main())
