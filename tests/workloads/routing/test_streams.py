"""The contract of every routing stream, and the errors of its settings."""

import numpy as np
import pytest

from codesign.base.document import parse_yaml
from codesign.base.errors import ConfigError
from workloads.routing import build_routing, read_trace, write_trace
from workloads.routing.files import trace_from_arrays

SHAPE = {"moe_layers": (0, 1, 3), "n_experts": 16, "top_k": 3, "seed": 5}


def recorded(tokens=50, layers=3, experts=16, k=3, seed=0):
    rng = np.random.default_rng(seed)
    ids = np.argsort(rng.random((tokens, layers, experts)), axis=2)[:, :, :k]
    return {
        "experts": ids.astype(np.int8),
        "num_experts": np.array(experts),
        "sequence": np.repeat([4, 5, 9], [tokens - 30, 10, 20]),
        "domain": np.repeat([0, 1], tokens // 2),
        "domain_names": np.array(["a", "b"]),
    }


@pytest.fixture
def trace_path(tmp_path):
    np.savez(tmp_path / "trace.npz", **recorded())
    return tmp_path / "trace.npz"


def settings_of(name, trace_path):
    return {
        "uniform": {"generator": "uniform"},
        "zipf": {"generator": "zipf", "exponent": 0.8},
        "trace": {"generator": "trace", "path": str(trace_path)},
        "synthetic": {
            "generator": "synthetic",
            "popularity": {"zipf": 0.8},
            "affinity": 0.4,
            "locality": 0.2,
        },
        "preset": {"generator": "preset", "name": "gpt-oss-20b"},
    }[name]


ALL = ["uniform", "zipf", "trace", "synthetic"]


@pytest.mark.parametrize("name", ALL)
def test_routing_is_a_pure_function_of_request_position_and_layer(name, trace_path):
    settings = settings_of(name, trace_path)
    whole = build_routing(settings, **SHAPE)
    requests, starts, lengths = (np.array(x, np.int64) for x in ([3, 8], [0, 0], [40, 30]))
    ids = whole.draw(requests, starts, lengths)
    assert ids.dtype == np.int16
    assert ids.shape == (70, 3, 3)
    other = build_routing(settings, **SHAPE)
    pick = np.array([69, 0, 35, 41, 10, 10])  # any order, repeated, one at a time
    request, position = np.where(pick < 40, 3, 8), np.where(pick < 40, pick, pick - 40)
    for i, row in enumerate(pick):
        alone = other.draw(request[i : i + 1], position[i : i + 1], np.ones(1, np.int64))
        np.testing.assert_array_equal(alone[0], ids[row])
    other.forget(3)
    together = other.draw(request, position, np.ones(len(pick), np.int64))
    np.testing.assert_array_equal(together, ids[pick])


@pytest.mark.parametrize("name", ALL)
def test_experts_of_a_token_differ_and_exist(name, trace_path):
    stream = build_routing(settings_of(name, trace_path), **SHAPE)
    ids = np.sort(stream.draw(np.arange(9), np.zeros(9, np.int64), np.full(9, 5)), axis=2)
    assert (np.diff(ids, axis=2) > 0).all()
    assert ids.min() >= 0
    assert ids.max() < 16


@pytest.mark.parametrize("name", ["uniform", "zipf", "synthetic"])
def test_layers_and_seeds_and_requests_differ(name, trace_path):
    stream = build_routing(settings_of(name, trace_path), **SHAPE)
    span = (np.zeros(1, np.int64), np.full(1, 200))
    ids = stream.draw(np.array([1]), *span)
    assert (ids[:, 0] != ids[:, 1]).any()
    assert (ids != stream.draw(np.array([2]), *span)).any()
    assert (
        ids != build_routing(settings_of(name, trace_path), **SHAPE | {"seed": 6}).draw(np.array([1]), *span)
    ).any()


def test_popularity_is_permuted_per_layer_and_follows_the_layer_index():
    shape = {"n_experts": 16, "top_k": 1, "seed": 1}
    zipf = {"generator": "zipf", "exponent": 1.2}
    some = build_routing(zipf, moe_layers=(3, 7), **shape)
    more = build_routing(zipf, moe_layers=(0, 3, 7), **shape)
    np.testing.assert_array_equal(some.popularity, more.popularity[1:])
    assert (more.popularity[0] != more.popularity[1]).any()


def test_group_limited_tokens_stay_in_their_groups():
    stream = build_routing(
        {"generator": "zipf"}, moe_layers=range(4), n_experts=32, top_k=6, n_group=8, topk_group=3, seed=2
    )
    ids = stream.draw(np.arange(5), np.zeros(5, np.int64), np.full(5, 100))
    groups = np.sort(ids // 4, axis=2)
    assert (1 + (np.diff(groups, axis=2) > 0).sum(axis=2)).max() <= 3


@pytest.mark.parametrize("suffix", [".npz", ".parquet"])
def test_a_trace_comes_back_as_it_was_written(suffix, tmp_path):
    trace = trace_from_arrays(recorded(), "<test>")
    write_trace(trace, tmp_path / f"t{suffix}")
    back = read_trace(tmp_path / f"t{suffix}")
    np.testing.assert_array_equal(back.experts, trace.experts)
    np.testing.assert_array_equal(back.offsets, trace.offsets)
    np.testing.assert_array_equal(back.domains, trace.domains)
    assert (back.n_experts, back.domain_names, back.layer_ids) == (16, ("a", "b"), (0, 1, 2))


def test_replay_gives_recorded_rows_and_wraps(trace_path):
    trace = read_trace(trace_path)
    stream = build_routing(settings_of("trace", trace_path), **SHAPE)
    ids = stream.draw(np.array([12]), np.zeros(1, np.int64), np.array([100]))
    sequences = [trace.experts[a:b] for a, b in zip(trace.offsets, trace.offsets[1:], strict=False)]
    wrapped = [np.array_equal(ids, np.resize(rows, (100, 3, 3))) for rows in sequences]
    assert sum(wrapped) == 1


def test_a_trace_of_another_shape_is_refused_with_the_numbers_unless_adapted(trace_path):
    settings = settings_of("trace", trace_path)
    with pytest.raises(ConfigError, match=r"3 layers of 16 experts, top-3; the model has 5 of 8, top-2"):
        build_routing(settings, moe_layers=range(5), n_experts=8, top_k=2)
    stream = build_routing(settings | {"adapt": True}, moe_layers=range(5), n_experts=8, top_k=2)
    ids = stream.draw(np.arange(4), np.zeros(4, np.int64), np.full(4, 20))
    assert (ids[:, :, 0] != ids[:, :, 1]).all()
    assert ids.max() < 8
    assert (ids[:, 0] != ids[:, 1]).any()  # two layers of one source are not copies


SPOILT = [
    (lambda a: a.pop("experts"), "no array 'experts'"),
    (lambda a: a.pop("num_experts"), "no number 'num_experts'"),
    (lambda a: a.update(experts=a["experts"][0]), r"must be integers \[tokens, layers, k\]"),
    (lambda a: a.update(experts=a["experts"].astype(float)), "must be integers"),
    (lambda a: a.update(num_experts=np.array(8)), r"experts\[\d+, \d+, \d+\] = \d+: must be -1 .. 7"),
    (lambda a: a.update(num_experts=np.array([8, 8])), "must be one integer"),
    (lambda a: a.update(sequence=a["sequence"][:-1]), r"sequence: is int64 \(49,\)"),
    (lambda a: a.update(domain=a["domain"] + 7), "domain = 8: there are 2 domain_names"),
    (lambda a: a.update(layer_ids=np.arange(4)), "layer_ids"),
    (lambda a: a["experts"].__setitem__((7, 1, 0), a["experts"][7, 1, 2]), r"experts\[7, 1\]: expert \d+"),
    (lambda a: a.update(experts=a["experts"][:0]), "holds no routing"),
    (lambda a: a.update(format_version=np.array(2)), "format_version = 2: this program reads up to 1"),
]


@pytest.mark.parametrize(("spoil", "reason"), SPOILT)
def test_a_malformed_trace_is_refused_with_place_and_reason(spoil, reason, tmp_path):
    arrays = recorded()
    spoil(arrays)
    np.savez(tmp_path / "bad.npz", **arrays)
    with pytest.raises(ConfigError, match=reason) as error:
        read_trace(tmp_path / "bad.npz")
    assert "bad.npz" in str(error.value)


def test_damaged_files_are_refused(tmp_path, trace_path):
    whole = trace_path.read_bytes()
    cases = {
        "short.npz": (whole[: len(whole) // 2], "cannot be read"),
        "junk.npz": (b"\x80\x04junk", "cannot be"),
        "empty.npz": (b"", "cannot be read"),
        "bad.parquet": (b"PAR1junk", "cannot be read as Parquet"),
    }
    for name, (content, reason) in cases.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ConfigError, match=reason):
            read_trace(tmp_path / name)
    np.savez(tmp_path / "object.npz", experts=np.array([{}], object), num_experts=np.array(3))
    with pytest.raises(ConfigError, match="experts: holds pickled objects"):
        read_trace(tmp_path / "object.npz")
    with pytest.raises(ConfigError, match="is a directory"):
        read_trace(tmp_path)
    with pytest.raises(ConfigError, match="no such routing trace"):
        read_trace(tmp_path / "none.npz")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("generator: zpif", r"my.yaml:1: generator: unknown routing_generator 'zpif'.*did you mean 'zipf'"),
        ("generator: zipf\nexponnent: 1", r"my.yaml:2: exponnent: unknown key.*did you mean 'exponent'"),
        ("generator: zipf\nexponent: -1", r"my.yaml:2: exponent = -1"),
        ("exponent: 1", r"my.yaml.*routing is written as \{generator"),
        ("generator: trace\npath: /nowhere.npz", r"my.yaml:1: /nowhere.npz: no such routing trace"),
    ],
)
def test_wrong_settings_are_refused_with_file_and_line(text, reason):
    with pytest.raises(ConfigError, match=reason):
        build_routing(parse_yaml(text, "my.yaml"), **SHAPE)


@pytest.mark.parametrize(
    "change",
    [
        {"top_k": 17},
        {"top_k": 0},
        {"n_experts": 0},
        {"n_group": 3},
        {"n_group": 8, "topk_group": 1},
        {"n_group": 4, "topk_group": 5},
    ],
)
def test_impossible_shapes_are_refused(change):
    with pytest.raises(ConfigError):
        build_routing({"generator": "uniform"}, **SHAPE | change)
