"""`codesign models`: list and show models."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from codesign.base.document import Document
    from workloads.models import Attention, Layer, LayerGroup, Model, MoE

_KV_BYTES_PER_VALUE = 2.0  # bf16


@click.group()
def models() -> None:
    """List and show models: of the library, or of a Hugging Face config.json."""


@models.command("list")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def list_models(as_json: bool) -> None:
    """List the library with parameters, experts and cache sizes."""
    from workloads.models import load, names

    rows = [_row(load(name)) for name in names()]
    if as_json:
        _echo_json({"models": rows})
        return
    for line in _table(rows):
        click.echo(line)


@models.command()
@click.argument("name_or_file")
@click.option(
    "-s", "--set", "overrides", multiple=True, metavar="FIELD=VALUE",
    help="Override a field of the configuration, as -s num_experts_per_tok=4; may be repeated.",
)  # fmt: skip
@click.option("--context", type=click.IntRange(min=1), help="Also size the KV cache of so many tokens.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def show(name_or_file: str, overrides: tuple[str, ...], context: int | None, as_json: bool) -> None:
    """Show a model's layers, parameters (total and active), KV bytes per token, and notes."""
    document, model = _load(name_or_file, overrides)
    told = {} if overrides else _published(name_or_file)
    if as_json:
        _echo_json({**_summary(model, context), "published": told, "config": document.data})
        return
    for line in _lines(model, told, context):
        click.echo(line)


def _load(name: str, overrides: tuple[str, ...]) -> tuple[Document, Model]:
    from codesign.base.document import Document
    from codesign.experiment.override import parse_override
    from workloads.models import load, resolve

    changes = dict(parse_override(text) for text in overrides)
    document = resolve(Document(name, "codesign models"), changes)
    return document, load(document)


def _published(name: str) -> dict[str, object]:
    from workloads.models import names, published

    return published(name) if name in names() else {}


def _row(model: Model) -> dict[str, Any]:
    mixers = {layer.attention.kind for layer in model.layers if layer.attention}
    return {
        "name": model.name,
        "family": model.family,
        "total_parameters": model.total_parameters,
        "active_parameters": model.active_parameters,
        "n_layers": len(model.layers),
        "hidden_size": model.hidden_size,
        "n_experts": model.n_experts,
        "top_k": model.top_k,
        "attention": sorted(mixers),
        "kv_bytes_per_token": model.kv_bytes_per_token(_KV_BYTES_PER_VALUE),
        "native_precision": model.native_precision,
    }


def _summary(model: Model, context: int | None) -> dict[str, Any]:
    """Return what `show --json` prints; every size is named with its unit."""
    from workloads.models.spec import COUNTINGS

    cache = {} if context is None else {"context_tokens": context, "kv_bytes": _kv_bytes(model, context)}
    return {
        **_row(model),
        **cache,
        "counting": model.counting,
        "active_parameters_by": {rule: model.active_by(rule) for rule in COUNTINGS},
        "embedding_parameters": model.embedding_parameters,
        "lm_head_parameters": model.lm_head_parameters,
        "vocab_size": model.vocab_size,
        "tied_embeddings": model.tied_embeddings,
        "max_context": model.max_context,
        "dense_precision": model.dense_precision,
        "embedding_precision": model.embedding_precision,
        "kv_bytes_per_value": _KV_BYTES_PER_VALUE,
        "state_values": model.state_values,
        "moe_layers": list(model.moe_layers),
        "groups": [_group(model, group) for group in model.groups()],
        "encoder_groups": [_group(model, group) for group in model.groups(encoder=True)],
        "notes": list(model.notes),
    }


def _kv_bytes(model: Model, context: int) -> float:
    return model.kv_bytes(context, _KV_BYTES_PER_VALUE)


def _group(model: Model, group: LayerGroup) -> dict[str, Any]:
    layer, hidden = group.layer, model.hidden_size
    mixer = layer.attention
    return {
        **group.to_dict(),
        "parameters": layer.parameters(hidden),
        "active_parameters": layer.active_parameters(hidden),
        "projections": [p._asdict() for p in mixer.projections(hidden)] if mixer else [],
    }


def _lines(model: Model, told: dict[str, object], context: int | None) -> list[str]:
    counts = f"total {_count(model.total_parameters)}, active {_count(model.active_parameters)}"
    tied = " (tied)" if model.tied_embeddings else ""
    lines = [
        f"{model.name} ({model.family or 'no model_type'})",
        f"  parameters: {counts} (embeddings counted as active: {model.counting})",
        *([f"  published: {_told(told)}"] if told else []),
        f"  width {model.hidden_size}, vocabulary {model.vocab_size}{tied}, context {model.max_context}",
        f"  weights as released: {model.native_precision}, attention {model.dense_precision},"
        f" embedding {model.embedding_precision}",
        f"  KV cache: {_kv_line(model, context)}",
    ]
    for title, encoder in (("layers", False), ("encoder layers", True)):
        lines += [f"  {title} {_layers_line(model, group)}" for group in model.groups(encoder=encoder)]
    return lines + [f"  note: {note}" for note in model.notes]


def _told(told: dict[str, object]) -> str:
    counts = [f"{key} {_count(told[key])}" for key in ("total", "active") if key in told]
    return f"{', '.join(counts)} ({told.get('source')})"


def _kv_line(model: Model, context: int | None) -> str:
    text = f"{model.kv_bytes_per_token(_KV_BYTES_PER_VALUE):.0f} B per token (bf16)"
    if context is not None:
        text += f", {_kv_bytes(model, context) / 1e6:.2f} MB for {context} tokens"
    if model.state_values:
        text += f"; {model.state_values} values of recurrent state per sequence"
    return text


def _layers_line(model: Model, group: LayerGroup) -> str:
    layer, hidden = group.layer, model.hidden_size
    counts = f"{_count(layer.parameters(hidden))} each, {_count(layer.active_parameters(hidden))} active"
    parts = "; ".join(part for part in (_mixer_text(layer), _ffn_text(layer)) if part)
    return f"{_ranges(group.indices)}: {parts} ({counts})"


def _mixer_text(layer: Layer) -> str:
    mixer = layer.attention
    if mixer is None:
        return ""
    if mixer.recurrent:
        return f"{mixer.kind} {mixer.heads} heads of {mixer.head_dim} x {mixer.v_head_dim}"
    crossed = " and cross attention" if layer.cross_attention else ""
    return f"{mixer.kind} {mixer.heads} heads of {mixer.qk_head_dim}{_cache_text(mixer)}{crossed}"


def _cache_text(mixer: Attention) -> str:
    text = f" over {mixer.kv_heads} KV"
    if mixer.kind == "mla":
        text = f", latent {mixer.kv_lora_rank}+{mixer.qk_rope_head_dim}"
    text += f", window {mixer.window}" if mixer.window else ""
    text += f", 1 entry per {mixer.compression} tokens" if mixer.compression > 1 else ""
    return text + (f", attends to {mixer.sparse_top_k}" if mixer.sparse_top_k else "")


def _ffn_text(layer: Layer) -> str:
    if layer.moe:
        return _moe_text(layer.moe)
    if layer.dense is None:
        return ""
    return f"{'gated ' if layer.dense.gated else ''}FFN {layer.dense.intermediate_size}"


def _moe_text(moe: MoE) -> str:
    gated = "gated " if moe.expert.gated else ""
    text = f"top-{moe.top_k} of {moe.n_experts} {gated}experts of {moe.expert.intermediate_size}"
    if moe.router.n_group > 1:
        text += f" in {moe.router.topk_group} of {moe.router.n_group} groups"
    text += f", {moe.zero_experts} null experts" if moe.zero_experts else ""
    text += f", shared {moe.shared.intermediate_size}" if moe.shared else ""
    return f"{text}, {moe.router.scoring} router"


def _ranges(indices: tuple[int, ...]) -> str:
    """Write indices as ranges: ``0-2, 7``; more than six of them are cut short."""
    spans: list[list[int]] = []
    for i in indices:
        if spans and i == spans[-1][1] + 1:
            spans[-1][1] = i
        else:
            spans.append([i, i])
    texts = [f"{first}" if first == last else f"{first}-{last}" for first, last in spans]
    cut = [*texts[:5], f"... {texts[-1]}"] if len(texts) > 6 else texts
    return f"{', '.join(cut)} ({len(indices)})"


def _count(value: object) -> str:
    number = float(value) if isinstance(value, int | float) else 0.0
    for size, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M")):
        if number >= size:
            return f"{number / size:.4g}{letter}"
    return f"{number:.0f}"


# column -> (header, how a cell is written)
_COLUMNS: dict[str, tuple[str, Callable[[Any], str]]] = {
    "name": ("name", str),
    "total_parameters": ("total", _count),
    "active_parameters": ("active", _count),
    "n_layers": ("layers", str),
    "hidden_size": ("width", str),
    "n_experts": ("experts", lambda value: str(value or "-")),
    "top_k": ("top-k", lambda value: str(value or "-")),
    "attention": ("attention", "+".join),
    "kv_bytes_per_token": ("KV B/token", lambda value: f"{value:.0f}"),
    "native_precision": ("weights", str),
}


def _table(rows: list[dict[str, Any]]) -> list[str]:
    cells = [[header for header, _ in _COLUMNS.values()]]
    cells += [[write(row[column]) for column, (_, write) in _COLUMNS.items()] for row in rows]
    widths = [max(len(line[i]) for line in cells) for i in range(len(_COLUMNS))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
            for line in cells]  # fmt: skip


def _echo_json(data: Any) -> None:
    click.echo(json.dumps(data, indent=2, allow_nan=False))
