"""What a unit beside a memory costs: what it reads at that memory's rate, its own ceiling of arithmetic."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from codesign.experiment.schema import DecodeSpec
from codesign.lower.tiers import Path
from ext.iteration.layout import LAUNCH_S
from hwmodels.costs import Cost
from hwmodels.spec import Pim

F64 = NDArray[np.float64]


class PimCosts:
    """Costs of one device's PIM unit; ``speed`` as in `codesign.lower.machine`.

    An operator takes the longer of its arithmetic and its bytes: a PIM unit multiplies what streams by.
    """

    def __init__(self, pim: Pim, speed: Mapping[str, float]) -> None:
        self.flop_per_s = pim.peak_flop_rate * speed.get("pim_compute", 1.0)
        self.bytes_per_s = pim.bandwidth * pim.efficiency * speed.get("pim_memory", 1.0)
        self.launch_s = pim.launch_overhead / speed.get("launch", 1.0)

    def decode_flop(self, decode: DecodeSpec | None, value_bytes: float) -> float:
        """Return the work of decoding one value here: what is written, or what keeps the unit so long."""
        if decode is None:
            return 0.0
        if decode.rate is not None:
            return value_bytes / decode.rate * self.flop_per_s
        return decode.flop_per_value or 0.0

    def expert_rows(
        self, hidden: int, inter: int, gated: bool, weight_bytes: float, max_tokens: int,
        share: float = 1.0, decode_flop: tuple[float, float] = (0.0, 0.0),
    ) -> tuple[F64, F64, list[float]]:  # fmt: skip
        """Return (work, moved, coefficients) rows of `ext.iteration.Layout` for one expert shape.

        Experts run one after the other, each bound by arithmetic or by bytes: `work` holds the seconds of
        those bound by the first, `moved` of the others, and their sum is the time (power 1).  `share` is of
        the products of whole matrices; `decode_flop` the work of decoding an expert, by expert and by token.
        """
        matrices = 3 if gated else 2
        n = np.arange(max_tokens + 1, dtype=np.float64)
        flop_per_token = 2.0 * hidden * inter * matrices * share
        token_bytes = 2.0 * (2.0 * hidden + inter)
        flop = n * (flop_per_token + decode_flop[1]) + np.where(n > 0, decode_flop[0], 0.0)
        compute_s = flop / self.flop_per_s
        memory_s = np.where(n > 0, weight_bytes + n * token_bytes, 0.0) / self.bytes_per_s
        bound = compute_s >= memory_s
        row = [1.0, 0.0, 1.0, self.launch_s, 0.0, 1.0, flop_per_token, token_bytes, weight_bytes]
        row += [0.0, 0.0, 0.0]
        return np.where(bound, compute_s, 0.0), np.where(bound, 0.0, memory_s), row

    def attention_s(self, cost: Cost, bytes_read: float) -> tuple[float, float]:
        """Return (compute, memory) seconds of a decode attention that an xPU would do for `cost`."""
        compute_s, memory_s = cost.flop / self.flop_per_s, bytes_read / self.bytes_per_s
        return (compute_s, 0.0) if compute_s >= memory_s else (0.0, memory_s)


class BesideCosts(PimCosts):
    """Costs of a unit beside another tier: a host's processor, or near-data processing.

    Tokens' vectors go there over the links of the way, before its work, and come back after it.
    """

    def __init__(self, unit: Pim, way: Sequence[Path], speed: Mapping[str, float]) -> None:
        super().__init__(unit, speed)
        self.unit = unit
        self.send_s = max((1.0 / piece.bytes_per_s for piece in way), default=0.0)  # of a byte
        self.latency_s = sum(piece.latency_s for piece in way)

    def expert_rows(
        self, hidden: int, inter: int, gated: bool, weight_bytes: float, max_tokens: int,
        share: float = 1.0, decode_flop: tuple[float, float] = (0.0, 0.0),
    ) -> tuple[F64, F64, list[float]]:  # fmt: skip
        """See `PimCosts.expert_rows`; a layer that sends anything waits for the way's latency twice."""
        work, moved, row = super().expert_rows(
            hidden, inter, gated, weight_bytes, max_tokens, share, decode_flop
        )
        vector_bytes = 2.0 * 2.0 * hidden  # there and back
        row[LAUNCH_S] += 2.0 * self.latency_s
        return work, moved + np.arange(max_tokens + 1) * vector_bytes * self.send_s, row
