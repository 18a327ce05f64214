"""Which token mixer stands in which layer: full, windowed, chunked, linear, Mamba, convolution, none."""

from __future__ import annotations

from typing import Literal

from workloads.models import families
from workloads.models import names as n
from workloads.models.fields import Fields

Kind = Literal["full", "sliding", "chunked", "linear", "mamba", "conv", "none"]

_WORDS: dict[str, Kind] = {
    "full_attention": "full", "attention": "full", "global": "full", "global_attention": "full",
    "sliding_attention": "sliding", "local": "sliding", "local_attention": "sliding",
    "sliding_window_attention": "sliding", "chunked_attention": "chunked",
    "linear_attention": "linear", "mamba": "mamba", "mamba2": "mamba", "conv": "conv",
}  # fmt: skip
_LETTERS: dict[str, Kind] = {"M": "mamba", "*": "full", "-": "none", "E": "none"}


def layer_kinds(fields: Fields, family: str, count: int) -> list[Kind]:
    """Return the kind of mixer of each of `count` layers, by the first field that tells.

    Raises
    ------
    ConfigError   a word that is not known, a list that is too short, a period of zero
    """
    for tell in (_letters, _listed, _kda, _period, _types, _interval, _pure_mamba):
        kinds = tell(fields, family, count)
        if kinds is not None:
            return kinds
    return _windowed(fields, family, count)


def _letters(fields: Fields, family: str, count: int) -> list[Kind] | None:
    name = "hybrid_override_pattern"
    if fields.find(name) is None:
        return None
    pattern = fields.text(name)
    if len(pattern) < count or set(pattern) - set(_LETTERS):
        raise fields.error(name, f"must have one of M, *, -, E for each of {count} layers")
    return [_LETTERS[letter] for letter in pattern[:count]]


def _listed(fields: Fields, family: str, count: int) -> list[Kind] | None:
    name = fields.find("layer_types", "attention_layers", "layers_block_type")
    if name is None:
        return None
    words = fields.words(name, count)
    for word in words:
        if word not in _WORDS:
            raise fields.error(name, f'unknown kind of layer "{word}"; known: {", ".join(_WORDS)}')
    kinds = [_WORDS[word] for word in words]
    return [_without_window(fields, kind) for kind in kinds]


def _without_window(fields: Fields, kind: Kind) -> Kind:
    if kind == "sliding" and fields.find(*n.WINDOW) is None:
        return "full"
    return "full" if kind == "chunked" and fields.find("attention_chunk_size") is None else kind


def _kda(fields: Fields, family: str, count: int) -> list[Kind] | None:
    name = "linear_attn_config.kda_layers"
    if fields.find(name) is None:
        return None
    linear = set(fields.numbers(name))
    return ["linear" if i + 1 in linear else "full" for i in range(count)]


def _period(fields: Fields, family: str, count: int) -> list[Kind] | None:
    period = fields.optional("attn_layer_period")
    if period is None:
        return None
    offset = fields.integer("attn_layer_offset", default=0, low=0)
    return ["full" if i % period == offset else "mamba" for i in range(count)]


def _types(fields: Fields, family: str, count: int) -> list[Kind] | None:
    if fields.find("attn_type_list"):
        return ["full" if full else "linear" for full in fields.flags("attn_type_list", count)]
    if fields.find("hybrid_layer_pattern"):
        return ["sliding" if near else "full" for near in fields.flags("hybrid_layer_pattern", count)]
    return None


def _interval(fields: Fields, family: str, count: int) -> list[Kind] | None:
    if fields.find("linear_num_value_heads") is None:
        return None
    interval = fields.integer("full_attention_interval", default=4)
    return ["linear" if (i + 1) % interval else "full" for i in range(count)]


def _pure_mamba(fields: Fields, family: str, count: int) -> list[Kind] | None:
    return ["mamba"] * count if family in ("mamba", "mamba2", "falcon_mamba") else None


def _windowed(fields: Fields, family: str, count: int) -> list[Kind]:
    if fields.find("attention_chunk_size") and family.startswith("llama4"):
        return _chunked(fields, count)
    if fields.find(*n.WINDOW) is None or not fields.flag(
        "use_sliding_window", default=not family.startswith("qwen")
    ):
        return ["full"] * count
    name = fields.find("sliding_window_pattern", "_sliding_window_pattern")
    if name is not None and isinstance(fields.value(name), str):
        return _lettered(fields, name, count)
    period = fields.integer(name) if name else families.window_period(family)
    if period is not None:
        return ["sliding" if (i + 1) % period else "full" for i in range(count)]
    if family.startswith("qwen"):
        first = fields.integer("max_window_layers", default=0, low=0)
        return ["sliding" if i >= first else "full" for i in range(count)]
    return ["sliding"] * count


def _lettered(fields: Fields, name: str, count: int) -> list[Kind]:
    pattern = fields.text(name)
    if not pattern or set(pattern) - set("LG"):
        raise fields.error(name, "must be a number, or letters L (local) and G (global)")
    return ["sliding" if pattern[i % len(pattern)] == "L" else "full" for i in range(count)]


def _chunked(fields: Fields, count: int) -> list[Kind]:
    if fields.value("no_rope_layers"):
        rope = fields.flags("no_rope_layers", count)
    else:
        interval = fields.integer("no_rope_layer_interval", default=4)
        rope = [(i + 1) % interval != 0 for i in range(count)]
    return ["chunked" if local else "full" for local in rope]
