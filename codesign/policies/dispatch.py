"""Slot "dispatch": which bytes of dispatch and combine cross which port.

After attention, every rank of data group d holds d's tokens; each of the t ranks sends 1/t of them.  A
token goes once to each rank of every expert group that holds one of its experts; what a rank already
holds crosses nothing.  The combine takes the same ways back.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from codesign.base.registry import Registry

if TYPE_CHECKING:
    from codesign.lower.parallel import Parallel

F64 = NDArray[np.float64]


class Dispatch(Protocol):
    """How token vectors travel to the experts' ranks and back."""

    def weights(self, parallel: Parallel, stage: int) -> tuple[F64, F64]:
        """Return (send[2, W, G], recv[2, W, D]), see `ext.iteration.Layout`.

        Law: for any pair counts, what all ranks send over a link is what all ranks receive over it.
        """
        ...


DISPATCHES: Registry[Dispatch] = Registry("dispatch")


@DISPATCHES.register("direct")
@dataclass(frozen=True)
class Direct:
    """Each vector goes straight to every rank that needs it: NVLink inside a node, network between."""

    def weights(self, parallel: Parallel, stage: int) -> tuple[F64, F64]:
        """See `Dispatch.weights`."""
        w, t, te = parallel.ranks, parallel.tensor, parallel.expert_tensor
        send, recv = np.zeros((2, w, parallel.expert)), np.zeros((2, w, parallel.data))
        for source in range(w):
            for target in range(w):
                if source // t == target // t:
                    continue  # the target has these tokens
                link = int(parallel.node(stage, source) != parallel.node(stage, target))
                send[link, source, target // te] += 1.0 / t
                recv[link, target, source // t] += 1.0 / t
        return send, recv
