"""Plain twins of the routing kernels: one token, one layer, one slot at a time.

Random numbers are hashes of counters.  With ``mix`` the finaliser of splitmix64 (Steele, Lea, Flood:
"Fast splittable pseudorandom number generators", 2014), a token has the key
``mix(mix(key + REQUEST * (request + 1)) + GOLDEN * (position + 1))``, and the j-th draw of layer l is
``mix(token_key + GOLDEN * (l * 4096 + j + 1))``: a pure function of (key, request, position, layer, j).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from itertools import accumulate

import numpy as np
import numpy.typing as npt

Draw = Callable[[], int]
Int16 = npt.NDArray[np.int16]
Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]
UInt32 = npt.NDArray[np.uint32]
Float64 = npt.NDArray[np.float64]

MASK = (1 << 64) - 1
GOLDEN = 0x9E3779B97F4A7C15
REQUEST = 0xD1B54A32D192ED03
TRIES = 64  # rejections per slot before the exact scan over what is left


def mix(x: int) -> int:
    """Scramble 64 bits: the finaliser of splitmix64, a bijection."""
    x &= MASK
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK
    return x ^ (x >> 31)


def token_key(key: int, request: int, position: int) -> int:
    """Return the key of one token of one request."""
    return mix(mix(key + REQUEST * (request + 1)) + GOLDEN * (position + 1))


def layer_draw(token: int, layer: int, j: int) -> int:
    """Return the j-th 64-bit draw of a token in a layer."""
    return mix(token + GOLDEN * (layer * 4096 + j + 1))


def alias_pick(bits: int, thresholds: UInt32, aliases: Int32) -> int:
    """Pick a column by its high 32 bits, then the column or its alias by the low 32 bits."""
    column = ((bits >> 32) * len(thresholds)) >> 32
    return column if (bits & 0xFFFFFFFF) < int(thresholds[column]) else int(aliases[column])


def draw_joint(
    requests: Int64,
    starts: Int64,
    lengths: Int64,
    key: int,
    thresholds: UInt32,
    aliases: Int32,
    tuples: Int16,
    out: Int16,
) -> None:
    """Draw all k slots of a token and layer at once from an alias table over ordered tuples.

    Parameters
    ----------
    requests, starts, lengths : int64, shape (S,)   spans of positions
    thresholds, aliases : uint32, int32, shape (L, M)   one alias table per layer
    tuples : int16, shape (M, k)                    what the columns stand for
    out : int16, shape (T, L, k)                    written; T = lengths.sum()
    """
    row = 0
    for request, start, length in zip(requests.tolist(), starts.tolist(), lengths.tolist(), strict=True):
        for position in range(start, start + length):
            token = token_key(key, request, position)
            for layer in range(out.shape[1]):
                bits = layer_draw(token, layer, 0)
                out[row, layer] = tuples[alias_pick(bits, thresholds[layer], aliases[layer])]
            row += 1


def group_pick(
    bits: int, edges: list[float], chosen: list[int], thresholds: UInt32, aliases: Int32, size: int
) -> int:
    """Pick a chosen group by its share (24 bits), a column inside it (20 bits), it or its alias (20 bits)."""
    target = (bits >> 40) * 2.0**-24 * edges[-1]
    group = chosen[sum(target >= edge for edge in edges[:-1])]
    column = group * size + ((((bits >> 20) & 0xFFFFF) * size) >> 20)
    return column if ((bits & 0xFFFFF) << 12) < int(thresholds[column]) else int(aliases[column])


def _scan(bits: int, weights: list[float], free: list[bool]) -> int:
    total = 0.0
    for e, weight in enumerate(weights):
        if free[e]:
            total += weight
    target = (bits >> 11) * 2.0**-53 * total
    last, running = -1, 0.0
    for e, weight in enumerate(weights):
        if free[e] and weight > 0.0:
            last, running = e, running + weight
            if running > target:
                break
    return last


def _distinct(draw: Draw, n: int, pick: Callable[[int], int], weights: list[float]) -> list[int]:
    """Pick n different columns in turn; after `TRIES` rejections, by an exact scan over what is free."""
    free, picked = [True] * len(weights), []
    for _ in range(n):
        choice = next((c for c in (pick(draw()) for _ in range(TRIES)) if free[c]), -1)
        if choice < 0:
            choice = _scan(draw(), weights, free)
        free[choice] = False
        picked.append(choice)
    return picked


def _draws(token: int, layer: int) -> Draw:
    numbers = (layer_draw(token, layer, j) for j in range(1 << 20))
    return lambda: next(numbers)


def _tokens(requests: Int64, starts: Int64, lengths: Int64, key: int) -> Iterator[int]:
    for request, start, length in zip(requests.tolist(), starts.tolist(), lengths.tolist(), strict=True):
        for position in range(start, start + length):
            yield token_key(key, request, position)


def draw_sequential(
    requests: Int64,
    starts: Int64,
    lengths: Int64,
    key: int,
    thresholds: UInt32,
    aliases: Int32,
    weights: Float64,
    out: Int16,
) -> None:
    """Draw k different experts in turn by alias table and rejection.

    Parameters
    ----------
    thresholds, aliases, weights : shape (L, E)       expert popularity per layer
    out : int16, shape (T, L, k)                      written

    Notes
    -----
    Law: slot j is expert e with probability w_e / (sum of w not yet taken): Plackett-Luce.
    """
    for row, token in enumerate(_tokens(requests, starts, lengths, key)):
        for layer, w in enumerate(weights.tolist()):
            pick = partial(_alias, thresholds[layer], aliases[layer])
            out[row, layer] = _distinct(_draws(token, layer), out.shape[2], pick, w)


def _alias(thresholds: UInt32, aliases: Int32, bits: int) -> int:
    return alias_pick(bits, thresholds, aliases)


def draw_grouped(
    requests: Int64,
    starts: Int64,
    lengths: Int64,
    key: int,
    thresholds: UInt32,
    aliases: Int32,
    weights: Float64,
    group_thresholds: UInt32,
    group_aliases: Int32,
    group_weights: Float64,
    topk_group: int,
    out: Int16,
) -> None:
    """Draw `topk_group` groups, then k different experts of theirs, in turn and without replacement.

    Parameters
    ----------
    thresholds, aliases, weights : shape (L, E)       alias tables inside each group of E / G experts
    group_thresholds, ... : shape (L, G)              popularity of the groups
    out : int16, shape (T, L, k)                      written
    """
    n_layers, n_experts = weights.shape
    size = n_experts // group_weights.shape[1]
    for row, token in enumerate(_tokens(requests, starts, lengths, key)):
        for layer in range(n_layers):
            draw, shares = _draws(token, layer), group_weights[layer].tolist()
            pick_group = partial(_alias, group_thresholds[layer], group_aliases[layer])
            chosen = _distinct(draw, topk_group, pick_group, shares)
            edges = list(accumulate(shares[g] for g in chosen))
            left = [float(w) if e // size in chosen else 0.0 for e, w in enumerate(weights[layer])]

            def pick(
                bits: int, layer: int = layer, edges: list[float] = edges, chosen: list[int] = chosen
            ) -> int:
                return group_pick(bits, edges, chosen, thresholds[layer], aliases[layer], size)

            out[row, layer] = _distinct(draw, out.shape[2], pick, left)


def counts(ids: Int16, n_experts: int, out: Int32 | None = None) -> Int32:
    """Count the tokens that each expert of each layer receives.

    Parameters
    ----------
    ids : int16, shape (T, L, k)     expert of each slot; -1 where unused
    n_experts : int                  E
    out : int32, shape (L, E)        overwritten, if given

    Returns
    -------
    int32, shape (L, E)

    Notes
    -----
    Law: result.sum() == (ids >= 0).sum().  Ids must be below E.
    """
    n_layers = ids.shape[1]
    result = np.zeros((n_layers, n_experts), np.int32) if out is None else out
    for layer in range(n_layers):
        used = ids[:, layer][ids[:, layer] >= 0]
        result[layer] = np.bincount(used, minlength=n_experts)
    return result
