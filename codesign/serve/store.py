"""`ModelStore`: the expert models that an engine holds in main memory, and the channel that brings more."""

from __future__ import annotations

from array import array
from typing import Any

import numpy as np

from codesign.lower.composition import Composition
from ext.cache import expert_cache


class ModelStore:
    """A cache of whole models over slower tiers.

    Laws: never more than `slots` models are held; ``visits == hits + misses``; what a plain `ext.cache` of
    the same policy holds after the same visits is held here.

    Attributes
    ----------
    held : set of int               models in main memory, or on their way
    visits : array of int           the models asked for, in order
    hits, misses, switches : int    a switch: another model than the one before
    fetched_bytes, fetch_j : float  over all devices of the engine
    busy_s, waited_s : float        the channel's; and what batches waited for it
    """

    def __init__(self, composition: Composition, seed: int, engine: int) -> None:
        self.composition, self.devices = composition, composition.plans[0].parallel.devices
        self.cache: Any = expert_cache(
            1, composition.n_models, composition.slots, policy=composition.policy, seed=seed + engine
        )
        self.held: set[int] = set()
        resident = composition.paths[0] is None
        before = range(composition.n_models) if resident else composition.history.tolist()
        for model in before:
            if not composition.spec.spread or composition.engine_of(model) == engine:
                self._access(model)
        self.visits = array("q")
        self.hits = self.misses = self.switches = self.fetches = 0
        self.fetched_bytes = self.fetch_j = self.busy_s = self.waited_s = 0.0
        self.free_s = 0.0  # when the channel is
        self._ready_s: dict[int, float] = {}  # of models on their way
        self._early: set[int] = set()  # brought before their visit

    def _access(self, model: int) -> bool:
        hit, left = self.cache.access_many(np.zeros(1, np.int64), np.array([model], np.int64))
        self.held.add(model)
        self.held.discard(int(left[0]))
        return bool(hit[0])

    def visit(self, model: int, now: float) -> tuple[float, float]:
        """Ask for a model; return when it is in main memory, and the share of latency in its fetch."""
        self.switches += bool(self.visits) and self.visits[-1] != model
        self.visits.append(model)
        early = model in self._early
        self._early.discard(model)
        hit = self._access(model)
        if early or not hit:
            self.misses += 1
        else:
            self.hits += 1
        if not hit:
            self._fetch(model, now)
        ready_s = max(now, self._ready_s.pop(model, now))
        self.waited_s += ready_s - now
        return ready_s, self._latency_share(model)

    def prefetch(self, model: int, now: float) -> None:
        """Bring a model that is asked for next, if there is a slot beside the one in use."""
        if self.composition.slots > 1 and model not in self.held:
            self._access(model)
            self._early.add(model)
            self._fetch(model, now)

    def _fetch(self, model: int, now: float) -> None:
        path = self.composition.paths[int(self.composition.tier_of[model])]
        if path is None:
            return
        seconds = sum(self.composition.fetch_s(model))
        moved = self.composition.bytes_of(model) * self.devices
        self.free_s = max(now, self.free_s) + seconds
        self._ready_s[model] = self.free_s
        self.busy_s += seconds
        self.fetches += 1
        self.fetched_bytes += moved
        self.fetch_j += moved * path.energy_j_per_byte

    def _latency_share(self, model: int) -> float:
        moving_s, latency_s = self.composition.fetch_s(model)
        return latency_s / (moving_s + latency_s) if latency_s else 0.0

    def summary(self) -> dict[str, float]:
        """Return the counters."""
        return {
            "visits": len(self.visits), "switches": self.switches, "hits": self.hits, "misses": self.misses,
            "fetches": self.fetches,
            "fetched_bytes": self.fetched_bytes, "fetch_s": self.busy_s, "waited_s": self.waited_s,
        }  # fmt: skip
