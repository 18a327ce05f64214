"""A progress bar on stderr, with rate and time left; only on a terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import perf_counter

_EVERY_S = 0.2


@contextmanager
def progress_bar(unit: str) -> Iterator[Callable[[int, int], None] | None]:
    """Give a function f(done, total) that draws the bar, or None where nobody watches."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), auto_refresh=False) as bar:
        yield _drawer(bar, bar.add_task(unit, rate=""), unit)


def _drawer(bar: object, task: object, unit: str) -> Callable[[int, int], None]:
    begun = last = perf_counter()

    def draw(done: int, total: int) -> None:
        nonlocal last
        now = perf_counter()
        if done < total and now - last < _EVERY_S:
            return
        last = now
        rate = f"{done / max(now - begun, 1e-9):.3g} {unit}/s"
        bar.update(task, completed=done, total=total, rate=rate)  # type: ignore[attr-defined]
        bar.refresh()  # type: ignore[attr-defined]

    return draw
