"""An engine's own all-reduce kernels: peers read each other's memory over the link, in one step or in two.

Serving engines replace the communication library's all-reduce, whose fixed time is a large part of a decode
step over many devices, by kernels of their own (vLLM and SGLang: custom all-reduce; TensorRT-LLM: one-shot
and two-shot).  In one step each rank reads the whole buffer of every other; in two, each rank reduces its
part and then reads the others' parts.
"""

from __future__ import annotations

from collections.abc import Mapping

from hwmodels.costs import PARTS, Cost
from hwmodels.spec import Link

LARGEST_BYTES = (
    8 * 2**20
)  # above it engines call the library (vLLM and SGLang: max_size of custom all-reduce)
_SYNCHRONISATIONS = {"one step": 1.0, "two steps": 2.0}


def all_reduce(n_bytes: float, ranks: int, link: Link, latency_s: float, speed: Mapping[str, float]) -> Cost:
    """Cost an all-reduce of `n_bytes` on each of `ranks` devices by the faster of both ways.

    Parameters
    ----------
    latency_s : float    seconds of one step without data: launch, and waiting for all ranks
    speed : mapping      what-if factors on PARTS

    Notes
    -----
    ``min(latency + (r - 1) n / rate, 2 latency + 2 (r - 1) / r n / rate)``; nothing for one rank.
    """
    if ranks <= 1 or n_bytes <= 0:
        return Cost((0.0,) * len(PARTS))
    sent = {"one step": (ranks - 1.0) * n_bytes, "two steps": 2.0 * (ranks - 1.0) / ranks * n_bytes}
    rate = link.bandwidth * link.efficiency * speed.get("link_bandwidth", 1.0)
    step_s = latency_s / speed.get("link_latency", 1.0)
    way = min(sent, key=lambda name: sent[name] / rate + _SYNCHRONISATIONS[name] * step_s)
    parts = [0.0] * len(PARTS)
    parts[PARTS.index("link_bandwidth")] = sent[way] / rate
    parts[PARTS.index("link_latency")] = _SYNCHRONISATIONS[way] * step_s
    return Cost(tuple(parts), bytes_by_tier=(("link", sent[way]),))
