"""Broken configurations: a model with finite counts or one ConfigError, never anything else."""

from __future__ import annotations

import json
import math
from copy import deepcopy
from random import Random

import pytest

from codesign.base.errors import ConfigError
from workloads.models import load, names, resolve

CASES = 2500
BASES = [resolve(name).data for name in names()]
KEYS = sorted({key for base in BASES for key in base})
VALUES = [
    None, True, False, 0, 1, -1, 2, 3, 7, 1.5, -2.5, 1e308, float("nan"), float("inf"), 10**400, 2**63,
    10**12, "", "x", "8", "auto", "4,5,x", "\0", [], [1], [0, 1], ["a"], [None], [[1]], {}, {"a": 1}, b"x",
    (1, 2), {1},
]  # fmt: skip


def places(node, path=()):
    children = (
        node.items() if isinstance(node, dict) else enumerate(node[:4]) if isinstance(node, list) else ()
    )
    for key, child in children:
        yield (*path, key)
        yield from places(child, (*path, key))


def mutate(data, random: Random):
    """Return a copy with up to three fields removed, replaced or added, sometimes in a wrapper."""
    data = deepcopy(data)
    for _ in range(random.randint(1, 3)):
        *parents, last = random.choice(list(places(data)))
        node = data
        for key in parents:
            node = node[key]
        action = random.random()
        if action < 0.2:
            del node[last]
        elif action < 0.35:
            data[random.choice(KEYS)] = random.choice(VALUES)
        else:
            node[last] = deepcopy(random.choice(VALUES))
        if not data:
            return data
    return {"model_type": "wrapper", "text_config": data} if random.random() < 0.1 else data


def _is_one_line(text: str) -> bool:
    assert "\n" not in text
    assert len(text) < 3000
    return True


def outcome(source, overrides=None) -> bool:
    """Return whether a model came out; check what must hold of either end."""
    try:
        model = load(source, overrides)
    except ConfigError as error:
        return not _is_one_line(str(error))
    figures = (model.total_parameters, model.active_parameters, model.kv_bytes_per_token(2.0),
               model.kv_bytes(100_000, 2.0), model.state_values)  # fmt: skip
    assert all(math.isfinite(figure) and figure >= 0 for figure in figures)
    assert model.active_by("all") <= model.total_parameters
    assert (
        0
        <= model.top_k
        <= model.n_experts
        + max(
            (layer.moe.zero_experts for layer in (*model.layers, *model.encoder_layers) if layer.moe),
            default=0,
        )
    )
    json.dumps(model.to_dict(), allow_nan=False)
    return True


@pytest.mark.parametrize("seed", range(5))
def test_mutated_fields(seed):
    random = Random(seed)
    done = [outcome(mutate(random.choice(BASES), random)) for _ in range(CASES // 5)]
    assert 0.1 < sum(done) / len(done) < 0.9  # the mutations reach both ends


def test_mutated_text(tmp_path):
    random, path = Random(1), tmp_path / "config.json"
    for _ in range(400):
        text = bytearray(json.dumps(random.choice(BASES)).encode())
        for _ in range(random.randint(1, 4)):
            at = random.randrange(len(text))
            text[at : at + random.randint(0, 3)] = random.choice(
                [b"", b'"', b"{", b"]", b",", b"\xff", b"9", b"\t"]
            )
        path.write_bytes(bytes(text))
        outcome(path)


def test_mutated_overrides():
    random = Random(2)
    known = [*KEYS, "num_expert", "a.b", "ffn_config.moe_top_k", "text_config.hidden_size", "layer_types.0"]
    done = []
    for _ in range(400):
        changes = {random.choice(known): random.choice(VALUES) for _ in range(random.randint(1, 2))}
        done.append(outcome(random.choice(names()), changes))
    assert any(done)
    assert not all(done)


def test_mutated_compositions():
    random = Random(3)
    for _ in range(300):
        over = {random.choice(KEYS): random.choice(VALUES) for _ in range(2)}
        outcome({"from": random.choice([*names(), "", None, 3, "x", "./x.json", "\0", "/", ["a"]]), **over})
