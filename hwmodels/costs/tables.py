"""Costs of whole tables of shapes: the columns of measured tables in, terms of cost out.

A table names, beside its shapes, the framework, kernel and types that ran.  Constants are a tree: the
operator, families of kernels, single ones.  An implementation that nobody measured takes the nearest section
above it, or the one that its framework usually runs.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from codesign.base.errors import ConfigError
from hwmodels.spec import PRECISION_BYTES, Link, System

from . import attention, collectives, draws, exchange, experts
from .cost import Terms
from .gemm import gemm
from .machine import Machine
from .namespace import VECTOR

Columns = Mapping[str, npt.NDArray[Any]]
Names = Mapping[str, str]
TYPES = {
    "bfloat16": ("bf16", "bf16"), "bf16": ("bf16", "bf16"), "float16": ("fp16", "fp16"),
    "half": ("fp16", "fp16"), "fp16": ("fp16", "fp16"), "fp8": ("fp8", "fp8"), "fp8_static": ("fp8", "fp8"),
    "fp8_block": ("fp8", "fp8"), "int8": ("int8", "int8"), "sq": ("int8", "int8"),
    "int8_wo": ("int8", "bf16"), "int4_wo": ("int4", "bf16"), "int4": ("int4", "bf16"),
    "w4afp8": ("int4", "fp8"), "nvfp4": ("nvfp4", "nvfp4"), "fp4": ("fp4", "fp4"),
    "mxfp4": ("mxfp4", "mxfp4"),
    "w4a16_mxfp4": ("mxfp4", "bf16"), "w4a8_mxfp4_mxfp8": ("mxfp4", "fp8"), "float": ("fp32", "fp32"),
}  # fmt: skip  # as tables write them -> (weights, activations)
OP_NAMES = {"alltoall": "all_to_all", "sendrecv": "send", "send_recv": "send"}


@dataclass(frozen=True)
class Batch:
    """Rows of one implementation: shapes as columns, what they share as names."""

    machine: Machine
    section: str
    names: Names
    columns: Columns
    system: System | None = None
    memo: dict[str, Any] = field(default_factory=dict)  # what does not depend on the section's constants

    def __getitem__(self, name: str) -> npt.NDArray[np.float64]:
        """Return a column of numbers."""
        return np.asarray(self.columns[name], dtype=np.float64)

    def types(self) -> tuple[str, str]:
        """Return the types of (weights, activations)."""
        return TYPES[self.names["dtype"] or "bfloat16"]

    def kv_bytes(self) -> float:
        """Return the bytes of a cached value."""
        return PRECISION_BYTES[TYPES[self.names["kv_dtype"] or "bfloat16"][0]]


@dataclass(frozen=True)
class Table:
    """One operator's table."""

    names: tuple[str, ...]  # columns of text that pick the implementation; may be missing
    numbers: tuple[str, ...]  # columns of positive numbers
    section: Callable[[Names], list[str]]  # sections to look for, best first
    run: Callable[[Batch], Terms]
    mode: Callable[[Columns, Mapping[str, npt.NDArray[Any]]], npt.NDArray[Any]] | None = None
    optional: tuple[str, ...] = ()  # columns of numbers that may be zero or missing


def _clean(text: str) -> str:
    for found, put in ((" ", ""), ("(", "_"), (")", ""), (",", "_"), (".", "_")):
        text = text.replace(found, put)
    return text


def _type(name: str) -> str:
    return TYPES.get(name or "bfloat16", ("",))[0]


# --- which constants --------------------------------------------------------------------------------

_FAMILIES = {
    "moe": {"marlin": "marlin", "triton": "triton", "fused_moe": "triton", "cutlass": "cutlass",
            "torch_flow": "cutlass"},
    "attention": {"fa3": "fa3", "fa4": "fa4", "flash_att": "fa2", "torch_flow": "trtllm",
                  "flashinfer": "flashinfer", "triton": "triton"},
    "mla": {"flash_att": "fa", "flashmla": "flashmla", "triton": "triton", "trtllm": "trtllm"},
    "moe_alltoall": {"_ll": "latency", "generation": "latency", "deepep": "throughput"},
}  # fmt: skip  # by operator: what a kernel's name contains -> the family whose constants it shares
_DIRECT = ("custom", "trtllm", "shot", "mnnvl", "symm")  # all-reduces that read their peers' memory


def _path(operator: str, kernel: str, tail: str = "", mode: str = "") -> list[str]:
    """Return the sections of a kernel, its own first, then its family's; none for an unknown family."""
    known = _FAMILIES[operator if operator in _FAMILIES else operator.partition("_")[0]]
    family = next((name for part, name in known.items() if part in kernel.lower()), "")
    middle = f"{family}/{mode}" if mode else family
    return _upwards(f"{operator}/{middle}/{_clean(kernel)}{tail}", f"{operator}/{family}") if family else []


def _upwards(section: str, top: str = "") -> list[str]:
    """Return a section and those above it, up to `top` (by default up to ``operator/family``)."""
    parts, least = section.split("/"), len(top.split("/")) if top else 2
    return ["/".join(parts[:i]) for i in range(len(parts), least - 1, -1)]


def _usual(operator: str, framework: str, kind: str) -> list[str]:
    """Return the sections of what a framework usually runs, of what anybody does, and the operator's."""
    return [f"{operator}/{framework}-{kind}", f"{operator}/{kind}", operator]


# --- dense GEMM ---------------------------------------------------------------------------------


def _gemm_sections(names: Names) -> list[str]:
    kind, kernel = names["dtype"] or "bfloat16", _clean(names["kernel"])
    if TYPES.get(kind, ("", "bf16"))[1] in ("bf16", "fp16"):  # weights alone are narrow, or nothing is
        return ["gemm"] if _type(kind) in ("bf16", "fp16") else [*_upwards(f"gemm/{kind}/{kernel}"), "gemm"]
    own = [f"gemm/{kind}/{kernel}", f"gemm/{names['framework']}-{kind}", f"gemm/{kind}"]
    return own if kind in ("fp8", "fp8_block") else [*own, *_upwards(f"gemm/fp8/{kernel}")]


def _run_gemm(b: Batch) -> Terms:
    weights, activations = b.types()
    narrow = PRECISION_BYTES[activations] < 2.0
    return gemm(VECTOR, b.machine, b["m"], b["n"], b["k"], weights, activations, b.section, narrow)


# --- expert layer -------------------------------------------------------------------------------


def _moe_sections(names: Names) -> list[str]:
    kind = names["dtype"] or "bfloat16"
    return [*_path("moe", names["kernel"], f"-{kind}"), *_usual("moe", names["framework"], kind)]


def _run_moe(b: Batch) -> Terms:
    if "load" not in b.memo:
        b.memo["load"] = _load(b)
    matrices = 3.0 if b.names["gated"].lower() in ("true", "1", "") else 2.0
    inter = b["inter_size"] / b["tp"]
    return experts.layer(VECTOR, b.machine, b.memo["load"], b["hidden_size"], inter, matrices, *b.types(),
                         b.section)  # fmt: skip


def _load(b: Batch) -> experts.Load:
    """Return what the busiest rank of each row has to do."""
    keys = [b[name].astype(np.int64) for name in ("num_tokens", "topk", "num_experts", "ep")]
    exponent, remote = draws.exponent_of(b.names["distribution"] or "balanced"), _computes_remote(b.names)
    packed = ((keys[0] * 1024 + keys[1]) * 65536 + keys[2]) * 65536 + keys[3]
    _, first, back = np.unique(packed, return_index=True, return_inverse=True)
    found = np.array([
        draws.rank_statistics(*(int(key[i]) for key in keys), exponent, remote) for i in first
    ])[back]  # fmt: skip
    untuned = b["num_tokens"] > b["num_experts"] / b["ep"]
    assigned = found[:, 0] if remote else b["num_tokens"] * b["topk"]
    return experts.Load(found[:, 0], found[:, 1], tuple(found[:, 2:].T), assigned, untuned)


_LOCAL_KERNELS = ("sglang_fused_moe_triton", "sglang_marlin_moe")
_LOCAL_UNTIL = (0, 5, 14)


def _computes_remote(names: Names) -> bool:
    """Tell rows whose benchmark also computed the assignments to other ranks' experts.

    Those of SGLang took the tokens that reach one rank and gave their other assignments to its first expert,
    with a weight of zero: rows of 0.5.10 with experts on several ranks take as long as on one.  Rows of
    0.5.14 leave them out, as the engine does.
    """
    version = tuple(int(number) for number in re.findall(r"\d+", names["version"])[:3])
    return names["kernel"] in _LOCAL_KERNELS and bool(version) and version < _LOCAL_UNTIL


# --- attention ----------------------------------------------------------------------------------


def _attention_sections(operator: str) -> Callable[[Names], list[str]]:
    def sections(names: Names) -> list[str]:
        kv = _type(names["kv_dtype"])
        kind = f"{_type(names['dtype'])}-{kv}" if operator == "attention_prefill" else kv
        found = _path(operator, names["kernel"], f"-{kind}", names.get("mode", ""))
        return [*found, *_usual(operator, names["framework"], kind)]

    return sections


_HOPPER_KERNELS = ("fa3", "vllm_flash_attn_fa3")
_SECOND_GENERATION = ("vllm_flash_attn_fa2", "vllm_flash_attn", "flash_attention")


def _decode_mode(columns: Columns, names: Mapping[str, npt.NDArray[Any]]) -> npt.NDArray[Any]:
    """Tell kernels that turn to another algorithm by the shape of the heads."""
    group = np.asarray(columns["heads"], dtype=np.float64) / np.asarray(columns["kv_heads"], dtype=np.float64)
    mode = np.full(len(group), "", dtype=object)
    masked = names["kernel"] == "torch_flow"  # one block per query head unless a group of 2 ... 32 is packed
    mode[masked] = np.where((group == 1) | (group > 32), "masked", "grouped")[masked]
    mode[np.isin(names["kernel"], _HOPPER_KERNELS) & (columns["head_dim"] == 192)] = "192"
    return mode


def _run_decode(b: Batch) -> Terms:
    window, length, dim = b["window_size"], b["kv_len"], b["head_dim"]
    seen = np.where(window > 0, np.minimum(window, length), length)
    kernel, every = b.names["kernel"], np.full(len(length), True)
    # second-generation kernels neither pack heads nor split the cache under a sliding window
    whole = (window == 0) if kernel in _SECOND_GENERATION else every
    packed = whole & (b["heads"] / b["kv_heads"] <= 32) if kernel == "torch_flow" else whole
    return attention.decode(
        VECTOR, b.machine, b["batch"], b["batch"] * seen, b["heads"], b["kv_heads"], 4.0 * dim,
        2.0 * dim * b.kv_bytes(), 4.0 * dim, packed, whole, b.section,
    )  # fmt: skip


def _run_prefill(b: Batch) -> Terms:
    length, dim = b["seq_len"], b["head_dim"]
    return attention.prefill(
        VECTOR, b.machine, b["batch"], length, length, b["heads"], b["kv_heads"], dim, dim,
        b["window_size"], b.kv_bytes(), b.types()[0], b.section,
    )  # fmt: skip


# --- latent attention ---------------------------------------------------------------------------

LATENT, ROPE, NOPE, VALUE, HIDDEN, QUERY_LATENT = 512.0, 64.0, 128.0, 128.0, 7168.0, 1536.0  # DeepSeek-V3


def _mla_sections(names: Names) -> list[str]:
    op, kv, who = names["op"], _type(names["kv_dtype"]), f"{names['framework']}-{_clean(names['kernel'])}"
    if op in ("mla_gen_pre", "mla_gen_post"):
        kind = "narrow" if PRECISION_BYTES[TYPES[names["dtype"] or "bfloat16"][1]] < 2.0 else "wide"
        return _upwards(f"gemm/bmm/{kind}/{who}", "gemm/bmm")
    operator = "mla_decode" if op.startswith("mla_decode") else "mla_prefill"
    found = _path(operator, who, f"-{kv}")
    usual = _usual(operator, names["framework"], kv)
    if "module" in op:
        return [*([f"{found[0]}/module"] if found else []), f"{usual[0]}/module", *found, *usual]
    return [*found, *usual]


def _run_mla(b: Batch) -> Terms:
    op = b.names["op"]
    if op in ("mla_gen_pre", "mla_gen_post"):
        return _head_gemm(b.machine, b["batch"], b["heads"], op == "mla_gen_pre", b.types(), b.section)
    core = _mla_decode(b) if op.startswith("mla_decode") else _mla_prefill(b)
    if "module" not in op:
        return core
    if "projections" not in b.memo:
        b.memo["projections"] = _mla_projections(b)
    projections: Terms = b.memo["projections"]
    return core + projections


def _head_gemm(machine: Machine, tokens: Any, heads: Any, into_latent: bool, types: tuple[str, str],
               section: str) -> Terms:  # fmt: skip
    """Cost the products that carry every head's query into the latent, or its result out of it."""
    n, k = (LATENT, NOPE) if into_latent else (VALUE, LATENT)
    narrow = PRECISION_BYTES[types[1]] < 2.0
    return gemm(VECTOR, machine, tokens, n + 0.0 * tokens, k + 0.0 * tokens, *types, section, narrow, heads)


def _mla_decode(b: Batch) -> Terms:
    width, batch = LATENT + ROPE, b["batch"]
    every = np.full(len(batch), True)
    return attention.decode(
        VECTOR, b.machine, batch, batch * np.maximum(b["kv_len"], 1.0), b["heads"], np.ones(len(batch)),
        2.0 * (width + LATENT), width * b.kv_bytes(), 2.0 * (width + LATENT), every, every, b.section,
    )  # fmt: skip


def _mla_prefill(b: Batch) -> Terms:
    """Cost the kernel on expanded keys and values, or (`absorbed`) on the latents themselves."""
    batch, length, heads = b["batch"], b["seq_len"], b["heads"]
    kv_len = np.maximum(b["kv_len"], length)
    if b.machine.section(b.section)["absorbed"]:
        kv_heads, key, value = np.ones(len(batch)), LATENT + ROPE, LATENT
    else:
        kv_heads, key, value = heads, NOPE + ROPE, VALUE
    return attention.prefill(VECTOR, b.machine, batch, length, kv_len, heads, kv_heads, key, value,
                             np.zeros(len(batch)), b.kv_bytes(), "bf16", b.section)  # fmt: skip


def _mla_projections(b: Batch) -> Terms:
    """Cost the projections around the kernel: down, up, (decode: into and out of the latent), output."""
    decode = b.names["op"].startswith("mla_decode")
    tokens = b["batch"] * (1.0 if decode else b["seq_len"])
    heads, narrow = b["heads"], b.names["gemm_type"].startswith("fp8")
    kind = "fp8" if narrow else "bf16"
    section = "gemm/fp8_block" if narrow else "gemm"

    def project(n: Any, k: Any) -> Terms:
        n, k = n + 0.0 * tokens, k + 0.0 * tokens
        return gemm(VECTOR, b.machine, tokens, n, k, kind, kind, section, narrow)

    total = project(QUERY_LATENT + LATENT + ROPE, HIDDEN) + project(heads * (NOPE + ROPE), QUERY_LATENT)
    total = total + project(HIDDEN, heads * VALUE)
    if not decode:
        return total + project(heads * (NOPE + VALUE), LATENT)
    for into_latent in (True, False):
        total = total + _head_gemm(b.machine, tokens, heads, into_latent, ("bf16", "bf16"), "gemm")
    return total


# --- collectives --------------------------------------------------------------------------------


def _collective_sections(names: Names) -> list[str]:
    """Return the sections of an engine's own kernel, or of its launch without a graph, or the library's."""
    kernel = _clean(names["kernel"]).lower()
    if names["nodes"] not in ("", "1") or not any(part in kernel for part in _DIRECT):
        return ["collectives"]
    own = "eager" if "eager" in kernel else _clean(names["kernel"])
    return _upwards(f"collectives/direct/{own}")


def collective_link(b: Batch) -> tuple[float, Link, int]:
    """Return (bytes sent per byte of the buffer, link, ranks on it) of a group's busiest port."""
    if b.system is None:
        raise ConfigError("the library has no system of this device; name a system, it has the links")
    op = OP_NAMES.get(b.names["op"], b.names["op"])
    ranks, nodes = int(b.names["num_gpus"]), int(b.names["nodes"] or 1)
    local = max(ranks // max(nodes, 1), 1)
    return collectives.slowest_port(op, ranks, b.system.intra_node, b.system.inter_node, local)


def _run_collective(b: Batch) -> Terms:
    share, link, on_link = collective_link(b)
    op = OP_NAMES.get(b.names["op"], b.names["op"])
    if b.names["dtype"] == "int8" and link.in_network_reduction:  # switches add floating point numbers
        link = link.model_copy(update={"in_network_reduction": False})
    return collectives.transfer(VECTOR, b.machine, op, b["bytes"], share, on_link, link, b.section)


# --- dispatch and combine of tokens -------------------------------------------------------------

_UNNAMED = {"": "fp8", "default": "bfloat16"}  # what a dispatch sends where the table does not say


def _exchange_sections(names: Names) -> list[str]:
    return [*_path("moe_alltoall", names["kernel"], f"-{names['dtype']}" if names["dtype"] else ""),
            "moe_alltoall"]  # fmt: skip


def _run_exchange(b: Batch) -> Terms:
    """Cost a dispatch in the type that the table names, or a combine, which returns 16 bits a value."""
    links, op, nodes = _links(b), b.names["op"], np.maximum(b["nodes"], 1.0)
    ranks = np.where(b["ep"] > 0, b["ep"], nodes * (b.system.devices_per_node if b.system else 8))
    kind = _UNNAMED.get(b.names["dtype"], b.names["dtype"]) if op == "dispatch" else "bfloat16"
    once = b.machine.section(b.section)["tokens_once"] > 0
    near, far = exchange.copies(once, b["topk"], ranks, nodes)
    payload = b["num_tokens"] * b["hidden_size"] * PRECISION_BYTES[TYPES[kind][1]]
    sent = payload * near, payload * far
    return exchange.exchange(VECTOR, b.machine, op, sent, b["sms"], links, b.section)


def _links(b: Batch) -> tuple[Link, Link]:
    """Return the links within and between nodes; the first for both if there is no other."""
    if b.system is None or b.system.intra_node is None:
        raise ConfigError("the library has no system of this device; name a system, it has the links")
    return b.system.intra_node, b.system.inter_node or b.system.intra_node


_KERNEL = ("framework", "kernel", "dtype")
TABLES: dict[str, Table] = {
    "gemm": Table(_KERNEL, ("m", "n", "k"), _gemm_sections, _run_gemm),
    "moe": Table(
        (*_KERNEL, "version", "distribution", "gated"),
        ("num_tokens", "hidden_size", "inter_size", "topk", "num_experts", "tp", "ep"),
        _moe_sections, _run_moe,
    ),
    "attention_prefill": Table(
        (*_KERNEL, "kv_dtype"), ("batch", "seq_len", "heads", "kv_heads", "head_dim"),
        _attention_sections("attention_prefill"), _run_prefill, None, ("window_size",),
    ),
    "attention_decode": Table(
        (*_KERNEL, "kv_dtype"), ("batch", "kv_len", "heads", "kv_heads", "head_dim"),
        _attention_sections("attention_decode"), _run_decode, _decode_mode, ("window_size",),
    ),
    "mla": Table(
        (*_KERNEL, "kv_dtype", "op", "gemm_type", "model"), ("batch", "seq_len", "heads"),
        _mla_sections, _run_mla, None, ("kv_len",),
    ),
    "collectives": Table(
        (*_KERNEL, "op", "num_gpus", "nodes"), ("bytes",), _collective_sections, _run_collective,
    ),
    "moe_alltoall": Table(
        (*_KERNEL, "op"), ("num_tokens", "hidden_size", "topk"), _exchange_sections, _run_exchange, None,
        ("ep", "nodes", "sms"),
    ),
}  # fmt: skip
