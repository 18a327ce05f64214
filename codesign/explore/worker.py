"""A worker process of a sweep: reads points from a pipe, writes outcomes to it, until the pipe closes.

Started as ``python -m codesign.explore.worker FD``: a fresh interpreter, so that it needs nothing of the
process that started it, and ends when that one ends.
"""

from __future__ import annotations

import gc
import signal
import sys
from multiprocessing.connection import Connection
from typing import Any


def serve(channel: Connection) -> None:
    """Receive a setup, then lists of tasks; send ("ready",), then each outcome as it is there."""
    from codesign.explore.evaluate import evaluator_of

    try:
        run = evaluator_of(channel.recv())
    except Exception as error:
        channel.send(("broken", f"{type(error).__name__}: {error}"))
        return
    channel.send(("ready", None))
    gc.freeze()
    while (tasks := channel.recv()) is not None:
        for task in tasks:
            channel.send(("outcome", run(task)))


def main(arguments: list[str]) -> None:
    """Serve the pipe whose descriptor is the first argument."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # an interrupt is the parent's to handle
    channel: Any = Connection(int(arguments[0]))
    try:
        serve(channel)
    except (EOFError, OSError):
        return


if __name__ == "__main__":
    main(sys.argv[1:])
