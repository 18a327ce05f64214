"""Pass: which part of a group's experts computes where and when: resident, fetched, where it lies, on PIM.

Builds the portions of a plan, and the `assign` that puts each expert into one, iteration by iteration.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from codesign.lower.fetching import Access, Caches, Fetches
from codesign.lower.pim import BesideCosts
from codesign.lower.tiers import Path, legs, n_legs
from codesign.policies.expert_cache import ExpertCache
from codesign.policies.units import CoProcess, MinTime, PimOnly, Units, UnitTimes
from ext.iteration import PARTS, Layout
from ext.iteration.layout import (
    ACTIVE_S,
    DECODE_S,
    HEAD_S,
    LAUNCH_S,
    POWER,
    SECONDS_PER_BYTE,
    SECONDS_PER_WORK,
)

if TYPE_CHECKING:
    from codesign.experiment import Experiment

F64 = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
# who computes experts that are not held: chosen as between a device's own units
MISSES: dict[str, Units] = {"near": PimOnly(), "min_time": MinTime(), "co_process": CoProcess()}


@dataclass(frozen=True)
class Portion:
    """One part: the unit that computes it, and the fetch that it waits for (-1: none)."""

    name: str
    unit: str  # "compute", "pim", or "near": beside the tier where the experts live
    fetch: int = -1
    lead: int = 0  # its fetch begins so many MoE layers before


@dataclass(frozen=True)
class Portions:
    """The parts of a plan, and what decides among them; `way` is of fetched experts, in pieces."""

    parts: tuple[Portion, ...]
    cache: ExpertCache | None
    way: tuple[Path, ...]
    units: Units | None
    beside: BesideCosts | None = None  # of what computes beside the tier of the experts

    @property
    def n_transfers(self) -> int:
        """Transfers before a layer's experts."""
        return sum(part.fetch >= 0 for part in self.parts)

    @property
    def n_fetches(self) -> int:
        """Fetches before a layer's experts, F: each transfer on the first leg of its way, then the next."""
        return self.n_transfers * n_legs(self.way)

    @property
    def before(self) -> bool:
        """Whether the first layers are foretold before the pass."""
        prefetch = self.cache.prefetch if self.cache else None
        return prefetch is not None and prefetch.before

    @property
    def pim(self) -> int:
        """Index of the part on PIM, or -1."""
        return next((i for i, part in enumerate(self.parts) if part.unit == "pim"), -1)

    @property
    def near(self) -> int:
        """Index of the part that is computed where it lies, or -1."""
        return next((i for i, part in enumerate(self.parts) if part.unit == "near"), -1)

    @property
    def parallel(self) -> bool:
        """Whether xPU and PIM compute experts at once."""
        return self.units is not None and self.units.parallel

    @property
    def attention_unit(self) -> str:
        """Who computes decode attention: ``xpu``, ``pim`` or ``min_time``."""
        return self.units.attention if self.units else "xpu"

    @property
    def part_indices(self) -> NDArray[np.int32]:
        """PARTS of each portion's compute and memory seconds; int32[U, 2]."""
        rows = [
            ("compute", "memory") if part.unit == "compute" else ("pim_compute", "pim_memory")
            for part in self.parts
        ]
        return np.array([[PARTS.index(name) for name in row] for row in rows], dtype=np.int32)


def build_portions(
    cache: ExpertCache | None,
    way: tuple[Path, ...],
    units: Units | None,
    beside: BesideCosts | None = None,
) -> Portions:
    """List the parts: resident, prefetched, fetched in chunks, computed where they lie, on PIM."""
    parts = [Portion("resident", "compute")]
    if cache is not None:
        if cache.prefetch is not None:
            parts.append(Portion("prefetched", "compute", 0, lead=cache.prefetch.lead))
        first = len(parts) - 1
        parts += [Portion(f"fetched {i}", "compute", first + i) for i in range(cache.chunks)]
        parts += [Portion("near", "near")] * (cache.misses != "fetch")
    if units is not None:
        parts.append(Portion("pim", "pim"))
    return Portions(tuple(parts), cache, way, units, beside)


class Assigner:
    """The state behind a plan's portions on one engine: caches and predictions; called as `assign`.

    Attributes
    ----------
    caches : Caches or None
    fetched_bytes, wasted_bytes : float    of all devices' fetches, and of those that no one needed
    """

    def __init__(
        self, experiment: Experiment, portions: Portions, layout: Layout, expert_bytes: F64,
        routed: Callable[[], Any] = lambda: None, rehearsal: list[list[Access]] | None = None,
    ) -> None:  # fmt: skip
        self.portions, self.layout, self.expert_bytes = portions, layout, expert_bytes
        self.routed = routed
        self.group_size = layout.n_experts // layout.n_groups
        self.order = layout.order.reshape(layout.n_layers, layout.n_groups, self.group_size).astype(np.int64)
        self.layer_index = np.arange(layout.n_layers)[:, None, None]
        pim = experiment.system.device.pim
        self.bundles = min(pim.bundles or self.group_size, self.group_size) if pim else self.group_size
        self.bring_s = np.zeros(expert_bytes.shape)  # of each expert, alone
        for piece in portions.way:
            self.bring_s = np.maximum(self.bring_s, expert_bytes / piece.bytes_per_s + piece.latency_s)
        self.fetched_bytes = self.wasted_bytes = 0.0
        self.caches: Caches | None = None
        if portions.cache is not None:
            pipeline = experiment.spec.parallel.pipeline
            self.caches = Caches(experiment, portions.cache, self.order, pipeline, rehearsal or [])

    def __call__(self, iteration: Any) -> None:
        """Fill ``portion`` and ``fetch_s`` of an iteration from its counts."""
        iteration.portion[:] = 0
        if self.caches is not None:
            iteration.fetch_s[:] = 0.0
            for g, fetches in enumerate(self.caches.step(iteration.counts, self.routed())):
                self._fetch(iteration, g, fetches)
        if self.portions.units is not None:
            self._place(iteration, self.portions.units)

    def _fetch(self, iteration: Any, g: int, fetches: Fetches) -> None:
        """Put what one group fetches into its portions."""
        first = int(any(part.lead for part in self.portions.parts))
        if first:
            self._send(iteration, g, 0, fetches.early, fetches.wasted)
            self._foretell(iteration, g)
            self.wasted_bytes += float(self.expert_bytes[fetches.wasted].sum())
        layers, experts = self._leave(iteration, g, fetches.late)
        chunk = self._chunks(layers)
        for i in range(self.portions.n_transfers - first):
            self._send(iteration, g, first + i, (layers[chunk == i], experts[chunk == i]))

    def _leave(self, iteration: Any, g: int, missed: Access) -> Access:
        """Let the policy say which missed experts are computed where they lie; return those to be fetched."""
        if self.portions.near < 0 or self.portions.cache is None or not len(missed[0]):
            return missed
        counts = np.zeros_like(iteration.counts)
        counts[missed] = iteration.counts[missed]
        order = self.order[:, g : g + 1]
        units, tokens = MISSES[self.portions.cache.misses], counts[self.layer_index, order]
        near = self._chosen(units, tokens, order, self.portions.near, self.group_size, self.bring_s)
        iteration.portion[near] = self.portions.near
        left = iteration.portion[missed] != self.portions.near
        return missed[0][left], missed[1][left]

    def _foretell(self, iteration: Any, g: int) -> None:
        """Let the prefetches of a group wait for what the predictor takes."""
        prefetch = self.portions.cache.prefetch if self.portions.cache else None
        if prefetch is None or not prefetch.cost:
            return
        layers = np.flatnonzero(iteration.fetch_s[:, g, 0].sum(axis=1))
        iteration.fetch_s[layers[:1] if prefetch.before else layers, g, 0, 1] += prefetch.cost

    def _chunks(self, layers: Ints) -> Ints:
        """Deal each layer's missed experts to the chunks, in order, as evenly as can be."""
        chunks = self.portions.cache.chunks if self.portions.cache else 1
        missed = np.bincount(layers, minlength=self.layout.n_layers)
        first = np.concatenate(([0], np.cumsum(missed)))[layers]
        return (np.arange(len(layers)) - first) * chunks // np.maximum(missed[layers], 1)

    def _send(self, iteration: Any, g: int, fetch: int, used: Access, unused: Access | None = None) -> None:
        """Put the used experts into the portion of a fetch, and work out its seconds."""
        portion = next(i for i, part in enumerate(self.portions.parts) if part.fetch == fetch)
        iteration.portion[used] = portion
        calls = np.bincount(used[0], minlength=self.layout.n_layers)
        moved = 1.0 * np.bincount(used[0], self.expert_bytes[used], minlength=self.layout.n_layers)
        if unused is not None:
            calls = calls + np.bincount(unused[0], minlength=self.layout.n_layers)
            moved += np.bincount(unused[0], self.expert_bytes[unused], minlength=self.layout.n_layers)
        for m in np.flatnonzero(calls):
            count = float(moved[m])
            for i, seconds in enumerate(legs(self.portions.way, count, int(calls[m]))):
                iteration.fetch_s[m, g, fetch + i * self.portions.n_transfers] = seconds
            self.fetched_bytes += count

    def _place(self, iteration: Any, units: Units) -> None:
        """Let the policy say which resident experts PIM computes."""
        counts = iteration.counts[self.layer_index, self.order]
        resident = iteration.portion[self.layer_index, self.order] == 0
        counts = np.where(resident, counts, 0)
        iteration.portion[self._chosen(units, counts, self.order, self.portions.pim, self.bundles)] = (
            self.portions.pim
        )

    def _chosen(
        self, units: Units, counts: NDArray[Any], order: Ints, portion: int, bundles: int,
        bring_s: F64 | None = None,
    ) -> Access:  # fmt: skip
        """Return the experts that a policy gives to the unit of a portion.

        Parameters
        ----------
        counts, order : int, shape (L, G, n)    tokens and numbers of experts; without tokens: not asked about
        bring_s : float64, shape (L, E)         what the xPU waits for each of them first
        """
        ascending, apart = by_bundle(counts, bundles)
        experts = np.take_along_axis(order, ascending, axis=2)
        tokens = np.take_along_axis(counts, ascending, axis=2)
        times = self._times(tokens, experts, apart, portion)
        if bring_s is not None:
            wait_s = bring_s[self.layer_index, experts] * (tokens > 0)
            times = replace(times, xpu_s=times.xpu_s + _suffix(wait_s), alone_s=times.alone_s + wait_s)
        chosen = units.to_pim(times) & (tokens > 0)
        layers = np.broadcast_to(self.layer_index, experts.shape)[chosen]
        return layers, experts[chosen]

    def _times(self, tokens: NDArray[Any], experts: Ints, apart: Bools, portion: int) -> UnitTimes:
        """Estimate what xPU and a portion's unit take for these experts, in the order of `by_bundle`."""
        lay = self.layout
        xpu, pim = lay.table_of[:, 0], lay.table_of[:, portion]
        n = np.minimum(tokens, lay.work.shape[1] - 1)
        variant = lay.variant[self.layer_index, experts]
        table = xpu[:, None, None] + variant
        work, moved = lay.work[table, n], lay.moved[table, n]
        decode_s = lay.coefficients[table, DECODE_S] * (n > 0)
        c = lay.coefficients[xpu].T[:, :, None, None]
        suffix_work, suffix_moved, active = (_suffix(a) for a in (work, moved, (n > 0).astype(float)))
        xpu_s = _fused(c, suffix_work, suffix_moved, active) + _suffix(decode_s)
        alone_s = _fused(c, work, moved, (n > 0).astype(float)) - c[LAUNCH_S] * (n > 0)
        alone_s = alone_s + decode_s
        p = lay.coefficients[pim].T[:, :, None, None]
        pim_s = (
            lay.work[pim[:, None, None] + variant, n] * p[SECONDS_PER_WORK]
            + lay.moved[pim[:, None, None] + variant, n] * p[SECONDS_PER_BYTE]
        )
        return UnitTimes(xpu_s, pim_s, alone_s, float(p[LAUNCH_S].max()), apart)


def by_bundle(tokens: NDArray[Any], bundles: int) -> tuple[Ints, Bools]:
    """Order experts by the tokens of the bundle of banks in which each lies.

    Parameters
    ----------
    tokens : int, shape (..., n)    of the experts of a device, which are dealt to the bundles in turn

    Returns
    -------
    int64, shape (..., n)           places: bundles ascending by their tokens, each one's experts together
    bool, shape (..., n + 1)        whether a bundle ends before place k

    Notes
    -----
    Law: with a bundle for each expert it is the stable order by tokens, and every place ends one.
    """
    bundle = np.arange(tokens.shape[-1]) % bundles
    lies_in = (bundle[:, None] == np.arange(bundles)).astype(np.int64)
    key = (tokens @ lies_in)[..., bundle] * bundles + bundle
    order = np.argsort(key, axis=-1, kind="stable")
    ordered = bundle[order]
    ends = np.ones((*order.shape[:-1], order.shape[-1] + 1), dtype=bool)
    ends[..., 1:-1] = ordered[..., 1:] != ordered[..., :-1]
    return order, ends


def _suffix(values: F64) -> F64:
    """Return sums of all but the first k values along the last axis, k = 0 ... n."""
    total = np.cumsum(values[..., ::-1], axis=-1)[..., ::-1]
    return np.concatenate((total, np.zeros((*values.shape[:-1], 1))), axis=-1)


def _fused(c: F64, work: F64, moved: F64, active: F64) -> F64:
    """Return the seconds of fused layers from their sums (`hwmodels.costs.ExpertTables`)."""
    compute_s = work * c[SECONDS_PER_WORK] + c[HEAD_S]
    memory_s = moved * c[SECONDS_PER_BYTE]
    power = float(c[POWER].max())
    if np.isinf(power):
        both = np.maximum(compute_s, memory_s)
    else:
        both = (compute_s**power + memory_s**power) ** (1.0 / power)
    out: F64 = (c[LAUNCH_S] + active * c[ACTIVE_S] + both) * (active > 0)
    return out
