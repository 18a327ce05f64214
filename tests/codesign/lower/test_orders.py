"""Orders in which experts, keys and values are read: exact bytes."""

import pytest

import codesign
from codesign.base.errors import ConfigError

MODEL = {
    "model_type": "qwen3_moe", "hidden_size": 192, "num_hidden_layers": 4, "vocab_size": 256,
    "intermediate_size": 768, "moe_intermediate_size": 384, "num_attention_heads": 3,
    "num_key_value_heads": 3, "head_dim": 64, "num_experts": 16, "num_experts_per_tok": 2,
    "decoder_sparse_step": 2, "mlp_gated": False,
}  # fmt: skip


def moved(tokens=129, **policies):
    experiment = {
        "model": MODEL, "system": {"from": "workstation", "device": "zcu102"}, "cost_model": "roofline",
        "precision": {"weights": "bf16", "activations": "fp32", "kv": "fp32"}, "policies": policies,
        "workload": {
            "requests": {"count": 1, "batch": True, "prompt_tokens": tokens, "output_tokens": 1},
            "routing": "uniform",
        },
    }  # fmt: skip
    return codesign.simulate(experiment).cost["counters"]["memory_bytes"]


def test_token_by_token_every_choice_reads_its_expert():
    more = moved(expert_order="token_major") - moved()
    assert more == 2 * (129 * 2 - 16) * 2 * 192 * 384 * 2  # layers, reads, matrices, values, bytes


def test_one_token_has_nothing_to_share():
    assert moved(1, expert_order="token_major") == moved(1)


@pytest.mark.parametrize("queries", [1, 4, 16])
def test_keys_and_values_are_loaded_for_so_many_queries(queries):
    loads = 129 * 129 / queries + 129 + queries - 1
    more = moved(queries_per_read=queries) - moved()
    assert more == pytest.approx(4 * 2 * (loads - 2 * 129) * 192 * 4, rel=1e-12)


def test_an_unknown_order_is_told():
    with pytest.raises(ConfigError, match="expert_order"):
        moved(expert_order="row_major")
