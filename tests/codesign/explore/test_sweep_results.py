"""What one asks of a sweep: tables, fronts, best points, paired differences."""

from __future__ import annotations

import math

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import codesign
from codesign.base.errors import ConfigError
from codesign.explore.api import sweep
from codesign.explore.pareto import hypervolume, nondominated

COUNT = "workload.requests.count"
costs = st.lists(st.lists(st.integers(0, 6), min_size=3, max_size=3), min_size=1, max_size=25).map(
    lambda rows: np.array(rows, float)
)


@pytest.fixture
def found(experiment, toy):
    """Twelve points of three replicates each."""
    source = {
        "experiment": experiment,
        "axes": {COUNT: [3, 1, 2, 4], "system.device.memory.hbm.bandwidth": ["3 TB/s"]},
        "replicates": 3,
        "constraints": {"outputs": ["y <= 10"]},
    }
    return sweep(source, workers=0, evaluator=toy)


def test_public_names():
    assert codesign.sweep is sweep
    assert codesign.Sweep.__name__ == "Sweep"


def test_the_table_has_a_row_for_each_point_and_replicate(found):
    table = found.table
    assert isinstance(table, pa.Table)
    assert table.num_rows == 12
    assert table.column("point").to_pylist() == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]
    assert table.column("replicate").to_pylist() == [0, 1, 2] * 4
    assert set(table.column("system.device.memory.hbm.bandwidth").to_pylist()) == {3e12}
    assert table.column("feasible").to_pylist() == [True] * 9 + [False] * 3


def test_what_is_written_is_what_is_shown(tmp_path, experiment, toy):
    found = sweep({"experiment": experiment, "axes": {COUNT: [1, 2]}}, tmp_path, workers=0, evaluator=toy)
    assert pq.read_table(tmp_path / "results.parquet").equals(found.table)
    assert codesign.Sweep.open(tmp_path).table.equals(found.table)


def test_best_and_front(found):
    assert found.best("x")["x"] == 1
    assert found.best("max x")["x"] == 3
    assert found.best("max x", feasible=False)["x"] == 4
    front = found.pareto("y", "one_over").to_pylist()
    assert {row["x"] for row in front} == {1, 2, 3}
    assert {row["replicate"] for row in front} == {0}
    with pytest.raises(ConfigError, match="choose from one_over, x, y"):
        found.best("z")
    with pytest.raises(ConfigError, match="name an objective"):
        found.pareto()


def test_a_paired_difference_has_no_noise_that_both_share(found):
    gap = found.compare({COUNT: 1}, {COUNT: 2}, "y")
    assert gap.replicates == 3
    assert gap.difference == pytest.approx(3.0)
    assert gap.half_width == pytest.approx(0.0, abs=1e-12)
    assert gap.low <= 3.0 <= gap.high
    same = {COUNT: 1, "system.device.memory.hbm.bandwidth": "3000 GB/s"}  # 3 TB/s, as the table has it
    assert found.compare(same, {COUNT: 2}, "y") == gap
    with pytest.raises(ConfigError, match="no finished point"):
        found.compare({COUNT: 1}, {COUNT: 99}, "y")


def test_replicates_are_summed_up_with_students_interval(found):
    row = found.summary().to_pylist()[0]
    assert row["y"] == pytest.approx(9.002)
    assert row["y +-"] == pytest.approx(4.302652729911275 * 0.001 / math.sqrt(3))


def test_a_notebook_shows_axes_and_objectives(experiment, toy):
    source = {"experiment": experiment, "axes": {COUNT: list(range(1, 31))}, "objectives": ["y"]}
    found = sweep(source, workers=0, evaluator=toy)
    assert repr(found) == f"<Sweep over {COUNT}: 30 points, {{'ok': 30}}>"
    shown = found._repr_html_()
    assert shown.count("<tr>") == 21
    assert "<th>y</th>" in shown
    assert "10 more" in shown


def test_a_bar_tells_rate_and_time_left(experiment, toy, monkeypatch):
    from io import StringIO

    from rich.console import Console

    from codesign.explore.watch import watched

    told = StringIO()
    with watched(True, "points", Console(file=told, force_terminal=True, width=100)) as draw:
        draw(3, 12)
        draw(12, 12)
    assert "12/12" in told.getvalue()
    assert "points/s" in told.getvalue()
    with watched(None, "points") as draw:
        assert draw is None
    found = sweep({"experiment": experiment, "axes": {COUNT: [1]}}, workers=0, evaluator=toy, progress=True)
    assert len(found) == 1


def brute_force(points: np.ndarray) -> list[bool]:
    def beaten(i: int) -> bool:
        return any((p <= points[i]).all() and (p < points[i]).any() for p in points)

    return [not beaten(i) for i in range(len(points))]


@settings(max_examples=200, deadline=None)
@given(points=costs)
def test_the_front_is_what_nothing_dominates(points):
    assert nondominated(points).tolist() == brute_force(points)


@settings(max_examples=100, deadline=None)
@given(points=costs)
def test_the_hypervolume_counts_unit_cubes(points):
    n = 7
    corners = np.stack(np.meshgrid(*[np.arange(n)] * 3, indexing="ij"), -1).reshape(-1, 3)
    inside = (points[None] <= corners[:, None]).all(-1).any(1)
    assert hypervolume(points, np.full(3, float(n))) == pytest.approx(float(inside.sum()))
