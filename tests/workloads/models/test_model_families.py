"""Families that no library file shows: configurations of published shape, counts of their publishers."""

from __future__ import annotations

import pytest

from workloads.models import load


def shape(family, hidden, layers, heads, kv_heads, ffn, vocab, **more):
    return {
        "model_type": family, "hidden_size": hidden, "num_hidden_layers": layers,
        "num_attention_heads": heads, "num_key_value_heads": kv_heads, "intermediate_size": ffn,
        "vocab_size": vocab, "max_position_embeddings": 8192, "hidden_act": "silu", **more,
    }  # fmt: skip


UNTIED = {"tie_word_embeddings": False}
# name: (configuration, total in units of 1e9); where the publisher gives it, active
PUBLISHED = {
    "phi-2": (shape("phi", 2560, 32, 32, 32, 10240, 51200, **UNTIED), 2.78, None),
    "phi-4": (shape("phi3", 5120, 40, 40, 10, 17920, 100352, **UNTIED), 14.66, None),
    "gemma-7b": (shape("gemma", 3072, 28, 16, 16, 24576, 256000, head_dim=256), 8.54, None),
    "gemma-2-27b": (shape("gemma2", 4608, 46, 32, 16, 36864, 256000, head_dim=128), 27.2, None),
    "falcon-7b": (
        {"model_type": "falcon", "hidden_size": 4544, "num_hidden_layers": 32, "vocab_size": 65024,
         "num_attention_heads": 71, "multi_query": True, "bias": False},
        7.22, None,
    ),
    "gpt-neox-20b": (
        shape("gpt_neox", 6144, 44, 64, 64, 24576, 50432, **{**UNTIED, "hidden_act": "gelu_fast"}),
        20.55, None,
    ),
    "gpt-j-6b": (
        {"model_type": "gptj", "n_embd": 4096, "n_layer": 28, "n_head": 16, "vocab_size": 50400,
         "n_inner": None, "activation_function": "gelu_new", **UNTIED},
        6.05, None,
    ),
    "starcoder2-15b": (
        shape("starcoder2", 6144, 40, 48, 4, 24576, 49152, use_bias=True, **UNTIED), 15.96, None,
    ),
    "mpt-7b": (
        {"model_type": "mpt", "d_model": 4096, "n_layers": 32, "n_heads": 32, "vocab_size": 50432,
         "expansion_ratio": 4},
        6.65, None,
    ),
    "qwen-7b": (shape("qwen", 4096, 32, 32, 32, 22016, 151936, **UNTIED), 7.72, None),
    "qwen2.5-0.5b": (
        shape("qwen2", 896, 24, 14, 2, 4864, 151936, tie_word_embeddings=True), 0.494, None,
    ),
    "chatglm3-6b": (
        {"model_type": "chatglm", "hidden_size": 4096, "num_layers": 28, "num_attention_heads": 32,
         "multi_query_group_num": 2, "kv_channels": 128, "ffn_hidden_size": 13696, "padded_vocab_size": 65024,
         "add_qkv_bias": True, **UNTIED},
        6.24, None,
    ),
    "nemotron-4-340b": (
        shape("nemotron", 18432, 96, 96, 8, 73728, 256000, **{**UNTIED, "hidden_act": "relu2"}), 341, None,
    ),
    "t5-large": (
        {"model_type": "t5", "d_model": 1024, "d_ff": 4096, "d_kv": 64, "num_heads": 16, "num_layers": 24,
         "vocab_size": 32128, "is_encoder_decoder": True, "feed_forward_proj": "relu"},
        0.738, None,
    ),
    "flan-t5-xxl": (
        {"model_type": "t5", "d_model": 4096, "d_ff": 10240, "d_kv": 64, "num_heads": 64, "num_layers": 24,
         "vocab_size": 32128, "is_encoder_decoder": True, "feed_forward_proj": "gated-gelu", **UNTIED},
        11.1, None,
    ),
    "mamba-2.8b": (
        {"model_type": "mamba", "hidden_size": 2560, "num_hidden_layers": 64, "vocab_size": 50280,
         "state_size": 16, "time_step_rank": 160, "tie_word_embeddings": True},
        2.77, None,
    ),
    "hunyuan-a13b": (
        shape("hunyuan_v1_moe", 4096, 32, 32, 8, 3072, 128167, num_experts=64, moe_topk=[8] * 32,
              num_shared_expert=[1] * 32, moe_intermediate_size=[3072] * 32, use_qk_norm=True,
              tie_word_embeddings=True),
        80.4, 12.75,
    ),
    "hunyuan-large": (
        shape("hunyuan", 6400, 64, 80, 8, 18304, 129024, num_experts=16, moe_topk=1, num_shared_expert=1,
              use_mixed_mlp_moe=True, use_cla=True, cla_share_factor=2, tie_word_embeddings=True),
        389, None,
    ),
    "ernie-4.5-300b-a47b": (
        shape("ernie4_5_moe", 8192, 54, 64, 8, 28672, 103424, moe_num_experts=64, moe_k=8,
              moe_intermediate_size=3584, moe_num_shared_experts=0, moe_layer_start_index=3,
              moe_layer_end_index=53, moe_layer_interval=1, **UNTIED),
        300, None,
    ),
    "dots.llm1": (
        shape("dots1", 4096, 62, 32, 32, 10944, 152064, n_routed_experts=128, num_experts_per_tok=6,
              n_shared_experts=2, moe_intermediate_size=1408, first_k_dense_replace=1,
              scoring_func="noaux_tc", **UNTIED),
        142, 14,
    ),
    "lfm2-8b-a1b": (
        shape("lfm2_moe", 2048, 24, 32, 8, 7168, 65536, num_experts=32, num_experts_per_tok=4,
              moe_intermediate_size=1792, num_dense_layers=2, conv_L_cache=3,
              layer_types=["full_attention" if i in (2, 6, 10, 14, 18, 21) else "conv" for i in range(24)]),
        8.34, None,
    ),
    "nemotron-3-nano": (
        shape("nemotron_h", 2688, 52, 32, 2, 1856, 131072, head_dim=128, n_routed_experts=128,
              num_experts_per_tok=6, n_shared_experts=1, moe_intermediate_size=1856,
              moe_shared_expert_intermediate_size=3712, mlp_hidden_act="relu2", mamba_num_heads=64,
              hybrid_override_pattern="MEMEM*EMEMEM*EMEMEM*EMEMEM*EMEMEM*EMEMEMEM*EMEMEMEME",
              mamba_head_dim=64, ssm_state_size=128, n_groups=8, conv_kernel=4, norm_topk_prob=True,
              **UNTIED),
        31.6, None,
    ),
    "longcat-flash": (
        {"model_type": "longcat_flash", "hidden_size": 6144, "num_layers": 28, "vocab_size": 131072,
         "ffn_hidden_size": 12288, "expert_ffn_hidden_size": 2048, "num_attention_heads": 64,
         "n_routed_experts": 512, "moe_topk": 12, "zero_expert_num": 256, "kv_lora_rank": 512,
         "q_lora_rank": 1536, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128},
        562, None,
    ),
    "ling-mini-2.0": (
        shape("bailing_moe_v2", 2048, 20, 16, 4, 5120, 157184, num_experts=256, num_experts_per_tok=8,
              num_shared_experts=1, moe_intermediate_size=512, first_k_dense_replace=1, n_group=8,
              topk_group=4, score_function="sigmoid", **UNTIED),
        16.3, 1.43,
    ),
    "granite-4.0-h-small": (
        shape("granitemoehybrid", 4096, 40, 32, 8, 768, 100352, shared_intermediate_size=1536,
              num_local_experts=72, num_experts_per_tok=10, mamba_n_heads=128, mamba_d_head=64,
              mamba_d_state=128, mamba_n_groups=1, mamba_d_conv=4, tie_word_embeddings=True,
              layer_types=(["mamba"] * 5 + ["attention"] + ["mamba"] * 4) * 4),
        32.2, None,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_counts_are_the_published_ones(name):
    configuration, total, active = PUBLISHED[name]
    model = load(configuration)
    assert model.total_parameters / 1e9 == pytest.approx(total, rel=0.01)
    if active is not None:
        assert model.active_parameters / 1e9 == pytest.approx(active, rel=0.01)


def test_a_wrapper_is_looked_through():
    text = shape("qwen3_moe", 2048, 48, 32, 4, 6144, 151936, head_dim=128, num_experts=128,
                 num_experts_per_tok=8, moe_intermediate_size=768)  # fmt: skip
    inside = {"model_type": "qwen3_vl_moe", "text_config": text, "vision_config": {"hidden_size": 1152}}
    assert load({**inside, **UNTIED}).total_parameters == load({**text, **UNTIED}).total_parameters


def test_zero_experts_take_their_share_of_the_choices():
    moe = load(PUBLISHED["longcat-flash"][0]).layers[0].moe
    routed = moe.active_parameters(6144) - moe.shared_parameters(6144) - moe.router_parameters(6144)
    assert routed == 8 * moe.expert_parameters(6144)  # 12 choices, two thirds of them real


def test_layers_that_share_a_cache_keep_none():
    layers = load(PUBLISHED["hunyuan-large"][0]).layers
    assert [layer.kv_values_per_token for layer in layers[:3]] == [2 * 8 * 80, 0, 2 * 8 * 80]
