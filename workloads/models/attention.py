"""The token mixer of one layer: softmax attention (GQA, MLA), linear attention, Mamba."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

AttentionKind = Literal["gqa", "mla", "linear", "mamba"]


class Projection(NamedTuple):
    """One weight matrix: `inputs` x `outputs`, stored `copies` times, used `active` times per token."""

    name: str
    inputs: int
    outputs: int
    copies: int = 1
    active: int = 1


@dataclass(frozen=True, kw_only=True)
class Attention:
    """One token mixer.  Sizes are counts of values, never bytes.

    ``gqa``     heads x head_dim queries over kv_heads x (head_dim + v_head_dim) cached values (MHA when
                kv_heads == heads, MQA when it is 1)
    ``mla``     one latent of kv_lora_rank + qk_rope_head_dim cached values, shared by all heads
    ``linear``  a recurrent state instead of a cache (gated delta rule, KDA, lightning, short convolution)
    ``mamba``   a selective state space; heads are its independent channels (Mamba 1) or heads (Mamba 2)
    """

    kind: AttentionKind
    heads: int
    kv_heads: int
    head_dim: int
    v_head_dim: int
    window: int | None = None  # tokens that a query can see back, its own included; None: all
    q_lora_rank: int | None = None
    kv_lora_rank: int | None = None
    qk_nope_head_dim: int = 0
    qk_rope_head_dim: int = 0
    qkv_bias: bool = False
    out_bias: bool = False
    gate_width: int = 0  # columns of a projection that gates the output; 0: not gated
    qk_norm: bool = False
    value_is_key: bool = False  # V is K: no value projection
    shares_kv: bool = False  # reads the cache of an earlier layer: no K, V projections, no cache
    experts: int = 1  # query and output projections kept (mixture of attention heads)
    top_k: int = 1  # of which a token uses so many
    absorbed: bool = False  # mla: queries meet the latent as it is, no up-projection of K and V
    o_lora_rank: int | None = None  # output projection by o_groups low-rank blocks
    o_groups: int = 1
    compression: int = 1  # tokens per cached entry, beyond the window
    sparse_top_k: int | None = None  # cached entries a query attends to, chosen by an indexer
    index_heads: int = 0
    index_head_dim: int = 0
    in_width: int = 0  # linear, mamba: columns of the joint input projection
    out_width: int = 0  # linear, mamba: rows of the output projection
    state_values: int = 0  # linear, mamba: values kept per sequence, whatever its length
    other_parameters: int = 0  # convolutions, decays, norms, sinks, relative positions

    @property
    def recurrent(self) -> bool:
        """Tell whether the layer keeps a state of fixed size instead of a cache per token."""
        return self.kind in ("linear", "mamba")

    @property
    def kv_values_per_token(self) -> int:
        """Count the values that one cached token takes in this layer (before compression)."""
        if self.recurrent or self.shares_kv:
            return 0
        index = self.index_head_dim if self.index_heads else 0
        if self.kind == "mla":
            return (self.kv_lora_rank or 0) + self.qk_rope_head_dim + index
        return self.kv_heads * (self.head_dim + self.v_head_dim) + index

    def kv_tokens(self, context_tokens: int) -> int:
        """Count the cached entries of a sequence of `context_tokens` tokens.

        Law: never more than the context, and constant once a windowed layer's window is full.
        """
        if self.kv_values_per_token == 0:
            return 0
        if self.compression > 1:
            recent = min(context_tokens, self.window or 0)
            return min(context_tokens, recent + context_tokens // self.compression)
        return context_tokens if self.window is None else min(context_tokens, self.window)

    @property
    def qk_head_dim(self) -> int:
        """Width of one query (and key) head, positions included."""
        if self.kind == "mla":
            return self.qk_nope_head_dim + self.qk_rope_head_dim
        return self.head_dim

    def projections(self, hidden_size: int) -> tuple[Projection, ...]:
        """List the weight matrices of this layer's mixer, in order of use."""
        if self.recurrent:
            return (
                Projection("in", hidden_size, self.in_width),
                Projection("out", self.out_width, hidden_size),
            )
        return (
            *self._query(hidden_size),
            *self._key_value(hidden_size),
            *self._index(hidden_size),
            *self._output(hidden_size),
        )

    def _query(self, hidden: int) -> list[Projection]:
        width = self.heads * self.qk_head_dim
        gate = [Projection("gate", hidden, self.gate_width)] if self.gate_width else []
        if self.q_lora_rank:
            rank = self.q_lora_rank
            return [Projection("q_a", hidden, rank), Projection("q_b", rank, width), *gate]
        per_expert = width // self.top_k
        return [Projection("q", hidden, per_expert, self.experts, self.top_k), *gate]

    def _key_value(self, hidden: int) -> list[Projection]:
        if self.shares_kv:
            return []
        if self.kind == "mla":
            rank = self.kv_lora_rank or 0
            down = Projection("kv_a", hidden, rank + self.qk_rope_head_dim)
            up = Projection("kv_b", rank, self.heads * (self.qk_nope_head_dim + self.v_head_dim))
            return [down] if self.absorbed else [down, up]
        key = Projection("k", hidden, self.kv_heads * self.head_dim)
        value = Projection("v", hidden, self.kv_heads * self.v_head_dim)
        return [key] if self.value_is_key else [key, value]

    def _index(self, hidden: int) -> list[Projection]:
        if not self.index_heads:
            return []
        return [
            Projection("index_q", self.q_lora_rank or hidden, self.index_heads * self.index_head_dim),
            Projection("index_k", hidden, self.index_head_dim),
            Projection("index_weights", hidden, self.index_heads),
        ]

    def _output(self, hidden: int) -> list[Projection]:
        width = self.heads * self.v_head_dim
        if self.o_lora_rank:
            blocks, rank = self.o_groups, self.o_lora_rank
            return [
                Projection("o_a", width // blocks, rank, blocks, blocks),
                Projection("o_b", blocks * rank, hidden),
            ]
        return [Projection("o", width // self.top_k, hidden, self.experts, self.top_k)]

    def _small(self, hidden: int) -> int:
        qkv = sum(p.outputs for p in self.projections(hidden) if p.name in ("q", "q_b", "k", "v"))
        norms = self.qk_head_dim * 2 if self.qk_norm else 0
        if self.kind == "mla":
            norms += (self.q_lora_rank or 0) + (self.kv_lora_rank or 0)
        bias = qkv * self.qkv_bias + hidden * self.out_bias
        return bias + norms + self.other_parameters

    def parameters(self, hidden_size: int) -> int:
        """Count all weights of the mixer, for a model of width `hidden_size`."""
        big = sum(p.inputs * p.outputs * p.copies for p in self.projections(hidden_size))
        return big + self._small(hidden_size)

    def active_parameters(self, hidden_size: int) -> int:
        """Count the weights that one token uses.  Law: at most `parameters`."""
        big = sum(p.inputs * p.outputs * p.active for p in self.projections(hidden_size))
        return big + self._small(hidden_size)
