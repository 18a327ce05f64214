"""Running a sweep: every point once, whatever dies; the same bytes whoever runs it."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import codesign
from codesign.base.errors import ConfigError
from codesign.explore.api import sweep

COUNT = "workload.requests.count"


def many(experiment: dict[str, Any], n: int, **more: Any) -> dict[str, Any]:
    return {"experiment": experiment, "axes": {COUNT: list(range(n))}, **more}


def test_real_points_are_equal_on_any_number_of_workers(tmp_path, experiment):
    source = {
        "experiment": experiment,
        "axes": {"parallel.expert": [2, 4, 8], COUNT: [4, 8]},
        "replicates": 2,
    }
    for workers in (0, 1, 2):
        found = sweep(source, tmp_path / str(workers), workers=workers)
        assert found.counts == {"ok": 12}
    files = [(tmp_path / str(w) / "results.parquet").read_bytes() for w in (0, 1, 2)]
    assert files[0] == files[1] == files[2]


def test_a_point_gives_what_simulate_gives(experiment):
    found = sweep({"experiment": experiment, "axes": {"parallel.expert": [2, 8]}}, workers=0)
    result = codesign.simulate(experiment, {"parallel.expert": 8})
    row = found.table.to_pylist()[1]
    assert row["output_tokens_per_s"] == result.summary["output_tokens_per_s"]
    assert row["ttft_s.p99"] == result.summary["ttft_s"]["p99"]
    assert row["energy_j.total"] == result.energy_j["total"]


def test_failures_are_recorded_and_do_not_stop_the_rest(experiment, toy):
    names = ["a", "fail", "refuse", "die", "b"]
    found = sweep({"experiment": experiment, "axes": {"name": names}}, workers=2, evaluator=toy)
    assert [row["status"] for row in found.rows] == ["ok", "failed", "refused", "killed", "ok"]
    assert "RuntimeError: as asked" in found.rows[1]["error"]
    assert "killed 3 times" in found.rows[3]["error"]


def test_a_killed_workers_points_run_again(tmp_path, experiment, toy):
    names = ["a", f"die-once:{tmp_path / 'mark'}", "b"]
    found = sweep({"experiment": experiment, "axes": {"name": names}}, workers=1, evaluator=toy)
    assert found.counts == {"ok": 3}
    assert (tmp_path / "mark").exists()


def test_a_point_past_its_time_is_recorded(tmp_path, experiment, toy):
    source = {"experiment": experiment, "axes": {"name": ["a", "sleep:60", "b"]}, "time_limit": "1 s"}
    begun = time.perf_counter()
    found = sweep(source, tmp_path / "s", workers=1, evaluator=toy)
    assert [row["status"] for row in found.rows] == ["ok", "timeout", "ok"]
    assert time.perf_counter() - begun < 30
    again = sweep(source, tmp_path / "s", workers=1, evaluator=toy, resume=True)
    assert again.counts == found.counts


def test_resume_runs_only_what_is_missing(tmp_path, experiment, toy):
    log, out = tmp_path / "log", tmp_path / "s"
    source = {"experiment": experiment, "axes": {"name": [f"note:{log}"], COUNT: [1, 2]}}
    sweep(source, out, workers=0, evaluator=toy)
    with pytest.raises(ConfigError, match="--resume"):
        sweep(source, out, workers=0, evaluator=toy)
    wider = {**source, "axes": {"name": [f"note:{log}"], COUNT: [1, 2, 3]}, "replicates": 2}
    found = sweep(wider, out, workers=0, evaluator=toy, resume=True)
    assert found.counts == {"ok": 6}
    ran = log.read_text().split()
    assert len(ran) == len(set(ran)) == 6


def test_a_merged_store_is_not_run_again(tmp_path, experiment, toy):
    log = tmp_path / "log"

    def part(counts: list[int]) -> dict[str, Any]:
        return {"experiment": experiment, "axes": {"name": [f"note:{log}"], COUNT: counts}}

    sweep(part([1, 2]), tmp_path / "a", workers=0, evaluator=toy)
    sweep(part([3]), tmp_path / "b", workers=0, evaluator=toy)
    found = sweep(
        part([1, 2, 3, 4]), tmp_path / "c", workers=0, evaluator=toy, merge=(tmp_path / "a", tmp_path / "b")
    )
    assert found.counts == {"ok": 4}
    assert len(log.read_text().split()) == 4


SCRIPT = """
import json, signal, sys
from pathlib import Path
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in a job of the background
sys.path.insert(0, {here!r})
from codesign.explore.api import sweep
source = json.loads(Path({source!r}).read_text())
sweep(source, {out!r}, workers=2, evaluator="sweep_evaluators:Toy", resume=True)
"""


def test_kill_9_loses_nothing_and_repeats_nothing(tmp_path, experiment, toy):
    log, out, source = tmp_path / "log", tmp_path / "s", tmp_path / "source.json"
    axes = {"name": [f"note:{log}"], COUNT: list(range(400))}
    source.write_text(json.dumps({"experiment": experiment, "axes": axes}))
    script = SCRIPT.format(here=str(Path(__file__).parent), source=str(source), out=str(out))
    finished: list[int] = []
    for _ in range(3):
        process = subprocess.Popen([sys.executable, "-c", script], start_new_session=True)
        _kill_once_there_are_more(process, out, finished[-1] if finished else 0)
        finished.append(_rows(out))
    kept = _ids(out)
    _wait_for(lambda: _free(out))
    before = log.read_text().split()
    found = sweep(json.loads(source.read_text()), out, workers=2, evaluator=toy, resume=True)
    assert found.counts == {"ok": 400}
    again = log.read_text().split()[len(before) :]
    assert not kept & set(again)
    assert len(again) == len(set(again)) == 400 - len(kept)
    assert finished == sorted(finished)


def _kill_once_there_are_more(process: subprocess.Popen[bytes], out: Path, rows: int) -> None:
    _wait_for(lambda: _rows(out) > rows or process.poll() is not None)
    process.send_signal(signal.SIGKILL)
    process.wait()


def _wait_for(condition: Any, limit_s: float = 60.0) -> None:
    end = time.monotonic() + limit_s
    while not condition() and time.monotonic() < end:
        time.sleep(0.005)
    assert condition()


def _free(out: Path) -> bool:
    import fcntl

    with open(out / ".lock", "a") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
    return True


def _ids(out: Path) -> set[str]:
    with sqlite3.connect(out / "store.sqlite") as database:
        found = {row[0] for row in database.execute("SELECT id FROM outcomes")}
    database.close()
    return found


def _rows(out: Path) -> int:
    try:
        return len(_ids(out))
    except sqlite3.Error:
        return 0


def test_an_interrupt_keeps_what_is_done(tmp_path, experiment, toy):
    def stop(done: int, total: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sweep(many(experiment, 10), tmp_path, workers=1, evaluator=toy, progress=stop)
    assert _rows(tmp_path) >= 3
    assert (tmp_path / "results.parquet").is_file()
    assert sweep(many(experiment, 10), tmp_path, workers=0, evaluator=toy, resume=True).counts == {"ok": 10}


def test_workers_end_with_their_parent(tmp_path, experiment):
    axes = {"name": ["sleep:300", "sleep:301"]}
    source = tmp_path / "source.json"
    source.write_text(json.dumps({"experiment": experiment, "axes": axes}))
    script = SCRIPT.format(here=str(Path(__file__).parent), source=str(source), out=str(tmp_path / "s"))
    process = subprocess.Popen([sys.executable, "-c", script])
    try:
        _wait_for(lambda: len(_children(process.pid)) == 2)
        children = _children(process.pid)
        process.send_signal(signal.SIGINT)
        process.wait(30)
        _wait_for(lambda: not any(_alive(pid) for pid in children))
    finally:
        process.kill()
        process.wait()


def _children(pid: int) -> list[int]:
    try:
        text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    except OSError:
        return []
    return [int(child) for child in text.split()]


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except OSError:
        return False
    return True


def test_two_sweeps_do_not_share_a_folder(tmp_path, experiment, toy):
    from codesign.explore.store import Store

    with Store(tmp_path), pytest.raises(ConfigError, match="another sweep is writing here"):
        Store(tmp_path)


def test_a_store_of_another_version_is_refused(tmp_path, experiment, toy):
    sweep(many(experiment, 2), tmp_path, workers=0, evaluator=toy)
    with sqlite3.connect(tmp_path / "store.sqlite") as database:
        database.execute("UPDATE meta SET value = '99' WHERE key = 'version'")
    database.close()
    with pytest.raises(ConfigError, match="is a store of version 99; this program writes version 1"):
        sweep(many(experiment, 2), tmp_path, workers=0, evaluator=toy, resume=True)


def test_what_is_no_store_is_refused(tmp_path, experiment, toy):
    (tmp_path / "store.sqlite").write_text("this is text, and long enough to be looked at by the library")
    with pytest.raises(ConfigError, match="is not a store of a sweep"):
        sweep(many(experiment, 2), tmp_path, workers=0, evaluator=toy, resume=True)


def test_constraints_on_what_a_point_needs(experiment):
    source = {
        "experiment": experiment,
        "axes": {"parallel.tensor": [1, 8], "parallel.expert": [8]},
        "set": {"parallel.data": 1},
        "constraints": {"inputs": ["devices <= 4"], "outputs": ["ttft_s.p99 <= 1 ns"]},
    }
    found = sweep(source, workers=0)
    assert [row["status"] for row in found.rows] == ["refused", "excluded"]
    source["constraints"] = {"outputs": ["ttft_s.p99 <= 1 ns", "requests.completed >= 1"]}
    found = sweep(source, workers=0)
    assert [(row["status"], row["feasible"]) for row in found.rows] == [("refused", False), ("ok", False)]


def test_experts_in_another_tier_need_no_room_beside_their_cache(experiment):
    """What a point needs is counted as its plan counts it."""
    source = {
        "experiment": {**experiment, "parallel": {"tensor": 1, "expert": 8}},
        "axes": {"system.device.memory.hbm.capacity": ["20 GB", "60 GB"]},
        "zip": [{
            "memory.experts": [None, "ddr"],
            "policies.expert_cache": [None, {"name": "lru", "slots": 1}],
        }],
        "constraints": {"inputs": ["weight_bytes > 0"]},
    }  # fmt: skip
    source["experiment"]["system"] = {"from": "dgx-h100", "devices_per_node": 2}
    source["experiment"]["parallel"] = {"tensor": 1, "expert": 2}
    found = sweep(source, workers=0)
    assert [row["status"] for row in found.rows] == ["refused", "ok", "ok", "ok"]
    sizes = [metrics.get("weight_bytes", 0.0) for metrics in found.metrics]
    assert sizes[1] == sizes[3] < 20e9 < sizes[2]


def test_more_replicates_run_what_is_new_alone(tmp_path, experiment, toy):
    """Resume with more replicates: those that are there stay, intervals shrink."""
    source = {"experiment": experiment, "axes": {COUNT: [1, 2]}, "replicates": 2}
    first = sweep(source, tmp_path, workers=0, evaluator=toy)
    ran: list[int] = []
    more = sweep(
        {**source, "replicates": 5}, tmp_path, resume=True, workers=0, evaluator=toy,
        progress=lambda done, total: ran.append(total),
    )  # fmt: skip
    assert ran == [6] * 6
    assert len(more) == 10
    ids = [{row["id"] for row in found.rows} for found in (first, more)]
    assert ids[0] < ids[1]
    assert more.summary().to_pylist()[0]["replicates"] == 5


@pytest.mark.parametrize(
    "wrong",
    [{"objectives": ["output_tokens_per_sec"]}, {"constraints": {"outputs": ["ttft_s.p98 <= 1 s"]}}],
)
@pytest.mark.parametrize("fidelity", ["event", "roofline"])
def test_a_metric_that_there_is_not_stops_a_sweep_at_its_first_point(experiment, wrong, fidelity, tmp_path):
    source = {"experiment": {**experiment, "fidelity": fidelity}, "axes": {"seed": [1, 2, 3]}, **wrong}
    with pytest.raises(ConfigError, match=r"did you mean '(output_tokens_per_s|ttft_s.p99)'"):
        sweep(source, tmp_path, workers=0)
    if fidelity == "event":
        assert len(codesign.Sweep.open(tmp_path)) == 1


def test_a_kind_of_time_that_some_points_lack_stops_no_sweep(experiment):
    source = {
        "experiment": experiment,
        "axes": {"parallel.tensor": [8, 1]},
        "derived": {"parallel.expert": "8 // parallel.tensor"},
        "constraints": {"outputs": ["breakdown_s.dispatch >= 0"]},
    }
    assert [row["status"] for row in sweep(source, workers=0).rows] == ["refused", "ok"]
