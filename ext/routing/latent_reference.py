"""Plain twin of the latent-logit generator: one token and layer at a time, experts as NumPy rows.

The logit of expert e for token t of a request in a layer is

    base[e] + slow[t, e] + fast[t, e] + Gumbel[t, e] + sum over slots j before: w[j] coupling[p_j, e]

with two AR(1) processes over the request's positions, ``x[t] = rho x[t-1] + c u[t]``; the k highest logits
win (inside the best groups, if limited to groups).  All noise is a 32-bit hash of (request, position, layer,
expert): 10 bits drive `slow`, 10 bits `fast` (uniform innovations; their sum is nearly normal), 12 bits the
Gumbel table.  At every `SEGMENT`-th position both processes start anew from their stationary law, so that any
position can be recreated in bounded time.  Logits are compared as integers of ``1 / scale``; ties go to
the lower expert.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ext.routing.reference import GOLDEN, MASK, REQUEST, mix

SEGMENT = 4096
Int16 = npt.NDArray[np.int16]
Int64 = npt.NDArray[np.int64]
Float32 = npt.NDArray[np.float32]
UInt32 = npt.NDArray[np.uint32]


def noise_bits(n: int, a: int, b: int) -> UInt32:
    """Return 32 random bits for each of n experts from the two halves of a token's key."""
    h = np.arange(n, dtype=np.uint32) * np.uint32(0x9E3779B1) + np.uint32(a)
    h = (h ^ (h >> np.uint32(16))) * np.uint32(0x85EBCA6B) ^ np.uint32(b)
    h = (h ^ (h >> np.uint32(13))) * np.uint32(0xC2B2AE35)
    return h ^ (h >> np.uint32(16))


def layer_key(span: int, position: int, layer: int) -> int:
    """Return the key of one token in one layer."""
    return mix(mix(span + GOLDEN * (position + 1)) + GOLDEN * (layer * 4096 + 1))


def _field(h: UInt32, low: int) -> npt.NDArray[np.int32]:
    return ((h >> np.uint32(low)) & np.uint32(1023)).astype(np.int32)


def advance(key: int, law: Float32, slow: Float32, fast: Float32) -> None:
    """Move both processes on by one token, in place."""
    h = noise_bits(len(slow), key & 0xFFFFFFFF, key >> 32)
    slow[:] = law[0] * slow + law[1] * (2 * _field(h, 0) - 1023).astype(np.float32)
    fast[:] = law[2] * fast + law[3] * (2 * _field(h, 10) - 1023).astype(np.float32)


def start(key: int, law: Float32, slow: Float32, fast: Float32) -> None:
    """Draw both processes from their stationary law (sum of three uniforms), in place."""
    a, b = key & 0xFFFFFFFF, key >> 32
    for state, deviation, h in (
        (slow, law[4], noise_bits(len(slow), a, b)),
        (fast, law[5], noise_bits(len(slow), b, ~a & 0xFFFFFFFF)),
    ):
        total = 2 * (_field(h, 0) + _field(h, 10) + _field(h, 20)) - 3069
        state[:] = deviation * total.astype(np.float32)


def choose(values: Int64, k: int, n_group: int, topk_group: int, members: int) -> Int64:
    """Return the k experts of highest value, best first; with groups, inside the best `topk_group`.

    A group's score is the sum of its best `members` values (2: DeepSeek-V3; 1: DeepSeek-V2).
    """
    n = len(values)
    if n_group > 1:
        inside = -np.sort(-values.reshape(n_group, -1), axis=1)
        score = inside[:, : min(members, n // n_group)].sum(axis=1)
        allowed = np.argsort(-score, kind="stable")[:topk_group]
        barred = ~np.isin(np.arange(n) // (n // n_group), allowed)
        values = np.where(barred, np.iinfo(np.int64).min + 1, values)
    return np.argsort(-values, kind="stable")[:k]


def draw(
    requests: Int64,
    starts: Int64,
    lengths: Int64,
    slots: Int64,
    key: int,
    law: Float32,
    gumbel: Float32,
    coupling: Float32,
    weights: Float32,
    states: Float32,
    positions: Int64,
    scale: float,
    shift: int,
    n_group: int,
    topk_group: int,
    members: int,
    out: Int16,
) -> None:
    """Draw the experts of some spans and leave each request's state after its last token.

    Parameters
    ----------
    requests, starts, lengths, slots : int64, shape (S,)   spans, and where each request's state is
    law : float32, shape (L, 6)        rho and step of slow and fast; starting deviation of slow and fast
    gumbel : float32, shape (4096,)    Gumbel quantiles at the middles of 4096 equal shares
    coupling : float32, shape (L, E, E) or (0, E, E)   pull of an expert of the layer before (row 0 unused)
    weights : float32, shape (L, k)    of each slot of the layer before in the pull
    states : float32, shape (N, 3, L, E)   base, slow, fast of each slot; slow and fast are overwritten
    positions : int64, shape (N,)      position up to which a slot's state has gone (0: not at all)
    scale, shift : float, int          resolution of the comparison; bits of an expert's number
    out : int16, shape (T, L, k)       written
    """
    row, n = 0, states.shape[3]
    for i in range(len(requests)):
        span, slot = mix(key + REQUEST * (int(requests[i]) + 1) & MASK), int(slots[i])
        first, last = int(starts[i]), int(starts[i] + lengths[i])
        if first == last:
            continue
        begin = first - first % SEGMENT
        if begin < positions[slot] <= first:
            begin = int(positions[slot])
        for layer in range(out.shape[1]):
            base, slow, fast = states[slot, :, layer]
            for position in range(begin, last):
                token = layer_key(span, position, layer)
                (start if position % SEGMENT == 0 else advance)(token, law[layer], slow, fast)
                if position < first:
                    continue
                bits = noise_bits(n, token & 0xFFFFFFFF, token >> 32)
                x = base + slow + fast + gumbel[bits >> np.uint32(20)]
                if layer and len(coupling):
                    pull = np.zeros(n, np.float32)
                    for j, p in enumerate(out[row + position - first, layer - 1]):
                        pull = pull + weights[layer, j] * coupling[layer, p]
                    x = x + pull
                values = (np.clip(x, -120, 120) * np.float32(scale)).astype(np.int64)
                chosen = choose(values, out.shape[2], n_group, topk_group, members)
                out[row + position - first, layer] = chosen
        positions[slot] = last
        row += last - first
