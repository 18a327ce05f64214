"""Times between tokens, as a histogram of fixed size: memory does not grow with the run."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

_LEAST_S, _PER_DECADE, _DECADES = 1e-7, 460, 12  # bins of 0.5 %: 10**(1/460) = 1.0050


class Gaps:
    """Counts gaps in logarithmic bins.  Law: a quantile is right within half a bin, 0.25 %."""

    def __init__(self) -> None:
        self.counts: NDArray[np.int64] = np.zeros(_PER_DECADE * _DECADES + 1, dtype=np.int64)
        self.total_s = 0.0
        self.longest_s = 0.0

    def add(self, gap_s: float, count: int) -> None:
        """Count `count` equal gaps."""
        if count:
            place = math.log10(gap_s / _LEAST_S) * _PER_DECADE if gap_s > _LEAST_S else 0.0
            self.counts[min(int(place), len(self.counts) - 1)] += count
            self.total_s += gap_s * count
            self.longest_s = max(self.longest_s, gap_s)

    def summary(self) -> dict[str, float | None]:
        """Return mean, median, 90th and 99th percentile, and the longest; None if there was no gap."""
        total = int(self.counts.sum())
        if total == 0:
            return {"mean": None, "p50": None, "p90": None, "p99": None, "max": None}
        quantiles = {f"p{q}": self._quantile(q / 100, total) for q in (50, 90, 99)}
        return {"mean": self.total_s / total, **quantiles, "max": self.longest_s}

    def _quantile(self, share: float, total: int) -> float:
        place = int(np.searchsorted(np.cumsum(self.counts), share * total))
        return min(self.longest_s, float(_LEAST_S * 10.0 ** ((place + 0.5) / _PER_DECADE)))
