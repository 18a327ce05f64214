"""Models as data: layers, caches, projections, counts."""

from __future__ import annotations

import json

import pytest

from workloads.models import load, names
from workloads.models.feedforward import MoE

SHAPES = ["mixtral-8x7b", "deepseek-v3", "gemma-4-26b-a4b", "kimi-k3", "deepseek-v4-flash", "jamba-mini-1.6",
          "jetmoe-8b", "nllb-moe-54b", "minimax-m3", "gpt2", "qwen3-next-80b-a3b", "glm-5.2"]  # fmt: skip


@pytest.mark.parametrize("name", names())
def test_counts_add_up(name):
    model = load(name)
    layers = sum(layer.parameters(model.hidden_size) for layer in (*model.layers, *model.encoder_layers))
    stored = model.embedding_parameters + model.lm_head_parameters + model.other_parameters
    assert model.total_parameters == layers + stored
    assert model.active_by("no_embeddings") <= model.active_by("no_input_embedding")
    assert model.active_by("all") <= model.total_parameters
    dense = all(layer.moe is None for layer in (*model.layers, *model.encoder_layers))
    assert dense == (model.active_by("all") == model.total_parameters)


@pytest.mark.parametrize("name", SHAPES)
def test_groups_partition_the_layers(name):
    model = load(name)
    indices = sorted(i for group in model.groups() for i in group.indices)
    assert indices == list(range(len(model.layers)))
    assert all(model.layers[i] == group.layer for group in model.groups() for i in group.indices)


@pytest.mark.parametrize("name", SHAPES)
def test_the_cache_grows_with_the_context_and_never_faster_than_it(name):
    model = load(name)
    sizes = [model.kv_values(tokens) for tokens in (0, 1, 100, 1000, 10_000, 100_000)]
    assert sizes[0] == 0
    assert sizes == sorted(sizes)
    for layer in model.layers:
        assert layer.kv_tokens(5000) <= 5000


@pytest.mark.parametrize("name", SHAPES)
def test_projections_hold_nearly_all_of_a_mixers_weights(name):
    model = load(name)
    for layer in model.layers:
        if layer.attention is None or layer.attention.recurrent:
            continue
        big = sum(p.inputs * p.outputs * p.copies for p in layer.attention.projections(model.hidden_size))
        whole = layer.attention.parameters(model.hidden_size)
        assert (
            big + layer.attention.other_parameters <= whole <= 1.01 * big + layer.attention.other_parameters
        )


@pytest.mark.parametrize("name", names())
def test_plain_data_can_be_written(name):
    plain = json.loads(json.dumps(load(name).to_dict(), allow_nan=False))
    assert sum(len(group["indices"]) for group in plain["layers"]) == len(load(name).layers)


def test_grouped_query_attention():
    mixer = load("mixtral-8x7b").layers[0].attention
    assert [p[:3] for p in mixer.projections(4096)] == [
        ("q", 4096, 4096), ("k", 4096, 1024), ("v", 4096, 1024), ("o", 4096, 4096),
    ]  # fmt: skip
    assert (mixer.heads, mixer.kv_heads, mixer.qk_head_dim, mixer.v_head_dim) == (32, 8, 128, 128)
    assert load("mixtral-8x7b").kv_bytes_per_token(2) == 2 * 2 * 8 * 128 * 32


def test_latent_attention_caches_one_latent_per_token():
    model = load("deepseek-v3")
    mixer = model.layers[0].attention
    assert (mixer.q_lora_rank, mixer.kv_lora_rank, mixer.qk_head_dim, mixer.v_head_dim) == (
        1536,
        512,
        192,
        128,
    )
    assert mixer.kv_values_per_token == 512 + 64
    assert model.kv_bytes_per_token(2) == 576 * 61 * 2  # 70 kB; DeepSeek-V3 says 70.272 KB


def test_experts_and_their_router():
    model = load("deepseek-v3")
    moe = model.layers[3].moe
    assert isinstance(moe, MoE)
    assert model.moe_layers == tuple(range(3, 61))
    assert (moe.n_experts, moe.top_k, moe.expert.intermediate_size, moe.shared.intermediate_size) == (
        256, 8, 2048, 2048,
    )  # fmt: skip
    router = moe.router
    assert (router.scoring, router.n_group, router.topk_group, router.scale) == ("sigmoid", 8, 4, 2.5)
    assert router.bias
    assert router.renormalise
    assert moe.expert_parameters(7168) == 3 * 7168 * 2048


def test_windows():
    layers = load("gpt-oss-20b").layers
    assert [layer.attention.window for layer in layers[:4]] == [128, None, 128, None]
    assert layers[0].kv_tokens(10_000) == 128
    assert layers[1].kv_tokens(10_000) == 10_000
    assert load("mistral-7b").layers[0].attention.window == 4096


def test_recurrent_layers_have_a_state_instead_of_a_cache():
    layer = load("qwen3-next-80b-a3b").layers[0]
    assert layer.attention.recurrent
    assert layer.kv_tokens(1000) == 0
    assert layer.state_values > 0


def test_an_encoder_decoder_has_both_and_attends_across():
    model = load("switch-base-128")
    assert (len(model.layers), len(model.encoder_layers)) == (12, 12)
    assert model.moe_layers == (1, 3, 5, 7, 9, 11)
    assert all(layer.cross_attention for layer in model.layers)
    assert not any(layer.cross_attention for layer in model.encoder_layers)


def test_released_precisions():
    chosen = ("mixtral-8x7b", "deepseek-v3", "gpt-oss-20b", "kimi-k2.5", "deepseek-v4-pro")
    said = {name: (load(name).native_precision, load(name).dense_precision) for name in chosen}
    assert said == {
        "mixtral-8x7b": ("bf16", "bf16"), "deepseek-v3": ("fp8", "fp8"), "gpt-oss-20b": ("mxfp4", "bf16"),
        "kimi-k2.5": ("int4", "bf16"), "deepseek-v4-pro": ("mxfp4", "fp8"),
    }  # fmt: skip
    assert {load(name).embedding_precision for name in chosen} == {"bf16"}
    assert load("switch-base-128").embedding_precision == "fp32"
    assert load("deepseek-v3", {"embedding_precision": "int8"}).embedding_precision == "int8"
