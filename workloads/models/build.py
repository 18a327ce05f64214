"""From the fields of a configuration to a `Model`."""

from __future__ import annotations

from dataclasses import replace

from codesign.base.document import Document
from workloads.models import families
from workloads.models import names as n
from workloads.models.attention import Attention
from workloads.models.experts import feed_forwards
from workloads.models.fields import MOST_LAYERS, Fields
from workloads.models.mixers import Setting, mixers
from workloads.models.precision import precisions
from workloads.models.spec import COUNTINGS, Counting, Layer, Model

_DECODER_LAYERS = ("num_decoder_layers", "decoder_layers", *n.LAYERS)
_ENCODER_LAYERS = ("encoder_layers", "num_encoder_layers", "num_layers", "num_hidden_layers")
_OF_ENCODER = {
    "decoder_sparse_step": "encoder_sparse_step",
    "decoder_ffn_dim": "encoder_ffn_dim",
    "decoder_attention_heads": "encoder_attention_heads",
}


def build(document: Document, name: str) -> Model:
    """Build the model that a configuration describes.

    Parameters
    ----------
    document : Document   fields of a Hugging Face ``config.json``, expanded; places are kept for errors
    name : str            what to call the model if the configuration has no ``name``

    Raises
    ------
    ConfigError   a field that is needed is missing, of the wrong type, or impossible: file, line, field
    """
    fields = Fields(document)
    family = family_of(fields)
    hidden = fields.integer(*n.HIDDEN)
    paired = fields.flag("is_encoder_decoder")
    count = fields.integer(*(_DECODER_LAYERS if paired else n.LAYERS), high=MOST_LAYERS)
    setting = Setting(fields, family, count * (2 if families.twin_layers(family) else 1), hidden)
    layers = _layers(setting, crossed=paired)
    native, dense, embedding = precisions(fields)
    return Model(
        name=fields.text("name", default=name), family=family, hidden_size=hidden,
        vocab_size=fields.integer(*n.VOCAB),
        tied_embeddings=fields.flag("tie_word_embeddings", default=families.tied_by_default(family)),
        max_context=fields.optional(*n.CONTEXT), layers=layers,
        encoder_layers=_encoder(setting) if paired else (),
        native_precision=native, dense_precision=dense, embedding_precision=embedding,
        counting=_counting(fields, family),
        embedding_dim=_embedding_dim(fields, hidden),
        other_parameters=_other(fields, family, hidden, count), notes=_notes(fields, family),
    )  # fmt: skip


def family_of(fields: Fields) -> str:
    """Return the model's family: ``model_type``, else the architecture's name, else what the fields show."""
    family = fields.text("model_type")
    if family:
        return family
    architectures = fields.value("architectures")
    if isinstance(architectures, list) and architectures and isinstance(architectures[0], str):
        return architectures[0].split("For")[0].removesuffix("Model").lower()
    return "grok" if fields.find("widening_factor") else ""


def _layers(setting: Setting, *, crossed: bool) -> tuple[Layer, ...]:
    same: dict[Layer, Layer] = {}  # equal layers are one object
    out = []
    for mixer, ffn in zip(mixers(setting), feed_forwards(setting), strict=True):
        layer = Layer(attention=mixer, ffn=ffn, cross_attention=_cross(mixer) if crossed else None)
        out.append(same.setdefault(layer, layer))
    return tuple(out)


def _cross(mixer: Attention | None) -> Attention | None:
    return replace(mixer, window=None) if mixer else None


def _encoder(setting: Setting) -> tuple[Layer, ...]:
    fields = setting.fields.renamed(_OF_ENCODER)
    count = fields.integer(*_ENCODER_LAYERS, high=MOST_LAYERS)
    return _layers(replace(setting, fields=fields, count=count), crossed=False)


def _counting(fields: Fields, family: str) -> Counting:
    word = fields.text("counting", default=families.counting(family))
    for known in COUNTINGS:
        if word == known:
            return known
    raise fields.error("counting", f"must be one of {', '.join(COUNTINGS)}")


def _embedding_dim(fields: Fields, hidden: int) -> int | None:
    width = fields.integer("word_embed_proj_dim", default=hidden)
    return None if width == hidden else width


def _other(fields: Fields, family: str, hidden: int, count: int) -> int:
    """Count what stands outside the layers: final norm, learned positions, projections of embeddings."""
    width = fields.integer("word_embed_proj_dim", default=hidden)
    projected = 2 * hidden * width if width != hidden else 0
    beyond = families.learned_positions(family)
    positions = 0 if beyond is None else fields.integer(*n.CONTEXT) + beyond
    return hidden + positions * hidden + projected + _per_layer_inputs(fields, hidden, count)


def _per_layer_inputs(fields: Fields, hidden: int, count: int) -> int:
    """Count Gemma 3n's embeddings per layer: a table, a joint projection, a gate and a way back."""
    width = fields.integer("hidden_size_per_layer_input", default=0, low=0)
    if not width:
        return 0
    vocabulary = fields.integer("vocab_size_per_layer_input", *n.VOCAB)
    return count * width * (vocabulary + 3 * hidden)


def _notes(fields: Fields, family: str) -> tuple[str, ...]:
    notes = []
    if families.twin_layers(family):
        notes.append("each layer is described as two: the experts stand in the first, beside its dense part")
    if fields.optional("num_nextn_predict_layers", "num_mtp_modules", "mtp_num_hidden_layers", low=0):
        notes.append("multi-token-prediction layers are left out")
    for part in ("vision", "audio"):
        if isinstance(fields.value(f"{part}_config"), dict):
            notes.append(f"the {part} tower is left out")
    if fields.text("_provenance"):
        notes.append(f"provenance of the configuration: {fields.text('_provenance')}")
    return tuple(notes)
