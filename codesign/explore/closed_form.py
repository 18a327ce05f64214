"""`fidelity: roofline`: a saturated engine in closed form.  No queues, no events, no drawn routing.

Every data group holds B sequences, as many as KV memory, `max_sequences`, the token budget and the offered
load allow.  The mean iteration decodes one token of each and prefills ``B * prompt / (output - 1)`` tokens,
so that sequences come as fast as they go; a first token waits for iterations that prefill its prompt, as
much of it at a time as the token budget leaves.  An iteration takes the sum of its operators on one rank;
experts cost what the fullest group is expected to have (`codesign.explore.expected`); shared experts run
while the dispatch travels.

The same lines serve one point (`metrics_of`, with the project's cost models) and arrays of points
(`codesign.explore.roofline`, with a cost model of arrays).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from codesign.explore.expected import ExpectedLoads
from codesign.lower.machine import NetworkCost
from codesign.lower.operators import Operators
from codesign.lower.parallel import Parallel
from codesign.lower.precision import Precision
from hwmodels.costs import PARTS as DEVICE_PARTS
from hwmodels.costs import Cost
from hwmodels.spec import PRECISION_BYTES
from workloads.models import Attention, Model, MoE

ROUNDS = 8  # of the fixed point between offered load and batch
PARTS = (*DEVICE_PARTS, "network_bandwidth", "network_latency", "engine")
_LINK = DEVICE_PARTS.index("link_bandwidth")


@dataclass(frozen=True, kw_only=True)
class Load:
    """What the engine serves; numbers or arrays.  `most` is the largest batch that policies allow."""

    prompt: Any
    output: Any
    most: Any
    token_budget: Any = np.inf
    concurrency: Any = np.inf  # requests in flight, in the whole system
    rate_per_s: Any = np.inf  # requests offered, to the whole system


@dataclass(frozen=True, kw_only=True)
class Hardware:
    """What energy, money and memory need beside the cost model; numbers or arrays."""

    kv_bytes: Any  # of a device
    flop_j: Any
    memory_j: Any  # per byte
    link_j: Any
    network_j: Any
    static_w: Any  # of all devices used, while they run
    rental_usd_per_s: Any = None
    owned_usd_per_s: Any = None
    usd_per_j: Any = 0.0
    area_m2: Any = np.nan  # of all devices used


@dataclass
class Sum:
    """Seconds by part and counters of one rank, summed over an iteration."""

    parts: list[Any]
    flop: Any = 0.0
    memory_bytes: Any = 0.0
    link_bytes: Any = 0.0
    network_bytes: Any = 0.0

    @classmethod
    def empty(cls) -> Sum:
        """Return nothing."""
        return cls([0.0] * len(PARTS))

    @property
    def seconds(self) -> Any:
        """All parts together."""
        return sum(self.parts)

    def add(self, cost: Cost, main: str, times: Any = 1.0) -> None:
        """Add a cost some times."""
        network = isinstance(cost, NetworkCost)
        for i, part in enumerate(cost.parts):
            at = i + 2 if network and i >= _LINK else i
            self.parts[at] = self.parts[at] + part * times
        self.flop = self.flop + cost.flop * times
        self.memory_bytes = self.memory_bytes + cost.bytes_of(main) * times
        link = cost.bytes_of("link") * times
        if network:
            self.network_bytes = self.network_bytes + link
        else:
            self.link_bytes = self.link_bytes + link


@dataclass
class Engine:
    """One engine of a plan, to be asked for its steady state."""

    model: Model
    parallel: Parallel
    precision: Precision
    operators: Operators
    loads: dict[MoE, ExpectedLoads]
    block_tokens: int
    engine_s: tuple[float, float, float]  # step, per sequence, per token
    main: str
    exchange: tuple[Any, Any]  # latency_s[2], seconds_per_byte[2]

    @cached_property
    def _groups(self) -> list[tuple[Any, int]]:
        return [(group.layer, len(group.indices)) for group in self.model.groups()]

    def sequence_bytes(self, context: Any) -> Any:
        """Return the KV bytes of a sequence on one device, all layers, whole blocks."""
        tokens = np.ceil(context / self.block_tokens) * self.block_tokens
        t, total = self.parallel.tensor, 0.0
        for layer, count in self._groups:
            a = layer.attention
            if a is None:
                continue
            share = 1.0 if a.kind == "mla" else 1.0 / min(t, a.kv_heads)
            entry = a.kv_values_per_token * share * self.precision.kv_bytes
            state = a.state_values / t * self.precision.kv_bytes
            total = total + count * (entry * _kept(a, tokens) + state)
        return total / self.parallel.pipeline

    def steady(self, load: Load, hardware: Hardware) -> dict[str, Any]:
        """Return the metrics of the steady state; NaN where no request fits.

        Law: tokens/s times seconds per iteration is tokens per iteration; shares of time sum to 1.
        """
        p = self.parallel
        lanes = p.data * p.pipeline * p.replicas
        prompt, output = np.maximum(np.round(load.prompt), 1.0), np.maximum(np.round(load.output), 1.0)
        context = np.floor(prompt + output / 2)
        decodes = np.maximum(output - 1.0, 1.0)
        fits = np.floor(hardware.kv_bytes / p.pipeline / self.sequence_bytes(context))
        most = np.minimum(load.most, load.token_budget / (1.0 + prompt / decodes))
        most = np.floor(np.maximum(np.minimum(most, load.concurrency / lanes), 1.0))
        most = np.where(fits >= 1, np.minimum(most, fits), np.nan)
        batch, rounds = most, ROUNDS if np.any(np.isfinite(load.rate_per_s)) else 0
        for _ in range(rounds):
            total = self.iteration(batch, batch * prompt / decodes, prompt, decodes, context)
            batch = np.minimum(most, load.rate_per_s / lanes * decodes * total.seconds)
        total = self.iteration(batch, batch * prompt / decodes, prompt, decodes, context)
        chunk = np.minimum(prompt, np.maximum(load.token_budget - batch, 1.0))
        first_s = self.iteration(batch, chunk, prompt, decodes, context).seconds * np.ceil(prompt / chunk)
        return self._metrics(total, first_s, batch, output, decodes, lanes, load, hardware, fits)

    def _metrics(
        self, total: Sum, ttft: Any, batch: Any, output: Any, decodes: Any, lanes: int, load: Load,
        hardware: Hardware, fits: Any,
    ) -> dict[str, Any]:  # fmt: skip
        seconds = total.seconds
        requests_per_s = np.minimum(lanes * batch / decodes / seconds, load.rate_per_s)
        tokens_per_s = requests_per_s * output
        # each token's energy: what an iteration of all its ranks draws, over the tokens it gives
        drawn = {
            "compute": total.flop * hardware.flop_j, "memory": total.memory_bytes * hardware.memory_j,
            "link": total.link_bytes * hardware.link_j, "network": total.network_bytes * hardware.network_j,
        }  # fmt: skip
        per_token = self.parallel.ranks / (self.parallel.data * batch * output / decodes)
        dynamic_j = sum(drawn.values()) * per_token
        watts = dynamic_j * tokens_per_s + hardware.static_w
        rate = hardware.rental_usd_per_s
        if rate is None and hardware.owned_usd_per_s is not None:
            rate = hardware.owned_usd_per_s + watts * hardware.usd_per_j
        return {
            "output_tokens_per_s": tokens_per_s, "requests_per_s": requests_per_s,
            **_alike("ttft_s", ttft), **_alike("tpot_s", seconds),
            **_alike("e2e_s", ttft + (output - 1.0) * seconds),
            "energy_j_per_token": watts / tokens_per_s, "average_power_w": watts,
            "usd_per_million_tokens": np.nan if rate is None else rate / tokens_per_s * 1e6,
            "batch": batch, "kv_sequences": fits,
            "devices": float(self.parallel.devices * self.parallel.replicas), "area_m2": hardware.area_m2,
            **{f"share.{name}": part / seconds for name, part in zip(PARTS, total.parts, strict=True)},
            **{f"token_j.{name}": joules * per_token for name, joules in drawn.items()},
            "token_j.static": hardware.static_w / tokens_per_s,
        }  # fmt: skip

    def iteration(self, batch: Any, prefill: Any, prompt: Any, decodes: Any, context: Any) -> Sum:
        """Return one rank's seconds and counters of a mixed iteration, all stages together."""
        ops, p, total = self.operators, self.parallel, Sum.empty()
        tokens, outputs = batch + prefill, batch + batch / decodes
        self._static(total, ops.embed, tokens)
        for layer, count in self._groups:
            if layer.attention:
                self._static(total, ops.attention_class[layer.attention], tokens, count)
                self._attention(total, layer.attention, count, batch, prefill, prompt, context)
                self._reduce(total, tokens, count)
            if layer.dense:
                self._static(total, ops.dense_class[layer.dense], tokens, count)
                self._reduce(total, tokens, count)
            if layer.moe:
                self._static(total, ops.gate_class[layer.moe], tokens, count)
                self._experts(total, layer.moe, tokens, count)
        self._static(total, ops.head, outputs)
        if p.tensor > 1:
            self._static(total, ops.logits, outputs)
        if p.pipeline > 1:
            message = tokens * self.model.hidden_size * self.precision.activation_bytes / p.tensor
            nodes = 1 + (p.devices > p.devices_per_node)
            total.add(ops.machine.collective("send", message, 2, nodes), self.main, p.pipeline - 1)
        step, per_sequence, per_token = self.engine_s
        total.parts[-1] = total.parts[-1] + step + per_sequence * outputs + per_token * tokens
        return total

    def _static(self, total: Sum, index: int, tokens: Any, times: float = 1.0) -> None:
        total.add(self.operators.classes[index].cost(tokens), self.main, times)

    def _reduce(self, total: Sum, tokens: Any, times: float) -> None:
        if self.parallel.tensor > 1:
            self._static(total, self.operators.reduce, tokens, times)

    def _attention(
        self, total: Sum, a: Attention, count: int, batch: Any, prefill: Any, prompt: Any, context: Any
    ) -> None:
        """Add decodes at the mean context, and prompts in chunks that end at the mean position."""
        chunk = np.minimum(prefill, prompt)
        cost = self.operators.prefill(a, chunk, (prompt + chunk) / 2.0)
        total.add(cost, self.main, count * prefill / chunk)
        total.add(self.operators.decode(a, batch, batch * _seen(a, context)), self.main, count)

    def _experts(self, total: Sum, moe: MoE, tokens: Any, count: int) -> None:
        ops, p = self.operators, self.parallel
        exchanged = p.data > 1
        ways = self._exchange(total, moe, tokens, count) if exchanged else [(0.0, 0.0)]
        if moe in ops.shared_class:
            self._shared(total, ops.shared_class[moe], tokens, np.maximum(*ways[0]), count)
        self._routed(total, moe, tokens * p.data, count)
        if exchanged:
            self._links(total, ways[1], count)
            if p.tensor > 1:
                self._static(total, ops.gather, tokens, count)
                if moe in ops.shared_class:
                    self._static(total, ops.reduce, tokens, count)
        elif p.ranks > 1:
            self._static(total, ops.expert_reduce, tokens, count)

    def _shared(self, total: Sum, index: int, tokens: Any, hidden_s: Any, count: int) -> None:
        """Add shared experts, as far as the dispatch has not hidden them; their work counts in full."""
        shared = Sum.empty()
        self._static(shared, index, tokens)
        left = np.maximum(1.0 - hidden_s / shared.seconds, 0.0)
        for i, part in enumerate(shared.parts):
            total.parts[i] = total.parts[i] + part * left * count
        total.flop = total.flop + shared.flop * count
        total.memory_bytes = total.memory_bytes + shared.memory_bytes * count

    def _routed(self, total: Sum, moe: MoE, tokens: Any, count: int) -> None:
        """Add the routed experts: time of the fullest group, work of the mean one."""
        p, loads = self.parallel, self.loads[moe]
        costs = self.operators.costs
        table = costs.expert_tables(
            moe.latent_size or self.model.hidden_size, moe.expert.intermediate_size // p.expert_tensor,
            moe.expert.gated, self.precision.experts, self.precision.activations, 2,
        )  # fmt: skip
        token_bytes = table.bytes_of_n[2] - table.bytes_of_n[1]
        weight_bytes = table.bytes_of_n[1] - token_bytes
        load, used = loads.largest(tokens, p.expert)
        compute = load * table.flop_per_token * table.seconds_per_work + table.head_s
        memory = (used * weight_bytes + load * token_bytes) * table.seconds_per_byte
        launch = table.launch_s + used * table.active_s
        bound = compute >= memory
        seconds = (np.where(bound, compute, 0.0), np.where(bound, 0.0, memory), launch)
        for name, part in zip(("compute", "memory", "launch"), seconds, strict=True):
            at = DEVICE_PARTS.index(name)
            total.parts[at] = total.parts[at] + part * count
        total.flop = total.flop + tokens * loads.slots * table.flop_per_token * count / p.expert
        moved = loads.active(tokens) * weight_bytes + tokens * loads.slots * token_bytes
        total.memory_bytes = total.memory_bytes + moved * count / p.expert

    def _exchange(self, total: Sum, moe: MoE, tokens: Any, count: int) -> list[tuple[Any, Any]]:
        """Count the bytes of dispatch and combine, add the dispatch; return both ways' seconds by link."""
        p, loads = self.parallel, self.loads[moe]
        copies = tokens * loads.reached(p.expert) / p.expert  # of a data group's tokens, to one group
        peers = min(p.ranks, p.devices_per_node)
        targets = (max(peers - p.tensor, 0), p.ranks - max(peers, p.tensor))  # ranks inside, elsewhere
        latency_s, per_byte = self.exchange
        ways = []
        for name in (self.precision.dispatch, self.precision.combine):
            size = self.model.hidden_size * PRECISION_BYTES[name]
            moved = [copies * n / p.tensor * size for n in targets]
            seconds = [latency_s[i] + moved[i] * per_byte[i] if targets[i] else 0.0 for i in range(2)]
            total.link_bytes = total.link_bytes + moved[0] * count
            total.network_bytes = total.network_bytes + moved[1] * count
            ways.append((seconds[0], seconds[1]))
        self._links(total, ways[0], count)
        return ways

    def _links(self, total: Sum, seconds: tuple[Any, Any], count: int) -> None:
        """Add the slower of both ports to its part."""
        inside = np.asarray(seconds[0]) >= np.asarray(seconds[1])
        for i, chosen in enumerate((inside, ~inside)):
            at = _LINK + 2 * i
            total.parts[at] = total.parts[at] + np.where(chosen, seconds[i], 0.0) * count


def _alike(name: str, value: Any) -> dict[str, Any]:
    """Return a mean and percentiles: without queues all requests are alike."""
    return {f"{name}.{which}": value for which in ("mean", "p50", "p90", "p99")}


def _seen(a: Attention, context: Any) -> Any:
    """Count the entries that a query at the end of `context` tokens reads (as `codesign.lower.kv.View`)."""
    limit = a.window
    if a.sparse_top_k:
        limit = min(limit or a.sparse_top_k, a.sparse_top_k)
    if a.compression > 1:
        return np.minimum(context, limit or 0) + np.floor(context / a.compression)
    return context if limit is None else np.minimum(context, limit)


def _kept(a: Attention, tokens: Any) -> Any:
    """Count the entries that a sequence of `tokens` tokens keeps (as `Attention.kv_tokens`)."""
    if a.compression > 1:
        return np.minimum(tokens, np.minimum(tokens, a.window or 0) + np.floor(tokens / a.compression))
    return tokens if a.window is None else np.minimum(tokens, a.window)


def plain(found: Mapping[str, Any]) -> dict[str, Any]:
    """Return numbers without NaN, as JSON takes them."""
    return {name: None if value != value else float(value) for name, value in found.items()}
