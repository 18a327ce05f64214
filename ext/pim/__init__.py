"""Command streams of processing in memory: rows opened in many banks at once, one column after another.

`stream_rows` is a plain loop over rows (a few hundred per operator), so it has no compiled twin.
"""

from __future__ import annotations

from .rows import RowTimes, Streamed, stream_rows

__all__ = ["RowTimes", "Streamed", "stream_rows"]
