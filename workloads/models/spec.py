"""What a model is, for a simulator: layers of a token mixer and a feed-forward part, and their sizes."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any, Literal, get_args

from workloads.models.attention import Attention, AttentionKind, Projection
from workloads.models.feedforward import FeedForward, MoE, Router, Scoring

__all__ = [
    "Attention", "AttentionKind", "FeedForward", "Layer", "LayerGroup", "MoE", "Model", "Projection",
    "Router", "Scoring",
]  # fmt: skip

Counting = Literal["all", "no_input_embedding", "no_embeddings"]
COUNTINGS: tuple[Counting, ...] = get_args(Counting)


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One layer: a token mixer, then (or beside it) a feed-forward part; either may be missing."""

    attention: Attention | None = None
    ffn: FeedForward | MoE | None = None
    cross_attention: Attention | None = None  # decoder of an encoder-decoder

    @property
    def moe(self) -> MoE | None:
        """Return the experts, or None in a dense layer."""
        return self.ffn if isinstance(self.ffn, MoE) else None

    @property
    def dense(self) -> FeedForward | None:
        """Return the dense feed-forward part, or None in an expert layer."""
        return self.ffn if isinstance(self.ffn, FeedForward) else None

    @property
    def kv_values_per_token(self) -> int:
        """Count the cached values per token of the decoder's own attention."""
        return self.attention.kv_values_per_token if self.attention else 0

    @property
    def state_values(self) -> int:
        """Count the recurrent state's values per sequence."""
        return self.attention.state_values if self.attention else 0

    def kv_tokens(self, context_tokens: int) -> int:
        """Count the cached entries for a context (windows and compression considered)."""
        return self.attention.kv_tokens(context_tokens) if self.attention else 0

    def attention_parameters(self, hidden_size: int) -> int:
        """Count the weights of the mixer and of the cross attention."""
        mixers = (self.attention, self.cross_attention)
        return sum(mixer.parameters(hidden_size) for mixer in mixers if mixer)

    def ffn_parameters(self, hidden_size: int) -> int:
        """Count the weights of the feed-forward part, all experts included."""
        return self.ffn.parameters(hidden_size) if self.ffn else 0

    def norm_parameters(self, hidden_size: int) -> int:
        """Count one scale vector per part."""
        parts = (self.attention, self.cross_attention, self.ffn)
        return hidden_size * sum(part is not None for part in parts)

    def parameters(self, hidden_size: int) -> int:
        """Count all weights.  Law: attention + feed-forward + norms."""
        return (
            self.attention_parameters(hidden_size)
            + self.ffn_parameters(hidden_size)
            + self.norm_parameters(hidden_size)
        )

    def active_parameters(self, hidden_size: int) -> int:
        """Count the weights that one token uses.  Law: at most `parameters`."""
        mixers = (self.attention, self.cross_attention)
        active = sum(mixer.active_parameters(hidden_size) for mixer in mixers if mixer)
        ffn = self.moe.active_parameters(hidden_size) if self.moe else self.ffn_parameters(hidden_size)
        return active + ffn + self.norm_parameters(hidden_size)


@dataclass(frozen=True, kw_only=True)
class LayerGroup:
    """Equal layers, and where they stand."""

    layer: Layer
    indices: tuple[int, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the indices and the layer as plain data."""
        return {"indices": list(self.indices), **asdict(self.layer)}


@dataclass(frozen=True, kw_only=True)
class Model:
    """A language model.  Vision and audio towers and multi-token-prediction layers are left out (`notes`).

    `counting` says which embeddings `active_parameters` holds, because publishers differ: ``all`` (input
    embedding and output head; Mixtral, Qwen, Llama 4), ``no_input_embedding`` (a table look-up, not a
    product; DeepSeek, gpt-oss), ``no_embeddings`` (GLM-4.5).  `total_parameters` always holds both.
    """

    name: str
    family: str  # `model_type` of the configuration
    hidden_size: int
    vocab_size: int
    tied_embeddings: bool
    max_context: int | None
    layers: tuple[Layer, ...]  # the decoder
    encoder_layers: tuple[Layer, ...] = ()
    native_precision: str = "bf16"  # of the experts' (else all) weights as released
    dense_precision: str = "bf16"  # of the attention's weights as released
    embedding_precision: str = "bf16"  # of embedding and output head as released
    counting: Counting = "all"
    embedding_dim: int | None = None  # width of the embedding, where it is not hidden_size
    other_parameters: int = 0  # learned positions, final norms, output bias
    notes: tuple[str, ...] = ()

    @property
    def embedding_parameters(self) -> int:
        """Count the input embedding: vocabulary x width."""
        return self.vocab_size * (self.embedding_dim or self.hidden_size)

    @property
    def lm_head_parameters(self) -> int:
        """Count the output head as stored: 0 when tied to the embedding."""
        return 0 if self.tied_embeddings else self.embedding_parameters

    @cached_property
    def layer_parameters(self) -> int:
        """Count all weights of all layers."""
        return sum(layer.parameters(self.hidden_size) for layer in self._all())

    @cached_property
    def active_layer_parameters(self) -> int:
        """Count the weights of the layers that one token uses."""
        return sum(layer.active_parameters(self.hidden_size) for layer in self._all())

    @property
    def total_parameters(self) -> int:
        """Count all weights: layers, embedding, output head (once if tied), positions, norms."""
        stored = self.embedding_parameters + self.lm_head_parameters
        return self.layer_parameters + stored + self.other_parameters

    @property
    def active_parameters(self) -> int:
        """Count the weights per token, embeddings by the publisher's rule (`counting`)."""
        return self.active_by(self.counting)

    def active_by(self, counting: Counting) -> int:
        """Count the weights per token under a named rule for the embeddings.

        ``all``: embedding and head as stored; ``no_input_embedding``: the head alone, also when it is
        tied; ``no_embeddings``: neither.
        """
        counted = {
            "all": self.embedding_parameters + self.lm_head_parameters,
            "no_input_embedding": self.embedding_parameters,
            "no_embeddings": 0,
        }
        return self.active_layer_parameters + self.other_parameters + counted[counting]

    def kv_values(self, context_tokens: int) -> int:
        """Count the values that the cache of one sequence of `context_tokens` tokens holds."""
        return sum(layer.kv_values_per_token * layer.kv_tokens(context_tokens) for layer in self.layers)

    def kv_bytes(self, context_tokens: int, bytes_per_value: float) -> float:
        """Return the bytes of one sequence's cache: windowed layers stop growing at their window."""
        return self.kv_values(context_tokens) * bytes_per_value

    def kv_bytes_per_token(self, bytes_per_value: float) -> float:
        """Return the bytes that one token adds while no window is full, over all layers."""
        values = sum(layer.kv_values_per_token / _compression(layer) for layer in self.layers)
        return values * bytes_per_value

    @property
    def state_values(self) -> int:
        """Count the values of recurrent state that each running sequence keeps."""
        return sum(layer.state_values for layer in self.layers)

    @cached_property
    def moe_layers(self) -> tuple[int, ...]:
        """Indices of the decoder layers that have experts."""
        return tuple(i for i, layer in enumerate(self.layers) if layer.moe)

    @property
    def n_experts(self) -> int:
        """Return the largest number of routed experts of a layer; 0 in a dense model."""
        return max((layer.moe.n_experts for layer in self._all() if layer.moe), default=0)

    @property
    def top_k(self) -> int:
        """Return the largest number of experts per token of a layer; 0 in a dense model."""
        return max((layer.moe.top_k for layer in self._all() if layer.moe), default=0)

    def groups(self, *, encoder: bool = False) -> tuple[LayerGroup, ...]:
        """Gather equal layers, in order of first appearance.  Law: indices partition the layers."""
        found: dict[Layer, list[int]] = {}
        for i, layer in enumerate(self.encoder_layers if encoder else self.layers):
            found.setdefault(layer, []).append(i)
        return tuple(LayerGroup(layer=layer, indices=tuple(at)) for layer, at in found.items())

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain data that JSON can write."""
        plain = asdict(replace(self, layers=(), encoder_layers=()))
        plain["layers"] = [group.to_dict() for group in self.groups()]
        plain["encoder_layers"] = [group.to_dict() for group in self.groups(encoder=True)]
        plain["notes"] = list(self.notes)
        return plain

    def _all(self) -> tuple[Layer, ...]:
        return self.layers + self.encoder_layers


def _compression(layer: Layer) -> int:
    return layer.attention.compression if layer.attention else 1
