"""From an experiment's model and ``workload.routing`` to a routing stream."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from codesign.base.document import Document
from codesign.experiment.merging import MergedStream, merged_experts
from workloads.routing import RoutingStream, build_routing

if TYPE_CHECKING:
    from codesign.experiment.experiment import Experiment


def open_routing(experiment: Experiment, part: Document | None = None) -> RoutingStream | None:
    """Build the routing stream of a model's MoE layers; None for a dense model.

    Parameters
    ----------
    part : Document    another routing than ``workload.routing``: what a predictor learns from
    """
    stream = plain_routing(experiment, part)
    own = stream if part is None else plain_routing(experiment)
    leader = merged_experts(experiment, own) if own is not None else None
    return stream if stream is None or leader is None else MergedStream(stream, leader)


def plain_routing(experiment: Experiment, part: Document | None = None) -> RoutingStream | None:
    """Build the routing stream as if no experts were merged (`precision.experts.merge`)."""
    model = experiment.model
    if not model.moe_layers:
        return None
    router = next(layer.moe.router for layer in model.layers if layer.moe)
    return build_routing(
        _beside(part or experiment.part("workload", "routing"), experiment.base_dir),
        moe_layers=model.moe_layers,
        n_experts=model.n_experts,
        top_k=model.top_k,
        n_group=router.n_group,
        topk_group=router.topk_group,
        scoring=router.scoring,
        seed=experiment.seed,
    )


def _beside(document: Document, base_dir: Path) -> Document:
    """Let a relative path of a recorded trace start at the experiment's folder, if it is there."""
    data = document.data
    if isinstance(data, dict):
        for key in ("trace", "path", "file", "fit"):
            value = data.get(key)
            if isinstance(value, str) and (base_dir / value).exists():
                document = document.copy()
                data = document.data
                data[key] = str(base_dir / value)
    return document
