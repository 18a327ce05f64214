"""The prefix cache: shared blocks are computed once, never lost while used, and given up when needed."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import codesign
from codesign.lower.kv import KvShape
from codesign.lower.plan import build_plan
from codesign.serve.cluster import Cluster
from codesign.serve.laws import check_laws
from codesign.serve.memory import KvMemory
from codesign.serve.prefix import PrefixCache
from codesign.serve.sequence import Sequence
from codesign.serve.tasklog import TaskLog
from workloads.models import load
from workloads.requests import Requests

BLOCK = 32


def shape():
    attention = load({"from": "llama-2-7b", "num_hidden_layers": 1}).layers[0].attention
    return KvShape(16, 0, ((2.0, attention),))


def chains(prompts, shared):
    """Prompts whose first `shared` blocks are the same, the others their own."""
    ids = [
        [*range(shared), *range(1000 * i + 500, 1000 * i + 500 + p // BLOCK)][: p // BLOCK]
        for i, p in enumerate(prompts)
    ]
    ptr = np.concatenate(([0], np.cumsum([len(c) for c in ids])))
    return ptr, np.array([b for chain in ids for b in chain])


def serve(prompts, shared, arrivals, **memory):
    experiment = codesign.load_experiment(
        {
            "model": {"from": "llama-2-7b", "num_hidden_layers": 2},
            "system": {"from": "workstation", "device": "a100"},
            "memory": {"prefix_cache": True, **memory},
            "workload": {"requests": {"count": 1, "batch": True, "prompt_tokens": 1, "output_tokens": 1}},
        }
    )
    ptr, ids = chains(prompts, shared)
    stream = Requests(
        np.array(arrivals), np.array(prompts), np.full(len(prompts), 5), prefix_ptr=ptr, prefix_ids=ids,
        block_tokens=BLOCK,
    )  # fmt: skip
    plan = build_plan(experiment)
    cluster = Cluster(experiment, plan, stream, TaskLog(plan.graph))
    cluster.run()
    check_laws(cluster)
    return cluster


def test_a_shared_prefix_is_computed_once():
    cluster = serve([320, 320, 200], shared=4, arrivals=[0.0, 1.0, 2.0])
    log = np.array(cluster.shared.log).reshape(-1, 9)
    prefilled = log[log[:, 5] > 0, 5]
    assert prefilled.tolist() == [320, 320 - 4 * BLOCK, 200 - 4 * BLOCK]
    assert cluster.groups[0].memory.prefix.hit_tokens == 2 * 4 * BLOCK


def test_the_last_token_is_always_computed():
    cluster = serve([128, 128], shared=4, arrivals=[0.0, 1.0])
    log = np.array(cluster.shared.log).reshape(-1, 9)
    assert log[log[:, 5] > 0, 5].tolist() == [128, BLOCK]  # three of four blocks are shared


def test_nothing_is_outstanding_at_the_end():
    cluster = serve([320, 320, 200, 64], shared=2, arrivals=[0.0, 0.0, 0.1, 0.2])
    group = cluster.groups[0]
    assert group.outstanding_tokens == 0
    assert group.memory.held_bytes == group.memory.prefix.held_bytes > 0


@given(
    moves=st.lists(st.tuples(st.integers(0, 2), st.integers(1, 12), st.integers(0, 4)), max_size=60),
    room=st.integers(8, 60),
)  # fmt: skip
@settings(max_examples=100, deadline=None)
def test_memory_adds_up_whatever_happens(moves, room):
    kv = shape()
    memory = KvMemory(kv, kv.sequence_bytes(room), PrefixCache(kv, BLOCK))
    running, ready = [], []
    for move, length, family in moves:
        if move == 0:
            prompt = length * 20
            chain = [family * 100 + i for i in range(prompt // BLOCK)]
            sequence = Sequence(0, 0.0, prompt, 3, chain)
            if memory.take(sequence):
                running.append(sequence)
        elif move == 1 and running:
            sequence = running.pop(length % len(running))
            memory.share(sequence)
            ready.append(sequence)
        elif move == 2 and ready:
            memory.release(ready.pop(length % len(ready)))
        own = sum(s.kv_bytes for s in (*running, *ready))
        assert memory.held_bytes == own + memory.prefix.held_bytes
        assert 0 <= memory.free_bytes <= memory.capacity_bytes
        for sequence in (*running, *ready):
            assert memory.prefix.match(sequence.shared, 10**9) == sequence.shared


def test_a_block_that_divides_nothing_is_refused():
    with pytest.raises(codesign.ConfigError, match="must divide the 32 tokens"):
        serve([64], shared=1, arrivals=[0.0], block_tokens=24)
