"""Evaluators that stand in for the simulator: fast, slow, failing, deadly; imported by worker processes."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from codesign.base.errors import ConfigError
from codesign.explore.evaluate import Outcome, Setup, Task


class Toy:
    """y = x^2 + seed / 1000, with what a point asks for beside it."""

    def __init__(self, setup: Setup) -> None:
        self.setup = setup

    def __call__(self, task: Task) -> Outcome:
        x = float(task.changes.get("workload.requests.count", 0))
        mark = task.changes.get("name")
        if isinstance(mark, str):
            self.act(mark, task)
        y = x * x + task.seed / 1000
        return Outcome(task.id, "ok", {"x": x, "y": y, "one_over": 1 / (1 + x)}, hash="h" + task.id)

    def act(self, mark: str, task: Task) -> None:
        word, _, rest = mark.partition(":")
        if word == "fail":
            raise RuntimeError("as asked")
        if word == "refuse":
            raise ConfigError("does not suit")
        if word == "sleep":
            time.sleep(float(rest))
        if word == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if word == "die-once" and not Path(rest).exists():
            Path(rest).write_text("dead")
            os.kill(os.getpid(), signal.SIGKILL)
        if word == "note":
            with open(rest, "a") as file:
                file.write(task.id + "\n")
