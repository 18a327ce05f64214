"""Double buffering, fold by fold: the definition of what the compiled twin computes."""

from __future__ import annotations

from collections.abc import Sequence


def double_buffer(
    cycles: Sequence[float], load_bytes: Sequence[float], store_bytes: Sequence[float], bytes_per_cycle: float
) -> tuple[float, float]:
    """Return (cycles in all, cycles in which the array waits for DRAM).

    Parameters
    ----------
    cycles, load_bytes, store_bytes : shape (folds,)
    bytes_per_cycle : float                           of DRAM, both directions; inf: no stalls

    Notes
    -----
    While a fold computes, the next one's operands go to the other half of the buffers, and the results of
    the one before leave.  Laws: total >= sum(cycles); total >= bytes / bytes_per_cycle; equal to the sum of
    cycles if the bandwidth is infinite.
    """
    rate = 1.0 / bytes_per_cycle
    memory_free = before = last = 0.0  # ends of the DRAM's work, of the fold before the last, of the last
    owed = 0.0  # bytes of results of the last fold
    stalled = 0.0
    for work, load, store in zip(cycles, load_bytes, store_bytes, strict=True):
        loaded = max(memory_free, before) + load * rate
        memory_free = loaded
        if owed:
            memory_free = max(memory_free, last) + owed * rate
        start = max(last, loaded)
        stalled += start - last
        before, last = last, start + work
        owed = store
    end = max(memory_free, last) + owed * rate
    return end, stalled + (end - last)
