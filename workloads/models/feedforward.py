"""The feed-forward part of one layer: one network, or experts behind a router."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Scoring = Literal["softmax", "sigmoid", "sqrtsoftplus", "hash"]


@dataclass(frozen=True, kw_only=True)
class FeedForward:
    """A two-matrix (plain) or three-matrix (gated: act(x A) * (x B)) feed-forward network."""

    intermediate_size: int
    gated: bool = True
    bias: bool = False

    @property
    def matrices(self) -> int:
        """Number of weight matrices: 3 if gated, else 2."""
        return 3 if self.gated else 2

    def parameters(self, hidden_size: int) -> int:
        """Count the weights, for a model of width `hidden_size`."""
        bias = (self.matrices - 1) * self.intermediate_size + hidden_size if self.bias else 0
        return self.matrices * hidden_size * self.intermediate_size + bias


@dataclass(frozen=True, kw_only=True)
class Router:
    """How a token's scores become its chosen experts and their weights.

    With `n_group` > 1 the experts stand in equal groups, of which a token may use only the best
    `topk_group` (group-limited routing; DeepSeek-V2, section 2.1.2; DeepSeek-V3, section 2.1.2).
    """

    scoring: Scoring = "softmax"
    n_group: int = 1
    topk_group: int = 1
    renormalise: bool = True  # the chosen weights are divided by their sum
    bias: bool = False  # a per-expert bias takes part in the choice
    scale: float = 1.0  # the routed output is multiplied by it


@dataclass(frozen=True, kw_only=True)
class MoE:
    """Experts behind a router, and what runs beside them for every token (`shared`)."""

    n_experts: int
    top_k: int
    expert: FeedForward
    shared: FeedForward | None = None  # width = count x width of one shared expert
    shared_gated: bool = False  # the shared output is weighted by a learned scalar gate
    router: Router = Router()
    zero_experts: int = 0  # choices of the router that compute nothing (identity or null)
    latent_size: int | None = None  # experts work on so many dimensions, between two shared projections

    def expert_parameters(self, hidden_size: int) -> int:
        """Count the weights of one routed expert."""
        return self.expert.parameters(self.latent_size or hidden_size)

    def shared_parameters(self, hidden_size: int) -> int:
        """Count what every token uses beside the router: shared experts, their gate, latent projections."""
        shared = self.shared.parameters(hidden_size) if self.shared else 0
        gate = hidden_size if self.shared and self.shared_gated else 0
        latent = 2 * hidden_size * self.latent_size if self.latent_size else 0
        return shared + gate + latent

    def router_parameters(self, hidden_size: int) -> int:
        """Count the router's weights; a hash router has none."""
        if self.router.scoring == "hash":
            return 0
        choices = self.n_experts + self.zero_experts
        return hidden_size * choices + (choices if self.router.bias else 0)

    def parameters(self, hidden_size: int) -> int:
        """Count all weights: every expert, the shared ones, the router."""
        return self._with(self.n_experts, hidden_size)

    def active_parameters(self, hidden_size: int) -> int:
        """Count the weights that one token uses.

        Zero-computation experts share the choice with the real ones in proportion to their number
        (uniform routing), so that the mean of a token is counted, as their publishers do.
        """
        used = self.top_k * self.n_experts / (self.n_experts + self.zero_experts)
        return self._with(used, hidden_size)

    def _with(self, experts: float, hidden: int) -> int:
        routed = round(experts * self.expert_parameters(hidden))
        return routed + self.shared_parameters(hidden) + self.router_parameters(hidden)
