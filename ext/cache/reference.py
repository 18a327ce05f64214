"""Plain twins of the cache kernels: dictionaries, lists, one access at a time."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Int16 = npt.NDArray[np.int16]
Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]
UInt8 = npt.NDArray[np.uint8]

POLICIES = ("lru", "lfu", "fifo", "random", "belady", "frequency_distance", "score")
NEVER = 2**31 - 1
MASK = (1 << 64) - 1


def _mix(x: int) -> int:
    x &= MASK
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK
    return x ^ (x >> 31)


def capacities_of(n_layers: int, capacity: int | Int64, policy: str, shared: bool) -> Int64:
    """Check the settings of a cache and return the capacity of each pool, int64."""
    if policy not in POLICIES:
        raise ValueError(f"policy {policy!r}: choose from {', '.join(POLICIES)}")
    sizes = np.atleast_1d(np.asarray(capacity, np.int64))
    pools = 1 if shared else n_layers
    sizes = np.full(pools, sizes[0]) if sizes.size == 1 else sizes
    if sizes.shape != (pools,) or (pools and int(sizes.min()) < 0):
        raise ValueError(f"capacity must be one number or {pools}, not negative")
    return np.ascontiguousarray(sizes)


def worth_of(n_layers: int, n_experts: int, scores: Int64 | None) -> Int64:
    """Return a new int64 array, shape (L x E,): the scores, or 0 before the first use."""
    if scores is None:
        return np.zeros(n_layers * n_experts, np.int64)
    if np.shape(scores) != (n_layers, n_experts):
        raise ValueError(f"scores have shape {np.shape(scores)}, expected {(n_layers, n_experts)}")
    return np.array(scores, np.int64).reshape(-1)


class ExpertCache:
    """A cache of experts, one per layer or one shared by all layers.

    Parameters
    ----------
    n_layers, n_experts : int       L, E
    capacity : int or ints (L,)     experts held per layer; if `shared`, by all layers together
    policy : str                    lru; lfu (ties: the longest unused; counts die with eviction); fifo;
                                    random; belady (needs `next_use`: evicts the farthest);
                                    frequency_distance (all uses so far x how soon its layer comes: the
                                    smallest leaves); score (the smallest of `scores` leaves); ties of these
                                    two: the longest unused
    shared : bool                   one pool for all layers
    seed : int                      of the random policy
    scores : int64 (L, E)           of the score policy: what a predictor or a profile says; None: all equal

    Notes
    -----
    A missed expert is always brought in, unless the capacity is 0.  `hits`, `misses`, `evictions` count per
    layer (evictions: of the layer of the expert that leaves).
    Laws: hits + misses == accesses; a pool never holds more than its capacity; misses - evictions == held.
    """

    def __init__(
        self, n_layers: int, n_experts: int, capacity: int | Int64, *, policy: str = "lru",
        shared: bool = False, seed: int = 0, scores: Int64 | None = None,
    ) -> None:  # fmt: skip
        self.capacities = capacities_of(n_layers, capacity, policy, shared)
        self.n_layers, self.n_experts, self.policy, self.shared = n_layers, n_experts, policy, shared
        self.hits, self.misses, self.evictions = (np.zeros(n_layers, np.int64) for _ in range(3))
        self._pools: list[list[int]] = [[] for _ in self.capacities]  # held nodes, in no order
        self._keys: dict[int, tuple[int, int]] = {}  # the smallest leaves first
        self._clock, self._seed = 0, seed & MASK
        self._worth: list[int] = worth_of(n_layers, n_experts, scores).tolist()  # scores, or uses so far

    def _node(self, layer: int, expert: int) -> int:
        if not 0 <= layer < self.n_layers or not 0 <= expert < self.n_experts:
            raise ValueError(f"layer {layer}, expert {expert}: there are {self.n_layers} x {self.n_experts}")
        return layer * self.n_experts + expert

    def _key(self, node: int, next_use: int) -> tuple[int, int]:
        old = self._keys.get(node)
        if self.policy == "lfu":
            return (old[0] + 1 if old else 1, self._clock)
        if self.policy == "belady":
            return (-min(next_use, NEVER), self._clock)
        return old if old and self.policy in ("fifo", "random") else (self._clock, 0)

    def _value(self, node: int, layer: int) -> tuple[int, int]:
        """Return what keeping a node is worth while `layer` computes; ties go by the last use."""
        if self.policy == "score":
            return self._worth[node], self._keys[node][0]
        ahead = (node // self.n_experts - layer - 1) % self.n_layers  # layers that come before its own
        return self._worth[node] * (self.n_layers - ahead), self._keys[node][0]

    def _victim(self, pool: list[int], layer: int) -> int:
        if self.policy in ("frequency_distance", "score"):
            return min(range(len(pool)), key=lambda i: self._value(pool[i], layer))
        if self.policy == "random":
            return (_mix(self._seed + 0x9E3779B97F4A7C15 * self._clock) >> 32) * len(pool) >> 32
        return min(range(len(pool)), key=lambda i: self._keys[pool[i]])

    def _touch(self, layer: int, node: int, next_use: int, now: int) -> tuple[bool, int]:
        self._clock += 1
        if self.policy == "frequency_distance":
            self._worth[node] += 1
        pool = self._pools[0 if self.shared else layer]
        capacity = int(self.capacities[0 if self.shared else layer])
        hit, left = node in self._keys, -1
        if hit or capacity == 0:
            if hit:
                self._keys[node] = self._key(node, next_use)
            return hit, left
        if len(pool) < capacity:
            pool.append(node)
        else:
            place = self._victim(pool, now)
            left = pool[place]
            pool[place] = node
            del self._keys[left]
        self._keys[node] = self._key(node, next_use)
        return hit, left

    def access_many(
        self, layers: Int64, experts: Int64, next_use: Int64 | None = None
    ) -> tuple[npt.NDArray[np.bool_], Int64]:
        """Use some experts in order.

        Parameters
        ----------
        layers, experts : int64, shape (N,)
        next_use : int64, shape (N,)     when each will be used again (belady; larger is later)

        Returns
        -------
        hit : bool, shape (N,);  left : int64, shape (N,)    ``layer * E + expert`` that left for it, or -1
        """
        if len(layers) != len(experts) or (next_use is not None and len(next_use) != len(layers)):
            raise ValueError("layers, experts and next_use differ in length")
        nodes = [self._node(int(a), int(e)) for a, e in zip(layers, experts, strict=True)]
        uses = [NEVER] * len(nodes) if next_use is None else next_use.tolist()
        hit, left = np.zeros(len(nodes), np.bool_), np.full(len(nodes), -1, np.int64)
        for i, node in enumerate(nodes):
            layer = int(layers[i])
            hit[i], left[i] = self._touch(layer, node, uses[i], layer)
            self._count(layer, bool(hit[i]), int(left[i]))
        return hit, left

    def _count(self, layer: int, hit: bool, left: int) -> None:
        self.hits[layer] += hit
        self.misses[layer] += not hit
        if left >= 0:
            self.evictions[left // self.n_experts] += 1

    def access(self, layer: int, experts: Int64) -> tuple[int, Int64, Int64]:
        """Use experts of one layer: hits (count), missed experts, what left (``layer * E + expert``)."""
        ids = np.asarray(experts, np.int64)
        hit, left = self.access_many(np.full(len(ids), layer, np.int64), ids)
        return int(hit.sum()), ids[~hit], left[left >= 0]

    def access_tokens(self, ids: Int16, next_use: Int32 | None = None) -> None:
        """Use all experts of a block of tokens, token by token and layer by layer; int16, shape (T, L, k)."""
        tokens, n_layers, k = ids.shape
        if n_layers != self.n_layers or (next_use is not None and next_use.shape != ids.shape):
            raise ValueError("ids or next_use have the wrong shape")
        layers = np.tile(np.repeat(np.arange(n_layers), k), tokens)
        used = ids.reshape(-1) >= 0
        uses = None if next_use is None else next_use.reshape(-1)[used].astype(np.int64)
        self.access_many(layers[used], ids.reshape(-1)[used].astype(np.int64), uses)

    def contains(self, layer: int, experts: Int64) -> npt.NDArray[np.bool_]:
        """Return which experts of a layer are held, without using them."""
        nodes = [self._node(layer, int(e)) for e in experts]
        return np.array([node in self._keys for node in nodes], np.bool_)

    def resident(self, layer: int) -> Int64:
        """Return the experts of a layer that are held, in ascending order."""
        first = layer * self.n_experts
        held = sorted(n - first for n in self._keys if first <= n < first + self.n_experts)
        return np.array(held, np.int64)

    def load(self, layer: int, experts: Int64) -> Int64:
        """Bring experts in before their layer, without counting a use; return what left for them."""
        if self.policy == "frequency_distance":
            for e in experts:
                self._worth[self._node(layer, int(e))] -= 1
        left = [self._touch(layer, self._node(layer, int(e)), NEVER, layer - 1)[1] for e in experts]
        gone = np.array([n for n in left if n >= 0], np.int64)
        for node in gone:
            self.evictions[node // self.n_experts] += 1
        return gone

    def drop(self, layer: int, experts: Int64) -> None:
        """Take experts out, if held."""
        for e in experts:
            node = self._node(layer, int(e))
            if node in self._keys:
                pool = self._pools[0 if self.shared else layer]
                place, last = pool.index(node), pool.pop()
                if last != node:
                    pool[place] = last
                del self._keys[node]


def lru_depths(ids: Int16, stacks: npt.NDArray[np.integer], seen: Int32, histogram: Int64) -> None:
    """Count LRU stack distances of a block, and keep the stacks for the next.

    Parameters
    ----------
    ids : int16, shape (T, L, k)          -1 where unused
    stacks : uint8 or int16, shape (L, E)    experts, last used first; those never used behind; overwritten
    seen : int32, shape (L,)              how many were used so far; overwritten
    histogram : int64, shape (L, E + 1)   added to; column E: first uses
    """
    n_experts = stacks.shape[1]
    for token in ids.tolist():
        for layer, row in enumerate(token):
            stack = stacks[layer].tolist()
            for e in row:
                if e == -1:
                    continue
                if not 0 <= e < n_experts:
                    raise ValueError(f"expert {e} is not one of {n_experts}")
                depth = stack.index(e)
                if depth >= seen[layer]:
                    seen[layer] += 1
                    histogram[layer, n_experts] += 1
                else:
                    histogram[layer, depth] += 1
                stack.insert(0, stack.pop(depth))
            stacks[layer] = stack


def next_uses(ids: Int16, n_experts: int) -> Int32:
    """Return when each expert is used next in its layer: token * k + slot, or `NEVER`; int32, (T, L, k)."""
    tokens, n_layers, k = ids.shape
    if ids.size and int(ids.max()) >= n_experts:
        raise ValueError(f"expert {int(ids.max())} is not one of {n_experts}")
    out = np.full(ids.shape, NEVER, np.int32)
    for layer in range(n_layers):
        later: dict[int, int] = {}
        for t in range(tokens - 1, -1, -1):
            for j in range(k - 1, -1, -1):
                e = int(ids[t, layer, j])
                if e >= 0:
                    out[t, layer, j] = later.get(e, NEVER)
                    later[e] = t * k + j
    return out
