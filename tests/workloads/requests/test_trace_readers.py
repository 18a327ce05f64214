"""Readers of recorded request streams: every format, every kind of broken row, the shared traces whole."""

import gzip
import json
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from codesign.base.errors import ConfigError
from workloads.requests import Requests, build_requests
from workloads.requests.traces import read_trace

DATA = Path(__file__).parents[3] / "../shared/data/requests"
needs_data = pytest.mark.skipif(not DATA.exists(), reason="../shared/data is absent")

AZURE = "TIMESTAMP,ContextTokens,GeneratedTokens\n"
AZURE_ROWS = (
    "2023-11-16 18:17:03.9799600,4808,10\n2023-11-16 18:17:04.0319600,3180,8\n2023-11-16 18:17:05,110,27\n"
)
BURST = "Timestamp,Session ID,Elapsed time,Model,Request tokens,Response tokens,Total tokens,Log Type\n"


@pytest.fixture
def write(tmp_path):
    def _write(text, name="trace.csv"):
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return _write


def test_an_azure_file_counts_seconds_from_its_first_row(write):
    found = read_trace(write(AZURE + AZURE_ROWS))
    assert (found.format, found.timed) == ("azure", True)
    np.testing.assert_allclose(found.requests.arrival_s, [0, 0.052, 1.02004], rtol=0, atol=1e-9)
    assert found.requests.prompt_tokens.tolist() == [4808, 3180, 110]
    assert found.requests.output_tokens.tolist() == [10, 8, 27]


def test_the_zone_of_the_2024_traces_is_read(write):
    rows = "2024-05-10 00:00:00.009930+00:00,2162,5\n2024-05-10 00:00:00.017335+00:00,2399,6\n"
    found = read_trace(write(AZURE + rows)).requests
    np.testing.assert_allclose(found.arrival_s, [0, 0.007405], rtol=0, atol=1e-9)
    with pytest.raises(ConfigError, match=r"row 1 of the data.*UTC"):
        read_trace(write(AZURE + rows.replace("+00:00", "+05:30")))


@pytest.mark.parametrize(
    "header", [BURST, "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n"]
)
def test_a_burstgpt_file_drops_and_counts_its_failures(write, header):
    middle = ",s1,2.5" if "Session" in header else ""
    rows = [(5, 472, 18), (45, 1087, 0), (118, 417, 276)]
    body = "".join(f"{t}{middle},ChatGPT,{p},{o},{p + o},Conversation log\n" for t, p, o in rows)
    found = read_trace(write(header + body))
    assert found.format == "burstgpt"
    assert dict(found.requests.dropped) == {"no_output": 1}
    assert found.requests.arrival_s.tolist() == [0, 113]
    assert found.requests.output_tokens.tolist() == [18, 276]


def test_mooncake_lines_keep_their_prefix_blocks(write):
    rows = [
        {"timestamp": 0, "input_length": 1030, "output_length": 4, "hash_ids": [0, 1, 2]},
        {"timestamp": 250, "input_length": 600, "output_length": 7, "hash_ids": [0, 9]},
    ]
    found = read_trace(write("\n".join(map(json.dumps, rows)), "m.jsonl")).requests
    assert found.arrival_s.tolist() == [0, 0.25]
    assert found.block_tokens == 512
    assert [found.blocks(i).tolist() for i in range(2)] == [[0, 1, 2], [0, 9]]


@pytest.mark.parametrize(
    ("text", "prompts", "outputs"),
    [
        ("[[5, 7], [8, 9]]", [5, 8], [7, 9]),
        ('[{"prompt_tokens": 5, "output_tokens": 7}]', [5], [7]),
        ('{"prompt_len": 5, "output_len": 7}\n{"prompt_len": 6, "output_len": 1}\n', [5, 6], [7, 1]),
        ("[[[5, 7], [2, 3]]]", [5, 14], [7, 3]),
        ('[{"conversations": [{"length": 5}, {"length": 7}]}]', [5], [7]),
        ("5,7\n8,9\n", [5, 8], [7, 9]),
        ("prompt_tokens,output_tokens\n5,7\n", [5], [7]),
        (AZURE + "XXX,42,285\nXXX,19,82\n", [42, 19], [285, 82]),
    ],
)
def test_length_lists_have_no_times(write, text, prompts, outputs):
    found = read_trace(write(text, "lengths.json"))
    assert not found.timed
    assert found.requests.prompt_tokens.tolist() == prompts
    assert found.requests.output_tokens.tolist() == outputs


def test_our_own_csv_keeps_labels_and_its_origin_of_time(write):
    header = "arrival_s,prompt_tokens,output_tokens,tenant,domain\n"
    text = header + "1.5,10,2,a,code\n2.5,11,3,,chat\n3,12,4,a,code\n"
    found = read_trace(write(text)).requests
    assert found.arrival_s.tolist() == [1.5, 2.5, 3.0]
    assert found.tenant.tolist() == [0, -1, 0]
    assert found.tenant_names == ("a",)
    assert found.domain.tolist() == [0, 1, 0]
    assert found.domain_names == ("code", "chat")


def test_gzip_byte_order_mark_and_blank_lines_do_not_matter(write):
    plain = read_trace(write(AZURE + AZURE_ROWS)).requests
    odd = "\ufeff" + AZURE + "\n" + AZURE_ROWS.replace("\n", "\r\n\r\n")
    packed = read_trace(write(gzip.compress(odd.encode()), "t.csv.gz")).requests
    np.testing.assert_array_equal(packed.arrival_s, plain.arrival_s)
    np.testing.assert_array_equal(packed.prompt_tokens, plain.prompt_tokens)


def test_rows_out_of_order_are_sorted_and_noted(write):
    found = read_trace(write("arrival_s,prompt_tokens,output_tokens\n5,1,1\n2,2,2\n")).requests
    assert found.arrival_s.tolist() == [2, 5]
    assert found.prompt_tokens.tolist() == [2, 1]
    assert "sorted" in found.notes[0]


def test_skip_and_limit_take_a_stretch_that_starts_at_zero(write):
    found = build_requests({"trace": str(write(AZURE + AZURE_ROWS)), "skip": 1, "limit": 1}, seed=0)
    assert found.prompt_tokens.tolist() == [3180]
    assert found.arrival_s.tolist() == [0]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"", "is empty"),
        (b" \n\n", "is empty"),
        (AZURE, "no row"),
        (bytes(range(256)) * 8, "not a text file"),
        (b"abc\x00def", "null bytes"),
        (b"\x1f\x8b\x08garbage", "gzip"),
        (gzip.compress((AZURE + AZURE_ROWS).encode())[:-9], "gzip"),
        ("hello world\n1 2\n", "no trace format"),
        (AZURE + AZURE_ROWS + "2023-11-16 18:18:00,12\n", r":5: row has 2 cells"),
        (AZURE + AZURE_ROWS + "2023-11-16 18:18:00,twelve,3\n", r':5: row 4 of the data: .*"twelve"'),
        (AZURE + AZURE_ROWS + "2023-11-16 18:18:00,-12,3\n", "row 4 of the data"),
        (AZURE + AZURE_ROWS + "2023-11-16 18:18:00,nan,3\n", "row 4 of the data"),
        (AZURE + AZURE_ROWS + "2023-11-16 18:18:00,1.5,3\n", "row 4 of the data"),
        (AZURE + AZURE_ROWS + "2023-11-16 18:18:00,1e300,3\n", "row 4 of the data"),
        (AZURE + AZURE_ROWS + "the 16th,12,3\n", "row 4 of the data.*date"),
        (AZURE + AZURE_ROWS + ",12,3\n", "row 4 of the data.*date"),
        (AZURE.replace("Context", "Contxt") + AZURE_ROWS, "missing.*contxttokens"),
        ("arrival_s,prompt_tokens,output_tokens\n-1,2,3\n", "row 1 of the data: arrival_s"),
        ("arrival_s,prompt_tokens,output_tokens\ninf,2,3\n", "row 1 of the data: arrival_s"),
        ("arrival_s,prompt_tokens,output_tokens\n1,0,3\n2,5,0\n", "no request is left"),
        ('{"timestamp": 0, "input_length": 5}', "row 1 of the data: output_length.*missing"),
        (
            '{"timestamp": 0, "input_length": 5, "output_length": 2}\n{"tim',
            ":2: row 2 of the data: not valid JSON",
        ),
        ('{"timestamp": 0, "input_length": 5, "output_length": 2, "hash_ids": "x"}', "hash_ids"),
        ('{"timestamp": 0, "input_length": 5, "output_length": 2, "hash_ids": [1, 2, 3]}', "does not cover"),
        ("[[1, 2], [3]]", "row 2 of the data"),
        ("[]", "empty list"),
        ("[" * 100_000, "nested too deeply|not valid JSON"),
        ('[{"conversations": [{"value": "hello"}]}]', "turns with a length"),
    ],
)
def test_a_broken_file_is_refused_with_its_place_and_reason(write, text, said):
    path = write(text)
    with pytest.raises(ConfigError, match=said) as raised:
        read_trace(path)
    assert str(path) in str(raised.value)


def test_what_is_not_a_file_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="is a directory"):
        read_trace(tmp_path)
    with pytest.raises(ConfigError, match="no such trace file"):
        read_trace(tmp_path / "absent.csv")


@needs_data
@pytest.mark.parametrize(
    ("name", "rows", "prompt", "output"),
    [
        ("AzureLLMInferenceTrace_conv_2023_first60pct.csv.gz", 11619, 14680106, 2398716),
        ("AzureLLMInferenceTrace_code_2023_first60pct.csv.gz", 5291, None, None),
        ("mooncake_synthetic_trace.jsonl.gz", 3993, None, None),
        ("nanoflow_sharegpt_lengths.csv.gz", 58787, None, None),
    ],
)
def test_the_shared_traces_are_read_whole(name, rows, prompt, output):
    found = read_trace(DATA / name).requests
    assert len(found) == rows
    assert not found.dropped
    with gzip.open(DATA / name, "rt") as file:
        first = next(line for line in file if any(c.isdigit() for c in line))
    assert str(found.prompt_tokens[0]) in first
    assert str(found.output_tokens[0]) in first


@needs_data
def test_mooncake_blocks_cover_their_prompts():
    found = read_trace(DATA / "mooncake_synthetic_trace.jsonl.gz").requests
    blocks = np.diff(found.prefix_ptr)
    assert found.prompt_tokens.max() > 120_000
    assert (blocks * 512 > found.prompt_tokens - 512).all()


@needs_data
def test_reading_is_fast_and_small():
    path = DATA / "AzureLLMInferenceTrace_conv_2023_first60pct.csv.gz"
    seconds = []
    for _ in range(5):
        start = time.process_time()
        read_trace(path)
        seconds.append(time.process_time() - start)
    assert min(seconds) < 0.1
    tracemalloc.start()
    read_trace(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 30e6


def test_a_stream_refuses_what_no_stream_can_have():
    with pytest.raises(ConfigError, match="must ascend"):
        Requests([1.0, 0.5], [1, 1], [1, 1])
    with pytest.raises(ConfigError, match=r"output_tokens\[1\] = 0"):
        Requests([0.0, 0.5], [1, 1], [1, 0])
    with pytest.raises(ConfigError, match="shape"):
        Requests([0.0, 0.5], [1], [1, 2])
    with pytest.raises(ConfigError, match="finite"):
        Requests([0.0, np.nan], [1, 1], [1, 2])
