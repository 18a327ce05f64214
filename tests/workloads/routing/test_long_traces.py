"""Traces longer than memory: mapped and unpacked ones are one and the same, in bounded memory."""

import json
import tracemalloc

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codesign.base.errors import ConfigError
from workloads.routing import read_trace, tables, write_trace, writing
from workloads.routing.files import trace_from_arrays
from workloads.routing.logs import drop_warm_up, read_log
from workloads.routing.replay import Replay
from workloads.routing.sequences import Sequences
from workloads.routing.stats import routing_stats
from workloads.routing.stream import RoutingShape

SHAPE = RoutingShape((0, 1, 3), 16, 3)


def recorded(tokens=5000, experts=16, seed=0, **more):
    rng = np.random.default_rng(seed)
    ids = np.argsort(rng.random((tokens, 3, experts)), axis=2)[:, :, :3].astype(np.int16)
    sequence = np.sort(rng.integers(0, 40, tokens)).astype(np.int32)
    gates = rng.random(ids.shape).astype(np.float32)
    about = {
        "num_experts": np.array(experts),
        "sequence": sequence,
        "domain": (sequence % 2).astype(np.int16),
    }
    return {"experts": ids, "gate_weights": gates, "domain_names": np.array(["a", "b"]), **about, **more}


def is_mapped(table):
    return tables._map_of(table) is not None


@pytest.fixture
def small_memory(monkeypatch):
    """Let everything above some KiB lie on disk, in few and small pages, in many blocks."""
    monkeypatch.setattr(tables, "IN_MEMORY_BYTES", 4096)
    monkeypatch.setattr(tables, "_PAGE_BYTES", 200)
    monkeypatch.setattr(tables, "_PAGES", 12)
    monkeypatch.setattr("workloads.routing.files._BLOCK_BYTES", 5000)
    monkeypatch.setattr("workloads.routing.files._COLUMN_ROWS", 700)
    monkeypatch.setattr("workloads.routing.trace._BLOCK_BYTES", 7000)
    monkeypatch.setattr(writing, "MAPPED_IDS", 100)


FORMS = {
    "stored": lambda path, arrays: np.savez(path.with_suffix(".npz"), **arrays),
    "packed": lambda path, arrays: np.savez_compressed(path.with_suffix(".npz"), **arrays),
    "int64": lambda path, a: np.savez(path.with_suffix(".npz"), **a | {"experts": a["experts"].astype(int)}),
    "int32": lambda path, a: np.savez(path.with_suffix(".npz"), **a | {"experts": a["experts"].astype("i4")}),
    "own": lambda path, a: write_trace(trace_from_arrays(a, "t"), path.with_suffix(".npz")),
    "parquet": lambda path, a: write_trace(trace_from_arrays(a, "t"), path.with_suffix(".parquet")),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_trace_on_disk_equals_one_in_memory(form, tmp_path, small_memory):
    arrays = recorded()
    FORMS[form](tmp_path / "t", arrays)
    trace, plain = read_trace(next(tmp_path.iterdir())), trace_from_arrays(arrays, "plain")
    assert is_mapped(trace.experts)
    assert is_mapped(trace.gates)
    for name in ("experts", "offsets", "domains", "gates"):
        np.testing.assert_array_equal(getattr(trace, name), getattr(plain, name))
    assert trace.gates.dtype == np.float32
    assert routing_stats(trace) == routing_stats(plain)
    chosen = trace.select([7, 3])
    np.testing.assert_array_equal(chosen.experts, plain.select([7, 3]).experts)
    np.testing.assert_array_equal(chosen.gates, plain.select([7, 3]).gates)


@pytest.mark.parametrize("adapt", [False, True])
def test_replay_of_a_mapped_trace_equals_replay_of_a_loaded_one(adapt, tmp_path, monkeypatch, small_memory):
    arrays, shape = recorded(), RoutingShape(tuple(range(5)), 9, 2) if adapt else SHAPE
    np.savez(tmp_path / "stored.npz", **arrays)
    np.savez_compressed(tmp_path / "packed.npz", **arrays)
    mapped = Replay(str(tmp_path / "stored.npz"), adapt).open(shape, 4)
    monkeypatch.setattr(tables, "IN_MEMORY_BYTES", 2**26)
    loaded = Replay(str(tmp_path / "packed.npz"), adapt).open(shape, 4)
    rng = np.random.default_rng(1)
    for spans in (1, 3, 300):
        what = rng.integers(0, 50, spans), rng.integers(0, 400, spans), rng.integers(0, 60, spans)
        np.testing.assert_array_equal(mapped.draw(*what), loaded.draw(*what))
        np.testing.assert_array_equal(mapped.gates(*what), loaded.gates(*what))
    assert mapped.gates(*what).shape == mapped.draw(*what).shape


def test_replayed_experts_and_weights_are_those_of_one_recorded_token(tmp_path):
    arrays = recorded()
    np.savez(tmp_path / "t.npz", **arrays)
    replay = Replay(str(tmp_path / "t.npz")).open(SHAPE, 0)
    what = np.arange(8), np.arange(8), np.ones(8, np.int64)
    for ids, gates in zip(replay.draw(*what), replay.gates(*what), strict=True):
        (row,) = np.flatnonzero((arrays["experts"] == ids).all(axis=(1, 2)))
        np.testing.assert_array_equal(arrays["gate_weights"][row], gates)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_rows_of_a_mapped_table_are_its_rows(data):
    rows, width = data.draw(st.integers(1, 300)), data.draw(st.integers(1, 40))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tables, "_PAGE_BYTES", data.draw(st.integers(1, 200)))
        patch.setattr(tables, "_PAGES", data.draw(st.integers(2, 9)))
        patch.setattr(tables, "IN_MEMORY_BYTES", 0)
        table = tables.empty_table(np.int16, (rows, width), "t")
        table[...] = np.arange(rows * width).reshape(rows, width)
        taken = tables.Rows(table)
        for _ in range(4):
            index = np.array(data.draw(st.lists(st.integers(0, rows - 1), max_size=60)), np.int64)
            np.testing.assert_array_equal(taken.take(index), table[index])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(-3, 4), min_size=1, max_size=60), st.integers(1, 9), st.integers(0, 5))
def test_sequences_are_gathered_as_by_sorting(numbers, step, kept):
    numbers = np.array(numbers)
    domain, found = np.arange(len(numbers)), Sequences()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("workloads.routing.sequences._RUNS", kept)
        for first in range(0, len(numbers), step):
            found.add(numbers[first : first + step], domain[first : first + step])
        found.close()
    runs = numbers[np.flatnonzero(np.diff(numbers, prepend=-9))]
    order = np.arange(len(numbers))
    if len(set(runs.tolist())) < len(runs):
        order = np.argsort(numbers, kind="stable")
    assert found.interleaved == (len(set(runs.tolist())) < len(runs))
    starts = np.flatnonzero(np.diff(numbers[order], prepend=-9))
    assert found.offsets.tolist() == [*starts.tolist(), len(numbers)]
    assert found.domains.tolist() == domain[order][starts].tolist()
    if found.interleaved:
        rows = found.placer()
        places = [rows(numbers[first : first + step]) for first in range(0, len(numbers), step)]
        np.testing.assert_array_equal(np.concatenate(places)[order], np.arange(len(numbers)))


@pytest.mark.parametrize("form", ["stored", "packed"])
def test_interleaved_sequences_are_put_in_order_on_disk_as_in_memory(form, tmp_path, small_memory):
    arrays = recorded(sequence=np.random.default_rng(2).integers(0, 40, 5000))
    FORMS[form](tmp_path / "t", arrays)
    trace = read_trace(tmp_path / "t.npz")
    order = np.argsort(arrays["sequence"], kind="stable")
    np.testing.assert_array_equal(trace.experts, arrays["experts"][order])
    np.testing.assert_array_equal(trace.gates, arrays["gate_weights"][order])
    assert trace.notes == ("sequences were interleaved; tokens were put in sequence order",)
    assert is_mapped(trace.experts)


def swap_a_byte(path, arrays, name, row):
    np.savez(path, **arrays)
    whole = bytearray(path.read_bytes())
    whole[whole.index(arrays[name][row].tobytes())] ^= 1
    path.write_bytes(whole)


def bad_gates(path, arrays):
    arrays["gate_weights"][4321, 2, 1] = np.nan
    np.savez(path, **arrays)


def short_gates(path, arrays):
    np.savez(path, **arrays | {"gate_weights": arrays["gate_weights"][1:]})


def bad_id(path, arrays):
    arrays["experts"][4321, 2, 1] = 16
    np.savez(path, **arrays)


def twice(path, arrays):
    arrays["experts"][4321, 2, 1] = arrays["experts"][4321, 2, 0]
    np.savez(path, **arrays)


def columns_first(path, arrays):
    np.savez(path, **arrays | {"experts": np.asfortranarray(arrays["experts"])})


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda p, a: swap_a_byte(p, a, "experts", 4000), "experts: truncated or damaged .*CRC"),
        (lambda p, a: swap_a_byte(p, a, "gate_weights", 4000), "gate_weights: truncated or damaged .*CRC"),
        (bad_id, r"experts\[4321, 2, 1\] = 16: must be -1 .. 15"),
        (twice, r"experts\[4321, 2\]: expert \d+ stands in slots 0 and 1"),
        (bad_gates, r"gate_weights\[4321, 2, 1\] = nan: must be finite"),
        (columns_first, "experts: lies in Fortran order"),
        (short_gates, r"gate_weights: is float32 \(4999, 3, 3\); must be uint8 or floats \(5000, 3, 3\)"),
    ],
)  # fmt: skip
def test_what_is_wrong_far_into_a_mapped_file_is_refused_before_it_is_used(
    spoil, reason, tmp_path, small_memory
):
    spoil(tmp_path / "t.npz", recorded())
    with pytest.raises(ConfigError, match=reason):
        Replay(str(tmp_path / "t.npz")).open(SHAPE, 0)


def test_a_file_may_be_written_over_itself(tmp_path, small_memory):
    np.savez(tmp_path / "t.npz", **recorded())
    trace = read_trace(tmp_path / "t.npz")
    whole = trace.experts.copy()
    write_trace(trace, tmp_path / "t.npz")
    np.testing.assert_array_equal(read_trace(tmp_path / "t.npz").experts, whole)
    assert [p.name for p in tmp_path.iterdir()] == ["t.npz"]


def test_warm_up_rows_of_a_mapped_file_are_dropped(tmp_path, small_memory):
    arrays = recorded()
    arrays["experts"][:500] = arrays["experts"][0]
    np.savez(tmp_path / "t.npz", **arrays)
    trace = drop_warm_up(read_trace(tmp_path / "t.npz"))
    np.testing.assert_array_equal(trace.experts, arrays["experts"][500:])
    np.testing.assert_array_equal(trace.gates, arrays["gate_weights"][500:])
    assert trace.offsets[-1] == 4500
    assert is_mapped(trace.experts)


@pytest.mark.parametrize("form", ["token", "layer"])
def test_the_lines_of_requests_that_are_served_together_alternate(form, tmp_path, monkeypatch, small_memory):
    monkeypatch.setattr("workloads.routing.logs._OPEN_TOKENS", 20)
    ids, lines = recorded(tokens=600)["experts"], []
    for token in range(200):
        batch = [(f"r{r}", ids[200 * r + token]) for r in range(3)]
        if form == "token":
            lines += [{"request_id": r, "experts": row.tolist()} for r, row in batch]
        else:
            lines += [
                {"request_id": r, "token": token, "layer": layer, "topk_ids": row[layer].tolist()}
                for layer in range(3) for r, row in batch
            ]  # fmt: skip
    (tmp_path / "log.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
    trace = read_log(tmp_path / "log.jsonl", n_experts=16)
    np.testing.assert_array_equal(trace.experts, ids)
    assert trace.lengths.tolist() == [200, 200, 200]


def test_memory_does_not_grow_with_a_stored_file(tmp_path, monkeypatch):
    monkeypatch.setattr("workloads.routing.files._BLOCK_BYTES", 2**18)
    monkeypatch.setattr("workloads.routing.files._COLUMN_ROWS", 2**12)
    monkeypatch.setattr(tables, "_PAGES", 16)
    held = []
    for tokens in (20_000, 200_000):
        arrays = recorded(tokens)
        np.savez(tmp_path / "t.npz", **arrays)
        tracemalloc.start()
        Replay(str(tmp_path / "t.npz")).open(SHAPE, 0)
        held.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert held[1] < 1.5 * held[0]


def test_what_a_stranger_brings_is_told_how_to_write_it(tmp_path):
    path, ids = tmp_path / "t.npz", recorded(2000)["experts"]
    np.savez(path, experts=ids)
    with pytest.raises(
        ConfigError, match="no number 'num_experts': write it into the file, or give --experts"
    ):
        read_trace(path)
    assert read_trace(path, 20).n_experts == 20
    np.savez(path, experts=ids.transpose(1, 0, 2), num_experts=16)
    with pytest.raises(ConfigError, match=r"2000 layers; the order is \[tokens, layers, k\]"):
        read_trace(path)
    table = pyarrow.table({"request_id": ["a"], "topk": [[1, 2]]})
    pyarrow.parquet.write_table(table, tmp_path / "t.parquet")
    with pytest.raises(
        ConfigError, match=r"it has the columns request_id, topk. Another recording is written"
    ):
        read_trace(tmp_path / "t.parquet")
