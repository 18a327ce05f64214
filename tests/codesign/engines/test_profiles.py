"""Serving engine profiles: what is laid under an experiment, and the front end's queue."""

from __future__ import annotations

from typing import Any

import pytest

from codesign import engines
from codesign.api import simulate
from codesign.base.document import Document, read_yaml
from codesign.base.errors import ConfigError
from codesign.experiment import read_experiment


def experiment(**changes: Any) -> dict[str, Any]:
    requests = {"count": 4, "concurrency": 4, "prompt_tokens": 100, "output_tokens": 3}
    return {"model": "llama-3.1-8b", "system": "dgx-h100", "parallel": {"tensor": 1, "replicas": 1},
            "workload": {"requests": requests}, **changes}  # fmt: skip


@pytest.mark.parametrize("name", engines.names())
def test_every_constant_has_a_source(name: str) -> None:
    data = read_yaml(engines.LIBRARY / f"{name}.yaml").data
    named = {f"engine.{key}" for key in data["engine"]} | {f"memory.{key}" for key in data["memory"]}
    assert named <= set(data["sources"])


@pytest.mark.parametrize("name", engines.names())
def test_profile_runs_and_what_the_experiment_says_wins(name: str) -> None:
    found = read_experiment(experiment(engine={"from": name, "step": "7 ms"}))
    assert found.spec.engine.step == 0.007
    assert found.spec.engine.per_sequence > 0
    mine = read_experiment(
        experiment(engine=name, policies={"batching": {"name": "static", "batch_size": 2}})
    )
    assert mine.spec.policies.batching == {"name": "static", "batch_size": 2}


def test_expanding_twice_changes_nothing() -> None:
    once = engines.expand(Document(experiment(engine="vllm"), "experiment"))
    assert engines.expand(once).data == once.data


def test_unknown_engine_is_refused_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match="vllm"):
        read_experiment(experiment(engine="vlm"))


def test_resolved_experiment_replays() -> None:
    result = simulate(experiment(engine="sglang"))
    assert result.replay().to_dict() == result.to_dict()


def test_front_end_takes_requests_one_after_the_other() -> None:
    """Law: the i-th of requests that come at once is queued after i + 1 times the front end's work."""
    engine = {"request": "1 s", "prompt_token": "10 ms"}  # 2 s a request, far above an iteration
    ttft_s = simulate(experiment(engine=engine)).requests["ttft_s"]
    none_s = simulate(experiment()).requests["ttft_s"].min()
    for i, seen_s in enumerate(ttft_s.tolist()):
        assert 2.0 * (i + 1) < seen_s < 2.0 * (i + 1) + 2 * none_s + 0.05


def metrics(**changes: Any) -> dict[str, Any]:
    return simulate(experiment(**changes)).summary


@pytest.mark.parametrize("fidelity", ["event", "roofline"])
def test_an_engines_kernels_are_those_of_the_cost_model(fidelity):
    """Law: who names the engine's kernels changes nothing; peak rates have no kernels."""
    by_engine = metrics(engine={"kernels": "vllm"}, fidelity=fidelity)
    usual = metrics(fidelity=fidelity)
    if fidelity == "roofline":
        assert by_engine == usual
        return
    assert by_engine == metrics(cost_model={"name": "analytical", "kernels": "vllm"})
    assert by_engine != usual


def test_kernels_that_nobody_measured_are_refused():
    with pytest.raises(ConfigError, match=r"engine.kernels = \"tgi\": must be 'sglang', 'trtllm' or 'vllm'"):
        metrics(engine={"kernels": "tgi"})
