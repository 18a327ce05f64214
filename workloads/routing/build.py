"""From ``workload.routing`` of an experiment to a stream for one model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from codesign.base.document import Document, dotted, validate
from codesign.base.errors import ConfigError
from workloads.routing.stream import GENERATORS, RoutingGenerator, RoutingShape, RoutingStream


def build_routing(
    routing: Document | Mapping[str, Any],
    *,
    moe_layers: Sequence[int],
    n_experts: int,
    top_k: int,
    n_group: int = 1,
    topk_group: int = 1,
    scoring: str = "softmax",
    seed: int = 0,
) -> RoutingStream:
    """Build the routing stream that ``{generator: NAME, settings}`` describes, for one model.

    Parameters
    ----------
    routing : Document or mapping     `workload.routing`; a Document keeps file and line for errors
    moe_layers : ints, shape (L,)     indices of the MoE layers
    n_group, topk_group : int         group-limited routing; 1, 1: none
    seed : int                        the experiment's seed

    Raises
    ------
    ConfigError   unknown generator or setting, a shape that cannot be, a file that does not suit the model
    """
    document = routing if isinstance(routing, Document) else Document(dict(routing), "workload.routing")
    shape = RoutingShape(tuple(moe_layers), n_experts, top_k, n_group, topk_group, scoring)
    check_shape(shape)
    generator = read_generator(document)
    try:
        return generator.open(shape, seed)
    except ConfigError as error:
        raise ConfigError(f"{document.where(('generator',))}: {error}") from None


def read_generator(document: Document) -> RoutingGenerator:
    """Read and check the settings of a generator without a model (validation before anything runs)."""
    data = document.data
    if isinstance(data, str):
        data = {"generator": data}
    if not isinstance(data, dict) or not isinstance(data.get("generator"), str):
        names = ", ".join(GENERATORS.names())
        raise document.error((), f"routing is written as {{generator: NAME, settings}}; choose from {names}")
    key = dotted((*document.prefix, "generator"))
    component = GENERATORS.get(data["generator"], f"{document.where(('generator',))}: {key}")
    rest = {key: value for key, value in data.items() if key != "generator"}
    inner = Document(rest, document.origin, document.lines, document.origins, document.prefix)
    built: RoutingGenerator = validate(component, inner)
    return built


def check_shape(shape: RoutingShape) -> None:
    """Refuse a shape that no router can have."""
    if shape.n_experts < 1 or shape.n_experts > 32767:
        raise ConfigError(f"experts = {shape.n_experts}: must be between 1 and 32767")
    if not 1 <= shape.top_k <= shape.n_experts:
        raise ConfigError(f"top_k = {shape.top_k}: must be between 1 and the {shape.n_experts} experts")
    if not 1 <= shape.n_group <= 64 or shape.n_experts % shape.n_group:
        raise ConfigError(f"n_group = {shape.n_group}: must divide the {shape.n_experts} experts, at most 64")
    if not 1 <= shape.topk_group <= shape.n_group:
        raise ConfigError(f"topk_group = {shape.topk_group}: must be between 1 and n_group = {shape.n_group}")
    reachable = shape.n_experts // shape.n_group * shape.topk_group
    if shape.top_k > reachable:
        raise ConfigError(
            f"top_k = {shape.top_k}: only {reachable} experts are in {shape.topk_group} of"
            f" {shape.n_group} groups"
        )
