"""The worked examples: their findings hold on small parts of their spaces, and (slow) on the whole."""

from __future__ import annotations

from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import pytest
import yaml

import codesign

EXAMPLES = Path(__file__).parents[3] / "examples"
BUNDLES = "system.device.pim.bundles"
HBM = "system.device.memory.hbm"


def part_of(name: str, **fewer: Any) -> dict[str, Any]:
    """A shipped sweep with some axes (by their last step) shortened."""
    source: dict[str, Any] = yaml.safe_load((EXAMPLES / "sweeps" / name).read_text())
    for path in source["axes"]:
        source["axes"][path] = fewer.get(path.split(".")[-1], source["axes"][path])
    return source


def rows_of(found: codesign.Sweep) -> list[dict[str, Any]]:
    return [row for row in found.table.to_pylist() if row["status"] == "ok"]


def check_cache(rows: list[dict[str, Any]]) -> None:
    """HBM for all experts is the cheapest; a cache over PCIe misses the SLO, over a fast link it is dear."""
    best = min(rows, key=lambda row: row["usd_per_million_tokens"])
    assert best["memory.experts"] is None
    cached = [row for row in rows if row["memory.experts"] == "ddr"]
    link = "system.host.links.pcie.bandwidth"
    assert not any(row["feasible"] for row in cached if row[link] < 1e11)
    assert min(r["usd_per_million_tokens"] for r in cached) > 1.3 * best["usd_per_million_tokens"]
    assert any(row["feasible"] and row[f"{HBM}.capacity"] < 100e9 for row in cached)


def check_granularity(rows: list[dict[str, Any]]) -> None:
    """Finer experts help where both units share a layer and its banks, and nowhere else."""
    speed = {
        (r["model.num_experts_per_tok"], r["policies.units"], r[BUNDLES]): r["output_tokens_per_s"]
        for r in rows
        if r["model.num_local_experts"] == 4 * r["model.num_experts_per_tok"]
        and r["workload.requests.concurrency"] == 32
    }
    for units, bundles in (("xpu", 4), ("min_time", 4), ("co_process", 4)):
        assert 0.95 < speed[8, units, bundles] / speed[2, units, bundles] < 1.03
    assert speed[8, "co_process", 64] / speed[2, "co_process", 64] > 1.05
    assert speed[2, "min_time", 4] / speed[2, "xpu", 4] > 1.5


def test_expert_cache():
    source = part_of("expert-cache.yaml", capacity=["80 GB", "128 GB"], bandwidth=["4 TB/s"])
    check_cache(rows_of(codesign.sweep(source, workers=0)))


def test_expert_granularity():
    source = part_of("expert-granularity.yaml", num_experts_per_tok=[2, 8], num_local_experts=[8, 32])
    source["zip"] = [{key: [32] for key in source["zip"][0]}]
    check_granularity(rows_of(codesign.sweep(source, workers=0)))


def gpu_mix() -> Any:
    spec = spec_from_file_location("gpu_mix_example", EXAMPLES / "gpu_mix.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_gpu_mix(monkeypatch, capsys):
    """Few classes and levels of concurrency: a mix is never dearer than one type, the best type moves."""
    example = gpu_mix()
    monkeypatch.setattr(example, "PROMPT_EDGES", (0, 256, 10**9))
    monkeypatch.setattr(example, "OUTPUT_EDGES", (0, 10**9))
    monkeypatch.setattr(example, "CONCURRENCY", (4, 16))
    rows = example.main()
    assert "requests/s" in capsys.readouterr().out
    assert all(saving >= 0 for row in rows for saving in row["saved"].values())
    assert len({tuple(row["machines"]) for row in rows}) > 1


@pytest.mark.slow
def test_all_of_every_example(capsys):
    check_cache(rows_of(codesign.sweep(EXAMPLES / "sweeps" / "expert-cache.yaml")))
    check_granularity(rows_of(codesign.sweep(EXAMPLES / "sweeps" / "expert-granularity.yaml")))
    rows = gpu_mix().main()
    capsys.readouterr()
    assert max(saving for row in rows for saving in row["saved"].values()) > 0.6
    assert any(len(row["machines"]) > 1 for row in rows)
