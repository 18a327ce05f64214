"""What stays the same from one iteration of an engine to the next, as arrays."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

F64 = NDArray[np.float64]
I32 = NDArray[np.int32]

KINDS = (
    "overhead", "attention", "dense_ffn", "gate", "shared_experts", "experts", "fetch", "dispatch", "combine",
    "collective", "head", "send",
)  # fmt: skip
EXPERTS, FETCH = KINDS.index("experts"), KINDS.index("fetch")
DISPATCH, COMBINE = KINDS.index("dispatch"), KINDS.index("combine")

# the resources that a second is spent on; the derivative of the time with respect to their speeds
PARTS = (
    "compute", "vector", "memory", "cache", "launch", "link_bandwidth", "link_latency",
    "network_bandwidth", "network_latency", "engine", "pim_compute", "pim_memory", "fetch_bandwidth",
    "fetch_latency",
)  # fmt: skip
COMPUTE, MEMORY, LAUNCH = PARTS.index("compute"), PARTS.index("memory"), PARTS.index("launch")
VECTOR = PARTS.index("vector")
LINK_BANDWIDTH = PARTS.index("link_bandwidth")  # then link latency, network bandwidth, network latency

# columns of `Layout.coefficients`: see hwmodels.costs.ExpertTables; the last three are of stored weights
# that are decoded before use: seconds of an expert's before its product, and FLOPs wherever they are done
(
    SECONDS_PER_WORK, HEAD_S, SECONDS_PER_BYTE, LAUNCH_S, ACTIVE_S, POWER, FLOP_PER_TOKEN, BYTES_PER_TOKEN,
    BYTES_PER_EXPERT, DECODE_S, DECODE_FLOP_PER_TOKEN, DECODE_FLOP_PER_EXPERT,
) = range(12)  # fmt: skip
N_COEFFICIENTS = 12
MAX_VARIANTS = 64
FETCH_BANDWIDTH = PARTS.index("fetch_bandwidth")  # then fetch latency

# entries of `Iteration.tally`, summed over all iterations
TALLY = (
    "routed", "executed", "link_sent", "link_received", "network_sent", "network_received", "queued_s",
)  # fmt: skip
LINK_SENT, QUEUED_S = TALLY.index("link_sent"), TALLY.index("queued_s")

NORM_STEPS = 4096  # linear between: the norm is right to 1e-5, and its twins are equal


def _norm_with_one(ratio: F64, power: float) -> F64:
    """Return (1 + ratio**p) ** (1/p); the maximum, 1, if p is infinite."""
    if np.isinf(power):
        return np.ones_like(ratio)
    norm: F64 = (1.0 + ratio**power) ** (1.0 / power)
    return norm


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The graph of one iteration and the tables that its durations come from.

    W ranks compute one pipeline stage; they form D data groups (attention) and G expert groups.  The rows
    of durations are, in this order::

        static    D x C      row d * C + c: class c of data group d; parts given for each iteration
        experts   L x G x U  fused expert layer of each expert group, by portion
        fetch     L x G x F  weights brought in before portions that lack them; seconds given
        dispatch  L x W      exchange towards the experts, each rank's port   (if `exchanged`)
        combine   L x W      exchange back
        barrier   1          no time

    A *portion* is a part of a group's experts that is computed together: on another unit, or later because
    its weights come later.  With one portion (the usual case) all experts are in it; with more, `Iteration`
    asks its `assign` which expert is in which.  A *variant* is a way in which an expert's weights are stored:
    experts of one portion may have different ones, with tables of their own.

    Parameters
    ----------
    row, resource, pred_ptr, pred : int32       the graph (see `ext.graph`)
    discipline : int32[R]                       0 in-order, 1 first-come, 2 shared
    row_kind : int32[rows]                      index in KINDS
    n_data, n_classes, n_ranks, n_experts : int D, C, W, E
    expert_group : int16[L, E]                  group that holds each expert
    table_of : int32[L, U]                      row of the cost tables, of variant 0
    variant : int32[L, E]                       rows that an expert's tables lie beyond that; < MAX_VARIANTS
    portion_parts : int32[U, 2]                 PARTS of a portion's compute and memory seconds
    n_fetches : int                             F
    work, moved : float64[tables, N + 1]        by tokens of an expert (`ExpertTables`)
    coefficients : float64[tables, 12]
    send : float64[2, W, G], recv : [2, W, D]   weights of `pair` in the bytes of a rank's port; index 0 the
                                                link inside a node, 1 the network between nodes
    data_group, rank_group : int32[W]           data group and expert group of each rank
    latency_s, seconds_per_byte : float64[2]    of an exchange, by link
    token_bytes : float64[2]                    bytes of a token's vector: dispatch, combine
    exchanged : bool                            False: the experts see all tokens, nothing is dispatched
    """

    row: I32
    resource: I32
    pred_ptr: I32
    pred: I32
    discipline: I32
    row_kind: I32
    n_data: int
    n_classes: int
    n_groups: int
    n_ranks: int
    n_layers: int
    n_experts: int
    expert_group: NDArray[np.int16]
    table_of: I32
    variant: I32
    portion_parts: I32
    n_fetches: int
    work: F64
    moved: F64
    coefficients: F64
    send: F64
    recv: F64
    data_group: I32
    rank_group: I32
    latency_s: F64
    seconds_per_byte: F64
    token_bytes: F64
    exchanged: bool
    order: I32 = field(init=False)  # [L, E] experts of each layer, by group
    order_ptr: I32 = field(init=False)  # [L, G + 1]
    norm_of_ratio: F64 = field(init=False)  # [tables, NORM_STEPS + 1]: norm(1, t) for t = 0 ... 1

    def __post_init__(self) -> None:
        groups = np.arange(self.n_groups + 1)
        order = np.argsort(self.expert_group, axis=1, kind="stable").astype(np.int32)
        held = np.take_along_axis(self.expert_group, order.astype(np.int64), axis=1)
        ptr = [np.searchsorted(layer, groups) for layer in held]
        object.__setattr__(self, "order", order)
        shape = (self.n_layers, self.n_groups + 1)
        ratio = np.linspace(0.0, 1.0, NORM_STEPS + 1)
        norms = [_norm_with_one(ratio, power) for power in self.coefficients[:, POWER]]
        object.__setattr__(self, "norm_of_ratio", np.array(norms).reshape(-1, NORM_STEPS + 1))
        object.__setattr__(self, "order_ptr", np.array(ptr, dtype=np.int32).reshape(shape))

    @property
    def n_static(self) -> int:
        """Rows whose parts are given from outside: data groups x classes."""
        return self.n_data * self.n_classes

    @property
    def expert_row(self) -> int:
        """First row of the experts."""
        return self.n_static

    @property
    def n_portions(self) -> int:
        """Portions of a group's experts, U."""
        return len(self.portion_parts)

    @property
    def n_variants(self) -> int:
        """Ways in which the experts of a layer are stored."""
        return int(self.variant.max(initial=0)) + 1

    @property
    def fetch_row(self) -> int:
        """First row of the fetches."""
        return self.expert_row + self.n_layers * self.n_groups * self.n_portions

    @property
    def dispatch_row(self) -> int:
        """First row of the dispatch."""
        return self.fetch_row + self.n_layers * self.n_groups * self.n_fetches

    @property
    def combine_row(self) -> int:
        """First row of the combine."""
        return self.dispatch_row + self.n_layers * self.n_ranks * self.exchanged

    @property
    def barrier_row(self) -> int:
        """The row of tasks that take no time."""
        return self.combine_row + self.n_layers * self.n_ranks * self.exchanged

    @property
    def n_rows(self) -> int:
        """Rows of the duration table."""
        return self.barrier_row + 1
