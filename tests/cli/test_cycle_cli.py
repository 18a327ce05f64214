"""`codesign cycle`: columns, errors, files."""

import csv
import json

import pytest
from click.testing import CliRunner

from codesign.base.errors import ConfigError
from codesign.cli.cycle import cycle

STREAMS = "cfg,channels,queue,refresh,mapping,kind,n,inject_frac\n"
OUT = ["ck", "bw_frac", "read_lat_mc_ck", "row_hits", "row_misses", "row_conflicts"]


def invoke(*words):
    result = CliRunner().invoke(cycle, [str(word) for word in words])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def rows(path):
    return list(csv.DictReader(path.read_text().splitlines()))


@pytest.fixture
def streams(tmp_path):
    path = tmp_path / "streams.csv"
    path.write_text(
        STREAMS
        + "HBM3_6400_16Gb_8hi,1,32,True,M1,seq,2000,max\nDDR4_3200AA_8Gb_x8,2,64,False,M2,mixrand,500,0.1\n"
    )
    return path


def test_dram_writes_the_columns_of_the_reference_data(tmp_path, streams):
    out = tmp_path / "out.csv"
    assert invoke("dram", streams, "-o", out).exit_code == 0
    table = rows(out)
    assert list(table[0]) == [*STREAMS.strip().split(","), *OUT]
    assert [row["kind"] for row in table] == ["seq", "mixrand"]
    assert float(table[0]["bw_frac"]) > 0.7
    assert int(table[0]["row_hits"]) + int(table[0]["row_misses"]) + int(table[0]["row_conflicts"]) == 2000


def test_dram_answers_json_and_the_same_twice(tmp_path, streams):
    first, second = (tmp_path / name for name in ("a.csv", "b.csv"))
    shown = json.loads(invoke("dram", streams, "-o", first, "--json").output)
    invoke("dram", streams, "-o", second)
    assert len(shown["rows"]) == 2
    assert first.read_bytes() == second.read_bytes()


def test_dram_takes_parts_from_a_table_of_timings(tmp_path, streams):
    timings = tmp_path / "t.csv"
    clocks = {
        "nBL": 4, "nCL": 22, "nRCD": 22, "nRP": 22, "nRAS": 52, "nRC": 74, "nWR": 24, "nRTP": 12, "nCWL": 16,
        "nCCDS": 4, "nCCDL": 8, "nRRDS": 4, "nRRDL": 8, "nWTRS": 4, "nWTRL": 12, "nFAW": 34, "nCS": 2,
        "nREFI": 12480, "nRFC": 576,
    }  # fmt: skip
    head = ",".join(["cfg", "geo_ch_pc_ra_bg_ba_ro_co", "tCK_ps", *clocks])
    values = ",".join(str(v) for v in clocks.values())
    timings.write_text(f'{head}\nDDR4_mine,"(1, 1, 1, 4, 4, 65536, 128)",625,{values}\n')
    table = tmp_path / "s.csv"
    table.write_text(
        STREAMS + "DDR4_mine,1,32,True,M1,seq,500,max\nDDR4_3200AA_8Gb_x8,1,32,True,M1,seq,500,max\n"
    )
    invoke("dram", table, "-o", tmp_path / "o.csv", "--timings", timings)
    mine, library = rows(tmp_path / "o.csv")
    assert [mine[name] for name in OUT] == [library[name] for name in OUT]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cfg,channels,queue,refresh,mapping,kinds,n,inject_frac\n", "no column 'kind'.*'kinds'"),
        (STREAMS + "HBM9_1,1,32,True,M1,seq,5,max\n", ":2: unknown DRAM part"),
        (STREAMS + "HBM3_6400_16Gb_8hi,1,32,True,M1,seq,5.5,max\n", ":2: n = '5.5'"),
        (STREAMS + "HBM3_6400_16Gb_8hi,1,32,True,M1,seq,5,fast\n", ":2: inject_frac"),
        (STREAMS + "HBM3_6400_16Gb_8hi,1,32,True,M1,sek,5,max\n", ":2: unknown kind of stream"),
        (STREAMS + "HBM3_6400_16Gb_8hi,1,0,True,M1,seq,5,max\n", ":2: queue = 0"),
        (STREAMS + "HBM3_6400_16Gb_8hi,1,nan,True,M1,seq,5,max\n", ":2: queue"),
    ],
)
def test_dram_refuses_what_is_wrong_with_file_and_line(tmp_path, text, message):
    path = tmp_path / "s.csv"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        invoke("dram", path, "-o", tmp_path / "o.csv")


def test_a_missing_file_or_folder_is_said(tmp_path, streams):
    with pytest.raises(ConfigError, match="no such"):
        invoke("dram", tmp_path / "none.csv", "-o", tmp_path / "o.csv")
    with pytest.raises(ConfigError, match="cannot be written"):
        invoke("dram", streams, "-o", tmp_path / "none" / "o.csv")


def test_pim_costs_products(tmp_path):
    shapes, out = tmp_path / "s.csv", tmp_path / "o.csv"
    shapes.write_text("unit,m,n,k\nhbm_pim,1,4096,4096\nduplex_logic,8,16384,4096\n")
    assert invoke("pim", shapes, "-o", out).exit_code == 0
    first, second = rows(out)
    assert float(first["flop"]) == 2 * 4096 * 4096
    assert float(second["flop_per_s"]) < 21.3e12
    assert float(first["energy_delay_area"]) > 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("unit,m,n\naim,1,2\n", "no column 'k'"), ("unit,m,n,k\naimm,1,2,3\n", ":2: unknown PIM unit.*'aim'"),
        ("unit,m,n,k\naim,0,2,3\n", ":2: m = 0"), ("unit,m,n,k\naim,1,two,3\n", ":2: n = 'two'"),
    ],
)  # fmt: skip
def test_pim_refuses_what_is_wrong(tmp_path, text, message):
    path = tmp_path / "s.csv"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        invoke("pim", path, "-o", tmp_path / "o.csv")


def test_gemm_counts_cycles_with_and_without_a_memory(tmp_path):
    shapes, out = tmp_path / "s.csv", tmp_path / "o.csv"
    shapes.write_text(
        "rows,columns,dataflow,m,n,k,bytes_per_cycle\n8,8,os,1,64,64,\n128,128,ws,1,4096,4096,32\n"
    )
    shown = invoke("gemm", shapes, "-o", out, "--json")
    assert json.loads(shown.output)["rows"][0]["cycles"] == 624
    first, second = rows(out)
    assert float(first["stall_cycles"]) == 0 < float(second["stall_cycles"])
    assert float(second["load_bytes"]) >= 2 * 4096 * 4096


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rows,columns,dataflow,m,n,k\n8,8,wz,1,1,1\n", ":2: unknown dataflow 'wz'"),
        ("rows,columns,dataflow,m,n,k\n0,8,ws,1,1,1\n", ":2: rows = 0"),
        ("rows,columns,dataflow,m,n,k,bytes_per_cycle\n8,8,ws,1,1,1,-3\n", ":2: bytes_per_cycle"),
    ],
)
def test_gemm_refuses_what_is_wrong(tmp_path, text, message):
    path = tmp_path / "s.csv"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        invoke("gemm", path, "-o", tmp_path / "o.csv")
