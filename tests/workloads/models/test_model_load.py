"""Loading: names, files, composition, overrides, and what is refused."""

from __future__ import annotations

import json

import pytest
import yaml

from codesign.base.document import Document, parse_yaml
from codesign.base.errors import ConfigError
from codesign.base.hashing import content_hash
from workloads.models import load, names, resolve

DENSE = {
    "model_type": "llama", "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "intermediate_size": 256, "vocab_size": 100,
}  # fmt: skip
SPARSE = {**DENSE, "model_type": "mixtral", "num_local_experts": 8, "num_experts_per_tok": 2}


def refused(source, overrides=None) -> str:
    with pytest.raises(ConfigError) as caught:
        load(source, overrides)
    return str(caught.value)


def test_from_lays_fields_over_a_library_model():
    model = load({"from": "mixtral-8x7b", "num_experts_per_tok": 4})
    assert (model.top_k, model.n_experts, model.name) == (4, 8, "mixtral-8x7b")
    assert load({"from": "mixtral-8x7b"}) == load("mixtral-8x7b")
    assert load({"from": "mixtral-8x7b", "name": "wide"}).name == "wide"


def test_overrides_equal_composition():
    changes = {"num_experts_per_tok": 4, "sliding_window": 1024}
    assert load("mixtral-8x7b", changes) == load({"from": "mixtral-8x7b", **changes})
    assert load("mixtral-8x7b", {}) == load("mixtral-8x7b")


@pytest.mark.parametrize(
    ("name", "changes", "experts", "top_k"),
    [
        ("mixtral-8x7b", {"num_experts": 16}, 16, 2),
        ("deepseek-v3", {"num_local_experts": 128, "moe_top_k": 4}, 128, 4),
        ("dbrx", {"num_experts_per_tok": 2}, 16, 2),
        ("dbrx", {"ffn_config.moe_num_experts": 32}, 32, 4),
        ("gemma-4-26b-a4b", {"num_experts_per_tok": 4}, 128, 4),
    ],
)
def test_a_field_may_be_called_by_any_of_its_names(name, changes, experts, top_k):
    model = load(name, changes)
    assert (model.n_experts, model.top_k) == (experts, top_k)


def test_an_override_reaches_into_text_config():
    source = {"model_type": "llava", "text_config": SPARSE, "vision_config": {"hidden_size": 8}}
    model = load(source, {"num_experts_per_tok": 1, "first_k_dense_replace": 1})
    assert (model.top_k, model.moe_layers) == (1, (1,))
    assert "vision" in model.notes[0]


def test_an_override_replaces_what_says_the_same_otherwise():
    assert (
        load("qwen1.5-moe-a2.7b", {"n_shared_experts": 2}).layers[0].moe.shared.intermediate_size == 2 * 1408
    )
    listed = {**SPARSE, "mlp_layer_types": ["sparse", "sparse"]}
    assert load(listed, {"first_k_dense_replace": 1}).moe_layers == (1,)
    precise = load("deepseek-v3", {"native_precision": "int4"})
    assert (precise.native_precision, precise.dense_precision) == ("int4", "fp8")


def test_a_size_may_be_one_for_all_layers_or_one_for_each():
    each = load({**SPARSE, "num_experts_per_tok": [1, 2], "num_local_experts": [4, 8]})
    assert [(layer.moe.n_experts, layer.moe.top_k) for layer in each.layers] == [(4, 1), (8, 2)]
    assert load({**SPARSE, "num_local_experts": [4]}).n_experts == 4


@pytest.mark.parametrize("name", ["mixtral-8x7b", "deepseek-v3", "kimi-k3", "dbrx"])
def test_what_is_resolved_hashes_is_written_and_read_back(name, tmp_path):
    data = resolve(name).data
    assert len(content_hash(data)) == 64
    assert resolve(data).data == data == resolve(resolve(name)).data
    (tmp_path / "a.json").write_text(json.dumps(data))
    (tmp_path / "a.yaml").write_text(yaml.safe_dump(data))
    for file in ("a.json", "a.yaml"):
        assert load(tmp_path / file) == load(str(tmp_path / file)) == load(name)


def test_a_folder_with_a_configuration_is_its_configuration(tmp_path):
    folder = tmp_path / "my-model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(DENSE))
    assert load(folder) == load(folder / "config.json")
    assert load(folder).name == "my-model"


def test_from_a_file_is_relative_to_the_file_that_says_it(tmp_path):
    (tmp_path / "base.json").write_text(json.dumps(SPARSE))
    (tmp_path / "own.yaml").write_text("from: ./base.json\nnum_experts_per_tok: 3\n")
    assert load(tmp_path / "own.yaml").top_k == 3
    (tmp_path / "bad.yaml").write_text("from: ./base.json\n\nnum_experts_per_tok: 9\n")
    assert refused(tmp_path / "bad.yaml").startswith(
        f"{tmp_path}/bad.yaml:3: num_experts_per_tok = 9: must not"
    )


def test_a_model_inside_an_experiment_keeps_its_line():
    experiment = parse_yaml("seed: 1\nmodel:\n  from: mixtral-8x7b\n  num_experts_per_tok: 9\n", "my.yaml")
    assert refused(experiment.child("model")).startswith("my.yaml:4: num_experts_per_tok = 9: ")
    assert load(parse_yaml("model: dbrx\n", "my.yaml").child("model")) == load("dbrx")


def test_json_with_tabs_keeps_its_lines_and_infinity_is_no_size(tmp_path):
    text = '{\n\t"time_step_limit": [0.0, Infinity],\n' + json.dumps(DENSE, indent="\t")[1:]
    (tmp_path / "a.json").write_text(text)
    assert load(tmp_path / "a.json").hidden_size == 64
    (tmp_path / "b.json").write_text(text.replace('"vocab_size": 100', '"vocab_size": NaN'))
    line = 1 + text[: text.index('"vocab_size"')].count("\n")
    assert f'b.json:{line}: vocab_size = "nan": must be a whole number' in refused(tmp_path / "b.json")


def test_an_absent_config_is_filled_by_what_the_family_fixes():
    assert load({**DENSE, "model_type": "gemma2"}).tied_embeddings
    assert not load(DENSE).tied_embeddings
    assert load({**DENSE, "model_type": "qwen2"}).layers[0].attention.qkv_bias
    named = {key: value for key, value in DENSE.items() if key != "model_type"}
    assert load({**named, "architectures": ["Qwen2ForCausalLM"]}).layers[0].attention.qkv_bias


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"num_experts_per_tok": 9}, "must not exceed the 8 experts"),
        ({"num_experts_per_tok": 0}, "must be positive"),
        ({"num_experts_per_tok": True}, "must be a whole number"),
        ({"num_experts_per_tok": "2"}, "must be a whole number"),
        ({"num_experts_per_tok": None}, "is required and missing"),
        ({"num_local_experts": 40_000}, "must be at most 32767"),
        ({"hidden_size": 10**400}, "must be at most"),
        ({"hidden_size": float("nan")}, "must be a whole number"),
        ({"num_hidden_layers": 10_000}, "must be at most 4096"),
        ({"num_attention_heads": 3}, "must divide hidden_size 64"),
        ({"num_key_value_heads": 3}, "must divide the 4 query heads"),
        ({"n_group": 3}, "must divide the 8 experts"),
        ({"n_group": 4, "topk_group": 5}, "must not exceed the 4 groups"),
        ({"n_group": 8, "topk_group": 1}, "must not exceed the 1 experts of 1 groups"),
        ({"scoring_func": "sigmod"}, "unknown"),
        ({"layer_types": ["full_attention"]}, "has 1 entries for 2 layers"),
        ({"layer_types": ["full_attention", "fourier"]}, 'unknown kind of layer "fourier"'),
        ({"torch_dtype": 3}, "must be a word"),
        ({"tie_word_embeddings": "no"}, "must be true or false"),
        ({"native_precision": "int5"}, "must be one of"),
        ({"counting": "none"}, "must be one of"),
        ({"quantization_config": 3}, "must be a mapping"),
        ({1: 2}, "must be text"),
        ({"x": b"a"}, "not a bytes"),
    ],
)
def test_an_impossible_field_is_refused_by_name(change, said):
    text = refused({**SPARSE, **change})
    assert said in text
    assert "\n" not in text


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("mixtral-8x7", "did you mean 'mixtral-8x7b'"),
        ("", "a model is a library name"),
        ("./absent.json", "no such file"),
        ("mixtral-8x7b.json", "the library has 'mixtral-8x7b'"),
        ("\0", "unknown model"),
        ("a" * 5000 + "/b", "no such file"),
        ({}, "hidden_size: is required and missing"),
        ({"from": 3}, "from = 3"),
        ({"from": "mixtral-8x7b", "num_expert_per_tok": 2}, "did you mean 'num_experts_per_tok'"),
        ({"from": "dbrx", "num_experts": 8, "num_local_experts": 8}, "says the same as num_experts"),
        ({**DENSE, "num_experts_total": 4, "n_moe_experts": 4}, "experts are counted by one of"),
        ({**DENSE, "num_attention_heads": None, "num_attention_head": 4}, "is 'num_attention_head' misspelt"),
        (Document([1], "x"), "a model is a library name"),
    ],
)
def test_what_is_no_model_is_refused(source, said):
    assert said in refused(source)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "a.json:1: not valid JSON"),
        ("[1, 2]", "a library name, a path, or a mapping"),
        ("{", "not valid JSON"),
        ('{"hidden_size": 1, "hidden_size": 2}', "hidden_size: duplicate key"),
        ("[" * 100_000, "nested too deeply"),
        ('{"a":' * 200 + "1" + "}" * 200, "nested too deeply"),
        ('{"hidden_size": ' + "9" * 5000 + "}", "not valid JSON"),
    ],
)
def test_a_broken_file_is_refused_with_its_place(tmp_path, text, said):
    (tmp_path / "a.json").write_text(text)
    assert said in refused(tmp_path / "a.json")


def test_a_directory_and_binary_junk_are_refused(tmp_path):
    assert "is a directory" in refused(tmp_path)
    (tmp_path / "a.json").write_bytes(bytes(range(256)))
    assert "not a text file" in refused(tmp_path / "a.json")


def test_a_model_built_from_itself_is_refused(tmp_path):
    (tmp_path / "a.yaml").write_text("from: ./b.yaml\n")
    (tmp_path / "b.yaml").write_text("from: ./a.yaml\n")
    assert "is built from itself" in refused(tmp_path / "a.yaml")


def test_a_file_beside_a_name_asks_for_a_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").write_text("{}")
    assert "write './mine'" in refused("mine")


def test_the_library_does_not_change_when_a_model_is_changed():
    before = {name: content_hash(resolve(name).data) for name in names()[:5]}
    for name in before:
        load(name, {"vocab_size": 7})
        resolve(name).data.clear()
    assert before == {name: content_hash(resolve(name).data) for name in before}
