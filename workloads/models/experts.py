"""Build the feed-forward part of each layer: which layers have experts, and which experts."""

from __future__ import annotations

import re

from workloads.models import families
from workloads.models import names as n
from workloads.models.feedforward import FeedForward, MoE, Router, Scoring
from workloads.models.fields import MOST_EXPERTS, Fields
from workloads.models.mixers import Setting

_SCORES: dict[str, Scoring] = {
    "softmax": "softmax", "sigmoid": "sigmoid", "sqrtsoftplus": "sqrtsoftplus",
    "top_k_softmax": "softmax", "softmax_topk": "softmax", "noaux_tc": "sigmoid",
}  # fmt: skip
_ONE_IS_DENSE = ("jamba", "hunyuan")


def feed_forwards(setting: Setting) -> list[FeedForward | MoE | None]:
    """Build the feed-forward part of each layer; None where a layer has none."""
    fields = setting.fields
    sparse = expert_layers(setting)
    letters = fields.text("hybrid_override_pattern")
    if letters:
        return [_by_letter(setting, letter, i) for i, letter in enumerate(letters[: setting.count])]
    if setting.family in ("mamba", "mamba2", "falcon_mamba"):
        return [None] * setting.count
    return [experts(setting, i) if has else dense(setting, i) for i, has in enumerate(sparse)]


def _by_letter(setting: Setting, letter: str, i: int) -> FeedForward | MoE | None:
    if letter == "E":
        return experts(setting, i)
    return dense(setting, i) if letter == "-" else None


def has_experts(fields: Fields, family: str) -> bool:
    """Tell whether the configuration describes experts at all.

    Raises
    ------
    ConfigError   a field speaks of experts, but none that is known gives their number
    """
    name = fields.find(*n.EXPERTS)
    if name is None:
        _refuse_unknown_experts(fields)
        return False
    value = fields.value(name)
    if isinstance(value, list):
        return True
    count = fields.integer(name, low=0, high=MOST_EXPERTS)
    return count > 1 or (count == 1 and not family.startswith(_ONE_IS_DENSE))


def _refuse_unknown_experts(fields: Fields) -> None:
    known = {*n.TOP_K, *n.SHARED_COUNT, *n.ZERO_EXPERTS}
    for key, value in fields.data.items():
        if re.match(r"(num|n|moe_num).*experts?$", key) and key not in known and value:
            raise fields.error(key, f"experts are counted by one of {', '.join(n.EXPERTS[:5])}")


def expert_layers(setting: Setting) -> list[bool]:
    """Return which layers have experts, by the fields that tell (all of them if none does)."""
    fields, count = setting.fields, setting.count
    if not has_experts(fields, setting.family) or not fields.flag(
        "enable_moe_block", "use_moe", default=True
    ):
        return [False] * count
    if families.twin_layers(setting.family):
        return [i % 2 == 0 for i in range(count)]
    listed = _listed(fields, count)
    if listed is not None:
        return listed
    first = fields.integer(*n.FIRST_DENSE, default=0, low=0)
    last = fields.integer("moe_layer_end_index", default=-1, low=-1)
    last = count - 1 if last == -1 else last
    never = set(fields.numbers("mlp_only_layers", 0)) if fields.find("mlp_only_layers") else set()
    return [first <= i <= last and i not in never and _turn(fields, i) for i in range(count)]


def _listed(fields: Fields, count: int) -> list[bool] | None:
    if fields.find("mlp_layer_types"):
        return [word != "dense" for word in fields.words("mlp_layer_types", count)]
    if isinstance(fields.value("moe_layer_freq"), list):
        return fields.flags("moe_layer_freq", count)
    name = fields.find(*n.MOE_LAYERS)
    if name is None:
        return None
    chosen = set(fields.numbers(name, 0))
    return [i in chosen for i in range(count)]


def _turn(fields: Fields, i: int) -> bool:
    name = fields.find(*n.MOE_INTERVAL)
    if name is None:
        return True
    interval = fields.integer(name, low=0)
    if interval == 0:
        return False
    if name == "moe_layer_freq":
        return i % interval == 0
    if name == "expert_layer_period":
        return i % interval == fields.integer("expert_layer_offset", default=0, low=0)
    return (i + 1) % interval == 0


def gated(setting: Setting, *names: str) -> bool:
    """Tell whether the feed-forward part is gated: by a field, by the family, else by its activation."""
    fields = setting.fields
    if fields.find(*names):
        return fields.flag(*names)
    shape = fields.text("feed_forward_proj")
    if shape:
        return shape.startswith("gated")
    if families.plain_ffn(setting.family):
        return False
    activation = fields.text(*n.ACTIVATION).lower()
    return families.gated_ffn(setting.family) or not re.match(r"(gelu|relu)", activation)


def _bias(setting: Setting) -> bool:
    both = families.attention_biases(setting.family)[1]
    default = both or setting.family == "gpt_oss"
    return setting.fields.flag("mlp_bias", "use_bias", "bias", default=default)


def dense(setting: Setting, i: int) -> FeedForward:
    """Build a dense feed-forward part."""
    width = _dense_width(setting, i)
    if setting.fields.find("widening_factor"):
        return FeedForward(intermediate_size=width, gated=gated(setting, *n.GATED))
    return FeedForward(intermediate_size=width, gated=gated(setting, *n.GATED), bias=_bias(setting))


def _dense_width(setting: Setting, i: int) -> int:
    fields = setting.fields
    if fields.find("widening_factor"):
        return _widened(setting)
    if fields.find(*n.DENSE_FFN):
        width = fields.at(i, *n.DENSE_FFN, low=1)
        return max(1, width // 2) if families.half_as_wide(setting.family) else width
    if fields.find("expansion_ratio"):
        return setting.hidden * fields.integer("expansion_ratio")
    if families.ffn_is_four_times_hidden(setting.family):
        return 4 * setting.hidden
    raise fields.missing(n.FFN)


def _widened(setting: Setting) -> int:
    # Grok-1: two thirds of widening x hidden, rounded up to a multiple of 8
    width = int(setting.fields.integer("widening_factor", high=1024) * setting.hidden * 2 / 3)
    return width + (8 - width) % 8


def experts(setting: Setting, i: int) -> MoE:
    """Build the experts of layer `i`.

    Raises
    ------
    ConfigError   more experts per token than experts, a size that is missing or impossible
    """
    fields = setting.fields
    count = fields.at(i, *n.EXPERTS, low=1)
    if count > MOST_EXPERTS:
        raise fields.error(fields.find(*n.EXPERTS) or "", f"must be at most {MOST_EXPERTS}")
    zero = fields.integer(*n.ZERO_EXPERTS, default=0, low=0, high=MOST_EXPERTS)
    router = _router(setting, count, i)
    top_k = _top_k(setting, count + zero, i, router)
    width = _expert_width(setting, i)
    expert = FeedForward(
        intermediate_size=width, gated=gated(setting, *n.EXPERT_GATED), bias=setting.family == "gpt_oss"
    )
    shared = _shared(setting, width, i)
    return MoE(
        n_experts=count, top_k=top_k, expert=expert, router=router, zero_experts=zero,
        shared=FeedForward(intermediate_size=shared, gated=expert.gated) if shared else None,
        shared_gated=setting.family.startswith("qwen"),
        latent_size=fields.optional("routed_expert_hidden_size", "moe_latent_size"),
    )  # fmt: skip


def _expert_width(setting: Setting, i: int) -> int:
    fields = setting.fields
    if fields.find("widening_factor"):
        return _widened(setting)
    if fields.find(*n.EXPERT_FFN) is None:
        raise fields.missing(("moe_intermediate_size", *n.FFN))
    return fields.at(i, *n.EXPERT_FFN, low=1)


def _top_k(setting: Setting, choices: int, i: int, router: Router) -> int:
    fields = setting.fields
    default = 2 if setting.family.startswith("nllb") else None  # the code of NLLB-MoE is top-2
    top_k = fields.at(i, *n.TOP_K, default=default, low=1)
    name = fields.find(*n.TOP_K)
    if name is None:
        return top_k
    if top_k > choices:
        raise fields.error(name, f"must not exceed the {choices} experts")
    within = choices // router.n_group * router.topk_group
    if top_k > within:
        raise fields.error(name, f"must not exceed the {within} experts of {router.topk_group} groups")
    return top_k


def _router(setting: Setting, count: int, i: int) -> Router:
    fields, family = setting.fields, setting.family
    grouped = fields.integer(*n.N_GROUP, default=1)
    if count % grouped:
        raise fields.error(fields.find(*n.N_GROUP) or "", f"must divide the {count} experts")
    kept = fields.integer(*n.TOPK_GROUP, default=grouped)
    if kept > grouped:
        raise fields.error(fields.find(*n.TOPK_GROUP) or "", f"must not exceed the {grouped} groups")
    default = "sigmoid" if families.sigmoid_router(family) else "softmax"
    word = fields.text(*n.SCORING, default=default).lower()
    if word not in _SCORES:
        raise fields.error(fields.find(*n.SCORING) or "", f"unknown; known: {', '.join(_SCORES)}")
    hashed = i < fields.integer("num_hash_layers", default=0, low=0)
    bias = fields.text("topk_method") == "noaux_tc" or family in ("gpt_oss", "glm4_moe")
    return Router(
        scoring="hash" if hashed else _SCORES[word], n_group=grouped, topk_group=kept,
        renormalise=fields.flag(*n.RENORMALISE, default=families.renormalised(family)),
        bias=fields.flag(*n.ROUTER_BIAS, default=bias),
        scale=fields.real(*n.ROUTED_SCALE, default=1.0),
    )  # fmt: skip


def _shared(setting: Setting, width: int, i: int) -> int:
    """Return the width of what runs beside the experts for every token; 0 for nothing."""
    fields, family = setting.fields, setting.family
    if families.twin_layers(family):
        return _dense_width(setting, i)  # the experts run beside the twin's dense part
    if fields.find(*n.SHARED_WIDTH):
        return fields.at(i, *n.SHARED_WIDTH, low=0)
    if fields.find(*n.SHARED_COUNT):
        used = fields.flag("use_mixed_mlp_moe", default=True)
        return fields.at(i, *n.SHARED_COUNT, low=0) * width if used else 0
    if fields.flag("enable_moe_block") or family.startswith(("llama4", "openmoe")):
        return fields.integer("intermediate_size")  # a dense network beside the experts, by code
    if fields.flag("parallel_attn_mlp_res"):
        return setting.hidden  # Arctic: a dense residual network as wide as the model
    return 0
