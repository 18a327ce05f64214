"""The closed form over arrays of design points, without an object per point.

Points are grouped by what shapes the computation (model, parallel plan, types, policies).  Inside a group
hardware rates and lengths are arrays (`LEAVES`): the same operators are costed once, by a cost model of
arrays.  Law: equal to `steady_state.metrics_of`, point by point, to 1e-12.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from codesign.experiment import Experiment
from codesign.explore.closed_form import Hardware
from codesign.explore.fit import fit_of
from codesign.explore.steady_state import engine_of, hardware_of, load_of
from codesign.lower.machine import NetworkCost
from codesign.lower.parallel import Parallel
from hwmodels.costs import PARTS as DEVICE_PARTS
from hwmodels.costs import Cost
from hwmodels.costs.attention import attended_pairs
from hwmodels.costs.collectives import slowest_port
from hwmodels.costs.machine import machine_of, value_bytes
from hwmodels.costs.namespace import VECTOR
from hwmodels.energy import idle_power_w

F64 = NDArray[np.float64]
_ROOM = 1e18  # bytes: a memory in which everything fits


@dataclass
class Rates:
    """The numbers of a system that may be arrays; see `LEAVES`."""

    bandwidth: Any
    capacity: Any
    memory_j: Any
    vector: Any
    intra: Any
    inter: Any
    link_j: Any
    network_j: Any
    idle_w: Any
    other_w: Any
    device_rent: Any
    peaks: dict[str, Any]


def leaves(experiment: Experiment) -> dict[str, str]:
    """Return the fields that may be arrays inside a group: dotted path -> name in `Rates` or `Load`.

    ``peaks.TYPE`` stands for ``system.device.compute.peak_flop_rate.TYPE``.
    """
    device = "system.device"
    main = f"{device}.memory.{experiment.system.device.main_memory}"
    found = {
        f"{main}.bandwidth": "bandwidth", f"{main}.capacity": "capacity",
        f"{main}.energy_per_byte": "memory_j", f"{device}.compute.vector_flop_rate": "vector",
        f"{device}.power.idle": "idle_w", f"{device}.power.other": "other_w",
    }  # fmt: skip
    found |= {f"{device}.compute.peak_flop_rate.{p}": f"peaks.{p}" for p in _peaks(experiment)}
    if experiment.system.price is None and experiment.system.device.price.rental is not None:
        found[f"{device}.price.rental"] = "device_rent"
    for link, rate, joules in (("intra_node", "intra", "link_j"), ("inter_node", "inter", "network_j")):
        if getattr(experiment.system, link) is not None:
            found |= {f"system.{link}.bandwidth": rate, f"system.{link}.energy_per_byte": joules}
    requests = experiment.part("workload", "requests").data
    for key, name in (
        ("prompt_tokens", "prompt"),
        ("output_tokens", "output"),
        ("concurrency", "concurrency"),
    ):
        if isinstance(requests, dict) and isinstance(requests.get(key), int):
            found[f"workload.requests.{key}"] = name
    return found


def _peaks(experiment: Experiment) -> list[str]:
    return list(experiment.system.device.compute.peak_flop_rate)


def evaluate_group(experiment: Experiment, arrays: Mapping[str, F64]) -> dict[str, F64]:
    """Return the metrics of points that differ from an experiment in `leaves` alone.

    Parameters
    ----------
    arrays : mapping, name of `leaves` -> float64[N], SI

    Raises
    ------
    ConfigError   the experiment is impossible, or names a cost model other than roofline
    """
    from codesign.base.errors import ConfigError

    if experiment.spec.cost_model not in (None, "roofline"):
        raise ConfigError("arrays of points have the cost model of `fidelity: roofline` alone")
    roomy = _roomy(experiment)
    rates = _rates(experiment, arrays)
    machine = ArrayMachine(roomy, rates, experiment.spec.speed)
    engine = engine_of(roomy, machine)
    hardware = _hardware(roomy, engine.parallel, rates)
    load = replace(
        load_of(experiment), **{n: arrays[n] for n in ("prompt", "output", "concurrency") if n in arrays}
    )
    n = len(next(iter(arrays.values()))) if arrays else 1
    found = engine.steady(load, hardware)
    return {name: np.broadcast_to(np.asarray(value, np.float64), (n,)) for name, value in found.items()}


def _roomy(experiment: Experiment) -> Experiment:
    """Return the experiment with a memory in which all fits."""
    device = experiment.system.device
    tier = device.memory[device.main_memory]
    memory = {**device.memory, device.main_memory: tier.model_copy(update={"capacity": _ROOM})}
    roomy = device.model_copy(update={"memory": memory})
    return replace(experiment, system=experiment.system.model_copy(update={"device": roomy}))


def _rates(experiment: Experiment, arrays: Mapping[str, F64]) -> Rates:
    device, system = experiment.system.device, experiment.system
    tier = device.memory[device.main_memory]
    machine = machine_of(device)
    rates = Rates(
        bandwidth=tier.bandwidth, capacity=tier.capacity, memory_j=tier.energy_per_byte,
        vector=machine.vector_rate, intra=system.intra_node.bandwidth if system.intra_node else 1.0,
        inter=system.inter_node.bandwidth if system.inter_node else 1.0,
        link_j=system.intra_node.energy_per_byte if system.intra_node else 0.0,
        network_j=system.inter_node.energy_per_byte if system.inter_node else 0.0,
        idle_w=device.power.idle, other_w=device.power.other, device_rent=device.price.rental,
        peaks=dict(device.compute.peak_flop_rate),
    )  # fmt: skip
    for name, values in arrays.items():
        if name.startswith("peaks."):
            rates.peaks[name.removeprefix("peaks.")] = values
        elif name not in ("prompt", "output", "concurrency"):
            setattr(rates, name, values)
    if "vector" not in arrays and device.compute.vector_flop_rate is None:
        rates.vector = np.max(np.broadcast_arrays(*rates.peaks.values()), axis=0) / 16
    return rates


def _hardware(experiment: Experiment, parallel: Parallel, rates: Rates) -> Hardware:
    base = hardware_of(experiment, parallel)
    device, devices = experiment.system.device, parallel.devices * parallel.replicas
    host_w = idle_power_w(experiment.system, devices) - devices * device.power.idle
    static_w = (devices * rates.idle_w + host_w) + rates.other_w * devices
    rental = base.rental_usd_per_s
    if rental is not None and experiment.system.price is None and rates.device_rent is not None:
        rental = devices * rates.device_rent
    return replace(
        base, kv_bytes=_exact_kv(experiment, parallel, rates.capacity), memory_j=rates.memory_j,
        link_j=rates.link_j, network_j=rates.network_j, static_w=static_w, rental_usd_per_s=rental,
    )  # fmt: skip


def _exact_kv(experiment: Experiment, parallel: Parallel, capacity: Any) -> Any:
    """Return what is left beside weights and activations, which a large memory would round."""
    fit = fit_of(experiment, parallel)
    left = capacity * experiment.spec.memory.utilization - fit.weight_bytes - fit.activation_bytes
    return np.where(np.asarray(left) > 0, left, np.nan)


class ArrayRoofline:
    """`hwmodels.costs.roofline.RooflineModel` with rates and shapes that may be arrays."""

    def __init__(self, device: Any, rates: Rates, speed: Mapping[str, float]) -> None:
        self.machine = machine_of(device, speed)
        knobs = self.machine.speed
        self.bandwidth = rates.bandwidth * knobs["memory"]
        self.vector_rate = rates.vector * knobs["vector"]
        self.link_speed = knobs["link_bandwidth"]
        self.peaks = {name: rate * knobs["compute"] for name, rate in rates.peaks.items()}
        self.main = self.machine.main

    def peak(self, precision: str) -> Any:
        """Return FLOP/s of a type, or of the one that stands in for it."""
        return self.peaks[self.machine.precision(precision)]

    def _bound(self, compute_s: Any, flop: Any, moved: Any, unit: str) -> Cost:
        memory_s = moved / self.bandwidth
        bound = np.asarray(compute_s) >= memory_s
        parts: list[Any] = [0.0] * len(DEVICE_PARTS)
        parts[DEVICE_PARTS.index(unit)] = np.where(bound, compute_s, 0.0)
        parts[DEVICE_PARTS.index("memory")] = np.where(bound, 0.0, memory_s)
        return Cost(tuple(parts), flop, ((self.main, moved),))

    def gemm(self, m: Any, n: Any, k: Any, weights: str = "bf16", activations: str = "bf16") -> Cost:
        """See `hwmodels.costs.CostModel.gemm`."""
        moved = k * n * value_bytes(weights) + m * k * value_bytes(activations) + m * n * 2.0
        flop = 2.0 * m * n * k
        return self._bound(
            flop / self.peak(activations), flop, np.where(np.asarray(m) > 0, moved, 0.0), "compute"
        )

    def expert_tables(self, hidden: int, inter: int, gated: bool = True, weights: str = "bf16",
                      activations: str = "bf16", max_tokens: int = 2) -> Any:  # fmt: skip
        """See `hwmodels.costs.CostModel.expert_tables`; what `closed_form` reads of it."""
        matrices = 3 if gated else 2
        weight_bytes = float(hidden * inter * matrices) * value_bytes(weights)
        token_bytes = hidden * (value_bytes(activations) + 2.0)
        return SimpleNamespace(
            bytes_of_n=(0.0, weight_bytes + token_bytes, weight_bytes + 2.0 * token_bytes),
            flop_per_token=2.0 * hidden * inter * matrices, seconds_per_work=1.0 / self.peak(activations),
            head_s=0.0, seconds_per_byte=1.0 / self.bandwidth, launch_s=0.0, active_s=0.0,
        )  # fmt: skip

    def attention_prefill(self, query_tokens: Any, context_tokens: Any, n_heads: int, n_kv_heads: int,
                          qk_dim: int, v_dim: int, kv: str = "bf16", window: int | None = None,
                          batch: int = 1) -> Cost:  # fmt: skip
        """See `hwmodels.costs.CostModel.attention_prefill`."""
        pairs = attended_pairs(VECTOR, query_tokens, context_tokens, np.asarray(window or 0))
        both = qk_dim + v_dim
        seen = np.minimum(context_tokens, query_tokens + window) if window else context_tokens
        moved = seen * n_kv_heads * both * value_bytes(kv) + query_tokens * n_heads * both * 2.0
        flop = 2.0 * batch * n_heads * pairs * both
        return self._bound(flop / self.peak("bf16"), flop, batch * moved, "compute")

    def attention_decode(self, batch: Any, context_tokens_total: Any, n_heads: int, n_kv_heads: int,
                         qk_dim: int, v_dim: int, kv: str = "bf16") -> Cost:  # fmt: skip
        """See `hwmodels.costs.CostModel.attention_decode`."""
        both = qk_dim + v_dim
        moved = context_tokens_total * n_kv_heads * both * value_bytes(kv) + batch * n_heads * both * 2.0
        flop = 2.0 * context_tokens_total * n_heads * both
        return self._bound(flop / self.peak("bf16"), flop, moved, "compute")

    def mla_prefill(self, query_tokens: Any, context_tokens: Any, n_heads: int, n_kv_heads: int,
                    qk_dim: int, v_dim: int, kv: str = "bf16", latent_rank: int = 512,
                    rope_dim: int = 64, batch: int = 1) -> Cost:  # fmt: skip
        """See `hwmodels.costs.CostModel.mla_prefill`."""
        pairs = attended_pairs(VECTOR, query_tokens, context_tokens, np.asarray(0))
        both = qk_dim + v_dim
        moved = context_tokens * (latent_rank + rope_dim) * value_bytes(kv)
        moved = moved + query_tokens * n_heads * both * 2.0
        flop = 2.0 * batch * n_heads * pairs * both
        return self._bound(flop / self.peak("bf16"), flop, batch * moved, "compute")

    def mla_decode(self, batch: Any, context_tokens_total: Any, n_heads: int, n_kv_heads: int,
                   qk_dim: int, v_dim: int, kv: str = "bf16", latent_rank: int = 512,
                   rope_dim: int = 64) -> Cost:  # fmt: skip
        """See `hwmodels.costs.CostModel.mla_decode`."""
        width = latent_rank + rope_dim
        moved = context_tokens_total * width * value_bytes(kv) + batch * n_heads * (width + latent_rank) * 2.0
        flop = 2.0 * context_tokens_total * n_heads * (width + latent_rank)
        return self._bound(flop / self.peak("bf16"), flop, moved, "compute")

    def elementwise(self, bytes: Any, flop: Any = 0.0) -> Cost:
        """See `hwmodels.costs.CostModel.elementwise`."""
        return self._bound(flop / self.vector_rate, flop, bytes, "vector")


class ArrayMachine:
    """`codesign.lower.machine.Machine` over `ArrayRoofline`."""

    def __init__(self, experiment: Experiment, rates: Rates, speed: Mapping[str, float]) -> None:
        self.system, self.rates, self.speed = experiment.system, rates, dict(speed)
        self.main_memory = self.system.device.main_memory
        device = {part: factor for part, factor in speed.items() if part in DEVICE_PARTS}
        self.costs = ArrayRoofline(self.system.device, rates, device)
        self.pim = None

    def collective(self, op: str, count: Any, ranks: int, nodes: int) -> Cost:
        """See `Machine.collective`."""
        if ranks <= 1:
            return Cost((0.0,) * len(DEVICE_PARTS))
        over_network = nodes > 1
        part = "network_bandwidth" if over_network else "link_bandwidth"
        inside, between = _shares(op, ranks, self.system.devices_per_node if over_network else ranks)
        inside_s, between_s = inside * count / self.rates.intra, between * count / self.rates.inter
        parts: list[Any] = [0.0] * len(DEVICE_PARTS)
        parts[DEVICE_PARTS.index("link_bandwidth")] = np.maximum(inside_s, between_s) / self.speed.get(
            part, 1.0
        )
        moved = np.where(np.asarray(between_s) >= inside_s, between, inside) * count
        made = NetworkCost if over_network else Cost
        return made(tuple(parts), 0.0, (("link", moved),))

    def exchange(self, ranks: int) -> tuple[tuple[Any, Any], tuple[Any, Any]]:
        """See `Machine.exchange`."""
        inside = 1.0 / (self.rates.intra * self.speed.get("link_bandwidth", 1.0))
        between = 1.0 / (self.rates.inter * self.speed.get("network_bandwidth", 1.0))
        return (0.0, 0.0), (inside, between)


def _shares(op: str, ranks: int, per_node: int) -> tuple[float, float]:
    """Return bytes per byte of the buffer at the port into the node's link, and into the network; 0: none."""
    fast: Any = SimpleNamespace(bandwidth=float("inf"))
    slow: Any = SimpleNamespace(bandwidth=1.0)
    inside, link, _ = slowest_port(op, ranks, slow, fast, per_node)
    between, other, _ = slowest_port(op, ranks, fast, slow, per_node)
    return (inside if link is slow else 0.0), (between if other is slow else 0.0)
