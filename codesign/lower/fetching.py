"""The expert caches of an engine: what each iteration finds there, foretells and fetches.

Program order of one device: at each MoE layer its missed experts are fetched (in chunks), then what is
foretold of the layer `lead` further on.  A foretold expert lands in its layer's slots, and may push another
out; what lands there in vain stays until it is pushed out itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from codesign.base.errors import ConfigError
from codesign.lower.foresight import Foresight, profile_ids, usage
from codesign.lower.residency import stage_layers
from codesign.policies.expert_cache import ExpertCache
from ext.cache import expert_cache

if TYPE_CHECKING:
    from codesign.experiment import Experiment

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
Access = tuple[Ints, Ints]  # layers, experts


@dataclass
class Tally:
    """What the caches of an engine did.

    Laws: ``uses == hits + foretold + corrections``; what was fetched is ``foretold + corrections + wasted``.
    """

    hits: int = 0  # held when their layer came, and not only just foretold
    foretold: int = 0  # fetched because they were foretold, and used
    corrections: int = 0  # fetched when their layer needed them
    wasted: int = 0  # fetched because they were foretold, and not used in that layer


@dataclass(frozen=True)
class Fetches:
    """Of one device and iteration: experts to fetch, as (layers, experts) in program order."""

    early: Access  # foretold and used
    wasted: Access
    late: Access


def _none() -> Access:
    return np.zeros(0, np.int64), np.zeros(0, np.int64)


class DeviceCache:
    """The cache of one expert group, without a predictor: whatever is used and not held is fetched."""

    def __init__(self, kernel: Any) -> None:
        self.kernel = kernel

    def step(self, layers: Ints, experts: Ints, foretold: Ints | None) -> Fetches:
        """Use an iteration's active experts, layer by layer."""
        hit, _ = self.kernel.access_many(layers, experts)
        return Fetches(_none(), _none(), (layers[~hit], experts[~hit]))


class Rehearsed(DeviceCache):
    """Belady's cache: it knows the uses to come from a rehearsal of the run."""

    def __init__(self, kernel: Any, future: list[Access], n_experts: int) -> None:
        super().__init__(kernel)
        self.future, self.at, self.number = future, 0, 0
        layers = np.concatenate([layers for layers, _ in future] or [np.zeros(0, np.int64)])
        experts = np.concatenate([experts for _, experts in future] or [np.zeros(0, np.int64)])
        self.next_use = next_positions(layers * n_experts + experts)

    def step(self, layers: Ints, experts: Ints, foretold: Ints | None) -> Fetches:
        """See `DeviceCache.step`; the iteration must be the rehearsed one."""
        known = self.future[self.number] if self.number < len(self.future) else _none()
        if not (np.array_equal(known[0], layers) and np.array_equal(known[1], experts)):
            raise ConfigError(
                "policies.expert_cache.name = 'belady': the future of this workload depends on time, and is"
                " not known: use a batch of requests, or a fixed concurrency on one engine"
            )
        uses = self.next_use[self.at : self.at + len(layers)]
        self.at, self.number = self.at + len(layers), self.number + 1
        hit, _ = self.kernel.access_many(layers, experts, uses)
        return Fetches(_none(), _none(), (layers[~hit], experts[~hit]))


def next_positions(nodes: Ints) -> Ints:
    """Return where each node occurs next in a sequence, ``2**31 - 1`` if it does not; int64, shape (N,)."""
    order = np.argsort(nodes, kind="stable")
    follows = np.full(len(nodes), 2**31 - 1, np.int64)
    same = nodes[order[1:]] == nodes[order[:-1]]
    follows[order[:-1][same]] = order[1:][same]
    return follows


class Held:
    """A kernel of fixed content: what is held stays, everything else passes through."""

    def __init__(self, held: Bools) -> None:
        self.held = held

    def access_many(self, layers: Ints, experts: Ints) -> tuple[Bools, Ints]:
        """Tell which experts are held; nothing leaves."""
        return self.held[layers, experts], np.full(len(layers), -1, np.int64)

    def contains(self, layer: int, experts: Ints) -> Bools:
        """Tell which experts of a layer are held."""
        return np.asarray(self.held[layer, experts])

    def load(self, layer: int, experts: Ints) -> Ints:
        """Bring nothing in."""
        return np.zeros(0, np.int64)


class Foreseeing(DeviceCache):
    """A cache that fetches what is foretold, `lead` layers before its use.

    Parameters
    ----------
    own : int64, shape (L, E / G)        experts of the device's group, by layer
    reachable : bool, shape (L,)         layers that a prediction can reach
    slots, buffers : int                 where a layer's foretold experts can land; `most` of them at most
    """

    def __init__(
        self, kernel: Any, own: Ints, reachable: Bools, *, lead: int, slots: int, buffers: int,
        most: int | None,
    ) -> None:  # fmt: skip
        super().__init__(kernel)
        self.own, self.reachable, self.lead = own, reachable, lead
        self.slots, self.buffers, self.most = slots, buffers, most

    def step(self, layers: Ints, experts: Ints, foretold: Ints | None) -> Fetches:
        """See `DeviceCache.step`; `foretold` counts tokens, int64, shape (L, E)."""
        if foretold is None:
            return super().step(layers, experts, foretold)
        n_layers = len(self.own)
        ends = np.searchsorted(layers, np.arange(n_layers + 1))
        landed: list[Ints] = []
        early: list[Bools] = []
        held: list[Bools] = []
        for m in range(-self.lead, n_layers):
            if m >= 0:
                used = experts[ends[m] : ends[m + 1]]
                early.append(np.isin(used, landed[m]))
                held.append(self.kernel.contains(m, used) & ~early[m])
                self.kernel.access_many(np.full(len(used), m, np.int64), used)
            if m + self.lead < n_layers:
                landed.append(self._fetch(m + self.lead, foretold[m + self.lead]))
        return self._sorted(layers, experts, landed, np.concatenate(early), np.concatenate(held))

    def _fetch(self, layer: int, tokens: Ints) -> Ints:
        """Begin to fetch a layer's foretold experts that are not held; return them."""
        own = self.own[layer]
        named = own[np.argsort(-tokens[own], kind="stable")]
        named = named[tokens[named] > 0]
        if not self.reachable[layer] or not len(named):
            return np.zeros(0, np.int64)
        here = self.kernel.contains(layer, named)
        room = max(0, self.slots - int(here.sum())) + max(1, self.buffers // self.lead)
        new = named[~here][: room if self.most is None else min(room, self.most)]
        kept = np.concatenate((named[here], new))[: self.slots]
        self.kernel.load(layer, kept)  # those that are here count as used again: they are needed soon
        return np.asarray(new)

    def _sorted(self, layers: Ints, experts: Ints, landed: list[Ints], early: Bools, held: Bools) -> Fetches:
        size = int(max((int(row.max()) for row in self.own), default=0)) + 1
        at = np.repeat(np.arange(len(landed)), [len(new) for new in landed])
        all_new = np.concatenate(landed) if landed else np.zeros(0, np.int64)
        vain = ~np.isin(at * size + all_new, layers * size + experts)
        late = ~early & ~held
        return Fetches(
            (layers[early], experts[early]), (at[vain], all_new[vain]), (layers[late], experts[late])
        )


class Ringing(DeviceCache):
    """A ring of layers: all experts of a layer are brought, but the first `slots`, which stay."""

    def __init__(self, own: Ints, slots: int, reachable: Bools) -> None:
        self.own, self.slots, self.reachable = own, slots, reachable

    def step(self, layers: Ints, experts: Ints, foretold: Ints | None) -> Fetches:
        """See `DeviceCache.step`; what is used does not matter, and nothing counts as wasted."""
        moved = self.own[:, self.slots :]
        at = np.repeat(np.arange(len(moved)), moved.shape[1])
        early = self.reachable[at]
        flat = moved.ravel()
        return Fetches((at[early], flat[early]), _none(), (at[~early], flat[~early]))


def build_caches(
    experiment: Experiment,
    cache: ExpertCache,
    order: Ints,
    pipeline: int,
    rehearsal: list[list[Access]],
) -> list[DeviceCache]:
    """Build the cache of each expert group; `order` holds its experts, shape (L, G, E / G).

    Parameters
    ----------
    rehearsal : list    of each group, the accesses of each iteration (belady)
    """
    n_groups, n_experts = order.shape[1], order.shape[1] * order.shape[2]
    own = [np.ascontiguousarray(order[:, g]) for g in range(n_groups)]
    reach = reachable(experiment, cache, pipeline)
    if cache.policy == "ring":
        return [Ringing(experts, cache.slots, reach) for experts in own]
    built: list[DeviceCache] = []
    for g in range(n_groups):
        kernel = _kernel(experiment, cache, own[g], n_experts, g)
        if cache.policy == "belady":
            built.append(Rehearsed(kernel, rehearsal[g], n_experts))
        elif cache.prefetch is not None:
            prefetch = cache.prefetch
            built.append(
                Foreseeing(
                    kernel, own[g], reach, lead=prefetch.lead, buffers=cache.buffers, most=prefetch.most,
                    slots=0 if cache.policy == "pinned" else cache.slots,
                )
            )  # fmt: skip
        else:
            built.append(DeviceCache(kernel))
    return built


def reachable(experiment: Experiment, cache: ExpertCache, pipeline: int) -> Bools:
    """Tell which MoE layers a prediction reaches: those far enough from the begin of their pipeline stage."""
    prefetch, model = cache.prefetch, experiment.model
    stages = stage_layers(len(model.layers), pipeline)
    depth = [sum(layer in stage for layer in model.moe_layers[:m]) for stage, m in _stage_of(stages, model)]
    if prefetch is None:
        return np.zeros(len(depth), np.bool_)
    return np.array(depth) >= (0 if prefetch.before else prefetch.lead)


def _stage_of(stages: list[range], model: Any) -> list[tuple[range, int]]:
    return [
        (next(stage for stage in stages if layer in stage), m) for m, layer in enumerate(model.moe_layers)
    ]


def _kernel(experiment: Experiment, cache: ExpertCache, own: Ints, n_experts: int, group: int) -> Any:
    """Return the kernel of a group's cache."""
    n_layers, scores = len(own), None
    if cache.policy in ("score", "pinned"):
        ids = profile_ids(experiment, cache.profile, cache.profile_tokens)  # type: ignore[attr-defined]
        scores = usage(ids, n_experts)
    if cache.policy == "pinned" and scores is not None:
        return Held(_best(scores, own, cache))
    return expert_cache(
        n_layers, n_experts, cache.slots, policy=cache.policy, shared=cache.scope == "global",
        seed=experiment.seed + group, scores=scores,
    )  # fmt: skip


def _best(scores: Ints, own: Ints, cache: ExpertCache) -> Bools:
    """Return which experts a pinned cache holds: the best of each layer, or of all layers together."""
    held = np.zeros(scores.shape, np.bool_)
    rows = np.arange(len(own))[:, None]
    ranked = np.take_along_axis(scores, own, axis=1)
    if cache.scope == "global":
        flat = np.argsort(-ranked, axis=None, kind="stable")[: cache.slots]
        at, place = np.unravel_index(flat, ranked.shape)
        held[at, own[at, place]] = True
    else:
        best = np.argsort(-ranked, axis=1, kind="stable")[:, : cache.slots]
        held[rows, np.take_along_axis(own, best, axis=1)] = True
    return held


class Caches:
    """The caches of one engine, and the predictor that they share.

    Attributes
    ----------
    tally : Tally
    record : list of (layers, experts) per group, or None    every iteration's accesses, if asked for
    """

    def __init__(
        self, experiment: Experiment, cache: ExpertCache, order: Ints, pipeline: int,
        rehearsal: list[list[Access]],
    ) -> None:  # fmt: skip
        self.order = order
        self.devices = build_caches(experiment, cache, order, pipeline, rehearsal)
        self.tally = Tally()
        self.record: list[list[Access]] | None = None
        self.foresight: Foresight | None = None
        if cache.prefetch is not None and cache.policy not in ("ring", "belady"):
            n_experts = order.shape[1] * order.shape[2]
            self.foresight = Foresight(experiment, cache.prefetch, len(order), n_experts)

    def step(self, counts: NDArray[np.int32], ids: Any) -> list[Fetches]:
        """Return what each group fetches in an iteration of these counts (L, E) and ids (T, L, k)."""
        foretold = None
        if self.foresight is not None and ids is not None:
            foretold = self.foresight.foretell(ids)
        return [self._group(g, device, counts, foretold) for g, device in enumerate(self.devices)]

    def _group(
        self, g: int, device: DeviceCache, counts: NDArray[np.int32], foretold: Ints | None
    ) -> Fetches:
        used = np.nonzero(np.take_along_axis(counts, self.order[:, g], axis=1))
        layers, places = (np.ascontiguousarray(index) for index in used)
        experts = self.order[layers, g, places]
        if self.record is not None:
            self.record[g].append((layers, experts))
        fetches = device.step(layers, experts, foretold)
        tally = self.tally
        tally.foretold += len(fetches.early[0])
        tally.wasted += len(fetches.wasted[0])
        tally.corrections += len(fetches.late[0])
        if not isinstance(device, Ringing):
            tally.hits += len(layers) - len(fetches.early[0]) - len(fetches.late[0])
        return fetches
