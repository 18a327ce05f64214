"""In which number formats a released model's weights are stored."""

from __future__ import annotations

from workloads.models.fields import Fields

PRECISIONS = (
    "fp64", "fp32", "tf32", "bf16", "fp16", "fp8", "int8", "fp6", "fp4", "int4", "mxfp4", "nvfp4", "int3",
    "int2",
)  # fmt: skip
_TYPES = {
    "bfloat16": "bf16", "bf16": "bf16", "float16": "fp16", "half": "fp16", "fp16": "fp16", "float32": "fp32",
    "float": "fp32", "fp32": "fp32", "float64": "fp64", "float8_e4m3fn": "fp8",
}  # fmt: skip
_PLAIN = ("fp64", "fp32", "tf32", "bf16", "fp16")
_METHODS = {"fp8": "fp8", "fbgemm_fp8": "fp8", "mxfp4": "mxfp4", "nvfp4": "nvfp4", "bitnet": "int2"}
_EXPERT_TYPES = {"fp4": "mxfp4", "mxfp4": "mxfp4", "nvfp4": "nvfp4", "fp8": "fp8", "bf16": "bf16"}
_INTEGERS = {2: "int2", 3: "int3", 4: "int4", 8: "int8"}


def precisions(fields: Fields) -> tuple[str, str, str]:
    """Return the formats of the experts' (in a dense model: all) weights, the attention's, the embeddings'.

    Attention counts as unquantised if the quantisation's list of exceptions names it; embedding and output
    head are not quantised (no published method of these does so).  A method that is
    not known leaves the plain type: the formats say what to assume, an experiment may say otherwise.
    ``native_precision``, ``dense_precision`` and ``embedding_precision``, where a file has them, are taken
    as they are.
    """
    plain = _TYPES.get(fields.text("torch_dtype", "dtype", default="bfloat16").removeprefix("torch."), "bf16")
    quantised = _quantised(fields) or plain
    attention = plain if _attention_is_left_out(fields) else quantised
    expert = _EXPERT_TYPES.get(fields.text("expert_dtype").lower(), quantised)
    dense = _named(fields, "dense_precision", attention)
    embedding = _named(fields, "embedding_precision", dense if dense in _PLAIN else plain)
    return _named(fields, "native_precision", expert), dense, embedding


def _named(fields: Fields, name: str, default: str) -> str:
    word = fields.text(name, default=default)
    if word not in PRECISIONS:
        raise fields.error(name, f"must be one of {', '.join(PRECISIONS)}")
    return word


def _block(fields: Fields) -> dict[str, object]:
    block = fields.value("quantization_config")
    if block is not None and not isinstance(block, dict):
        raise fields.error("quantization_config", "must be a mapping")
    return block or {}


def _quantised(fields: Fields) -> str | None:
    block = _block(fields)
    method = str(block.get("quant_method") or block.get("quant_algo") or "").lower()
    if method in _METHODS:
        return _METHODS[method]
    bits, kind = _bits(block)
    if kind == "float":
        packed = str(block.get("format"))
        return {8: "fp8", 4: "nvfp4" if packed.startswith("nvfp4") else "mxfp4"}.get(bits)
    return _INTEGERS.get(bits)


def _bits(block: dict[str, object]) -> tuple[int, str]:
    """Return the bits of a weight and whether they are an ``int`` or a ``float``; 0 if nothing says."""
    if block.get("load_in_4bit") is True or block.get("load_in_8bit") is True:
        return (4 if block.get("load_in_4bit") is True else 8), "int"
    weights: object = block
    groups = block.get("config_groups")
    if isinstance(groups, dict):
        first = next(iter(groups.values()), None)
        weights = first.get("weights") if isinstance(first, dict) else None
    if not isinstance(weights, dict):
        return 0, "int"
    bits = weights.get("num_bits", weights.get("bits"))
    return (bits if isinstance(bits, int) else 0), str(weights.get("type", "int"))


def _attention_is_left_out(fields: Fields) -> bool:
    block = _block(fields)
    named = [block.get("modules_to_not_convert"), block.get("ignore"), block.get("ignored_layers")]
    return any("attn" in str(name) for names in named if isinstance(names, list) for name in names)
