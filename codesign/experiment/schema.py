"""What an experiment file may hold; parts that are slots are checked by their own registries."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from codesign.base.document import Strict
from codesign.base.units import Bandwidth, Latency, Time
from hwmodels.costs.machine import Framework

Delay = Annotated[Latency, Field(le=3600)]
Degree = Annotated[int, Field(gt=0, le=1_000_000, strict=True)]
Count = Annotated[int, Field(gt=0, le=100_000, strict=True)]


class ParallelSpec(Strict):
    """Degrees of parallelism as written; `codesign.lower.parallel` fills in what is left out."""

    tensor: Degree = 1
    data: Degree | None = None
    expert: Degree | None = None
    expert_tensor: Degree | None = None
    pipeline: Degree = 1
    batches: Degree = 1  # parts of an iteration's batch whose layers take turns
    replicas: Degree | None = None


class DecodeSpec(Strict):
    """The work that turns stored weights into values that a unit multiplies."""

    rate: Bandwidth | None = None  # of decoded weights, in the activations' type, on one device; or:
    flop_per_value: Annotated[float, Field(gt=0, le=1e6)] | None = None  # work of the vector units
    per: Literal["expert", "token"] = "expert"  # once an expert and iteration, or for each of its tokens
    fused: bool = True  # in the product's kernel, beside the reads of memory; False: before it

    @model_validator(mode="after")
    def _one_cost(self) -> DecodeSpec:
        if (self.rate is None) == (self.flop_per_value is None):
            raise ValueError("needs either rate or flop_per_value")
        if self.per == "token" and not self.fused:
            raise ValueError("weights that are decoded before the product are decoded once: per expert")
        return self


class ExpertsSpec(Strict):
    """How routed experts are stored; types of `PrecisionSpec` hold where nothing else is said.

    Values of fewer bits than an activation are decoded, and carry `overhead_bits` each.
    """

    bits: Any = None  # of a value: a number, one for each MoE layer, lists by expert, or a policy
    overhead_bits: float = Field(default=0.0, ge=0, le=64)  # scales, zeros, indices: by value
    rank: int | None = Field(default=None, gt=0)  # each matrix as a product of two of this inner width
    merge: int | None = Field(default=None, gt=0)  # distinct experts of a layer
    decode: DecodeSpec | None = None


class PrecisionSpec(Strict):
    """Types by what they hold; ``native``: as the model was released."""

    weights: str = "native"
    experts: str | ExpertsSpec | None = None  # routed experts; None: as weights
    decode: DecodeSpec | None = None  # of other matrices, if they are narrower than activations
    activations: str = "bf16"
    kv: str = "bf16"
    dispatch: str | None = None  # of token vectors on their way to the experts; None: as activations
    combine: str | None = None

    @property
    def by_expert(self) -> bool:
        """Whether more than a type is said of the routed experts."""
        return isinstance(self.experts, ExpertsSpec)


class PlaceSpec(Strict):
    """A tier, where a kind of tensor lives in part or whole; its name alone stands for the whole."""

    tier: str
    share: float = Field(default=1.0, gt=0, le=1)  # of each tensor; the rest lies in main memory


def _place(value: Any) -> Any:
    return {"tier": value} if isinstance(value, str) else value


Place = Annotated[PlaceSpec | None, BeforeValidator(_place)]


class RingSpec(Strict):
    """How what lives in another tier passes through main memory, layer by layer."""

    # in memory or on their way at once: a layer is brought when the one so many before is done; of caches
    # and activations, with parallel.batches, one part's layer
    layers: Count = 2
    pinned: int = Field(default=0, ge=0, le=100_000)  # layers of a stage whose weights stay, spread evenly


class MemorySpec(Strict):
    """How device memory is shared out, and what lives in another tier."""

    utilization: float = Field(default=0.9, gt=0, le=1)  # share that the engine may use
    block_tokens: int = Field(default=16, gt=0, le=65536)  # tokens per KV block
    prefix_cache: bool = False  # keep the KV of prompts for later requests with the same prefix blocks
    weights: Place = None  # all weights of which the keys below say nothing else; None: main memory
    experts: str | None = None  # routed experts; policies.expert_cache says how many of them are held
    attention: Place = None  # weights of the attention or another mixer
    dense: Place = None  # dense feed-forward layers
    shared: Place = None  # shared experts
    embedding: Place = None  # input embedding and output head
    kv: Place = None  # the KV cache: written there when made, read from there in each step
    activations: Place = None  # hidden states: written there after a layer, read from there before the next
    ring: RingSpec = RingSpec()

    def place(self, content: str) -> PlaceSpec | None:
        """Return where a kind of weights, the KV cache or activations live; None: in main memory."""
        own: PlaceSpec | None = getattr(self, content)
        return own if own or content in ("kv", "activations") else self.weights

    @property
    def expert_tier(self) -> str | None:
        """Return the tier of the routed experts; None: main memory."""
        return self.experts or (self.weights.tier if self.weights else None)


class EngineSpec(Strict):
    """The serving engine's own time, on the host, which the devices wait for; its own communication."""

    step: Delay = 0.0  # per iteration
    per_sequence: Delay = 0.0  # per sequence of the batch: sampling, detokenising
    per_token: Delay = 0.0  # per token of the batch
    request: Delay = 0.0  # per request before it is queued, one request after the other: HTTP, processes
    prompt_token: Delay = 0.0  # the same per token of its prompt: tokenising
    # per layer of an iteration with prompts: launching its kernels one by one, while the devices run;
    # iterations of decodes alone are launched at once (CUDA graphs)
    launch_layer: Delay = 0.0
    kernels: Framework | None = None  # whose operators run on the devices; None: the usual ones
    all_reduce: Delay | None = None  # latency of its own all-reduce (engines.all_reduce); None: the library's


class OtherModels(Strict):
    """Further expert models of a composition, of another shape than the experiment's `model`."""

    model: Any
    count: Count = 1


class CompositionSpec(Strict):
    """Whole models as experts: a request is of one of them, which must be in main memory to serve it."""

    models: Count  # of the experiment's `model`, each with weights of its own
    others: list[OtherModels] = Field(default_factory=list)
    tiers: list[str] = Field(default_factory=list)  # where they live, filled in order; none: the main memory
    kv_share: float = Field(default=0.1, ge=0, lt=1)  # of main memory, kept for the KV cache
    popularity: Any = "uniform"  # of requests over models: uniform, cyclic, {zipf: ...}, {gini: ...}
    repeat: float = Field(default=0.0, ge=0, le=1)  # chance that a request is of the model of the one before
    warm: int = Field(default=0, ge=0, le=10_000_000)  # requests served before: what the cache holds at first
    router: Any = None  # model that reads each request first and stays in main memory; None: models are known
    router_tokens: Degree = 1  # that it generates
    start: Delay = 0.0  # of the host, before a model's batch: loading its programme
    prefetch: bool = False  # bring the next batch's model while this one's computes
    spread: bool = False  # each engine holds its share of the models, not all


class SloSpec(Strict):
    """What a request must meet; `attainment` counts requests that meet all that is given."""

    ttft: Time | None = None
    tpot: Time | None = None
    e2e: Time | None = None


class WorkloadSpec(Strict):
    """Requests, and where their tokens go."""

    requests: Any
    routing: Any = "uniform"


class PoliciesSpec(Strict):
    """Choices, each a registered component."""

    batching: Any = "chunked_prefill"
    preemption: Any = "recompute"  # of the youngest sequence, when the KV memory is full
    placement: Any = "contiguous"
    load_balance: Any = "round_robin"
    dispatch: Any = "direct"
    expert_cache: Any = None  # needed when the experts live in another tier
    model_cache: Any = "lru"  # which expert models of a composition are held in main memory
    switching: Any = "oldest"  # which of them is served next
    # an expert's weights are read once, or again for each of its tokens
    expert_order: Literal["expert_major", "token_major"] = "expert_major"
    queries_per_read: Degree | None = None  # of a prompt, served by one reading of its cache; None: all
    units: Any = None  # who computes experts and decode attention, on a device with PIM; None: the xPU


class ExperimentSpec(Strict):
    """One experiment file."""

    name: str | None = None
    model: Any
    system: Any
    parallel: ParallelSpec = ParallelSpec()
    precision: PrecisionSpec = PrecisionSpec()
    memory: MemorySpec = MemorySpec()
    composition: CompositionSpec | None = None
    engine: EngineSpec = EngineSpec()
    workload: WorkloadSpec
    policies: PoliciesSpec = PoliciesSpec()
    slo: SloSpec = SloSpec()
    cost_model: Any = None  # None: what the fidelity names
    speed: dict[str, Annotated[float, Field(gt=0, le=1e6)]] = Field(default_factory=dict)  # what-if factors
    fidelity: Literal["roofline", "event", "cycle"] = "event"
    executor: Literal["compiled", "simpy"] = "compiled"
    horizon: Annotated[Time, Field(le=1e9)] | None = None  # stop after so much simulated time
    seed: int = Field(default=1, ge=0, lt=2**63, strict=True)
