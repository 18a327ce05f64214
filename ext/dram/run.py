"""The entry point: the compiled twin where it is built, the plain one otherwise."""

from __future__ import annotations

from typing import Any

import numpy as np

from ext.backend import kernels

from .channel import Channel, Controller, Counters, IntArray


def backend() -> Any:
    """Return the module that runs (``ext.dram._channel`` or ``ext.dram.reference``)."""
    return kernels("ext.dram", cython="_channel")


def run(
    channel: Channel, controller: Controller, bank: IntArray, row: IntArray, unit: IntArray,
    write: IntArray, arrival: IntArray, *, log: bool = False,
) -> Counters:  # fmt: skip
    """Serve a stream of bursts; see `ext.dram.reference.run` for arguments and laws."""
    arrays = [np.ascontiguousarray(a, dtype=np.int64) for a in (bank, row, unit, write, arrival)]
    counters: Counters = backend().run(channel, controller, *arrays, log=log)
    return counters
