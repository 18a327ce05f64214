"""Mutated trace files and settings: a stream, or one clear error; never another exception."""

import gzip
import json
from unittest import mock

import numpy as np
import pytest
import yaml

from codesign.base.document import parse_yaml
from codesign.base.errors import ConfigError
from workloads.requests import Requests, build_requests
from workloads.requests import traces as reader

ROUNDS = 400
BURST = "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
LINE = {"timestamp": 27, "input_length": 1200, "output_length": 5, "hash_ids": [0, 1, 2]}
FILES = {
    "azure": "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:17:03.9799600,4808,10\n"
    "2023-11-16 18:17:04.0319600,3180,8\n2023-11-16 18:17:05,110,27\n",
    "burstgpt": BURST + "5,ChatGPT,472,18,490,Conversation log\n45,GPT-4,1087,0,1087,API log\n",
    "mooncake": "\n".join(json.dumps(LINE | {"output_length": i}) for i in (1, 2, 3)),
    "lists": "[[5, 7], [8, 9], [[1, 2], [3, 4]]]",
    "talks": json.dumps(
        [{"conversations": [{"length": 5}, {"length": 7}]}, {"prompt_len": 4, "output_len": 1}]
    ),
    "csv": "arrival_s,prompt_tokens,output_tokens,tenant,conversation,prefix_ids,block_tokens\n"
    "0,20,2,a,0,1 2,16\n1.5,40,3,,1,1 2 5,16\n",
}
INSERTS = [
    b"\x00",
    b"\xff",
    b",",
    b"\n",
    b'"',
    b"nan",
    b"-1",
    b"1e999",
    b"[",
    b"{",
    b"\r",
    b"9" * 30,
    b"\xe2\x88\x9e",
]


def mutated(data, rng):
    data = bytearray(data)
    for _ in range(int(rng.integers(1, 4))):
        place, kind = int(rng.integers(0, len(data) + 1)), int(rng.integers(0, 5))
        if kind == 0 and place < len(data):
            data[place] = int(rng.integers(0, 256))
        elif kind == 1:
            del data[place : place + int(rng.integers(1, 12))]
        elif kind == 2:
            data[place:place] = INSERTS[int(rng.integers(0, len(INSERTS)))]
        elif kind == 3:
            other = int(rng.integers(0, len(data) + 1))
            data[place:place] = data[other : other + 20]
        else:
            data = data[: max(place, 1)]
    return bytes(data)


def outcome(build):
    try:
        found = build()
    except ConfigError as error:
        return "refused" if len(str(error).splitlines()) == 1 else repr(str(error))
    assert isinstance(found, Requests)
    assert np.isfinite(found.arrival_s).all()
    assert (found.prompt_tokens > 0).all()
    return "read"


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("name", FILES)
def test_a_mutated_trace_is_read_or_refused(tmp_path, name, packed):
    rng, path, seen = np.random.default_rng(len(name)), tmp_path / "trace", set()
    for _ in range(ROUNDS // 4 if packed else ROUNDS):
        plain = FILES[name].encode()
        path.write_bytes(mutated(gzip.compress(plain), rng) if packed else mutated(plain, rng))
        seen.add(outcome(lambda: build_requests({"trace": str(path), "batch": True}, seed=1)))
    assert "refused" in seen
    assert seen <= {"refused", "read"}


@pytest.mark.parametrize("name", FILES)
def test_the_files_that_are_mutated_are_valid(tmp_path, name):
    (tmp_path / "trace").write_text(FILES[name])
    assert (
        outcome(lambda: build_requests({"trace": str(tmp_path / "trace"), "batch": True}, seed=1)) == "read"
    )


VALUES = [None, True, -1, 0, 3, 2.5, 1e400, "x", "6 /s", "6", [], {}, [1], {"name": "poisson"}, {"name": 3},
          {"name": "gamma", "cv": "a"}, "azure-code-2023", 10**30, {"levels": {0: 1}}]  # fmt: skip
KEYS = ["count", "rate", "arrivals", "dataset", "trace", "prompt_tokens", "output_tokens", "batch",
        "concurrency", "limit", "correlation", "format", "skip", "speedup"]  # fmt: skip
SETTINGS = [
    {"count": 5, "rate": "6 /s", "dataset": "azure-code-2023"},
    {
        "count": 5,
        "rate": "6 /s",
        "prompt_tokens": 5,
        "output_tokens": {"name": "uniform", "min": 1, "max": 9},
    },
    {"trace": "t.csv", "limit": 2, "speedup": 2},
]


@pytest.mark.parametrize("base", SETTINGS, ids=["dataset", "synthetic", "trace"])
def test_mutated_settings_are_built_or_refused(tmp_path, base):
    (tmp_path / "t.csv").write_text(FILES["csv"])
    rng = np.random.default_rng(3)
    for _ in range(ROUNDS):
        form = dict(base)
        for _ in range(int(rng.integers(1, 3))):
            form[KEYS[int(rng.integers(0, len(KEYS)))]] = VALUES[int(rng.integers(0, len(VALUES)))]
        text = yaml.safe_dump(form)
        if rng.random() < 0.3:
            text = mutated(text.encode(), rng).decode("utf-8", "replace")

        def build(text=text):
            return build_requests(parse_yaml(text, "x.yaml"), seed=1, base_dir=tmp_path)

        assert outcome(build) in ("read", "refused")


def test_a_reader_that_fails_is_not_mistaken_for_a_broken_file(tmp_path):
    (tmp_path / "t.csv").write_text(FILES["csv"])
    with (
        mock.patch.object(reader, "_assemble", side_effect=ZeroDivisionError),
        pytest.raises(ZeroDivisionError),
    ):
        build_requests({"trace": str(tmp_path / "t.csv")}, seed=1)
