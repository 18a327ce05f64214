"""Models: layers, experts and sizes, from library files and Hugging Face configurations."""

from workloads.models.load import described, load, names, published, resolve
from workloads.models.spec import (
    Attention,
    FeedForward,
    Layer,
    LayerGroup,
    Model,
    MoE,
    Projection,
    Router,
)

__all__ = [
    "Attention", "FeedForward", "Layer", "LayerGroup", "MoE", "Model", "Projection", "Router",
    "described", "load", "names", "published", "resolve",
]  # fmt: skip
