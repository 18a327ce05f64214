"""`codesign models`: what it lists and shows, and what it refuses."""

from __future__ import annotations

import json

import pytest

from codesign.cli.main import main
from workloads.models import load, names


def run(capsys, *arguments: str) -> str:
    assert main(["models", *arguments]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    return out


def test_list_names_the_whole_library(capsys):
    rows = json.loads(run(capsys, "list", "--json"))["models"]
    assert [row["name"] for row in rows] == names()
    lines = run(capsys, "list").splitlines()
    assert [line.split()[0] for line in lines] == ["name", *names()]


@pytest.mark.parametrize("name", ["mixtral-8x7b", "deepseek-v3", "kimi-k3", "nllb-moe-54b", "gpt2", "dbrx"])
def test_show_json_holds_the_models_figures(capsys, name):
    shown, model = json.loads(run(capsys, "show", name, "--json")), load(name)
    assert shown["name"] == name
    assert shown["total_parameters"] == model.total_parameters
    assert (
        shown["active_parameters"] == model.active_parameters == shown["active_parameters_by"][model.counting]
    )
    assert shown["kv_bytes_per_token"] == model.kv_bytes_per_token(2)
    assert sum(len(group["indices"]) for group in shown["groups"]) == shown["n_layers"] == len(model.layers)
    layers = sum(group["parameters"] * len(group["indices"]) for group in
                 (*shown["groups"], *shown["encoder_groups"]))  # fmt: skip
    assert layers == model.layer_parameters
    assert load(shown["config"]) == model


def test_show_writes_layers_counts_and_what_is_published(capsys):
    out = run(capsys, "show", "deepseek-v3")
    assert "total 671B, active 36.63B" in out
    assert "layers 0-2 (3): mla 128 heads of 192, latent 512+64; gated FFN 18432" in out
    assert "top-8 of 256 gated experts of 2048 in 4 of 8 groups, shared 2048, sigmoid router" in out
    assert "published: total 671B" in out
    assert "70272 B per token" in out


@pytest.mark.parametrize("name", names())
def test_show_has_words_for_each_model(capsys, name):
    out = run(capsys, "show", name)
    assert out.startswith(name)
    assert "None heads" not in out


def test_show_sizes_the_cache_of_a_context(capsys):
    shown = json.loads(run(capsys, "show", "gpt-oss-20b", "--context", "10000", "--json"))
    assert shown["kv_bytes"] == load("gpt-oss-20b").kv_bytes(10_000, 2.0)
    assert "for 10000 tokens" in run(capsys, "show", "gpt-oss-20b", "--context", "10000")


def test_show_reads_a_file_and_lays_overrides_on_it(capsys, tmp_path):
    path = tmp_path / "config.json"
    sizes = {"hidden_size": 64, "vocab_size": 9, "num_attention_heads": 4, "intermediate_size": 256}
    path.write_text(json.dumps({"model_type": "llama", "num_hidden_layers": 2, **sizes}))
    shown = json.loads(run(capsys, "show", str(path), "-s", "num_hidden_layers=3", "--json"))
    assert (shown["n_layers"], shown["published"], shown["name"]) == (3, {}, tmp_path.name)
    wide = json.loads(run(capsys, "show", "mixtral-8x7b", "-s", "num_experts_per_tok=4", "--json"))
    assert (wide["top_k"], wide["published"]) == (4, {})


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("show", "mixtral-8x7"), "did you mean 'mixtral-8x7b'"),
        (("show", "./absent.json"), "no such file"),
        (("show", "mixtral-8x7b", "-s", "num_experts_per_tok=9"), "must not exceed the 8 experts"),
        (("show", "mixtral-8x7b", "-s", "num_expert_per_tok=2"), "did you mean 'num_experts_per_tok'"),
    ],
)
def test_a_wrong_input_is_one_line_and_code_2(capsys, arguments, said):
    assert main(["models", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("ConfigError: ")
    assert err.count("\n") == 1
    assert said in err


def test_a_file_that_is_not_supported_names_file_and_field(capsys, tmp_path):
    path = tmp_path / "config.json"
    path.write_text('{\n "hidden_size": 64,\n "num_hidden_layers": 0\n}')
    assert main(["models", "show", str(path)]) == 2
    assert f"{path}:3: num_hidden_layers = 0: must be positive" in capsys.readouterr().err
