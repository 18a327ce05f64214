"""A progress bar for long work in Python and notebooks: points done, rate, time left."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import perf_counter
from typing import Any

Progress = Callable[[int, int], None]  # points done, points to run
EVERY_S = 0.2


@contextmanager
def watched(progress: Progress | bool | None, unit: str, console: Any = None) -> Iterator[Progress | None]:
    """Give what is called with (done, to run): the caller's own, or for True a bar; None for nothing."""
    if progress is not True:
        yield progress or None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"), TimeRemainingColumn())
    with Bar(*columns, console=console or Console(stderr=True), auto_refresh=False) as bar:
        task, begun, last = bar.add_task(unit, rate=""), perf_counter(), 0.0

        def draw(done: int, total: int) -> None:
            nonlocal last
            now = perf_counter()
            if done < total and now - last < EVERY_S:
                return
            last = now
            bar.update(
                task, completed=done, total=total, rate=f"{done / max(now - begun, 1e-9):.3g} {unit}/s"
            )
            bar.refresh()

        yield draw
