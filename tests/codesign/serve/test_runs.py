"""Whole runs: executors agree, same seed same bytes, changes of hardware change no draws."""

import json
import subprocess
import sys

import numpy as np
import pytest

import codesign
from codesign.report.files import to_json

TINY = {
    "model": {"from": "mixtral-8x7b", "num_hidden_layers": 2},
    "system": {"from": "dgx-h100", "devices_per_node": 4},
    "parallel": {"tensor": 2, "expert": 2, "data": 2},
    "workload": {
        "requests": {"count": 12, "rate": "40 /s", "prompt_tokens": 100, "output_tokens": 9},
        "routing": "zipf",
    },
    "policies": {"batching": {"name": "chunked_prefill", "token_budget": 64}},
    "engine": {"step": "1 ms"},
    "seed": 3,
}
PLANS = {
    "tensor x expert": {},
    "pipeline": {"parallel": {"tensor": 1, "expert": 2, "data": 2, "pipeline": 2}},
    "replicas": {"parallel": {"tensor": 1, "replicas": 4}},
    "prefill first": {"policies": {"batching": "prefill_first", "load_balance": "least_loaded"}},
    "static": {"policies": {"batching": {"name": "static", "batch_size": 5}, "load_balance": "shared_queue"}},
    "dense": {"model": "llama-2-7b", "system": "dgx-h100", "parallel": {"tensor": 4}},
    "expert cache": {
        "memory": {"experts": "ddr"},
        "policies": {"expert_cache": {"name": "lfu", "slots": 2, "prefetch": {"accuracy": 0.8}}},
    },
    "PIM": {
        "system": {
            "from": "dgx-h100", "devices_per_node": 4,
            "device": {
                "pim": {
                    "level": "logic_die", "bandwidth": "13.4 TB/s", "peak_flop_rate": "107 TFLOP/s",
                    "launch_overhead": "1 us", "energy_per_byte": "1.81 pJ/bit",
                    "energy_per_flop": "0.23 pJ/FLOP",
                }
            },
        },
        "policies": {"units": "co_process"},
    },
    "closed loop": {
        "workload": {"requests": {"count": 9, "concurrency": 3, "prompt_tokens": 50, "output_tokens": 4}}
    },
}  # fmt: skip


def run(**changes):
    return codesign.simulate({**TINY, **changes})


def same_tables(a, b):
    for table in ("requests", "iterations"):
        first, second = getattr(a, table), getattr(b, table)
        assert first.keys() == second.keys()
        for name in first:
            np.testing.assert_array_equal(first[name], second[name], err_msg=f"{table}.{name}")


@pytest.mark.parametrize("changes", PLANS.values(), ids=PLANS)
def test_simpy_and_compiled_executors_agree_to_the_last_bit(changes):
    compiled, simpy = run(**changes), run(**changes, executor="simpy")
    same_tables(compiled, simpy)
    a, b = compiled.to_dict(), simpy.to_dict()
    a.pop("provenance"), b.pop("provenance")
    assert to_json(a) == to_json(b)


@pytest.mark.parametrize("changes", PLANS.values(), ids=PLANS)
def test_all_requests_end_and_all_laws_hold(changes):
    result = run(**changes)
    requests = result.summary["requests"]
    assert requests["completed"] == requests["offered"]
    assert all(result.conservation.values())
    assert len(result.conservation) >= 8
    assert sum(result.breakdown_s.values()) == pytest.approx(result.summary["simulated_s"], rel=1e-9)
    assert min(result.breakdown_s.values()) >= 0
    assert max(result.utilization.values()) <= 1


def test_replay_gives_the_same_bytes(tmp_path):
    result = run()
    again = result.replay()
    assert to_json(again.to_dict()) == to_json(result.to_dict())
    result.save(tmp_path / "a")
    third = codesign.simulate(tmp_path / "a" / "experiment.yaml")
    third.save(tmp_path / "b")
    for name in ("summary.json", "requests.parquet", "iterations.parquet", "experiment.yaml"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_another_process_gives_the_same_bytes():
    code = (
        "import json, sys, codesign; from codesign.report.files import to_json;"
        "print(to_json(codesign.simulate(json.loads(sys.argv[1])).to_dict()))"
    )
    out = subprocess.run(
        [sys.executable, "-c", code, json.dumps(TINY)], capture_output=True, text=True, check=True
    ).stdout
    assert out.strip() == to_json(run().to_dict())


def test_faster_memory_changes_no_draw():
    slow, fast = run(), run(speed={"memory": 2.0})
    for name in ("arrival_s", "prompt_tokens", "output_tokens"):
        np.testing.assert_array_equal(slow.requests[name], fast.requests[name])
    assert fast.summary["output_tokens"] == slow.summary["output_tokens"]
    assert fast.cost["counters"]["flop"] == pytest.approx(slow.cost["counters"]["flop"], rel=1e-12)
    assert fast.summary["tpot_s"]["mean"] < slow.summary["tpot_s"]["mean"]


def test_iterations_of_a_lane_follow_each_other():
    table = run().iterations
    assert (table["start_s"][1:] >= table["end_s"][:-1]).all()
    tokens = table["tokens"].sum()
    assert tokens == 12 * (100 + 9 - 1)


def test_a_horizon_leaves_the_rest_unfinished():
    result = run(horizon="100 ms")
    counts = result.summary["requests"]
    assert result.summary["simulated_s"] == 0.1
    assert counts["unfinished"] > 0
    assert sum(counts[key] for key in ("completed", "refused", "unfinished")) == counts["offered"] == 12


def test_a_request_that_can_never_fit_is_refused_and_counted(tmp_path):
    trace = tmp_path / "t.csv"
    trace.write_text("arrival_s,prompt_tokens,output_tokens\n0,100,5\n0.1,90000000,5\n0.2,100,5\n")
    result = run(workload={"requests": {"trace": str(trace)}, "routing": "uniform"})
    assert result.summary["requests"] == {"offered": 3, "completed": 2, "refused": 1, "unfinished": 0}
    assert result.requests["refused"].tolist() == [False, True, False]


@pytest.mark.parametrize("horizon", ["1 ms", "100 ms", "1 s"])
def test_a_horizon_that_cuts_the_front_end_loses_no_request(horizon):
    result = run(
        engine={"request": "20 ms", "prompt_token": "10 us"},
        workload={"requests": {"count": 9, "concurrency": 6, "prompt_tokens": 50, "output_tokens": 4}},
        horizon=horizon,
    )
    requests = result.summary["requests"]
    assert requests["completed"] + requests["unfinished"] == requests["offered"]
