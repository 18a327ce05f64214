"""Searching: better than chance, within constraints, learning, climbing the ladder, repeating itself."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import codesign
from codesign.base.errors import ConfigError
from codesign.explore.api import sweep
from codesign.explore.search import discordance, search

pytest.importorskip("optuna")
HBM = "system.device.memory.hbm"
COUNT = "workload.requests.count"
SHIPPED = Path(__file__).parents[3] / "examples" / "sweeps" / "memory-system.yaml"


@pytest.fixture
def space(experiment: dict[str, Any]) -> dict[str, Any]:
    """A small space: bandwidth, capacity, plan."""
    return {
        "experiment": {**experiment, "fidelity": "roofline"},
        "axes": {
            f"{HBM}.bandwidth": {"low": "2 TB/s", "high": "8 TB/s", "scale": "log"},
            f"{HBM}.capacity": {"low": "60 GB", "high": "192 GB"},
            "parallel.expert": [2, 4, 8],
        },
        "objectives": ["max output_tokens_per_s", "energy_j_per_token"],
    }


def test_the_public_name():
    assert codesign.search is search


@pytest.mark.parametrize("sampler", ["tpe", "nsga2", "nsga3", "random"])
def test_the_same_search_gives_the_same_points(space, sampler):
    first, second = (search(space, trials=20, sampler=sampler, seed=3) for _ in range(2))
    assert first.sweep.rows == second.sweep.rows
    assert first.sweep.rows != search(space, trials=20, sampler=sampler, seed=4).sweep.rows


def test_any_number_of_workers_gives_the_same_points(experiment, toy):
    source = {
        "experiment": experiment,
        "axes": {COUNT: {"low": 1, "high": 500, "integer": True}},
        "objectives": ["y"],
    }
    found = [search(source, trials=24, workers=workers, evaluator=toy) for workers in (0, 2)]
    assert found[0].sweep.rows == found[1].sweep.rows
    assert found[0].best()["y"] < 500


def test_constraints_hold_on_the_front(space):
    source = {
        **space,
        "constraints": {"outputs": ["average_power_w <= 2.6 kW"], "inputs": ["parallel.expert > 2"]},
    }
    found = search(source, trials=40)
    assert set(found.sweep.counts) <= {"ok", "excluded", "refused"}
    assert all(row["parallel.expert"] > 2 for row in found.pareto().to_pylist())
    assert all(row["average_power_w"] <= 2600 for row in found.pareto().to_pylist())


FALSE_ALARM = 0.01  # chance that a sampler no better than random would pass
MEMORY_SYSTEM = (["usd_per_million_tokens", "tpot_s.mean"], [1.5, 0.02])
WITH_ENERGY = (["usd_per_million_tokens", "tpot_s.mean", "energy_j_per_token"], [1.5, 0.02, 2.0])


@pytest.mark.parametrize(
    ("objectives", "reference"), [MEMORY_SYSTEM, pytest.param(*WITH_ENERGY, marks=pytest.mark.slow)]
)
def test_shipped_problems_front_beats_chance(objectives, reference):
    """TPE against random search of the same budget, twelve seeds each: rank sum of the volumes, one-sided.

    The exact test of Mann and Whitney has no assumption about the volumes' distribution: were TPE no better
    than chance, the assertion would hold for a share `FALSE_ALARM` of all choices of seeds.  Seeds and limit
    were set before these searches ran for the first time; the sampler's settings were chosen on others.
    """
    from scipy.stats import mannwhitneyu

    options: dict[str, Any] = {
        "objectives": objectives, "overrides": {"fidelity": "roofline"}, "trials": 72, "workers": 0,
    }  # fmt: skip
    chance, guided = (
        [
            search(SHIPPED, sampler=sampler, seed=seed, **options).hypervolume(reference)
            for seed in range(1001, 1013)
        ]
        for sampler in ("random", "tpe")
    )
    assert mannwhitneyu(guided, chance, alternative="greater", method="exact").pvalue < FALSE_ALARM


def test_a_search_goes_on_where_it_was_interrupted(tmp_path, space):
    whole = search(space, tmp_path / "whole", trials=32)

    def stop(done: int, total: int) -> None:
        if done == 16:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        search(space, tmp_path / "part", trials=32, progress=stop)
    with pytest.raises(ConfigError, match="--resume"):
        search(space, tmp_path / "part", trials=32)
    part = search(space, tmp_path / "part", trials=32, resume=True)
    assert part.sweep.rows[:16] == whole.sweep.rows[:16]
    assert len(part.sweep.rows) >= 30
    assert (tmp_path / "part" / "results.parquet").is_file()


def test_a_warm_start_knows_what_a_sweep_found(tmp_path, space):
    grid = {
        **space,
        "axes": {
            f"{HBM}.bandwidth": {"low": "2 TB/s", "high": "8 TB/s", "steps": 6, "scale": "log"},
            f"{HBM}.capacity": {"low": "60 GB", "high": "192 GB", "steps": 5},
            "parallel.expert": [2, 4, 8],
        },
    }
    sweep(grid, tmp_path)
    objective = ["max output_tokens_per_s - 100 * energy_j_per_token"]
    cold = [
        search(space, objectives=objective, trials=8, seed=s).best()["output_tokens_per_s"] for s in range(5)
    ]
    warm = [
        search(space, objectives=objective, trials=8, seed=s, warm_start=[tmp_path]).best()[
            "output_tokens_per_s"
        ]
        for s in range(5)
    ]
    assert np.mean(warm) > np.mean(cold)


def test_the_ladder_confirms_the_best_and_tells_how_levels_disagree(tmp_path, space):
    found = search(space, tmp_path, trials=24, fidelity=("roofline", "event"), confirm=6, workers=0)
    assert list(found.levels) == ["roofline", "event"]
    assert len(found.levels["event"]) == len(found.sweep) == 6
    assert all(row["fidelity"] == "event" for row in found.sweep.rows)
    shares = found.disagreement["roofline -> event"]
    assert set(shares) == {"max output_tokens_per_s", "energy_j_per_token"}
    assert all(0 <= share <= 1 for share in shares.values())
    row, metrics = found.sweep.rows[0], found.sweep.metrics[0]
    changes = {path: row[path] for path in (*space["axes"], "fidelity")}
    assert codesign.simulate(space["experiment"], changes).energy_j["total"] == metrics["energy_j.total"]


def test_area_and_latency_are_objectives_by_their_short_names(space):
    space["axes"] = {"system.device": ["h100", "a100"], "parallel.expert": [2, 4, 8]}
    front = search(space, trials=16, objectives=["area", "latency", "$/Mtoken"]).pareto().to_pylist()
    assert {round(row["area_m2"] * 1e6) for row in front} <= {8 * 814, 8 * 826}


def test_the_front_is_verified_at_cycle(space):
    found = search(space, trials=16, fidelity=("roofline", "event", "cycle"), confirm=5, workers=0)
    assert list(found.levels) == ["roofline", "event", "cycle"]
    assert list(found.disagreement) == ["roofline -> event", "event -> cycle"]
    front = {row["point"] for row in found.levels["event"].pareto().to_pylist()}
    assert len(found.levels["cycle"]) == len(front)


@pytest.mark.parametrize(
    ("first", "second", "share"),
    [
        ([1, 2, 3], [1, 2, 3], 0.0),
        ([1, 2, 3], [3, 2, 1], 1.0),
        ([1, 2, 3], [1, 3, 2], 1 / 3),
        ([1, 1], [1, 2], None),
    ],
)
def test_discordance_counts_pairs(first, second, share):
    found = discordance(first, second)
    assert math.isnan(found) if share is None else found == pytest.approx(share)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"sampler": "tpee"}, "did you mean 'tpe'"),
        ({"fidelity": ["rofline"]}, "did you mean 'roofline'"),
        ({"objectives": ["output_token_per_s"]}, "did you mean 'output_tokens_per_s'"),
        ({"objectives": ["max "]}, "is written as"),
        ({"warm_start": ["/nonexistent"]}, "holds no sweep"),
    ],
)
def test_what_is_wrong_is_refused(space, options, text):
    with pytest.raises(ConfigError) as caught:
        search(space, trials=8, **options)
    assert text in str(caught.value)
    with pytest.raises(ConfigError, match="needs objectives"):
        search({**space, "objectives": []}, trials=8)
