"""Pass 1: degrees of parallelism, checked against the model and the machine.

In each pipeline stage W ranks hold the layers.  For attention they form ``data`` groups of ``tensor``
ranks; for the experts, ``expert`` groups of ``expert_tensor`` ranks: W = tensor x data = expert x
expert_tensor.  Rank r is in data group ``r // tensor`` and in expert group ``r // expert_tensor``.
An engine is ``pipeline`` stages; the system runs ``replicas`` engines.
"""

from __future__ import annotations

from dataclasses import dataclass

from codesign.base.document import Document
from codesign.base.errors import ConfigError
from codesign.experiment.schema import ParallelSpec
from hwmodels.spec import System
from workloads.models import Model


@dataclass(frozen=True, kw_only=True)
class Parallel:
    """Resolved degrees, and where the ranks of an engine stand."""

    tensor: int
    data: int
    expert: int
    expert_tensor: int
    pipeline: int
    replicas: int
    devices_per_node: int

    @property
    def ranks(self) -> int:
        """Ranks of one stage, W."""
        return self.tensor * self.data

    @property
    def devices(self) -> int:
        """Devices of one engine."""
        return self.ranks * self.pipeline

    def node(self, stage: int, rank: int) -> int:
        """Return the node of a rank, counted from the engine's first; an engine starts at a node's edge
        or lies inside one node."""
        return (stage * self.ranks + rank) // self.devices_per_node

    def spans_nodes(self, ranks: range, stage: int = 0) -> bool:
        """Tell whether some ranks of a stage stand in different nodes."""
        return self.node(stage, ranks[0]) != self.node(stage, ranks[-1])


def resolve_parallel(spec: ParallelSpec, model: Model, system: System, document: Document) -> Parallel:
    """Fill in the degrees that are left out, and check all.

    Raises
    ------
    ConfigError   degrees that contradict each other, do not divide the model, or exceed the machine
    """
    where = _Where(document)
    ranks = _ranks(spec, model, system, where)
    expert = spec.expert or (1 if spec.expert_tensor is None else ranks // spec.expert_tensor)
    parallel = Parallel(
        tensor=spec.tensor,
        data=where.divide("tensor", spec.tensor, "the ranks of a stage", ranks),
        expert=expert,
        expert_tensor=where.divide("expert", expert, "the ranks of a stage", ranks),
        pipeline=spec.pipeline,
        replicas=1,
        devices_per_node=system.devices_per_node,
    )
    if spec.expert_tensor not in (None, parallel.expert_tensor):
        raise where.error(
            "expert_tensor", spec.expert_tensor, f"{ranks} ranks in {expert} expert groups make"
            f" {parallel.expert_tensor} ranks a group"
        )  # fmt: skip
    _check_model(parallel, model, where)
    return _with_replicas(parallel, spec, system, where)


class _Where:
    """Errors at ``parallel.<key>``."""

    def __init__(self, document: Document) -> None:
        self.document = document

    def error(self, key: str, value: object, rule: str) -> ConfigError:
        return self.document.error(("parallel", key), rule, value)

    def divide(self, key: str, degree: int, what: str, total: int) -> int:
        if total % degree:
            raise self.error(key, degree, f"must divide {what} ({total}); {_divisors(total)} do")
        return total // degree


def _divisors(total: int) -> str:
    found = [n for n in range(1, min(total, 1024) + 1) if total % n == 0]
    return ", ".join(str(n) for n in (found if len(found) <= 12 else [*found[:12], "..."]))


def _ranks(spec: ParallelSpec, model: Model, system: System, where: _Where) -> int:
    if spec.data is not None:
        return spec.tensor * spec.data
    if spec.expert is None or not model.moe_layers:
        return spec.tensor
    if spec.expert_tensor is not None:
        return spec.expert * spec.expert_tensor
    engine = where.divide("replicas", spec.replicas or 1, "the devices of the system", system.devices)
    return where.divide("pipeline", spec.pipeline, "the devices of a replica", engine)


def _check_model(parallel: Parallel, model: Model, where: _Where) -> None:
    t, e = parallel.tensor, parallel.expert
    if not model.moe_layers and (e > 1 or parallel.data > 1):
        key = "expert" if e > 1 else "data"
        raise where.error(
            key, max(e, parallel.data), f"{model.name} has no experts; use replicas for more data parallelism"
        )
    if parallel.pipeline > len(model.layers):
        raise where.error("pipeline", parallel.pipeline, f"exceeds the {len(model.layers)} layers")
    for layer in model.layers:
        attention = layer.attention
        if attention and not attention.recurrent:
            where.divide("tensor", t, "the attention heads", attention.heads)
            if attention.kind == "gqa" and attention.kv_heads % t and t % attention.kv_heads:
                raise where.error(
                    "tensor", t, f"must divide the {attention.kv_heads} KV heads, or be a multiple"
                )
        if layer.dense:
            where.divide("tensor", t, "the feed-forward width", layer.dense.intermediate_size)
        if layer.moe:
            where.divide("expert", e, "the experts of a layer", layer.moe.n_experts)
            width = layer.moe.expert.intermediate_size
            where.divide("expert_tensor", parallel.expert_tensor, "the width of an expert", width)


def _with_replicas(parallel: Parallel, spec: ParallelSpec, system: System, where: _Where) -> Parallel:
    """Pack engines into nodes: small ones lie inside one, large ones begin at a node's edge."""
    devices, per_node = parallel.devices, system.devices_per_node
    if devices <= per_node:
        room = (per_node // devices) * system.nodes
    else:
        room = system.nodes // -(-devices // per_node)
    if room < 1:
        raise where.error(
            "tensor", parallel.tensor, f"an engine of tensor {parallel.tensor} x data {parallel.data} x"
            f" pipeline {parallel.pipeline} needs {devices} devices; {system.name} has {system.devices}"
            f" ({system.nodes} x {per_node})"
        )  # fmt: skip
    replicas = spec.replicas or room
    if replicas > room:
        raise where.error(
            "replicas", replicas, f"{system.name} has room for {room} engines of {devices} devices"
        )
    values = {**vars(parallel), "replicas": replicas}
    return Parallel(**values)
