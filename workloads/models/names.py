"""The field names of Hugging Face configurations, by meaning; the preferred name stands first."""

from __future__ import annotations

HIDDEN = ("hidden_size", "d_model", "n_embd", "emb_size", "n_embed", "model_dim")
LAYERS = (
    "num_hidden_layers", "num_decoder_layers", "decoder_layers", "n_layers", "n_layer", "num_layers",
)  # fmt: skip
VOCAB = ("vocab_size", "padded_vocab_size")
CONTEXT = (
    "max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "max_sequence_length",
    "sequence_len", "n_ctx", "model_max_length",
)  # fmt: skip
HEADS = (
    "num_attention_heads", "decoder_attention_heads", "n_heads", "n_head", "num_heads", "num_q_heads",
)  # fmt: skip
KV_HEADS = (
    "num_key_value_heads", "num_kv_heads", "n_head_kv", "attn_config.kv_n_heads",
    "num_attention_groups", "multi_query_group_num", "num_query_groups",
)  # fmt: skip
HEAD_DIM = ("head_dim", "d_kv", "kv_channels", "key_size", "attention_head_dim")
WINDOW = ("sliding_window", "sliding_window_size", "window_size")
FFN = (
    "intermediate_size", "ffn_dim", "decoder_ffn_dim", "n_inner", "d_ff", "ffn_hidden_size",
    "ffn_config.ffn_hidden_size", "feed_forward_dim",
)  # fmt: skip
DENSE_FFN = ("dense_intermediate_size", "intermediate_size_mlp", *FFN)
EXPERT_FFN = (
    "moe_intermediate_size", "expert_ffn_hidden_size", "moe_ffn_hidden_size",
    "moe_config.ffn_hidden_size", "expert_intermediate_size", *FFN,
)  # fmt: skip
EXPERTS = (
    "num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts", "num_routed_experts",
    "n_experts", "num_moe_experts", "ffn_config.moe_num_experts", "moe_config.moe_num_experts",
)  # fmt: skip
TOP_K = (
    "num_experts_per_tok", "num_experts_per_token", "num_selected_experts", "moe_top_k", "moe_topk",
    "moe_k", "top_k_experts", "router_topk", "experts_per_token", "n_experts_per_tok",
    "ffn_config.moe_top_k", "moe_config.moe_top_k",
)  # fmt: skip
SHARED_COUNT = (
    "n_shared_experts", "num_shared_experts", "num_shared_expert", "moe_num_shared_experts",
)  # fmt: skip
SHARED_WIDTH = (
    "shared_expert_intermediate_size", "shared_intermediate_size", "share_expert_dim",
    "moe_shared_expert_intermediate_size",
)  # fmt: skip
ZERO_EXPERTS = ("zero_expert_num", "num_zero_experts", "n_zero_experts", "num_null_experts")
ACTIVATION = (
    "hidden_act", "hidden_activation", "activation_function", "mlp_hidden_act", "activation",
    "ffn_config.ffn_act_fn.name", "dense_act_fn",
)  # fmt: skip
GATED = (
    "is_gated_act", "mlp_gated", "glu", "moe_config.gated_linear_unit", "gated_linear_unit",
    "use_gated_mlp",
)  # fmt: skip
EXPERT_GATED = ("moe_mlp_gated", *GATED)
FIRST_DENSE = (
    "first_k_dense_replace", "moe_layer_start_index", "num_dense_layers", "moe_layer_num_skipped",
    "n_dense_layers",
)  # fmt: skip
MOE_INTERVAL = (
    "moe_layer_freq", "moe_layer_frequency", "moe_layer_interval", "interleave_moe_layer_step",
    "decoder_sparse_step", "expert_layer_period",
)  # fmt: skip
MOE_LAYERS = ("moe_layers", "moe_layers_enum", "moe_layer_indices")
SCORING = (
    "scoring_func", "moe_router_activation_func", "score_function", "router_activation_func",
    "score_func", "moe_router_score_function",
)  # fmt: skip
N_GROUP = ("n_group", "num_expert_group", "n_groups_routed")
TOPK_GROUP = ("topk_group", "num_limited_groups", "n_limited_groups")
RENORMALISE = (
    "norm_topk_prob", "moe_renormalize", "norm_expert_weight", "route_norm", "moe_config.norm_topk_prob",
)  # fmt: skip
ROUTED_SCALE = ("routed_scaling_factor", "moe_router_scaling_factor", "route_scale", "router_scaling_factor")
ROUTER_BIAS = (
    "use_routing_bias", "use_moe_router_bias", "moe_router_enable_expert_bias", "use_expert_bias",
    "router_bias",
)  # fmt: skip

SAME_MEANING = (
    HIDDEN, LAYERS, VOCAB, CONTEXT, HEADS, KV_HEADS, HEAD_DIM, EXPERTS, TOP_K, SHARED_COUNT, SHARED_WIDTH,
    SCORING, N_GROUP, TOPK_GROUP, RENORMALISE, ROUTED_SCALE,
)  # fmt: skip

OTHER_KNOWN = (
    *WINDOW, *DENSE_FFN, *EXPERT_FFN, *ZERO_EXPERTS, *ACTIVATION, *GATED, *EXPERT_GATED, *FIRST_DENSE,
    *MOE_INTERVAL, *MOE_LAYERS, *ROUTER_BIAS,
    "model_type", "torch_dtype", "dtype", "tie_word_embeddings", "use_sliding_window", "max_window_layers",
    "sliding_window_pattern", "layer_types", "mlp_layer_types", "mlp_only_layers", "attention_chunk_size",
    "attention_bias", "mlp_bias", "q_lora_rank", "kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim",
    "v_head_dim", "topk_method", "use_qk_norm", "attn_output_gate", "expert_layer_offset",
    "attn_layer_period", "attn_layer_offset", "index_n_heads", "index_head_dim", "index_topk",
    "quantization_config", "full_attention_interval", "moe_layer_end_index", "expert_dtype",
    "encoder_sparse_step", "name", "counting", "native_precision", "dense_precision",
    "embedding_precision", "is_encoder_decoder",
)  # fmt: skip

# a field of the first group says otherwise what the second group says: laid over it, it replaces it
RIVALS = (
    (SHARED_COUNT, SHARED_WIDTH),
    (SHARED_WIDTH, SHARED_COUNT),
    ((*FIRST_DENSE, *MOE_INTERVAL), ("mlp_layer_types", *MOE_LAYERS)),
    (("sliding_window_pattern", "full_attention_interval"), ("layer_types",)),
    (("native_precision", "dense_precision"), ("quantization_config", "expert_dtype")),
)
