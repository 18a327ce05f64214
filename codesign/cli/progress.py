"""A progress bar on stderr, with rate and time left; only on a terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import AbstractContextManager


def progress_bar(unit: str) -> AbstractContextManager[Callable[[int, int], None] | None]:
    """Give a function f(done, total) that draws the bar, or None where nobody watches."""
    from codesign.explore.watch import watched

    return watched(sys.stderr.isatty(), unit)
