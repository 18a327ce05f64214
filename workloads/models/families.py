"""What a family's code fixes and its configuration does not say.

Each entry is a default of the family's published modelling code (Hugging Face `transformers`, or the
code beside the weights), used only where the configuration has no field for it.
"""

from __future__ import annotations

import re

from workloads.models.spec import Counting


def _is(family: str, pattern: str) -> bool:
    return re.match(rf"(?:{pattern})(?:$|_|-|\d)", family) is not None


_TIED = (
    r"gemma|gpt2|gpt_bigcode|gpt_neo$|opt|bloom|t5|mt5|switch_transformers|nllb|m2m_100|bart|mbart|mpt"
    r"|cohere|minicpm|jetmoe|whisper|lfm2|grok|yuan|starcoder2"
)
_PLAIN = (
    r"gpt2|gpt_bigcode|gpt_neo|gpt_neox|gptj|opt|bloom|mpt|falcon|phi$|phi-msft|nllb|m2m_100|bart|mbart"
    r"|starcoder2|nemotron|nemotron_h|arcee|whisper|bert|codegen|persimmon|apertus"
)
_GATED_WITH_ANY_ACTIVATION = (
    r"llama|mistral|mixtral|qwen|gemma|deepseek|grok|glm|glm4|minimax|recurrent_gemma|granite|granitemoe"
    r"|dbrx|olmo|olmoe|kimi|ernie|hunyuan"
)
_BIASED_ALL = r"gpt2|gpt_bigcode|opt|bloom|phi$|phi-msft|nllb|m2m_100|bart|mbart|gpt_neox|whisper|bert"
_BIASED_QKV = r"qwen$|qwen2|chatglm|mimo$"
_SIGMOID = r"llama4|deepseek_v3|deepseek_v32|glm4|glm_moe|glm$|kimi|dots1|nemotron_h|minimax_m2|minimax_m3"
_RENORMALISED = (
    r"mixtral|gpt_oss|phimoe|grinmoe|minimax|dbrx|granitemoe|granitemoehybrid|granitemoeshared|jetmoe|yuan"
    r"|arctic|nllb|grok|glm|glm4|kimi|gemma4|hunyuan|ernie4|minicpm|xverse|deepseek_v3|deepseek_v4|openmoe|qwen3_next"
    r"|qwen3_5|step3p5|step3p7|lfm2|dots1|mimo|afmoe|bailing"
)
_POSITIONS = r"gpt2|gpt_bigcode|gpt_neo$|opt|bert|codegen$"
_FOUR_TIMES_HIDDEN = r"gpt2|gpt_bigcode|gptj|gpt_neo$|codegen|falcon|bloom|mpt"
_ALTERNATING = {r"gpt_oss": 2, r"gemma2": 2, r"gemma3": 6, r"cohere2": 4}
_COUNTING: dict[str, Counting] = {
    # DeepSeek-V3's README_WEIGHTS: 36.6B, output head included; V2: 21B; V2-Lite: 2.4B (DeepSeekMoE-16B,
    # 2.8B, counts all)
    r"deepseek_v\d+": "no_input_embedding",
    # Kimi K2: 32B; Kimi K3: 104B
    r"kimi": "no_input_embedding",
    # gpt-oss model card, table 1: unembedding counts towards active parameters, embedding does not
    r"gpt_oss": "no_input_embedding",
    # GLM-4.5 report, table 1: embeddings and output layer are not counted
    r"glm|glm4|glm4_moe|glm_moe_dsa": "no_embeddings",
    # MiniMax-Text-01: 45.9B; MiniMax-M2 (10B): no rule gives 10.0, without embeddings 9.8 is the nearest
    r"minimax|minimax_text_01|minimax_m1|minimax_m2|minimax_m3": "no_embeddings",
}


def tied_by_default(family: str) -> bool:
    """Tell whether the output head shares the embedding's weights if no field says so."""
    return _is(family, _TIED)


def plain_ffn(family: str) -> bool:
    """Tell whether the feed-forward part has two matrices whatever its activation is called."""
    return _is(family, _PLAIN)


def gated_ffn(family: str) -> bool:
    """Tell whether the feed-forward part has three matrices whatever its activation is called."""
    return _is(family, _GATED_WITH_ANY_ACTIVATION)


def attention_biases(family: str) -> tuple[bool, bool]:
    """Tell whether Q, K, V and the output projection have biases if no field says so."""
    every = _is(family, _BIASED_ALL)
    return every or _is(family, _BIASED_QKV), every


def sigmoid_router(family: str) -> bool:
    """Tell whether the router scores by sigmoid if no field says so."""
    return _is(family, _SIGMOID)


def renormalised(family: str) -> bool:
    """Tell whether the chosen experts' weights are made to sum to one if no field says so."""
    return _is(family, _RENORMALISED)


def ffn_is_four_times_hidden(family: str) -> bool:
    """Tell whether the feed-forward part is four times as wide as the model if no field says so."""
    return _is(family, _FOUR_TIMES_HIDDEN)


def half_as_wide(family: str) -> bool:
    """Tell whether ``intermediate_size`` counts the gate's and the input's columns together (Qwen 1)."""
    return family == "qwen"


def twin_layers(family: str) -> bool:
    """Tell whether one layer is two: a mixer and a dense part twice, experts beside them (LongCat-Flash)."""
    return _is(family, r"longcat|longcat_flash")


def learned_positions(family: str) -> int | None:
    """Return how many position vectors exceed the context (OPT keeps 2), or None without a table."""
    if not _is(family, _POSITIONS):
        return None
    return 2 if family == "opt" else 0


def window_period(family: str) -> int | None:
    """Return p if all layers but each p-th are windowed when no field says so (None: no such rule)."""
    return next((p for pattern, p in _ALTERNATING.items() if _is(family, pattern)), None)


def counting(family: str) -> Counting:
    """Return which embeddings the family's publisher counts as active (see `Model`)."""
    return next((rule for pattern, rule in _COUNTING.items() if _is(family, pattern)), "all")
