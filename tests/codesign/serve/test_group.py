"""The scheduler's running sums equal sums over sequences; memory taken is given back, also by preemption."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import codesign
from codesign.lower.kv import View, kv_shape
from codesign.lower.plan import build_plan
from codesign.serve.cluster import Cluster
from codesign.serve.gaps import Gaps
from codesign.serve.group import ReadEntries
from codesign.serve.laws import check_laws
from codesign.serve.tasklog import TaskLog
from workloads.models import load


@given(
    limit=st.sampled_from([None, 1, 7, 20]), compression=st.sampled_from([1, 4]),
    moves=st.lists(st.tuples(st.integers(0, 2), st.integers(1, 30)), max_size=60),
)  # fmt: skip
@settings(max_examples=200, deadline=None)
def test_entries_read_equal_the_sum_over_sequences(limit, compression, moves):
    reads, step, offsets = ReadEntries(View(limit, compression)), 0, []
    for move, value in moves:
        if move == 0:
            offsets.append(value - step)
            reads.join(value - step, step)
        elif move == 1 and offsets:
            reads.leave(offsets.pop(value % len(offsets)))
        else:
            contexts = [step + offset for offset in offsets]
            near = sum(
                contexts if limit is None and compression == 1 else [min(c, limit or 0) for c in contexts]
            )
            far = sum(contexts) // compression if compression > 1 else 0
            assert reads.total(step) == near + far
            step += 1


@given(blocks=st.integers(0, 300), window=st.sampled_from([None, 64, 1000]))
@settings(max_examples=50, deadline=None)
def test_blocks_of_a_sequence_add_up(blocks, window):
    model = load({"from": "mixtral-8x7b", "sliding_window": window})
    parallel = build_plan(codesign.load_experiment("examples/mixtral-dgx-h100.yaml")).parallel
    kv = kv_shape(model, parallel, 2.0, 16)
    assert kv.sequence_bytes(blocks) == sum(kv.block_bytes(i) for i in range(blocks)) + kv.state_bytes
    exact = model.kv_bytes(16 * blocks, 2.0) / 2  # two tensor ranks share eight heads
    assert exact <= kv.sequence_bytes(blocks) <= exact + blocks


def run_with_kv(kv_bytes, batching="chunked_prefill", **requests):
    experiment = codesign.load_experiment(
        {
            "model": {"from": "llama-2-7b", "num_hidden_layers": 2},
            "system": {"from": "workstation", "device": "a100"},
            "workload": {
                "requests": {
                    "count": 30,
                    "batch": True,
                    "prompt_tokens": 100,
                    "output_tokens": 60,
                    **requests,
                }
            },
            "policies": {"batching": batching},
        }
    )
    plan = build_plan(experiment)
    plan = replace(plan, residency=replace(plan.residency, kv_bytes=kv_bytes))
    cluster = Cluster(experiment, plan, experiment.requests(), TaskLog(plan.graph))
    cluster.run()
    return cluster, check_laws(cluster)


def token_bytes():
    return load({"from": "llama-2-7b", "num_hidden_layers": 2}).kv_bytes_per_token(2.0)


@pytest.mark.parametrize(
    "batching", ["chunked_prefill", "prefill_first", {"name": "static", "batch_size": 10}]
)
def test_preemption_by_recompute_loses_nothing(batching):
    roomy, _ = run_with_kv(1e10, batching)
    tight, laws = run_with_kv(5 * 176 * token_bytes(), batching)
    assert sum(group.preemptions for group in roomy.groups) == 0
    assert sum(group.preemptions for group in tight.groups) > 0
    assert all(laws.values())
    assert tight.finished == 30
    assert tight.shared.output_tokens == 30 * 60
    assert all(group.memory.held_bytes == 0 for group in tight.groups)
    assert all(group.outstanding_tokens == 0 for group in (*tight.groups, *roomy.groups))
    assert tight.clock.now > roomy.clock.now


def test_memory_is_never_overdrawn():
    cluster, _ = run_with_kv(5 * 176 * token_bytes())
    held = np.array(cluster.shared.log).reshape(-1, 9)[:, -1]
    assert held.max() <= cluster.groups[0].memory.capacity_bytes
    assert held.max() > 0.8 * cluster.groups[0].memory.capacity_bytes


def test_gaps_are_what_the_tokens_say():
    """With one request alone, the gaps are the durations of its decode iterations."""
    cluster, _ = run_with_kv(1e10, count=1)
    log = np.array(cluster.shared.log).reshape(-1, 9)
    gaps = np.diff(log[:, 1])
    summary = cluster.gaps.summary()
    assert int(cluster.gaps.counts.sum()) == 59
    assert summary["mean"] == pytest.approx(gaps.mean(), rel=1e-12)
    assert summary["max"] == gaps.max() == cluster.table[0, 4]
    assert summary["p50"] == pytest.approx(np.median(gaps), rel=0.006)


def test_gap_histogram_quantiles_are_within_half_a_bin():
    rng = np.random.default_rng(1)
    values, gaps = rng.lognormal(-4, 1, 5000), Gaps()
    for value in values:
        gaps.add(value, 1)
    for q in (50, 90, 99):
        assert gaps.summary()[f"p{q}"] == pytest.approx(np.percentile(values, q), rel=0.01)
