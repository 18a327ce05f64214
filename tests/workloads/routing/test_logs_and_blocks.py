"""Router logs, files in blocks, fit files: what is read back, and what is refused."""

import json
from base64 import b64encode

import numpy as np
import pyarrow
import pytest

from codesign.base.errors import ConfigError
from workloads.routing import build_routing, read_trace, tables
from workloads.routing.files import trace_from_arrays
from workloads.routing.fits import Fit, presets, read_fit, read_preset, write_fit
from workloads.routing.generate import generate, header_of
from workloads.routing.latent import LatentModel, LayerLaw
from workloads.routing.logs import drop_warm_up, read_log
from workloads.routing.parquet import ParquetSource
from workloads.routing.trace import Block, Header
from workloads.routing.transfer import read_histogram
from workloads.routing.writing import write_blocks

RNG = np.random.default_rng(3)
IDS = np.argsort(RNG.random((40, 2, 8)), axis=2)[:, :, :3]


def lines(path, records):
    path.write_text("\n".join(json.dumps(r) for r in records) + "\n")
    return path


def small_fit():
    laws = (LayerLaw(0.5, 0.8, 0.4, 0.9, 0.9, 0.4), LayerLaw(0.5, 0.8, 0.4, 0.9, 0.9, 0.4, 1.2, 0.7))
    rng = np.random.default_rng(0)
    popularity = rng.standard_normal((2, 8)).astype(np.float32)
    coupling = rng.standard_normal((2, 8, 8)).astype(np.float32)
    model = LatentModel(laws, popularity, coupling, 3, 2)
    return Fit(model, "small", "a test", lengths=(5, 20, 300), domains={"a": 0.3, "b": 0.7})


@pytest.mark.parametrize("form", ["response", "choices", "base64", "token", "layer"])
def test_every_form_of_log_gives_the_same_trace(form, tmp_path):
    parts = {"r1": IDS[:25], "r2": IDS[25:]}
    if form == "response":
        records = [
            {"prompt_routed_experts": p[:5].tolist(), "routed_experts": p[5:].tolist()}
            for p in parts.values()
        ]
    elif form == "choices":
        records = [{"choices": [{"routed_experts": p.tolist()}]} for p in parts.values()]
    elif form == "base64":
        text = [b64encode(p.astype(np.int32).tobytes()).decode() for p in parts.values()]
        records = [{"meta_info": {"routed_experts": t}} for t in text]
    elif form == "token":
        records = [{"request_id": r, "experts": row.tolist()} for r, p in parts.items() for row in p]
    else:
        records = [
            {"request_id": r, "token": t, "layer": layer, "topk_ids": p[t, layer].tolist()}
            for r, p in parts.items() for layer in (1, 0) for t in reversed(range(len(p)))
        ]  # fmt: skip
    trace = read_log(lines(tmp_path / "log.jsonl", records), n_experts=8, layers=2, top_k=3)
    np.testing.assert_array_equal(trace.experts, IDS)
    assert trace.lengths.tolist() == [25, 15]
    assert trace.n_experts == 8


def test_warm_up_rows_are_dropped_and_counted(tmp_path):
    warm = np.broadcast_to(IDS[:1], (100, 2, 3))
    records = [{"request_id": "w", "experts": row.tolist()} for row in warm[:99]]
    records += [{"request_id": "r", "experts": row.tolist()} for row in IDS]
    trace = read_log(lines(tmp_path / "log.jsonl", records), n_experts=8)
    np.testing.assert_array_equal(trace.experts, IDS[1:])
    assert trace.notes == ("dropped 100 identical warm-up rows",)
    assert trace.lengths.tolist() == [39]
    few = trace_from_arrays({"experts": IDS, "num_experts": np.array(8)}, "t")
    assert drop_warm_up(few) is few


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", r"log.jsonl:1: not valid JSON"),
        ("[1]", r"log.jsonl:1: each line is a JSON object"),
        ('{"a": 1}', r"log.jsonl:1: has none of routed_experts, experts, layer"),
        ("", r"holds no routing"),
        ('{"routed_experts": [[1, 2]]}', r"must be \[tokens\]\[layers\]\[k\]"),
        ('{"routed_experts": [[[1, 2], [1]]]}', r"lists of equal length"),
        ('{"routed_experts": "AAAA"}', r"layers and top_k must be given"),
        (
            '{"experts": [[0, 1]]}\n{"experts": [[0, 1], [2, 3]]}',
            r"log.jsonl:2: \[2, 2\] experts, the lines before",
        ),
        ('{"layer": 0, "topk_ids": [1]}', r"needs whole numbers 'layer', 'token'"),
        ('{"experts": [[3, 3]]}', r"expert 3 stands in slots 0 and 1"),
        (
            '{"token": 0, "layer": 0, "topk_ids": [1]}\n{"token": 1, "layer": 1, "topk_ids": [1]}',
            "has no layer 1",
        ),
        ("\n".join(['{"experts": [[3, 1]]}'] * 30), "all rows are identical"),
    ],
)
def test_a_wrong_log_is_refused_with_its_line(text, reason, tmp_path):
    (tmp_path / "log.jsonl").write_text(text)
    with pytest.raises(ConfigError, match=reason):
        read_log(tmp_path / "log.jsonl")


@pytest.mark.parametrize("suffix", [".npz", ".parquet"])
def test_blocks_come_back_as_written_and_as_a_trace(suffix, tmp_path):
    path, header = tmp_path / f"t{suffix}", Header(8, 3, (1, 3), ("x", "y"), "m", "p")
    sequence, domain = np.repeat([0, 1], [25, 15]), np.repeat([1, 0], [25, 15])
    cut = [Block(IDS[a:b].astype(np.int16), sequence[a:b], domain[a:b]) for a, b in ((0, 7), (7, 40))]
    write_blocks(path, header, 40, iter(cut))
    trace = read_trace(path)
    rows = list(trace.blocks(tokens=9))
    assert trace.header == header
    assert len(rows) == 5
    np.testing.assert_array_equal(np.concatenate([b.experts for b in rows]), IDS)
    np.testing.assert_array_equal(np.concatenate([b.sequence for b in rows]), sequence)
    np.testing.assert_array_equal(np.concatenate([b.domain for b in rows]), domain)
    np.testing.assert_array_equal(trace.experts, IDS)
    assert (trace.layer_ids, trace.domain_names, trace.model) == ((1, 3), ("x", "y"), "m")


def test_a_truncated_block_file_is_refused(tmp_path):
    path = tmp_path / "t.npz"
    write_blocks(
        path, Header(8, 3, (0, 1)), 40, iter([Block(IDS.astype(np.int16), *np.zeros((2, 40), np.int64))])
    )
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ConfigError, match=r"t\.npz"):
        read_trace(path)


def test_a_longer_stream_begins_with_a_shorter_one_and_blocks_change_nothing(monkeypatch):
    fit = small_fit()
    short = np.concatenate([b.experts for b in generate(fit, 700, seed=4)])
    monkeypatch.setattr("workloads.routing.generate._BLOCK_IDS", 60)
    blocks = list(generate(fit, 1000, seed=4))
    assert len(blocks) == 100
    np.testing.assert_array_equal(np.concatenate([b.experts for b in blocks])[:700], short)
    sequence = np.concatenate([b.sequence for b in blocks])
    assert (np.diff(sequence) >= 0).all()
    assert header_of(fit, 4).domain_names == ("a", "b")


def test_a_fit_comes_back_as_written(tmp_path):
    fit = small_fit()
    write_fit(fit, tmp_path / "f.json")
    back = read_fit(tmp_path / "f.json")
    assert back.model.laws == fit.model.laws
    np.testing.assert_allclose(back.model.popularity, fit.model.popularity, atol=6e-4)
    np.testing.assert_allclose(back.model.coupling, fit.model.coupling, atol=0.02)
    assert (back.lengths, back.domains, back.name) == (fit.lengths, fit.domains, fit.name)


SPOILT = [
    (lambda d: d.pop("shape"), "shape: is required"),
    (lambda d: d.update(lwas=1), "lwas.*did you mean 'laws'"),
    (lambda d: d["shape"].update(top_k=9), "shape: top_k = 9"),
    (lambda d: d["shape"].update(layers=3), "popularity: must be 3 rows of 8"),
    (lambda d: d["laws"].update(slow_rho=[1.5, 0]), r"laws.slow_rho: 1.5 must be between 0 and 1"),
    (lambda d: d["laws"].pop("fast"), "laws.fast: needs 2 numbers"),
    (lambda d: d["pull"].update(data="$$"), "not valid base64"),
    (lambda d: d["pull"].update(data="AAAA"), "pull.data: holds 3 numbers"),
    (lambda d: d.update(domains={}), "must not be empty"),
    (lambda d: d.update(version=2), "version = 2"),
]


@pytest.mark.parametrize(("spoil", "reason"), SPOILT)
def test_a_wrong_fit_is_refused_with_its_key(spoil, reason, tmp_path):
    write_fit(small_fit(), tmp_path / "f.json")
    data = json.loads((tmp_path / "f.json").read_text())
    spoil(data)
    (tmp_path / "f.json").write_text(json.dumps(data))
    with pytest.raises(ConfigError, match=reason):
        read_fit(tmp_path / "f.json")


def test_a_fit_of_another_shape_is_refused_unless_adapted(tmp_path):
    write_fit(small_fit(), tmp_path / "f.json")
    shape = {"moe_layers": range(5), "n_experts": 16, "top_k": 4, "n_group": 4, "topk_group": 2}
    settings = {"generator": "fit", "path": str(tmp_path / "f.json")}
    with pytest.raises(ConfigError, match=r"has 2 layers of 8 experts, top-3.*the model has 5 of 16, top-4"):
        build_routing(settings, **shape)
    stream = build_routing(settings | {"adapt": True}, **shape)
    ids = stream.draw(np.arange(3), np.zeros(3, np.int64), np.full(3, 9))
    assert ids.shape == (27, 5, 4)
    assert len({tuple(np.sort(row)) for row in ids[:, 1]}) > 1


def test_presets_say_where_they_come_from():
    for name in presets():
        fit = read_preset(name)
        assert fit.source
        assert fit.extrapolated == ("deepseek" in name)
    with pytest.raises(ConfigError, match="unknown routing preset"):
        read_preset("gpt-os-20b")


def test_a_recorded_expert_distribution_is_a_histogram(tmp_path):
    path = tmp_path / "counts.csv"
    path.write_text("layer_id,expert_id,count\n3,0,10\n3,1,30\n5,1,7\n5,0,1\n5,0,2\n")
    found = read_histogram(path)
    assert found.counts.tolist() == [[[10, 30], [3, 7]]]
    assert found.layers == (3, 5)
    for text, reason in (
        ("a,b\n", "csv:1: a histogram has the columns"),
        ("layer_id,expert_id,count\n1,x,3\n", "csv:2: .*three whole numbers"),
        ("layer_id,expert_id,count\n", "holds no counts"),
    ):
        path.write_text(text)
        with pytest.raises(ConfigError, match=reason):
            read_histogram(path)


def test_reading_a_longer_parquet_file_takes_no_more_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "IN_MEMORY_BYTES", 2**20)
    path, tokens = tmp_path / "long.parquet", 4096
    ids = np.argsort(np.random.default_rng(1).random((tokens, 4, 8)), axis=2)[:, :, :2].astype(np.int16)
    one, held = Block(ids, np.zeros(tokens, np.int64), np.zeros(tokens, np.int64)), []
    for groups in (40, 160):
        write_blocks(path, Header(8, 2, (0, 1, 2, 3)), tokens * groups, (one for _ in range(groups)))
        source = ParquetSource(path)
        held.append(max(pyarrow.total_allocated_bytes() for _ in source.column("experts", tokens)))
        np.testing.assert_array_equal(read_trace(path).experts[-tokens:], ids)
    assert held[1] <= 1.1 * held[0]
