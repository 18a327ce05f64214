"""Pass: whole models as experts: where each lives, how many main memory holds, what bringing one takes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from codesign.base.compose import replace as lay
from codesign.base.compose import without
from codesign.base.document import Document
from codesign.base.errors import CapacityError
from codesign.experiment import Experiment
from codesign.experiment.experiment import from_document
from codesign.experiment.schema import CompositionSpec
from codesign.lower.plan import Plan, build_plan
from codesign.lower.residency import Residency
from codesign.lower.tiers import Path, find_path, sharers, tiers_of
from codesign.policies.expert_cache import EXPERT_CACHES
from codesign.policies.switching import SWITCHINGS, Switching
from workloads.requests.expert_models import by_popularity, draw_models, read_popularity

Ints = NDArray[np.int64]
_CACHES = ("lru", "lfu", "fifo", "random")
_LAYERED = ("scope", "chunks", "buffers", "prefetch")  # settings of caches of a layer's experts


@dataclass(frozen=True, kw_only=True)
class Composition:
    """Expert models on one engine.

    Attributes
    ----------
    experiments, plans : of each shape of model, the experiment's own first
    shape_of : int64[N]        shape of each model
    tier_of : int64[N]         tier in which each lives, by place in `paths`
    paths : tuple              way from each tier to main memory; None: it is main memory
    policy : str               of the cache, a name of `ext.cache`
    slots : int                models held in main memory, each slot as large as the largest model
    router : int               shape of the model that reads each request first, or -1
    residency : Residency      of the fullest device: router, slots, activations, and what is left for KV
    requests, history : int64  model of each request; of those served before the run
    """

    spec: CompositionSpec
    experiments: tuple[Experiment, ...]
    plans: tuple[Plan, ...]
    shape_of: Ints
    tier_of: Ints
    paths: tuple[Path | None, ...]
    policy: str
    slots: int
    router: int
    residency: Residency
    requests: Ints
    history: Ints
    switching: Switching

    @property
    def n_models(self) -> int:
        """Expert models, N."""
        return len(self.shape_of)

    def bytes_of(self, model: int) -> float:
        """Return the bytes of a model's weights on one device."""
        shape = int(self.shape_of[model])
        return self.plans[shape].residency.weight_bytes

    def fetch_s(self, model: int) -> tuple[float, float]:
        """Return the seconds of bandwidth and of latency that bringing a model takes: (0, 0) if it is there.

        All devices of the engine bring their part at once, each through its own port and together through
        the channel that they share.
        """
        path = self.paths[int(self.tier_of[model])]
        if path is None:
            return 0.0, 0.0
        count, parallel = self.bytes_of(model), self.plans[0].parallel
        moving_s, latency_s = path.seconds(count, 1)
        if path.channel is not None:
            behind = min(path.channel.sharers, parallel.devices, parallel.devices_per_node)
            moving_s = max(moving_s, behind * path.channel_s(count))
        return moving_s, latency_s

    def engine_of(self, model: int) -> int:
        """Return the engine that holds a model, if they are spread."""
        return model % self.plans[0].parallel.replicas


def compose(experiment: Experiment, plan: Plan, n_requests: int = 0) -> Composition | None:
    """Work out where expert models live, and how many are held; None if there are none.

    Raises
    ------
    ConfigError     settings that contradict each other, the model or the machine
    CapacityError   the models do not fit their tiers, or not one fits main memory
    """
    spec = experiment.spec.composition
    if spec is None:
        return None
    _check(experiment, plan, spec)
    experiments, plans = [experiment], [plan]
    shapes = [0] * spec.models
    for i, other in enumerate(spec.others):
        place = ("composition", "others", i, "model")
        shapes += [_shape(experiment, other.model, place, experiments, plans)] * other.count
    router = -1
    if spec.router is not None:
        router = _shape(experiment, spec.router, ("composition", "router"), experiments, plans)
    popularity = read_popularity(experiment.part("composition", "popularity"))
    main = experiment.system.device.main_memory
    names = spec.tiers or [main]
    paths = tuple(None if name == main else _path(experiment, plan, i, name) for i, name in enumerate(names))
    shape_of = np.array(shapes, dtype=np.int64)
    sizes = np.array([plan.residency.weight_bytes for plan in plans])
    order = by_popularity(len(shapes), popularity, experiment.seed)
    tier_of = _fill(experiment, plan, names, sizes[shape_of], order)
    policy, slots = _cache(experiment)
    on_engine = -(-len(shapes) // plan.parallel.replicas) if spec.spread else len(shapes)
    resident = main in names
    slots, fit = _slots(experiment, plans, shapes, router, slots, on_engine, resident)
    drawn = draw_models(spec.warm + n_requests, len(shapes), popularity, spec.repeat, experiment.seed)
    return Composition(
        spec=spec, experiments=tuple(experiments), plans=tuple(plans), shape_of=shape_of, tier_of=tier_of,
        paths=paths, policy=policy, slots=slots, router=router, residency=fit, requests=drawn[spec.warm :],
        history=drawn[: spec.warm], switching=SWITCHINGS.build(experiment.part("policies", "switching")),
    )  # fmt: skip


def _check(experiment: Experiment, plan: Plan, spec: CompositionSpec) -> None:
    error, parallel, memory = experiment.document.error, plan.parallel, experiment.spec.memory
    if parallel.pipeline > 1 or parallel.data > 1:
        key, value = ("pipeline", parallel.pipeline) if parallel.pipeline > 1 else ("data", parallel.data)
        raise error(
            ("parallel", key), "an engine of a composition runs one batch at a time: must be 1", value
        )
    if memory.prefix_cache:
        raise error(("memory", "prefix_cache"), "models of a composition take turns in KV memory", True)
    if plan.portions.cache is not None:
        rule = "the models of a composition are brought whole; say composition.tiers instead"
        raise error(("memory", "experts"), rule, memory.experts)
    main = experiment.system.device.main_memory
    if main in spec.tiers and len(spec.tiers) > 1:
        rule = f"models that live in {main} are not brought: name it alone, or name the other tiers alone"
        raise error(("composition", "tiers"), rule, spec.tiers)


def _shape(
    experiment: Experiment,
    model: Any,
    place: tuple[str | int, ...],
    known: list[Experiment],
    plans: list[Plan],
) -> int:
    """Return the index of a model's shape among those known, which may grow."""
    document = without(without(experiment.document, ("composition",)), ("model",))
    origin = experiment.document.where(place)
    member = from_document(lay(document, "model", model, origin), experiment.base_dir)
    for i, other in enumerate(known):
        if other.resolved["model"] == member.resolved["model"]:
            return i
    known.append(member)
    plans.append(build_plan(member))
    return len(plans) - 1


def _path(experiment: Experiment, plan: Plan, index: int, name: str) -> Path:
    where = experiment.document.where(("composition", "tiers", index))
    path = find_path(experiment.system, name, f"{where}: composition.tiers")
    return path.seen_by(plan.parallel).faster(experiment.spec.speed)


def _fill(experiment: Experiment, plan: Plan, names: list[str], sizes: Any, order: Ints) -> Ints:
    """Put the models into their tiers, most popular first, each tier to its capacity."""
    tiers, p, system = tiers_of(experiment.system), plan.parallel, experiment.system
    found = np.zeros(len(sizes), dtype=np.int64)
    at, left = 0, list(order)
    for at, name in enumerate(names):
        tier = tiers[name]
        if name == system.device.main_memory:
            return found  # room is checked with all else that is there
        shared_by = sharers(system, tier)
        devices = min(shared_by, p.devices)  # that keep their part of a model in this tier
        engines = 1
        if shared_by > 1 and experiment.spec.composition and experiment.spec.composition.spread:
            engines = max(1, system.devices_per_node // p.devices)
        own = 1.0 / p.replicas if experiment.spec.composition and experiment.spec.composition.spread else 1.0
        need = np.cumsum(sizes[left] * devices * own * engines)
        fits = int(np.searchsorted(need, tier.capacity, side="right"))
        found[left[:fits]] = at
        left = left[fits:]
        if not left:
            return found
    held = len(order) - len(left)
    raise CapacityError(
        f"composition does not fit: {held} of {len(order)} expert models fit {' + '.join(names)} of"
        f" {system.name}, {float(np.sum(sizes)) * p.devices / 1e9:.0f} GB in all: use fewer models or bits"
        " (precision.weights), a further tier (composition.tiers), or more nodes (composition.spread)"
    )


def _cache(experiment: Experiment) -> tuple[str, int | None]:
    """Return policy and slots (None: as many as fit) of the cache of models."""
    part = experiment.part("policies", "model_cache")
    data = {"name": part.data} if isinstance(part.data, str) else dict(part.data or {})
    for key in _LAYERED:
        if key in data:
            raise part.error((key,), "is of the experts inside a model, not of whole models", data[key])
    given = "slots" in data
    whole = Document({"slots": 1, **data}, part.origin, part.lines, part.origins, part.prefix)
    cache = EXPERT_CACHES.build(whole)
    if cache.policy not in _CACHES:
        raise part.error(("name",), f"holds no whole models; choose from {', '.join(_CACHES)}", data["name"])
    spec = experiment.spec.composition
    if spec and spec.prefetch and cache.policy != "lru":
        raise part.error(
            ("name",), "may drop the model that runs for the next; prefetch needs lru", data["name"]
        )
    if given and cache.slots < 1:
        raise part.error(("slots",), "must be at least 1: the model that runs", cache.slots)
    return cache.policy, cache.slots if given else None


def _slots(
    experiment: Experiment,
    plans: list[Plan],
    shapes: list[int],
    router: int,
    wanted: int | None,
    models: int,
    resident: bool,
) -> tuple[int, Residency]:
    """Return how many models main memory holds, and what is where."""
    tier = experiment.system.device.memory[experiment.system.device.main_memory]
    memory, spec = experiment.spec.memory, experiment.spec.composition
    usable = tier.capacity * memory.utilization
    largest = max(plans[i].residency.weight_bytes for i in set(shapes))
    fixed = plans[router].residency.weight_bytes if router >= 0 else 0.0
    activations = max(plan.residency.activation_bytes for plan in plans)
    share = spec.kv_share if spec and wanted is None else 0.0
    room = int((usable * (1.0 - share) - fixed - activations) // largest)
    need = models if resident else 1
    slots = min(models, room if wanted is None else wanted)
    left = usable - fixed - activations - slots * largest
    if slots < need or left <= 0:
        raise CapacityError(
            f"composition does not fit: a device of {experiment.system.name} has {usable / 1e9:.1f} GB for"
            f" the router ({fixed / 1e9:.1f} GB), activations ({activations / 1e9:.1f} GB), the KV cache and"
            f" {max(need, wanted or 1)} models of {largest / 1e9:.2f} GB: use more devices, fewer slots"
            " (policies.model_cache.slots), a tier for the models (composition.tiers), or spread them"
        )
    weights = fixed + slots * largest
    own = plans[0].residency
    fit = replace(own, weight_bytes=weights, activation_bytes=activations, kv_bytes=left)
    return slots, fit
