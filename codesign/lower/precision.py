"""Types of weights, activations and caches, resolved against the model as released."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from codesign.base.document import Document
from codesign.experiment.schema import DecodeSpec, PrecisionSpec
from hwmodels.spec import PRECISION_BYTES
from workloads.models import Model


@dataclass(frozen=True, kw_only=True)
class Precision:
    """Names of types, each in `hwmodels.spec.PRECISION_BYTES`."""

    experts: str  # routed experts' weights
    dense: str  # all other matrices
    embedding: str
    activations: str
    kv: str
    dispatch: str
    combine: str
    decode: DecodeSpec | None = None  # of matrices that are narrower than activations, experts apart

    def to_dict(self) -> dict[str, Any]:
        """Return the types, and the decoding if there is any, as plain data."""
        out = {name: value for name, value in vars(self).items() if value is not None}
        return out if self.decode is None else {**out, "decode": self.decode.model_dump(mode="json")}

    @property
    def expert_bytes(self) -> float:
        """Bytes of one value of a routed expert."""
        return PRECISION_BYTES[self.experts]

    @property
    def dense_bytes(self) -> float:
        """Bytes of one value of any other matrix."""
        return PRECISION_BYTES[self.dense]

    @property
    def embedding_bytes(self) -> float:
        """Bytes of one value of the embedding and the output head."""
        return PRECISION_BYTES[self.embedding]

    @property
    def activation_bytes(self) -> float:
        """Bytes of one activation."""
        return PRECISION_BYTES[self.activations]

    @property
    def kv_bytes(self) -> float:
        """Bytes of one cached value."""
        return PRECISION_BYTES[self.kv]


def resolve_precision(spec: PrecisionSpec, model: Model, document: Document) -> Precision:
    """Resolve ``native`` and what is left out.

    Raises
    ------
    ConfigError   a type that nobody knows
    """
    native = spec.weights == "native"
    chosen = {
        "experts": _experts(spec, model.native_precision),
        "dense": model.dense_precision if native else spec.weights,
        "embedding": model.embedding_precision if native else "bf16",
        "activations": spec.activations,
        "kv": spec.kv,
        "dispatch": spec.dispatch or spec.activations,
        "combine": spec.combine or spec.activations,
    }
    for key, name in chosen.items():
        if name not in PRECISION_BYTES:
            known = (
                "native, " + ", ".join(PRECISION_BYTES)
                if key in ("experts", "dense", "embedding")
                else ", ".join(PRECISION_BYTES)
            )
            of_experts = key == "experts" and isinstance(spec.experts, str)
            written = "weights" if key in ("experts", "dense", "embedding") and not of_experts else key
            raise document.error(("precision", written), f"unknown type; choose from {known}", name)
    return Precision(**chosen, decode=spec.decode)


def _experts(spec: PrecisionSpec, native: str) -> str:
    """Return the type of the routed experts' weights, before `codesign.lower.formats` says more."""
    written = spec.experts if isinstance(spec.experts, str) else spec.weights
    return native if written == "native" else written
