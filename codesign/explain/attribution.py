"""From the critical paths of all iterations: where the time went, and what more speed would save."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ext.iteration import KINDS, PARTS, TALLY

F64 = NDArray[np.float64]


@dataclass(frozen=True)
class Attribution:
    """Seconds of the critical paths, summed over the lanes of all engines.

    Attributes
    ----------
    path_parts : float64[kinds, PARTS]    seconds by kind of task and by the resource that spends them
    straggle_s : float64[kinds]           of which above the mean rank: waiting for the slowest
    queued_s : float                      waiting for an earlier iteration (pipeline stages)
    lanes : int                           running batches over which the sums go
    """

    path_parts: F64
    straggle_s: F64
    queued_s: float
    lanes: int

    @property
    def busy_s(self) -> float:
        """Seconds in which an iteration ran, summed over lanes."""
        return float(self.path_parts.sum()) + self.queued_s

    def breakdown_s(self, simulated_s: float) -> dict[str, float]:
        """Return where the mean lane's time went, by kind.

        ``waiting`` is what the slowest rank made the others wait (and earlier iterations later ones);
        ``idle`` is when there was nothing to do.  Law: the values sum to `simulated_s`.
        """
        seconds = (self.path_parts.sum(axis=1) - self.straggle_s) / self.lanes
        named = {kind: float(s) for kind, s in zip(KINDS, seconds, strict=True) if s > 0}
        waiting = (float(self.straggle_s.sum()) + self.queued_s) / self.lanes
        idle = max(0.0, simulated_s - sum(named.values()) - waiting)
        return {**named, "waiting": waiting, "idle": idle}

    def elasticities(self) -> dict[str, float]:
        """Return the relative change of the busy time per relative change of each resource's speed.

        -0.4 for ``memory`` means: 1 % more memory bandwidth makes the iterations 0.4 % shorter, as long as
        the critical path stays the same.  Law: with waiting in a pipeline left out, they sum to -1.
        """
        busy_s = self.busy_s
        by_part = self.path_parts.sum(axis=0)
        return {
            part: -float(s) / busy_s for part, s in zip(PARTS, by_part, strict=True) if s > 0 and busy_s > 0
        }

    def by_kind_and_part(self) -> dict[str, dict[str, float]]:
        """Return seconds of the mean lane by kind, then by resource: what makes each kind slow."""
        return {
            kind: {part: float(s) / self.lanes for part, s in zip(PARTS, row, strict=True) if s > 0}
            for kind, row in zip(KINDS, self.path_parts, strict=True)
            if row.sum() > 0
        }


def attribute(engines: list[object], lanes: int) -> Attribution:
    """Gather the attribution of all engines (`ext.iteration.Iteration`)."""
    queued = TALLY.index("queued_s")
    return Attribution(
        sum((e.path_parts for e in engines), np.zeros((len(KINDS), len(PARTS)))),  # type: ignore[attr-defined]
        sum((e.straggle_s for e in engines), np.zeros(len(KINDS))),  # type: ignore[attr-defined]
        float(sum(e.tally[queued] for e in engines)),  # type: ignore[attr-defined]
        lanes,
    )
