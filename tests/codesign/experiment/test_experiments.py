"""Reading, overriding, resolving and hashing experiments; one clear error for each mistake."""

from pathlib import Path

import pytest
import yaml

import codesign
from codesign.base.document import Document
from codesign.base.errors import CapacityError, ConfigError
from codesign.experiment.override import override, parse_override

EXAMPLE = "examples/mixtral-dgx-h100.yaml"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"parallel.tensor": 3}, ["parallel.tensor = 3", "must divide", "1, 2, 4, 8"]),
        ({"parallel.expert": 16}, ["parallel.expert = 16", "must divide"]),
        ({"parallel.replicas": 99, "parallel.data": 1, "parallel.expert": 1}, ["replicas = 99", "for 4"]),
        ({"model": "mixtrall-8x7b"}, ["did you mean 'mixtral-8x7b'"]),
        ({"model.num_experts_per_tok": 9}, ["num_experts_per_tok = 9", "8 experts"]),
        ({"system": "dgx-h10"}, ["did you mean 'dgx-h100'"]),
        ({"system.device.memory.hbm.bandwidth": 3}, ["memory.hbm.bandwidth = 3", "no unit", "TB/s"]),
        ({"precision.weights": "fp7"}, ["precision.weights", "fp7", "native"]),
        ({"policies.batching.token_budgt": 3}, ["token_budgt", "did you mean 'token_budget'"]),
        ({"policies.batching": "chunked"}, ["unknown batching 'chunked'", "chunked_prefill"]),
        ({"workload.requests.count": 0}, ["count = 0"]),
        ({"workload.requests.trace": "/nowhere.csv"}, ["/nowhere.csv", "no such"]),
        ({"workload.routing": "zipff"}, ["zipff", "did you mean 'zipf'"]),
        ({"slo.ttft": 3}, ["slo.ttft = 3", "no unit"]),
        ({"speed.hbm": 2.0}, ["speed.hbm", "memory"]),
        ({"speed.memry": 2.0}, ["did you mean 'memory'"]),
        ({"policies": "lru"}, ['policies = "lru"', "mapping", "batching", "placement"]),
        ({"parallel": [1]}, ["parallel: must be a mapping", "tensor, data, expert"]),
        ({"fidelity": "evnt"}, ["fidelity", "did you mean 'event'"]),
        ({"nosuch.key": 3}, ["nosuch", "known here"]),
        ({"parallel.tensor.deep": 3}, ["parallel.tensor", "not a mapping"]),
        ({"seed": -1}, ["seed = -1"]),
        ({"memory.utilization": "nan"}, ["memory.utilization"]),
    ],
)  # fmt: skip
def test_mistakes_get_one_clear_error(changes, words):
    with pytest.raises(ConfigError) as error:
        codesign.load_experiment(EXAMPLE, changes).requests()
    for word in words:
        assert word in str(error.value)
    assert "\n" not in str(error.value)


def test_an_error_in_a_file_names_its_line(tmp_path):
    path = tmp_path / "my.yaml"
    path.write_text(
        "model: mixtral-8x7b\nsystem: dgx-h100\nworkload:\n  requests: {batch: true}\nparalel: {tensor: 2}\n"
    )
    with pytest.raises(ConfigError, match=r"my\.yaml:5: paralel: unknown key.*did you mean 'parallel'"):
        codesign.load_experiment(path)


def test_what_does_not_fit_is_refused_with_the_numbers():
    with pytest.raises(CapacityError, match=r"197\.7 GB for weights.*tensor, expert, pipeline"):
        codesign.load_experiment(EXAMPLE, {"model": "deepseek-v3", "parallel": {"tensor": 1}})


@pytest.mark.parametrize("text", ["seed", "=3", "a..b=3"])
def test_overrides_that_are_no_overrides(text):
    with pytest.raises(ConfigError):
        codesign.load_experiment(EXAMPLE, [parse_override(text)])


def test_a_trace_replaces_the_dataset_whatever_the_order(tmp_path):
    document = Document({"workload": {"requests": {"dataset": "azure-conv-2023", "count": 5}}})
    for pairs in ([("limit", 3), ("trace", "t.csv")], [("trace", "t.csv"), ("limit", 3)]):
        changed = override(document, [(f"workload.requests.{key}", value) for key, value in pairs])
        assert changed.data == {"workload": {"requests": {"trace": "t.csv", "limit": 3}}}
    assert document.data["workload"]["requests"]["count"] == 5


def test_a_bare_name_opens_when_a_setting_joins_it():
    experiment = codesign.load_experiment(
        EXAMPLE,
        {"policies.placement": "random", "model.num_hidden_layers": 4, "policies.batching.max_sequences": 8},
    )
    assert len(experiment.model.layers) == 4
    assert experiment.part("policies", "batching").data["max_sequences"] == 8


def test_resolved_runs_again_and_hashes_alike():
    first = codesign.load_experiment(EXAMPLE, {"system.device.memory.hbm.bandwidth": "4 TB/s"})
    again = codesign.load_experiment(yaml.safe_load(yaml.safe_dump(first.resolved)))
    assert again.hash == first.hash
    assert again.resolved == first.resolved
    assert first.system.device.memory["hbm"].bandwidth == 4e12
    assert codesign.load_experiment(EXAMPLE).hash != first.hash


def test_the_hash_depends_on_what_is_said_not_on_order():
    data = yaml.safe_load(Path(EXAMPLE).read_text())
    shuffled = dict(reversed(data.items()))
    assert codesign.load_experiment(data).hash == codesign.load_experiment(shuffled).hash


@pytest.mark.parametrize(
    "example",
    [
        "mixtral-dgx-h100",
        "deepseek-v3-two-nodes",
        "gpt-oss-120b-one-gpu",
        "llama-3.1-70b-dense",
        "llama-70b-desktop",
    ],
)
def test_every_example_runs(example):
    result = codesign.simulate(f"examples/{example}.yaml", {"workload.requests.count": 12})
    assert result.summary["requests"]["completed"] == 12
    assert all(result.conservation.values())
    assert result.summary["energy_j_per_token"] > 0
    assert result.summary["usd_per_million_tokens"] > 0
