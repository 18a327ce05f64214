"""Plain twin of the copying draws: slots that repeat the token before, follow the layer before, or are new.

Slot j of token t in layer l takes 16 bits of a hash of (request, position, layer).  Below ``edges[.., 0]`` it
keeps the expert that slot j had at the token before; below ``edges[.., 1]`` it follows slot j of the layer
before through ``maps[l]``, a bijection of experts; else it is drawn anew.  An expert that another slot of the
token already has, or that lies outside the groups a token may meet, is drawn anew too.  All randomness is a
hash of counters as in `reference`; every `SEGMENT` tokens a request starts anew, so that any position can be
recreated in bounded time.
"""

from __future__ import annotations

from itertools import accumulate

from ext.routing.reference import (
    TRIES,
    Draw,
    Float64,
    Int16,
    Int32,
    Int64,
    UInt32,
    _scan,
    alias_pick,
    group_pick,
    layer_draw,
    token_key,
)

SEGMENT = 1024
FRESH = 64  # the first counter of new draws; those before decide what each slot does


class Layer:
    """The tables of one layer: popularity, alias tables inside groups and over groups, the map."""

    def __init__(
        self,
        thresholds: UInt32,
        aliases: Int32,
        weights: Float64,
        group_tables: tuple[UInt32, Int32, Float64],
    ) -> None:
        self.thresholds, self.aliases, self.weights = thresholds, aliases, weights.tolist()
        self.group_thresholds, self.group_aliases = group_tables[:2]
        self.group_weights = group_tables[2].tolist()
        self.size = len(self.weights) // len(self.group_weights)


def _decisions(token: int, layer: int, k: int) -> list[int]:
    return [(layer_draw(token, layer, j // 4) >> (16 * (j % 4))) & 0xFFFF for j in range(k)]


def _fill_groups(draw: Draw, layer: Layer, chosen: list[int], n: int) -> None:
    if len(layer.group_weights) == 1:
        chosen[:] = [0]
    while len(chosen) < n:
        picks = (alias_pick(draw(), layer.group_thresholds, layer.group_aliases) for _ in range(TRIES))
        group = next((g for g in picks if g not in chosen), -1)
        if group < 0:
            group = _scan(
                draw(), layer.group_weights, [g not in chosen for g in range(len(layer.group_weights))]
            )
        chosen.append(group)


def _new(draw: Draw, layer: Layer, chosen: list[int], taken: set[int]) -> int:
    single = len(layer.group_weights) == 1
    edges = list(accumulate(layer.group_weights[g] for g in chosen))
    for _ in range(TRIES):
        bits = draw()
        pick = (
            alias_pick(bits, layer.thresholds, layer.aliases)
            if single
            else group_pick(bits, edges, chosen, layer.thresholds, layer.aliases, layer.size)
        )
        if pick not in taken:
            return pick
    free = [e not in taken and e // layer.size in chosen for e in range(len(layer.weights))]
    return _scan(draw(), layer.weights, free)


def step(
    token: int,
    index: int,
    layer: Layer,
    edges: tuple[int, int],
    route: Int16,
    above: Int16,
    old: Int16,
    topk_group: int,
) -> None:
    """Overwrite `old` (the experts of the token before in this layer) with those of this token."""
    k = len(old)
    decided = _decisions(token, index, k)
    numbers = (layer_draw(token, index, j) for j in range(FRESH, 1 << 20))
    before, taken, chosen, open_slots = old.tolist(), set(), list[int](), []
    for j in range(k):
        if decided[j] < edges[0]:
            taken.add(before[j])
            if before[j] // layer.size not in chosen:
                chosen.append(before[j] // layer.size)
    for j in range(k):
        if decided[j] < edges[0]:
            continue
        if decided[j] < edges[1]:
            pick = int(route[above[j]])
            group = pick // layer.size
            if pick not in taken and (group in chosen or len(chosen) < topk_group):
                old[j] = pick
                taken.add(pick)
                chosen += [] if group in chosen else [group]
                continue
        open_slots.append(j)
    if open_slots:
        _fill_groups(lambda: next(numbers), layer, chosen, topk_group)
    for j in open_slots:
        old[j] = _new(lambda: next(numbers), layer, chosen, taken)
        taken.add(int(old[j]))


def draw(
    requests: Int64,
    starts: Int64,
    lengths: Int64,
    slots: Int64,
    key: int,
    edges: Int32,
    maps: Int16,
    thresholds: UInt32,
    aliases: Int32,
    weights: Float64,
    group_thresholds: UInt32,
    group_aliases: Int32,
    group_weights: Float64,
    topk_group: int,
    previous: Int16,
    positions: Int64,
    out: Int16,
) -> None:
    """Draw the experts of some spans and leave each request's last token in `previous`.

    Parameters
    ----------
    requests, starts, lengths, slots : int64, shape (S,)   spans, and where each request's state is
    edges : int32, shape (2, L, 2)        of 65536: keep below .., 0, follow below .., 1; [0]: first tokens
    maps : int16, shape (L, E)            expert of the layer before -> expert that follows it
    thresholds, aliases, weights : shape (L, E)        popularity; alias tables inside each group
    group_thresholds, ... : shape (L, G)               popularity of the groups
    previous : int16, shape (N, L, k)     the last token of each slot; overwritten
    positions : int64, shape (N,)         position up to which a slot has gone (0: not at all); overwritten
    out : int16, shape (T, L, k)          written
    """
    layers = [
        Layer(
            thresholds[i], aliases[i], weights[i], (group_thresholds[i], group_aliases[i], group_weights[i])
        )
        for i in range(out.shape[1])
    ]
    row = 0
    for i in range(len(requests)):
        first, last, slot = int(starts[i]), int(starts[i] + lengths[i]), int(slots[i])
        if first == last:
            continue
        begin = first - first % SEGMENT
        if begin < positions[slot] <= first:
            begin = int(positions[slot])
        now = previous[slot]
        for position in range(begin, last):
            token, kind = token_key(key, int(requests[i]), position), int(position % SEGMENT > 0)
            for index, layer in enumerate(layers):
                pair = (int(edges[kind, index, 0]), int(edges[kind, index, 1]))
                step(token, index, layer, pair, maps[index], now[max(index - 1, 0)], now[index], topk_group)
            if position >= first:
                out[row + position - first] = now
        positions[slot] = last
        row += last - first
