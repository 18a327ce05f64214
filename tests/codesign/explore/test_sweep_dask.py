"""A sweep on a Dask cluster of separate processes on this machine."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest

from codesign.base.errors import ConfigError
from codesign.explore.api import sweep
from codesign.explore.dask import PATIENCE_S

pytest.importorskip("distributed")
COUNT = "workload.requests.count"


class Cluster:
    """A scheduler and two workers, each a process of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.stack = folder, ExitStack()
        self.address = f"tcp://127.0.0.1:{_free_port()}"
        self._start(
            "scheduler", "--host", "127.0.0.1", "--port", self.address.rpartition(":")[2], "--no-dashboard"
        )
        one = (
            "--nthreads",
            "1",
            "--no-nanny",
            "--no-dashboard",
            "--memory-limit",
            "0",
            "--host",
            "127.0.0.1",
        )
        self.workers = [self._start("worker", self.address, *one) for _ in range(2)]

    def _start(self, what: str, *arguments: str) -> subprocess.Popen[bytes]:
        root = str(Path(sys.modules["codesign"].__file__ or "").parents[1])
        path = os.pathsep.join([str(Path(__file__).parent), root])
        log = self.stack.enter_context((self.folder / f"{what}.log").open("ab"))
        process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", "distributed.cli.dask_" + what, *arguments],
            env={**os.environ, "PYTHONPATH": path}, stdout=log, stderr=log, cwd=self.folder,
        )  # fmt: skip
        self.stack.callback(_stop, process)
        return process


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    with suppress(subprocess.TimeoutExpired):
        process.wait(10)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with ExitStack() as stack:
        made = Cluster(tmp_path_factory.mktemp("dask"))
        stack.enter_context(made.stack)
        yield made


@pytest.mark.filterwarnings("ignore")
def test_a_cluster_gives_the_same_bytes_and_survives_the_loss_of_a_worker(cluster, tmp_path, experiment, toy):
    real = {"experiment": experiment, "axes": {"parallel.expert": [2, 4, 8], COUNT: [4, 8]}}
    sweep(real, tmp_path / "here", workers=0)
    sweep(real, tmp_path / "there", scheduler=cluster.address)
    files = [(tmp_path / name / "results.parquet").read_bytes() for name in ("here", "there")]
    assert files[0] == files[1]

    limited = {"experiment": experiment, "axes": {"name": ["a", "sleep:60"]}, "time_limit": "2 s"}
    found = sweep(limited, scheduler=cluster.address, evaluator=toy)
    assert [row["status"] for row in found.rows] == ["ok", "timeout"]

    def kill(done: int, total: int) -> None:
        if done == 20:
            cluster.workers[0].send_signal(signal.SIGKILL)

    source: dict[str, Any] = {
        "experiment": experiment,
        "axes": {"name": ["sleep:0.02"], COUNT: list(range(120))},
    }
    found = sweep(source, tmp_path / "s", scheduler=cluster.address, evaluator=toy, progress=kill)
    assert found.counts == {"ok": 120}
    assert [row[COUNT] for row in found.rows] == list(range(120))
    assert cluster.workers[0].poll() is not None


@pytest.mark.filterwarnings("ignore")
def test_a_scheduler_that_does_not_answer_is_told(experiment, toy):
    assert PATIENCE_S < 10
    with pytest.raises(ConfigError, match="no scheduler answers"):
        sweep({"experiment": experiment, "axes": {COUNT: [1]}}, scheduler=f"tcp://127.0.0.1:{_free_port()}",
              evaluator=toy)  # fmt: skip


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("address", ["nonsense", "tcp://", "xyz://127.0.0.1:1", "127.0.0.1:notaport"])
def test_an_address_that_is_none(address, experiment, toy):
    with pytest.raises(ConfigError, match="is no address"):
        sweep({"experiment": experiment, "axes": {COUNT: [1]}}, scheduler=address, evaluator=toy)
