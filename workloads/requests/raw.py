"""What a reader of traces found, before it becomes `Requests`."""

from __future__ import annotations

from dataclasses import dataclass, field

from workloads.requests.spec import FloatArray, Int32Array, IntArray


@dataclass
class RawTrace:
    """What a reader found, row by row, before failures are dropped."""

    prompt_tokens: IntArray
    output_tokens: IntArray
    time_s: FloatArray | None = None  # None: the file has lengths alone
    labels: dict[str, tuple[Int32Array, tuple[str, ...]]] = field(default_factory=dict)
    prefix_ptr: IntArray | None = None
    prefix_ids: IntArray | None = None
    block_tokens: int = 0
    keep_origin: bool = False  # times already count from the start that the file means
