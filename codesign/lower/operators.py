"""Pass 4: layers to operators of one rank, gathered in classes, and what a class costs.

A *class* is a run of operators that one rank executes without waiting for another: all layers of equal
shape share it, so its cost is worked out once for a number of tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

from codesign.experiment.schema import DecodeSpec
from codesign.lower.machine import Machine
from codesign.lower.parallel import Parallel
from codesign.lower.precision import Precision
from hwmodels.costs import PARTS, Cost
from workloads.models import Attention, FeedForward, Model, MoE

if TYPE_CHECKING:
    from codesign.lower.attention_pool import AttentionPool

# projections of one input, computed as one matrix product
_FUSED = ("q", "k", "v", "gate", "q_a", "kv_a", "in", "index_k", "index_weights")
# columns dealt over the tensor ranks; "kv" heads only as far as there are enough of them
_BY_COLUMN = ("q", "q_b", "gate", "kv_b", "in", "o_a")
_BY_KV_HEAD = ("k", "v")
_BY_ROW = ("o", "out", "o_b")


class Transfer(NamedTuple):
    """What is moved between a tier and main memory."""

    tier: str
    content: str
    written: bool = False  # to the tier; else read from it


@dataclass(frozen=True)
class RowClass:
    """One class: its name, its kind (`ext.iteration.KINDS`), its cost for a number of tokens."""

    name: str
    kind: str
    cost: Callable[[int], Cost]
    by: str = "tokens"  # or "outputs": tokens that the head turns into logits
    moves: int = -1  # index in `Operators.transfers` of what it moves between tiers


def nothing(_: int) -> Cost:
    """Cost nothing: what is filled otherwise, or has nothing to do."""
    return Cost((0.0,) * len(PARTS))


def _part_class(whole: RowClass, index: int, parts: int) -> RowClass:
    if parts == 1:
        return whole

    def cost(count: int) -> Cost:
        share = (count + parts - 1 - index) // parts
        return whole.cost(share) if share else nothing(0)

    return replace(whole, cost=cost)


class Operators:
    """The classes of a model on one rank of a plan.

    Attributes
    ----------
    classes : list of RowClass
    attention_class, dense_class, gate_class, shared_class : dict    part of a layer -> index
    transfers : list of Transfer    what classes move between tiers
    """

    def __init__(
        self, model: Model, parallel: Parallel, precision: Precision, machine: Machine,
        attention_unit: str = "xpu",
    ) -> None:  # fmt: skip
        self.model, self.parallel, self.precision, self.machine = model, parallel, precision, machine
        self.attention_unit = attention_unit
        self.decoding = precision.decode if precision.dense_bytes < precision.activation_bytes else None
        self.costs = machine.costs
        self.classes: list[RowClass] = []
        self.transfers: list[Transfer] = []
        self.embed = self._add("embed", "head", self._embed)
        self.head = self._add("head", "head", self._head, by="outputs")
        self.logits = self._add("gather_logits", "collective", self._logits, by="outputs")
        self.reduce = self._add("all_reduce", "collective", self._reduce)
        self.expert_reduce = self._add("expert_all_reduce", "combine", self._expert_reduce)
        self.gather = self._add("all_gather", "collective", self._gather)
        self.send = self._add("send", "send", self._send)
        self.attention_class: dict[Attention, int] = {}
        self.dense_class: dict[FeedForward, int] = {}
        self.gate_class: dict[MoE, int] = {}
        self.turns: tuple[int, ...] = (0,)  # where the rows of each part of a batch begin
        self.queries_per_read: int | None = None  # see policies.queries_per_read
        self.pool: AttentionPool | None = None  # who computes attention, if not these devices
        self.pool_rows: dict[Attention, list[tuple[int, int, int]]] = {}  # send, attend, back; by part
        self.shared_class: dict[MoE, int] = {}
        for group in model.groups():
            self._add_layer(group.layer.attention, group.layer.dense, group.layer.moe)

    def _add(self, name: str, kind: str, cost: Callable[[int], Cost], by: str = "tokens") -> int:
        self.classes.append(RowClass(name, kind, cost, by))
        return len(self.classes) - 1

    def add_transfer(
        self, moved: Transfer, costs: Sequence[Callable[[int], Cost]], by: str = "tokens",
        part: int = 0, parts: int = 1,
    ) -> list[int]:  # fmt: skip
        """Add the rows of a transfer, one for each leg of its way; the first one's bytes are counted.

        `costs` are of a whole batch; the rows are of one of the `parts` that its tokens are dealt to.
        """
        if moved not in self.transfers:
            self.transfers.append(moved)
        index, first = self.transfers.index(moved), len(self.classes)
        for i, cost in enumerate(costs):
            whole = RowClass(moved.content, "fetch", cost, by, -1 if i else index)
            self.classes.append(_part_class(whole, part, parts))
        return list(range(first, len(self.classes)))

    def _add_layer(self, mixer: Attention | None, dense: FeedForward | None, moe: MoE | None) -> None:
        if mixer and mixer not in self.attention_class:
            name = f"attention_{len(self.attention_class)}"
            self.attention_class[mixer] = self._add(name, "attention", lambda n: self.mixer(mixer, n))
        if dense and dense not in self.dense_class:
            name = f"dense_ffn_{len(self.dense_class)}"
            self.dense_class[dense] = self._add(name, "dense_ffn", lambda n: self.feed_forward(dense, n))
        if moe and moe not in self.gate_class:
            name = f"_{len(self.gate_class)}"
            self.gate_class[moe] = self._add("gate" + name, "gate", lambda n: self.gate(moe, n))
            if moe.shared or moe.latent_size:
                cost = self._add("shared" + name, "shared_experts", lambda n: self.shared(moe, n))
                self.shared_class[moe] = cost

    def take_turns(self, parts: int) -> None:
        """Add the rows of the parts of a batch, each with its share of the tokens."""
        if parts == 1:
            return
        whole = list(self.classes)
        self.turns = tuple(len(whole) * (1 + i) for i in range(parts))
        for i in range(parts):
            self.classes += [_part_class(row_class, i, parts) for row_class in whole]

    def attend_elsewhere(self, pool: AttentionPool) -> None:
        """Add the rows of attention on other devices; `codesign.lower.turns` fills them."""
        self.pool = pool
        for mixer in self.attention_class:
            self.pool_rows[mixer] = [
                (self._add("to_pool", "send", nothing), self._add("pooled", "attention", nothing),
                 self._add("from_pool", "send", nothing))
                for _ in self.turns
            ]  # fmt: skip

    def _gemm(self, tokens: int, outputs: int, inputs: int) -> Cost:
        outputs, inputs = max(1, outputs), max(1, inputs)
        cost = self.costs.gemm(tokens, outputs, inputs, self.precision.dense, self.precision.activations)
        if self.decoding is None:
            return cost
        return cost + self._decode(self.decoding, cost, tokens, outputs * inputs)

    def _decode(self, decode: DecodeSpec, product: Cost, tokens: int, values: int) -> Cost:
        """Cost the decoding of a matrix: before its product, or, fused, what the product does not hide."""
        seconds, flop = self.machine.decode(decode, self.precision.activation_bytes)
        times = values * (tokens if decode.per == "token" else min(tokens, 1))
        hidden_s = product.duration_s if decode.fused else 0.0
        parts = [0.0] * len(PARTS)
        parts[PARTS.index("compute" if decode.fused else "vector")] = max(0.0, times * seconds - hidden_s)
        return Cost(tuple(parts), times * flop)

    def _pass_over(self, tokens: int, values: float) -> Cost:
        """Cost an elementwise kernel that reads and writes `values` values a token in all."""
        return self.costs.elementwise(tokens * values * self.precision.activation_bytes)

    def mixer(self, attention: Attention, tokens: int) -> Cost:
        """Cost norm, projections, positions and cache writes; the attention over the cache is apart."""
        hidden, t = self.model.hidden_size, self.parallel.tensor
        cost = self._pass_over(tokens, 4.0 * hidden)
        fused = 0
        for p in attention.projections(hidden):
            outputs, inputs = p.outputs, p.inputs
            if p.name in _BY_COLUMN:
                outputs = -(-outputs // t)
            elif p.name in _BY_KV_HEAD:
                outputs = -(-outputs // min(t, attention.kv_heads))
            elif p.name in _BY_ROW:
                inputs = -(-inputs // t)
            if p.name in _FUSED and p.inputs == hidden:
                fused += outputs * p.active
            else:
                cost += self._gemm(tokens, outputs * p.active, inputs)
        cost += self._gemm(tokens, fused, hidden)
        cached = attention.kv_values_per_token + attention.heads * attention.qk_head_dim
        return cost + self._pass_over(tokens, 2.0 * cached / t)

    def feed_forward(self, ffn: FeedForward, tokens: int) -> Cost:
        """Cost norm, the two or three matrices dealt over the tensor ranks, and the activation."""
        hidden, width = self.model.hidden_size, -(-ffn.intermediate_size // self.parallel.tensor)
        up = self._gemm(tokens, width * (ffn.matrices - 1), hidden)
        act = self._pass_over(tokens, float(width * ffn.matrices))
        return self._pass_over(tokens, 4.0 * hidden) + up + act + self._gemm(tokens, hidden, width)

    def gate(self, moe: MoE, tokens: int) -> Cost:
        """Cost norm, the router's product and the choice of the top k."""
        hidden, choices = self.model.hidden_size, moe.n_experts + moe.zero_experts
        cost = self._pass_over(tokens, 4.0 * hidden)
        if moe.router.scoring != "hash":
            cost += self._gemm(tokens, choices, hidden)
        return cost + self._pass_over(tokens, 2.0 * choices)

    def shared(self, moe: MoE, tokens: int) -> Cost:
        """Cost the shared experts, and the projections into a latent space if experts work in one."""
        hidden, cost = self.model.hidden_size, self.costs.elementwise(0.0)
        if moe.latent_size:
            cost += self._gemm(tokens, moe.latent_size, hidden) + self._gemm(tokens, hidden, moe.latent_size)
        if moe.shared:
            width = -(-moe.shared.intermediate_size // self.parallel.tensor)
            cost += self._gemm(tokens, width * (moe.shared.matrices - 1), hidden)
            cost += self._pass_over(tokens, float(width * moe.shared.matrices))
            cost += self._gemm(tokens, hidden, width)
        return cost

    def _embed(self, tokens: int) -> Cost:
        return self._pass_over(tokens, 2.0 * self.model.hidden_size)

    def _head(self, tokens: int) -> Cost:
        hidden = self.model.embedding_dim or self.model.hidden_size
        vocab = -(-self.model.vocab_size // self.parallel.tensor)
        logits = self.costs.gemm(tokens, vocab, hidden, self.precision.embedding, self.precision.activations)
        return self._pass_over(tokens, 4.0 * hidden) + logits + self._pass_over(tokens, 2.0 * vocab)

    def _logits(self, tokens: int) -> Cost:
        gathered = tokens * self.model.vocab_size * self.precision.activation_bytes
        return self.machine.collective("all_gather", gathered, self.parallel.tensor, self._tensor_spans())

    def _vectors(self, tokens: int) -> float:
        return tokens * self.model.hidden_size * self.precision.activation_bytes

    def _tensor_spans(self) -> int:
        per_node = self.parallel.devices_per_node
        return -(-self.parallel.tensor // per_node)

    def _reduce(self, tokens: int) -> Cost:
        return self.machine.collective(
            "all_reduce", self._vectors(tokens), self.parallel.tensor, self._tensor_spans()
        )

    def _expert_reduce(self, tokens: int) -> Cost:
        nodes = -(-self.parallel.ranks // self.parallel.devices_per_node)
        return self.machine.collective("all_reduce", self._vectors(tokens), self.parallel.ranks, nodes)

    def _gather(self, tokens: int) -> Cost:
        return self.machine.collective(
            "all_gather", self._vectors(tokens), self.parallel.tensor, self._tensor_spans()
        )

    def _send(self, tokens: int) -> Cost:
        nodes = 1 + (self.parallel.devices > self.parallel.devices_per_node)
        message = self._vectors(tokens) / self.parallel.tensor
        return self.machine.collective("send", message, 2 if message else 1, nodes)

    def prefill(self, attention: Attention, tokens: int, context: int) -> Cost:
        """Cost attention of a chunk of `tokens` at the end of `context` positions, on one rank."""
        cost = self._prefill(attention, tokens, context)
        if self.queries_per_read is None or attention.recurrent:
            return cost
        return cost + self.costs.elementwise(self.read_again(attention, tokens, context))

    def read_again(self, attention: Attention, tokens: int, context: int) -> float:
        """Return the bytes of keys and values that are read more than once, p queries at a time.

        With p buffers that are filled and emptied in turn, products with keys, and with values, each load
        ``N M / p + N + p - 1`` vectors for N queries of M positions; all at once they load ``N + M``.
        """
        p, t = self.queries_per_read or tokens, self.parallel.tensor
        loads = max(0.0, tokens * context / p + p - 1 - context)
        share = 1.0 if attention.kind == "mla" else 1.0 / min(t, attention.kv_heads)
        return loads * attention.kv_values_per_token * share * self.precision.kv_bytes

    def _prefill(self, attention: Attention, tokens: int, context: int) -> Cost:
        p, t = self.precision, self.parallel.tensor
        heads = attention.heads // t
        if attention.recurrent:
            return self._scan(attention, tokens, 1)
        if attention.kind == "mla":
            return self.costs.mla_prefill(
                tokens, context, heads, heads, attention.qk_head_dim, attention.v_head_dim, p.kv,
                attention.kv_lora_rank or 0, attention.qk_rope_head_dim,
            )  # fmt: skip
        window = attention.sparse_top_k or attention.window
        return self.costs.attention_prefill(
            tokens, context, heads, max(1, attention.kv_heads // t), attention.qk_head_dim,
            attention.v_head_dim, p.kv, window,
        )  # fmt: skip

    def decode(self, attention: Attention, sequences: int, entries: int) -> Cost:
        """Cost one new token for each of some sequences that read `entries` cached entries in all."""
        p, t = self.precision, self.parallel.tensor
        heads = attention.heads // t
        if attention.recurrent:
            return self._scan(attention, sequences, sequences)
        if attention.kind == "mla":
            return self.costs.mla_decode(
                sequences, entries, heads, 1, attention.qk_head_dim, attention.v_head_dim, p.kv,
                attention.kv_lora_rank or 0, attention.qk_rope_head_dim,
            )  # fmt: skip
        return self.costs.attention_decode(
            sequences,
            entries,
            heads,
            max(1, attention.kv_heads // t),
            attention.qk_head_dim,
            attention.v_head_dim,
            p.kv,
        )

    def decode_on_pim(self, cost: Cost) -> tuple[float, float] | None:
        """Return (compute, memory) seconds if PIM does the decode attention that `cost` is the xPU's of."""
        if self.attention_unit == "xpu":
            return None
        pim = self.machine.require_pim()
        seconds = pim.attention_s(cost, cost.bytes_of(self.machine.main_memory))
        if self.attention_unit == "min_time" and sum(seconds) + pim.launch_s >= cost.duration_s:
            return None
        return seconds

    def _scan(self, attention: Attention, tokens: int, sequences: int) -> Cost:
        """Cost a recurrent mixer: states read and written once, a few operations a state and token."""
        t = self.parallel.tensor
        state = 2.0 * sequences * attention.state_values / t * self.precision.kv_bytes
        flow = tokens * (attention.in_width + attention.out_width) / t * self.precision.activation_bytes
        return self.costs.elementwise(state + flow, 6.0 * tokens * attention.state_values / t)
