"""The steady state of one experiment: its engine, load and hardware, for the closed form."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from codesign.base.errors import CapacityError
from codesign.experiment import Experiment
from codesign.explore.closed_form import Engine, Hardware, Load, plain
from codesign.explore.expected import loads_of
from codesign.explore.fit import fit_of
from codesign.lower.machine import Machine
from codesign.lower.operators import Operators
from codesign.lower.parallel import Parallel, resolve_parallel
from codesign.lower.plan import cost_model_of
from codesign.lower.precision import resolve_precision
from codesign.lower.streams import CONTENTS, away_key
from codesign.policies import build_policies
from hwmodels.energy import active_power_w, energy_per_flop_j, idle_power_w
from hwmodels.money import owned_usd_per_s, rental_usd_per_s


def metrics_of(experiment: Experiment) -> dict[str, Any]:
    """Return the closed form of one experiment, through the project's own cost models.

    Raises
    ------
    ConfigError, CapacityError   as a run of it would
    """
    engine = engine_of(experiment)
    found = engine.steady(load_of(experiment), hardware_of(experiment, engine.parallel))
    if np.isnan(found["batch"]):
        raise CapacityError(f"{experiment.model.name}: no request of mean length fits the KV memory")
    return plain(found)


def engine_of(experiment: Experiment, machine: Any = None) -> Engine:
    """Build the engine of an experiment; `machine` replaces its cost models.

    Raises
    ------
    ConfigError   what the closed form does not have: weights in another tier, experts stored one by one,
                  units beside the xPU
    """
    _check_covered(experiment)
    spec, model, system = experiment.spec, experiment.model, experiment.system
    parallel = resolve_parallel(spec.parallel, model, system, experiment.document)
    precision = resolve_precision(spec.precision, model, experiment.document)
    machine = machine or Machine(system, cost_model_of(experiment), spec.speed)
    moes = dict.fromkeys(layer.moe for layer in model.layers if layer.moe)
    engine = spec.engine
    faster = spec.speed.get("engine", 1.0)
    return Engine(
        model=model, parallel=parallel, precision=precision,
        operators=Operators(model, parallel, precision, machine),
        loads={m: loads_of(experiment, m.n_experts, m.top_k, m.zero_experts) for m in moes},
        block_tokens=spec.memory.block_tokens,
        engine_s=(engine.step / faster, engine.per_sequence / faster, engine.per_token / faster),
        main=system.device.main_memory, exchange=machine.exchange(parallel.ranks),
    )  # fmt: skip


def _check_covered(experiment: Experiment) -> None:
    """Refuse what would be left out of the sums without a word."""
    spec, document = experiment.spec, experiment.document
    rule = "is beyond the closed form of `fidelity: roofline`; take fidelity: event (cost_model: roofline)"
    for content in ("experts", *CONTENTS):
        if (key := away_key(experiment, content)) is not None:
            raise document.error(key, rule)
    if spec.composition is not None:
        raise document.error(("composition",), rule)
    if spec.precision.by_expert:
        raise document.error(("precision", "experts"), rule)
    if experiment.system.attention is not None:
        raise document.error(("system", "attention"), rule)
    if spec.policies.expert_order == "token_major":
        raise document.error(("policies", "expert_order"), rule)
    if spec.policies.queries_per_read is not None:
        raise document.error(("policies", "queries_per_read"), rule)
    if spec.parallel.batches > 1:
        raise document.error(("parallel", "batches"), rule, spec.parallel.batches)
    if spec.precision.decode is not None:
        raise document.error(("precision", "decode"), rule)
    units = spec.policies.units
    if (units.get("name") if isinstance(units, dict) else units) not in (None, "xpu"):
        raise document.error(("policies", "units"), rule, units)


def load_of(experiment: Experiment) -> Load:
    """Return the load that an experiment's requests and batching make: mean lengths."""
    requests: dict[str, Any] = experiment.part("workload", "requests").data
    batching = build_policies(experiment).batching
    most = getattr(batching, "max_sequences", None) or getattr(batching, "batch_size", np.inf)
    budget = float(getattr(batching, "token_budget", np.inf))
    plain = isinstance(requests, dict) and all(
        isinstance(requests.get(key), int) for key in ("prompt_tokens", "output_tokens")
    )
    drawn = None if plain else experiment.requests()
    prompt, output = (
        float(requests[key]) if drawn is None else float(getattr(drawn, key).mean())
        for key in ("prompt_tokens", "output_tokens")
    )
    return Load(
        prompt=prompt, output=output, most=float(most or np.inf), token_budget=budget,
        concurrency=np.inf if requests.get("concurrency") is None else float(requests["concurrency"]),
        rate_per_s=_rate(experiment, requests, drawn),
    )  # fmt: skip


def _rate(experiment: Experiment, requests: Mapping[str, Any], drawn: Any) -> float:
    from workloads.requests import read_settings

    if requests.get("concurrency") or requests.get("batch"):
        return float("inf")
    asked = read_settings(experiment.part("workload", "requests")).rate_per_s
    if asked is not None:
        return asked
    if drawn is None or drawn.duration_s <= 0:
        return float("inf")
    return float((len(drawn) - 1) / (drawn.duration_s - drawn.arrival_s[0]))


def hardware_of(experiment: Experiment, parallel: Parallel) -> Hardware:
    """Return energy, money and memory of an experiment's hardware.

    Raises
    ------
    CapacityError   the weights do not fit
    """
    system = experiment.system
    precision = resolve_precision(experiment.spec.precision, experiment.model, experiment.document)
    device, devices = system.device, parallel.devices * parallel.replicas
    watts = idle_power_w(system, devices) + active_power_w(device) * devices
    return Hardware(
        kv_bytes=fit_of(experiment, parallel).kv_bytes,
        flop_j=energy_per_flop_j(device, precision.activations),
        memory_j=device.memory[device.main_memory].energy_per_byte,
        link_j=system.intra_node.energy_per_byte if system.intra_node else 0.0,
        network_j=system.inter_node.energy_per_byte if system.inter_node else 0.0,
        static_w=watts, rental_usd_per_s=rental_usd_per_s(system, devices),
        owned_usd_per_s=owned_usd_per_s(system, devices, 0.0),
        usd_per_j=system.power_usage_effectiveness * system.electricity,
        area_m2=np.nan if device.area is None else device.area * devices,
    )  # fmt: skip
