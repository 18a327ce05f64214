"""Opening a trace: plain or gzip, text or not, rows with their numbers, and the one error per broken cell."""

from __future__ import annotations

import gzip
import math
import re
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from codesign.base.document import show
from codesign.base.errors import ConfigError
from workloads.requests.spec import MAX_TIME_S, MAX_TOKENS, FloatArray, IntArray

_DATE = re.compile(r"(?:19|20)\d\d-\d\d-\d\d[ T]\d\d:\d\d(?::\d\d(?:\.\d{1,12})?)?", re.ASCII)
_DATE_RULE = "must be a date and time (UTC), as 2023-11-16 18:17:03.97"
_TOKEN_RULE = f"must be a whole number, 0 ... {MAX_TOKENS}"


def read_trace_text(path: str | Path) -> str:
    """Read a trace file, gzip or plain, as text.

    Raises
    ------
    ConfigError   missing, a directory, truncated or broken gzip, not text, empty
    """
    place = Path(path)
    if place.is_dir():
        raise ConfigError(f"{place}: is a directory; a trace file is needed")
    try:
        raw = place.read_bytes()
        if raw[:2] == b"\x1f\x8b":
            raw = gzip.decompress(raw)
        text = raw.decode("utf-8-sig")
    except FileNotFoundError:
        raise ConfigError(f"{place}: no such trace file") from None
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ConfigError(f"{place}: broken or truncated gzip: {error}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{place}: not a text file (byte {error.start} is not UTF-8)") from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"{place}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if "\x00" in text:
        raise ConfigError(f"{place}: not a text file (holds null bytes)")
    if not text.strip():
        raise ConfigError(f"{place}: is empty; a trace has at least one request")
    return text


@dataclass(frozen=True)
class Rows:
    """Where the rows of a file stand, to name one in an error."""

    path: str
    lines: Sequence[int] | range | None  # line of each row; None: items of one JSON list

    def fail(self, row: int, column: str, value: object, rule: str) -> NoReturn:
        """Raise the error of one cell."""
        where = self.path if self.lines is None else f"{self.path}:{self.lines[row]}"
        raise ConfigError(f"{where}: row {row + 1} of the data: {column} = {show(value)}: {rule}")

    def tokens(self, column: str, cells: Sequence[Any]) -> IntArray:
        """Read whole numbers from 0; text or numbers."""
        try:
            values = np.fromiter(map(int, cells), dtype=np.int64, count=len(cells))
            exact = not cells or isinstance(cells[0], str) or set(map(type, cells)) == {int}
        except (ValueError, TypeError, OverflowError):
            exact = False
        if not exact:
            values = np.array([self._token(i, column, c) for i, c in enumerate(cells)], dtype=np.int64)
        self.check(column, cells, (values < 0) | (values > MAX_TOKENS), _TOKEN_RULE)
        return values

    def identifiers(self, row: int, column: str, cell: str) -> list[int]:
        """Read whole numbers from 0 with blanks between."""
        try:
            found = [int(word) for word in cell.split()]
        except ValueError:
            found = [-1]
        if not all(0 <= number < 2**63 for number in found):
            self.fail(row, column, cell, "must be whole numbers from 0, with blanks between")
        return found

    def _token(self, row: int, column: str, cell: Any) -> int:
        value = self._number(row, column, cell, _TOKEN_RULE)
        if value != int(value) or not 0 <= value <= MAX_TOKENS:
            self.fail(row, column, cell, _TOKEN_RULE)
        return int(value)

    def _number(self, row: int, column: str, cell: Any, rule: str) -> float:
        try:
            value = math.nan if isinstance(cell, bool) else float(cell)
        except (ValueError, TypeError, OverflowError):
            value = math.nan
        if not math.isfinite(value):
            self.fail(row, column, cell, rule)
        return value

    def seconds(self, column: str, cells: Sequence[Any], unit_s: float = 1.0) -> FloatArray:
        """Read times that are numbers from 0, in units of `unit_s`."""
        rule = "must be a finite time that is not negative"
        try:
            values = np.fromiter(map(float, cells), dtype=np.float64, count=len(cells))
        except (ValueError, TypeError, OverflowError):
            values = np.array([self._number(i, column, c, rule) for i, c in enumerate(cells)])
        values = values * unit_s
        self.check(column, cells, ~((values >= 0) & (values <= MAX_TIME_S)), rule)
        return values

    def check(self, column: str, cells: Sequence[Any], bad: Any, rule: str) -> None:
        """Raise the error of the first bad cell, if there is one."""
        if bad.any():
            row = int(np.argmax(bad))
            self.fail(row, column, cells[row], rule)

    def dates(self, column: str, cells: Sequence[str]) -> FloatArray:
        """Read calendar times (``2023-11-16 18:17:03.9799600``, UTC) as seconds since the earliest."""
        trimmed = [_without_zone(cell.strip()) for cell in cells]
        shaped = list(map(_DATE.fullmatch, trimmed))
        if not all(shaped):
            self.fail(shaped.index(None), column, cells[shaped.index(None)], _DATE_RULE)
        try:
            stamps = np.array(trimmed, dtype="datetime64[ns]")
        except (ValueError, OverflowError):
            self._broken_date(column, cells, trimmed)
        elapsed = (stamps - stamps.min()).astype(np.int64) / 1e9
        self.check(column, cells, ~((elapsed >= 0) & (elapsed <= MAX_TIME_S)), "is out of range")
        return np.asarray(elapsed, dtype=np.float64)

    def _broken_date(self, column: str, cells: Sequence[str], trimmed: Sequence[str]) -> NoReturn:
        for i, text in enumerate(trimmed):
            try:
                np.datetime64(text, "ns")
            except (ValueError, OverflowError):
                self.fail(i, column, cells[i], _DATE_RULE)
        raise ConfigError(f"{self.path}: {column}: holds dates that cannot be read")


def _without_zone(text: str) -> str:
    for zone in ("Z", "+00:00"):
        if text.endswith(zone):
            return text[: -len(zone)]
    return text


Reader = Callable[[str, str], Any]
