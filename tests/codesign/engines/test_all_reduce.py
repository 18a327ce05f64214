"""An engine's own all-reduce: laws, the choice between both ways, and measured latencies of three engines."""

from __future__ import annotations

import statistics
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codesign import engines
from codesign.api import simulate
from codesign.engines.all_reduce import LARGEST_BYTES, all_reduce
from codesign.experiment import read_experiment
from hwmodels.load import load_system

DATA = Path(__file__).parents[4] / "shared" / "data" / "measured" / "collectives.parquet"
KERNELS = {"vllm": "vLLM_custom_graph", "sglang": "SGLang_CustomAllReduce_graph", "trtllm": "TRTLLM"}
LINK = load_system("dgx-h100").intra_node


@given(st.floats(1, 1e10), st.integers(2, 8), st.floats(1e-7, 1e-4))
def test_laws(n_bytes: float, ranks: int, latency_s: float) -> None:
    """Parts sum to the time, twice the speed of all is half the time, more bytes take no less."""
    assert LINK is not None
    cost = all_reduce(n_bytes, ranks, LINK, latency_s, {})
    assert cost.duration_s == pytest.approx(sum(cost.parts))
    twice = all_reduce(n_bytes, ranks, LINK, latency_s, {"link_bandwidth": 2.0, "link_latency": 2.0})
    assert twice.duration_s == pytest.approx(cost.duration_s / 2)
    assert all_reduce(2 * n_bytes, ranks, LINK, latency_s, {}).duration_s >= cost.duration_s
    assert cost.duration_s >= latency_s


def test_one_step_for_few_bytes_two_for_many() -> None:
    assert LINK is not None
    few, many = (all_reduce(n, 8, LINK, 5e-6, {}) for n in (1024.0, 1e8))
    assert few.bytes_of("link") == 7 * 1024
    assert many.bytes_of("link") == pytest.approx(2 * 7 / 8 * 1e8)
    assert all_reduce(1e6, 1, LINK, 5e-6, {}).duration_s == 0.0


@pytest.mark.skipif(not DATA.exists(), reason=f"no {DATA}: measured data are not here")
@pytest.mark.parametrize("name", KERNELS)
def test_a_profile_meets_its_engines_measured_all_reduce(name: str) -> None:
    import pyarrow.parquet as pq

    assert LINK is not None
    latency_s = read_experiment(_experiment(engine=name)).spec.engine.all_reduce
    assert latency_s is not None
    rows = pq.read_table(DATA, filters=[("gpu", "=", "h100_sxm"), ("kernel", "=", KERNELS[name])]).to_pylist()
    rows = [row for row in rows if row["framework"] == name and 0 < row["bytes"] <= LARGEST_BYTES]
    errors = [
        abs(all_reduce(r["bytes"], r["num_gpus"], LINK, latency_s, {}).duration_s * 1e6 / r["latency_us"] - 1)
        for r in rows
    ]
    assert len(errors) > 100
    assert statistics.median(errors) < 0.12


def test_an_engines_own_all_reduce_is_taken_where_it_is_faster() -> None:
    library = simulate(_experiment())
    own = simulate(_experiment(engine={"all_reduce": "5 us"}))
    slow = simulate(_experiment(engine={"all_reduce": "1 s"}))
    assert own.summary["simulated_s"] < library.summary["simulated_s"]
    assert slow.summary["simulated_s"] == library.summary["simulated_s"]


def test_launching_bounds_iterations_with_prompts_alone() -> None:
    """Law: an iteration with a prompt takes no less than its layers' launching; decodes are as they were."""
    plain = simulate(_experiment()).requests
    launched = simulate(_experiment(engine={"launch_layer": "10 ms"})).requests
    assert launched["ttft_s"].min() == pytest.approx(32 * 0.010)
    assert launched["tpot_s"].max() == pytest.approx(plain["tpot_s"].max())
    hidden = simulate(_experiment(engine={"launch_layer": "1 us"})).requests
    assert hidden["ttft_s"].tolist() == plain["ttft_s"].tolist()


def test_both_executors_agree_with_launching() -> None:
    engine = {"launch_layer": "2 ms", "step": "1 ms", "all_reduce": "5 us"}
    compiled, reference = (
        simulate(_experiment(engine=engine, executor=name)) for name in ("compiled", "simpy")
    )
    assert compiled.requests["finished_s"].tolist() == reference.requests["finished_s"].tolist()
    assert compiled.elasticities == reference.elasticities


def test_constants_have_values_and_sources() -> None:
    for name in engines.names():
        found = {place: (value, source) for place, value, source in engines.constants(name)}
        assert found["engine.all_reduce"][0].endswith("us")
        assert all(source for _, source in found.values())


def _experiment(**changes: object) -> dict[str, object]:
    requests = {"count": 2, "concurrency": 2, "prompt_tokens": 64, "output_tokens": 8}
    return {"model": "llama-3.1-8b", "system": "dgx-h100", "parallel": {"tensor": 4, "replicas": 1},
            "workload": {"requests": requests}, **changes}  # fmt: skip
