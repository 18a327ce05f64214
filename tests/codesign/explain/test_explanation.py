"""Explanations: ledgers that add up, elasticities that obey Euler's theorem and equal finite differences."""

from __future__ import annotations

import json
from math import isinf, log
from pathlib import Path
from typing import Any

import pytest

import codesign
from codesign.base.errors import ConfigError
from codesign.cli.main import main
from codesign.experiment.load import read_experiment
from codesign.explain.explanation import explain
from codesign.explain.numbers import Number, numbers_of
from codesign.explain.sensitivity import elasticities, takeover
from codesign.explain.variants import Variants
from codesign.explore.evaluate import Setup
from codesign.explore.objective import read_objective
from codesign.explore.steady_state import metrics_of

HBM = "system.device.memory.hbm"
EXPERIMENT: dict[str, Any] = {
    "model": {"from": "mixtral-8x7b", "num_hidden_layers": 4},
    "system": {"from": "dgx-h100", "nodes": 2, "devices_per_node": 2},
    "parallel": {"tensor": 1, "expert": 4, "data": 4},
    "workload": {
        "requests": {"count": 16, "concurrency": 16, "prompt_tokens": 300, "output_tokens": 12},
        "routing": "uniform",
    },
    "policies": {"batching": {"name": "chunked_prefill"}},
    "engine": {"step": "0.2 ms"},
}
TPOT, JOULES, MONEY = "tpot_s.mean", "energy_j_per_token", "usd_per_million_tokens"
OBJECTIVES = [read_objective(text) for text in (TPOT, JOULES, MONEY)]


def variants(level: str = "roofline", **changes: Any) -> Variants:
    """The experiment, to be varied."""
    document = read_experiment({**EXPERIMENT, **changes}).document
    return Variants(Setup(document, Path()), {}, 1, level)


def slopes(level: str = "roofline", step: float = 1e-4, **changes: Any) -> dict[str, dict[str, float]]:
    """Elasticities by path."""
    point = variants(level, **changes)
    found = elasticities(point, numbers_of(point.experiment.resolved), OBJECTIVES, step)
    return {e.number.path: e.of for e in found}


def test_time_is_homogeneous_in_all_rates_and_delays():
    """Euler: the elasticities of time to all rates sum to -1 less those to all delays."""
    found = slopes()
    rates = [p for p in found if p.endswith(("bandwidth", "flop_rate")) or ".peak_flop_rate." in p]
    delays = [p for p in found if p.startswith("engine.") or p.endswith(("latency", "launch_overhead"))]
    assert found["engine.step"][TPOT] > 0.01
    total = sum(found[p][TPOT] for p in rates) - sum(found[p][TPOT] for p in delays)
    assert total == pytest.approx(-1.0, abs=1e-6)


def test_energy_and_money_are_homogeneous_in_their_prices():
    found = slopes()
    drawn = [p for p in found if "energy_per" in p or ".power." in p or p == "system.host.idle"]
    assert sum(found[p][JOULES] for p in drawn) == pytest.approx(1.0, abs=1e-6)
    assert found["system.device.price.rental"][MONEY] == pytest.approx(1.0, abs=1e-9)
    assert found["system.device.price.rental"][TPOT] == 0.0


def test_elasticities_to_energies_are_the_ledgers_shares(tmp_path):
    codesign.simulate(EXPERIMENT).save(tmp_path)
    reason = explain(tmp_path, fidelity="event", workers=0, step=1e-3).reasons[0]
    share = reason.ledger.energy["hbm"] / reason.metrics[JOULES]
    found = {e.number.path: e.of for e in reason.elasticities}
    assert found[f"{HBM}.energy_per_byte"][JOULES] == pytest.approx(share, rel=1e-5)
    assert sum(reason.ledger.time.values()) == pytest.approx(1.0)
    assert sum(reason.ledger.energy.values()) == pytest.approx(reason.metrics[JOULES], rel=1e-9)
    assert sum(reason.ledger.money.values()) == pytest.approx(reason.metrics[MONEY], rel=1e-9)


def test_what_is_owned_is_split_into_purchase_and_electricity(tmp_path):
    system = {"from": "dgx-h100", "device": {"price": {"rental": None, "purchase": "30000 USD"}}}
    plan = {"tensor": 2, "expert": 4, "data": None}
    codesign.simulate({**EXPERIMENT, "system": system, "parallel": plan}).save(tmp_path)
    found = explain(tmp_path, fidelity="roofline").reasons[0]
    assert set(found.ledger.money) == {"purchase", "electricity"}
    assert sum(found.ledger.money.values()) == pytest.approx(found.metrics[MONEY])
    slope = next(e for e in found.elasticities if e.number.path == "system.electricity").of[MONEY]
    assert 0 < slope < 1


@pytest.mark.parametrize("step", [0.01, 0.05])
def test_the_closed_forms_elasticities_equal_finite_differences_of_single_points(step):
    """Arrays, groups and folded changes against the plain way: build one point, one number changed."""
    found = slopes(step=step)
    experiment = read_experiment({**EXPERIMENT, "fidelity": "roofline"})
    for path in (
        f"{HBM}.bandwidth",
        "system.inter_node.bandwidth",
        "system.device.power.idle",
        "engine.step",
    ):
        number = next(n for n in numbers_of(experiment.resolved) if n.path == path)
        high, low = (metrics_of(experiment.replace({path: number.at(f)})) for f in (1 + step, 1 / (1 + step)))
        for name in (TPOT, JOULES, MONEY):
            slope = log(high[name] / low[name]) / (2 * log(1 + step))
            assert found[path][name] == pytest.approx(slope, abs=1e-9), (path, name)


@pytest.mark.parametrize(
    "path", ["model.num_experts_per_tok", "model.intermediate_size", "model.num_hidden_layers"]
)
def test_elasticities_to_the_model_equal_finite_differences(path):
    point = variants()
    number = next(n for n in numbers_of(point.experiment.resolved) if n.path == path)
    (found,) = elasticities(point, [number], OBJECTIVES)
    experiment = read_experiment({**EXPERIMENT, "fidelity": "roofline"})
    high, low = (metrics_of(experiment.replace({path: number.at(f)})) for f in (found.above, found.below))
    assert found.above > 1 > found.below
    assert found.of[TPOT] == pytest.approx(
        log(high[TPOT] / low[TPOT]) / log(found.above / found.below), abs=1e-9
    )


def test_simulated_elasticities_equal_the_critical_paths():
    """Two ways: the run measured again with other hardware, and the first run's critical path alone."""
    request = {"count": 16, "batch": True, "prompt_tokens": 300, "output_tokens": 12}
    whole = {**EXPERIMENT, "workload": {"requests": request, "routing": "uniform"}, "cost_model": "roofline"}
    point = variants("event", **{k: whole[k] for k in ("workload", "cost_model")})
    numbers = [
        n for n in numbers_of(point.experiment.resolved) if n.path in (f"{HBM}.bandwidth", "engine.step")
    ]
    busy = [read_objective("breakdown_s.experts + breakdown_s.attention + breakdown_s.overhead"
                           " + breakdown_s.waiting + breakdown_s.dispatch + breakdown_s.combine"
                           " + breakdown_s.gate + breakdown_s.head")]  # fmt: skip
    found = {e.number.path: next(iter(e.of.values())) for e in elasticities(point, numbers, busy, 1e-4)}
    told = codesign.simulate(whole).elasticities
    assert found["engine.step"] == pytest.approx(-told["engine"], rel=0.02)
    assert found[f"{HBM}.bandwidth"] == pytest.approx(told["memory"], rel=0.02)


def test_numbers_that_change_nothing_are_found_in_groups():
    point = variants("event")
    numbers = [n for n in numbers_of(point.experiment.resolved) if not n.whole]
    found = elasticities(point, numbers, OBJECTIVES)
    assert len(found) == len(numbers)
    assert point.runs < 2 * len(numbers)
    inert = {e.number.path for e in found if not e.strength}
    assert "system.host.memory.nvme.bandwidth" in inert
    assert f"{HBM}.bandwidth" not in inert


def test_the_next_bottleneck_takes_over_where_the_closed_form_says():
    """A sweep over the number shows the bottleneck before and after; half way it has not changed."""
    point = variants()
    (base,) = point.run([{}])
    number = next(n for n in numbers_of(point.experiment.resolved) if n.path == f"{HBM}.bandwidth")
    found = takeover(point, number, OBJECTIVES, base, 1.0)
    assert found.before == "memory" != found.after
    assert 1 < found.factor < 64
    low, high = point.run(
        [{number.path: number.at(found.factor / 1.03)}, {number.path: number.at(found.factor)}]
    )
    shares = [{k: v for k, v in m.items() if k.startswith("share.")} for m in (low, high)]
    assert [max(s, key=s.get).removeprefix("share.") for s in shares] == [found.before, found.after]
    assert found.gains[TPOT] == pytest.approx(high[TPOT] / base[TPOT])
    other = next(n for n in numbers_of(point.experiment.resolved) if n.path == "engine.step")
    assert isinf(takeover(point, other, OBJECTIVES, base, -1.0).factor)


@pytest.mark.parametrize(
    ("written", "above"),
    [("3.35 TB/s", [1.05]), (0.9, [1.05]), (8, [9 / 8, 10 / 8]), (4096, [4608 / 4096]), (61, [62 / 61])],
)
def test_counts_change_by_multiples_of_their_roundness(written, above):
    assert Number("x", written, 1.0).factors(0.05)[0][: len(above)] == pytest.approx(above)
    assert Number("x", 1, 1.0).factors(0.05) == ([2.0], [])


def sweep_source(**more: Any) -> dict[str, Any]:
    return {
        "experiment": {**EXPERIMENT, "fidelity": "roofline"},
        "axes": {f"{HBM}.bandwidth": ["3 TB/s", "6 TB/s"], "policies.batching.max_sequences": [1, 4]},
        "derived": {
            "system.device.price.rental": {"value": f"{HBM}.bandwidth / 3e12 / 3600", "unit": "USD/s"}
        },
        "objectives": [TPOT, MONEY],
        **more,
    }


def test_a_sweeps_front_is_explained_with_its_derived_fields(tmp_path):
    """A price that follows bandwidth: money gains what time does, plus one."""
    codesign.sweep(sweep_source(), tmp_path)
    found = explain(tmp_path, points=8)
    assert found.kind == "sweep"
    for reason in found.reasons:
        of = next(e.of for e in reason.elasticities if e.number.path == f"{HBM}.bandwidth")
        assert of[MONEY] == pytest.approx(of[TPOT] + 1.0, abs=2e-2)
        assert reason.measured[TPOT] == pytest.approx(reason.objectives[TPOT], rel=1e-12)
    spread = found.over_front()[f"{HBM}.bandwidth"][TPOT]
    assert spread["low"] <= spread["median"] <= spread["high"] < 0


def test_a_search_is_explained(tmp_path, capsys):
    pytest.importorskip("optuna")
    source = sweep_source(axes={f"{HBM}.bandwidth": {"low": "2 TB/s", "high": "8 TB/s"}})
    front = codesign.search(source, tmp_path, trials=16).pareto().to_pylist()
    assert main(["explain", str(tmp_path), "--points", "2", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["kind"] == "search"
    assert {p["point"] for p in told["points"]} <= {str(row["point"]) for row in front}
    assert told["front"][f"{HBM}.bandwidth"][TPOT]["median"] < 0
    assert main(["explain", str(tmp_path), "--points", "1"]) == 0
    out = capsys.readouterr().out
    assert "change first" in out
    assert "$/Mtoken" in out


def test_a_run_is_explained_in_words_and_json(tmp_path, capsys):
    codesign.simulate(EXPERIMENT).save(tmp_path)
    assert main(["explain", str(tmp_path), "--fidelity", "roofline"]) == 0
    out = capsys.readouterr().out
    for word in ("where the time went", "energy", "spent on", "change first", f"{HBM}.bandwidth"):
        assert word in out
    assert main(["explain", str(tmp_path), "--fidelity", "roofline", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert {"breakdown_s", "elasticities", "advice", "points"} <= set(told)
    assert told["points"][0]["elasticities"]["model.num_experts_per_tok"]


def test_experts_in_another_tier_are_explained_by_simulation(tmp_path):
    """The closed form does not know them: the default level is the run's own."""
    changes = {"memory": {"experts": "ddr"}, "policies": {"expert_cache": {"name": "lru", "slots": 1}}}
    plan = {"tensor": 1, "expert": 2}
    system = {"from": "dgx-h100", "devices_per_node": 2}
    codesign.simulate({**EXPERIMENT, **changes, "parallel": plan, "system": system}).save(tmp_path)
    found = explain(tmp_path, workers=0)
    assert found.level == "event"
    assert next(iter(found.reasons[0].bottlenecks)) == "fetch_bandwidth"
    strongest = [e.number.path for e in found.reasons[0].elasticities if e.of[TPOT] < -0.5]
    assert any("pcie" in path or "ddr" in path for path in strongest)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"fidelity": "rofline"}, "did you mean 'roofline'"),
        ({"objectives": ["tpot_s.meen"]}, "did you mean 'tpot_s.mean'"),
    ],
)
def test_what_is_wrong_is_refused(tmp_path, options, text):
    codesign.sweep(sweep_source(), tmp_path)
    with pytest.raises(ConfigError, match=text):
        explain(tmp_path, **options)
    with pytest.raises(ConfigError, match="no such folder"):
        explain(tmp_path / "none")
