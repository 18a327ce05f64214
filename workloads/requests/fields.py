"""Kinds of setting that several forms of ``workload.requests`` share."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated

from pydantic import BeforeValidator, Field

from codesign.base.units import RequestRate

MAX_REQUESTS = 10_000_000  # drawn at once: about 1 GB


def _whole(value: object) -> object:
    if isinstance(value, bool | str):
        raise ValueError("must be a whole number")
    return value


_PER = re.compile(r"\s*([-+.0-9eE]+)\s*(?:requests|req)?\s*/\s*([a-z]+)\s*")


def _per_time(value: object) -> object:
    """Read ``6 /s``, ``6/s`` and ``6 requests/s`` as ``6 1/s``."""
    found = _PER.fullmatch(value) if isinstance(value, str) else None
    return f"{found[1]} 1/{found[2]}" if found else value


if TYPE_CHECKING:
    Rate = float
    Count = int
    Index = int
else:
    Rate = Annotated[RequestRate, BeforeValidator(_per_time)]
    Count = Annotated[int, BeforeValidator(_whole), Field(ge=1, le=MAX_REQUESTS)]
    Index = Annotated[int, BeforeValidator(_whole), Field(ge=0, le=MAX_REQUESTS)]
