"""Mistakes as a new user makes them: each is one line with place, key, value, rule and the nearest name."""

from __future__ import annotations

import json
import re

import pytest

from codesign.cli.main import main

EXPERIMENT = """\
model: ./model.json
system: ./system.yaml
parallel: {tensor: 1, expert: 4}
workload:
  requests: {trace: trace.csv}
  routing: {generator: zipf, exponent: 0.4}
policies:
  batching: {name: chunked_prefill, token_budget: 256}
seed: 3
"""
SYSTEM = """\
from: dgx-a100
devices_per_node: 4
device:
  from: a100
  memory:
    hbm: {bandwidth: 1.2 TB/s}
"""
MODEL = {
    "model_type": "mixtral", "hidden_size": 256, "num_hidden_layers": 2, "num_attention_heads": 8,
    "num_key_value_heads": 4, "intermediate_size": 512, "num_local_experts": 8, "num_experts_per_tok": 2,
    "vocab_size": 1000, "max_position_embeddings": 4096, "hidden_act": "silu", "tie_word_embeddings": False,
}  # fmt: skip
TRACE = "arrival_s,prompt_tokens,output_tokens\n0,20,3\n0.2,30,2\n0.3,10,4\n"


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Write the files, one of them changed by (old, new); run; return exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)

    def invoke(name="", old="", new="", *options: str):
        files = {
            "experiment.yaml": EXPERIMENT,
            "system.yaml": SYSTEM,
            "model.json": json.dumps(MODEL, indent=0),
            "trace.csv": TRACE,
        }
        if name:
            assert old in files[name]
            files[name] = files[name].replace(old, new, 1)
        for file, text in files.items():
            (tmp_path / file).write_text(text, encoding="utf-8")
        code = main(["run", "experiment.yaml", *options])
        return code, *capsys.readouterr()

    return invoke


def refused(outcome: tuple[int, str, str], pattern: str) -> None:
    """Check exit code 2, nothing on stdout, and one line that matches."""
    code, out, err = outcome
    assert code == 2, err
    assert out == ""
    assert err.count("\n") == 1
    assert re.search(pattern, err), err


def test_the_files_are_valid(run):
    code, out, err = run()
    assert (code, err) == (0, "")
    assert "3 completed" in out


# what is written -> what is written instead, what must be said (a leading colon: after the file's own name)
EXPERIMENT_MISTAKES = [
    ("tensor:", "tensr:", r":3: parallel.tensr: unknown key.*did you mean 'tensor'"),
    ("expert: 4", "expert: 3", r":3: parallel.expert = 3: must divide .*1, 2, 4 do"),
    ("expert: 4", "expert: -4", r":3: parallel.expert = -4: .*greater than 0"),
    ("seed: 3", "seed: 3\nseed: 4", r":10: seed: duplicate key \(first on line 9\)"),
    ("seed: 3", "seed: .nan", r":9: seed = nan"),
    ("seed: 3", "sede: 3", r":9: sede: unknown key.*did you mean 'seed'"),
    ("seed: 3", "slo: {ttft: 0.2}", r":9: slo.ttft = 0.2: has no unit; .*ms"),
    ("seed: 3", "slo: {ttft: 0 s}", r':9: slo.ttft = "0 s": must be positive'),
    ("seed: 3", "slo: {ttft: 2 sec}", r':9: slo.ttft = "2 sec": .*"sec" is unknown.*did you mean'),
    ("seed: 3", "fidelity: evnt", r":9: fidelity = \"evnt\".*did you mean 'event'"),
    ("seed: 3", "precision: {weights: pf8}", r":9: precision.weights = \"pf8\": unknown type.*fp8"),
    ("zipf,", "zip,", r":6: .*unknown routing.* 'zip'.*did you mean 'zipf'"),
    ("exponent: 0.4", "exponent: -1", r":6: .*exponent = -1"),
    ("exponent:", "exponnt:", r":6: .*exponnt: unknown key.*did you mean 'exponent'"),
    ("chunked_prefill", "chunked", r":8: .*unknown batching.*did you mean 'chunked_prefill'"),
    ("token_budget: 256", "token_budget: 0", r":8: policies.batching.token_budget = 0"),
    ("trace: trace.csv", "trace: trases.csv", r":5: .*trases.csv: no such trace file"),
    ("trace: trace.csv", "dataset: azure-conv, count: 9", r":5: .*azure-conv.*mean 'azure-conv-2023'"),
    ("./model.json", "mixtral-8x7", r":1: unknown model 'mixtral-8x7'.*mean 'mixtral-8x7b'"),
    ("./model.json", "./modle.json", r":1: ./modle.json: no such file"),
    ("./model.json", "{from: t5-small}", r":1: unknown model 't5-small'"),
    ("./system.yaml", "dgx-h10", r":2: unknown system or device 'dgx-h10'.*mean 'dgx-h100'"),
    ("./system.yaml", "./", r"is a directory; a system file is needed"),
    ("./system.yaml", "8", r":2: system = 8: .*library name"),
    ("workload:", "workload: {", r":\d+: not valid YAML"),
    ("workload:", "workload:\n\t", r":\d+: not valid YAML"),
]  # fmt: skip
SYSTEM_MISTAKES = [
    ("1.2 TB/s", "1.2", r":6: device.memory.hbm.bandwidth = 1.2: has no unit"),
    ("1.2 TB/s", "1.2 TBs", r':6: device.memory.hbm.bandwidth = "1.2 TBs": .*"TBs".*did you mean .TB/s'),
    ("1.2 TB/s", "1.2 GiB", r':6: device.memory.hbm.bandwidth = "1.2 GiB": .*of another kind'),
    ("1.2 TB/s", "-1.2 TB/s", r":6: device.memory.hbm.bandwidth .*must not be negative"),
    ("1.2 TB/s", "0 TB/s", r":6: device.memory.hbm.bandwidth .*must be positive"),
    ("1.2 TB/s", "nan TB/s", r":6: device.memory.hbm.bandwidth .*finite|not a number"),
    ("1.2 TB/s", "1e999 TB/s", r":6: device.memory.hbm.bandwidth .*finite"),
    ("bandwidth", "bandwith", r":6: device.memory.hbm.bandwith: unknown key.*did you mean 'bandwidth'"),
    ("devices_per_node: 4", "devices_per_node: 0", r":2: devices_per_node = 0"),
    ("devices_per_node: 4", "nodes: 0", r":2: nodes = 0"),
    ("devices_per_node: 4", "devices_per_node: 3", r"experiment.yaml:3: parallel.expert = 4: .*\(3\)"),
    ("from: a100", "from: a1000", r":4: unknown device 'a1000'.*did you mean 'a100'"),
    ("from: dgx-a100", "form: dgx-a100", r":1: form: unknown key"),
    ("hbm: {bandwidth: 1.2 TB/s}", "hbm: {capacity: 1 MB}", r"CapacityError: .* does not fit.*use more"),
    (SYSTEM, "", r": is empty"),
]  # fmt: skip
MODEL_MISTAKES = [
    ('"num_experts_per_tok": 2', '"num_experts_per_tok": 9', r":9: num_experts_per_tok = 9: .*8 experts"),
    ('"num_experts_per_tok": 2', '"num_experts_per_tok": 0', r":9: num_experts_per_tok = 0"),
    ('"hidden_size": 256', '"hidden_sise": 256', r":\d: hidden_size: is required.*'hidden_sise' misspelt"),
    ('"hidden_size": 256', '"hidden_size": -256', r":3: hidden_size = -256: must be positive"),
    ('"hidden_size": 256', '"hidden_size": "wide"', r':3: hidden_size = "wide"'),
    ('"hidden_size": 256', '"hidden_size": 256, "hidden_size": 512', r":3: hidden_size: duplicate key"),
    ('"hidden_size": 256,', '"hidden_size": 256', r":\d: not valid JSON"),
    ('"num_key_value_heads": 4', '"num_key_value_heads": 3', r":6: num_key_value_heads = 3"),
    ('"vocab_size": 1000,', "", r":\d+: vocab_size: is required and missing"),
]  # fmt: skip
TRACE_MISTAKES = [
    ("0.2,30,2", "0.2,30", r":3: row has 2 cells; the header has 3"),
    ("0.2,30,2", "0.2,many,2", r':3: row 2 of the data: prompt_tokens = "many": must be a whole number'),
    ("0.2,30,2", "0.2,-30,2", r':3: row 2 of the data: prompt_tokens = "-30"'),
    ("0.2,30,2", "nan,30,2", r':3: row 2 of the data: arrival_s = "nan": must be a finite'),
    ("prompt_tokens", "prompt_token", r":1: .*'prompt_tokens' is missing \(nearest: 'prompt_token'\)"),
    (TRACE, "", r": is empty"),
    (TRACE, TRACE.splitlines()[0] + "\n", r": has a header and no row"),
    (TRACE, "PK\x03\x04\x00\x00", r": not a text file"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "old", "new", "pattern"),
    [
        (name, *mistake)
        for name, mistakes in [
            ("experiment.yaml", EXPERIMENT_MISTAKES),
            ("system.yaml", SYSTEM_MISTAKES),
            ("model.json", MODEL_MISTAKES),
            ("trace.csv", TRACE_MISTAKES),
        ]
        for mistake in mistakes
    ],
)
def test_a_mistake_is_told_in_one_line(run, name, old, new, pattern):
    refused(run(name, old, new), re.escape(name) + pattern if pattern.startswith(":") else pattern)


@pytest.mark.parametrize("name", ["experiment.yaml", "system.yaml", "model.json", "trace.csv"])
@pytest.mark.parametrize("wrong", ["missing", "directory", "binary", "empty"])
def test_what_is_no_file_of_text_is_refused_by_name(run, tmp_path, capsys, name, wrong):
    run()
    place = tmp_path / name
    place.unlink()
    if wrong == "directory":
        place.mkdir()
    elif wrong != "missing":
        place.write_bytes(b"\x89PNG\r\n\x1a\n\x00\xff" if wrong == "binary" else b"")
    code = main(["run", "experiment.yaml", "-o", "out"])
    said = {
        "missing": "no such",
        "directory": "is a directory",
        "binary": "not a text file",
        "empty": "(empty|not valid JSON)",
    }
    refused(
        (code, *capsys.readouterr()), rf"{re.escape(name)}.*{said[wrong]}|{said[wrong]}.*{re.escape(name)}"
    )
    assert not (tmp_path / "out").exists()


def test_the_right_way_of_one_mistake_is_offered_for_overrides_too(run):
    refused(run("", "", "", "-s", "parallel.tensr=2"), r"-s parallel.tensr: .*did you mean 'tensor'")
    refused(run("", "", "", "-s", "seed"), r"written path=value")
    refused(
        run("", "", "", "-s", "system.device.memory.hbm.bandwidth=3"),
        r"-s system.*bandwidth = 3: has no unit",
    )


@pytest.mark.parametrize(
    "arguments", [["run"], ["run", "a.yaml", "b.yaml"], ["run", "--bogus", "a.yaml"], ["rnu"]]
)
def test_a_wrong_command_line_exits_with_2(arguments, capsys):
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "Error: " in err


def test_an_output_folder_that_cannot_be_is_told_before_or_after_without_a_traceback(run, tmp_path):
    (tmp_path / "taken").write_text("a file")
    code, _, err = run("", "", "", "-o", "taken")
    assert code == 2
    assert re.search(r"ConfigError: .*taken", err)
