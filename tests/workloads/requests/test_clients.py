"""Streams as the sum of clients: renewal theory, the record's rates, the fitted mixes, broken files."""

from pathlib import Path

import numpy as np
import pytest
import yaml

from codesign.base.errors import ConfigError
from workloads.requests import build_requests
from workloads.requests.client_files import Frequencies, read_clients, read_length_frequencies
from workloads.requests.clients import ClientMix, Renewal
from workloads.requests.datasets import load_dataset
from workloads.requests.fit import fit_clients, write_dataset
from workloads.requests.stats import describe, fano_factor

DATA = Path(__file__).parents[3] / "../shared/data/requests"
needs_data = pytest.mark.skipif(not DATA.exists(), reason="../shared/data is absent")

HEADER = "client_id,window_start_s,rate_rps,interarrival_cv,family,param1,param2\n"
ROWS = "4,0,2,1,Gamma,1,0.5\n4,600,0.5,1,Gamma,1,2\n9,600,3,1,Weibull,1,0.3\n9,1800,3,1,Weibull,1,0.3\n"


@pytest.fixture
def record(tmp_path):
    (tmp_path / "clients.csv").write_text(HEADER + ROWS)
    np.savez(tmp_path / "lengths.npz", input=[[5, 1.0], [9, 3.0]], output=[[0, 1.0], [2, 1.0]])
    return tmp_path


FORM = {"clients": "clients.csv", "lengths": "lengths.npz", "count": 1000}


# one client


@pytest.mark.parametrize(
    ("family", "shape"), [("gamma", 0.3), ("gamma", 1.0), ("weibull", 0.5), ("weibull", 2.0)]
)
def test_gaps_have_mean_one_and_the_process_starts_as_if_it_had_always_run(family, shape):
    """E[events in t] = t at every t for a stationary renewal process (4 standard errors: 1 in 16,000)."""
    renewal = Renewal(family, shape)
    assert renewal.gaps(400_000, np.random.default_rng(0)).mean() == pytest.approx(1, rel=0.02)
    for work in (0.3, 3.0):
        counts = np.array([len(renewal.events(work, np.random.default_rng(i))) for i in range(3000)])
        assert abs(counts.mean() - work) < 4 * counts.std() / np.sqrt(len(counts))


def test_a_rate_is_the_sum_of_its_clients():
    mix = ClientMix(np.array([0.7, 0.3]), (Renewal("gamma", 0.5), Renewal("weibull", 0.8)))
    times, who = mix.draw(50_000, 4.0, np.random.default_rng(0))
    assert (np.diff(times) >= 0).all()
    assert len(times) / times[-1] == pytest.approx(4, rel=0.03)
    assert (who == 0).mean() == pytest.approx(0.7, abs=0.02)
    few, _ = mix.draw(100, 4.0, np.random.default_rng(0))
    np.testing.assert_array_equal(few, times[:100])


def test_many_regular_clients_are_poisson_together_and_one_alone_is_not():
    """The sum of many sparse independent streams tends to Poisson (Palm, Khinchin)."""
    many = ClientMix(np.full(200, 1 / 200), (Renewal("gamma", 4.0),) * 200)
    one = ClientMix(np.ones(1), (Renewal("gamma", 4.0),))
    found = [m.times(20_000, 1.0, np.random.default_rng(1)) for m in (many, one)]
    assert fano_factor(found[0], found[0][-1], 5.0) == pytest.approx(1, abs=0.1)
    assert fano_factor(found[1], found[1][-1], 100.0) == pytest.approx(0.25, rel=0.35)


# recorded clients


def test_a_record_is_read_with_its_windows(record):
    found = read_clients(record / "clients.csv")
    assert [client.id for client in found.clients] == [4, 9]
    assert (found.window_s, found.end_s) == (600, 2400)
    assert found.mean_rate_per_s == pytest.approx((2 + 0.5 + 3 + 3) * 600 / 2400)
    assert found.clients[1].expected(1200) == pytest.approx(1800)
    assert found.clients[1].expected(600) == 0


def test_requests_follow_the_rates_of_each_window(record):
    made = build_requests(FORM | {"count": 4500}, seed=1, base_dir=record)
    counts = np.histogram2d(made.tenant, made.arrival_s, [[-0.5, 0.5, 1.5], [0, 600, 1200, 1800, 2400]])[0]
    expected = np.array([[1200, 300, 0, 0], [0, 1800, 0, 1800]])
    assert (np.abs(counts - expected)[:, :3] <= 5 * np.sqrt(expected[:, :3])).all()
    assert made.tenant_names == ("client 4", "client 9")
    assert set(made.prompt_tokens) == {5, 9}
    assert set(made.output_tokens) == {1, 2}


def test_a_stream_may_start_later_at_another_rate(record):
    late = build_requests(FORM | {"start": "600 s"}, seed=1, base_dir=record)
    assert len(late) / late.duration_s == pytest.approx(3.5, rel=0.15)
    slow = build_requests(FORM | {"rate": "1 /s", "count": 900}, seed=1, base_dir=record)
    assert slow.duration_s > late.duration_s
    again = build_requests(FORM | {"count": 100, "rate": "1 /s"}, seed=1, base_dir=record)
    assert again.equals(slow[:100])
    np.testing.assert_array_equal(late.prompt_tokens[:900], slow.prompt_tokens)
    closed = build_requests(FORM | {"concurrency": 5}, seed=1, base_dir=record)
    assert not closed.arrival_s.any()
    mixed = build_requests(FORM | {"lengths": "azure-code-2023"}, seed=1, base_dir=record)
    assert mixed.prompt_tokens.max() > 1000


@pytest.mark.parametrize(
    ("form", "said"),
    [
        ({"count": 10**6}, "the clients send .* requests until their record ends"),
        ({"start": "1 h"}, "the record ends at 2400 s"),
        ({"lengths": "absent.npz"}, "no such file of lengths"),
        ({"clients": "absent.csv"}, "no such trace file"),
        ({"arrivals": "poisson"}, "arrivals"),
        ({"concurrency": 4, "rate": "5 /s"}, "exclude each other"),
    ],
)
def test_what_a_record_cannot_give_is_refused(record, form, said):
    with pytest.raises(ConfigError, match=said):
        build_requests(FORM | form, seed=1, base_dir=record)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a,b\n1,2\n", "is no table of clients"),
        (HEADER, "no row"),
        (HEADER + ROWS + "1,2\n", ":6: row has 2 cells"),
        (HEADER + ROWS + "x,0,2,1,Gamma,1,1\n", "row 5 of the data: client_id"),
        (HEADER + ROWS + "4,1200,-2,1,Gamma,1,1\n", "row 5 of the data: rate_rps"),
        (HEADER + ROWS + "4,1200,2,1,Pareto,1,1\n", "row 5 of the data: family"),
        (HEADER + ROWS + "4,600,2,1,Gamma,1,1\n", "occurs twice"),
        (HEADER + "1,0,0,1,Gamma,1,1\n", "no client sends"),
    ],
)
def test_a_broken_table_is_refused_with_its_row(tmp_path, text, said):
    (tmp_path / "c.csv").write_text(text)
    with pytest.raises(ConfigError, match=said):
        read_clients(tmp_path / "c.csv")


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"input": [[1, 2.0]]}, "needs the arrays"),
        ({"input": [1.0], "output": [[1, 1]]}, "shape"),
        ({"input": [[1, -2.0]], "output": [[1, 1]]}, "row 1"),
        ({"input": [[np.nan, 2.0]], "output": [[1, 1]]}, "row 1"),
        ({"input": [[1, 0.0]], "output": [[1, 1]]}, "frequency"),
        ({"input": [["a", "b"]], "output": [[1, 1]]}, "no readable"),
        ({"input": np.array([{}]), "output": [[1, 1]]}, "no readable"),
    ],
)
def test_broken_lengths_are_refused(tmp_path, arrays, said):
    np.savez(tmp_path / "l.npz", **arrays)
    with pytest.raises(ConfigError, match=said):
        read_length_frequencies(tmp_path / "l.npz")
    (tmp_path / "l.npz").write_bytes(b"PK\x03\x04junk")
    with pytest.raises(ConfigError, match="no readable"):
        read_length_frequencies(tmp_path / "l.npz")


def test_frequencies_invert_to_their_lengths():
    table = Frequencies(np.array([1.0, 5.0]), np.array([0.25, 1.0]))
    assert table.quantile(np.array([0.1, 0.25, 0.26, 0.99])).tolist() == [1, 1, 5, 5]


# the shipped mixes


@needs_data
@pytest.mark.parametrize("size", ["small", "mid"])
def test_a_shipped_mix_is_what_the_fit_gives(size, tmp_path):
    record = read_clients(DATA / f"servegen_language_m-{size}_client_rates.csv.gz")
    lengths = read_length_frequencies(DATA / f"servegen_language_m-{size}_length_pmf.npz")
    name = f"servegen-m-{size}"
    shipped = yaml.safe_load((Path(load_dataset.__code__.co_filename).parent / f"{name}.yaml").read_text())
    fitted = fit_clients(record, lengths, name=name, source=shipped["source"], note=shipped["note"])
    write_dataset(fitted, tmp_path / "again.yaml")
    assert yaml.safe_load((tmp_path / "again.yaml").read_text()) == shipped
    made = build_requests({"dataset": name, "count": 100_000, "batch": True}, seed=1)
    for tokens, table in zip((made.prompt_tokens, made.output_tokens), lengths, strict=True):
        shares = np.searchsorted(np.sort(tokens), table.tokens, side="right") / len(tokens)
        last = np.append(np.diff(table.tokens) > 0, True)  # of equal lengths, the last has the whole share
        assert np.abs(shares - table.cumulated)[last].max() < 0.015
    # the tail beyond the table's last quantile is thin, but long
    assert made.prompt_tokens.mean() == pytest.approx(
        np.diff(lengths[0].cumulated, prepend=0) @ lengths[0].tokens, rel=0.05
    )


def test_a_mix_tells_who_asks_and_is_as_bursty_as_its_clients():
    made = build_requests({"dataset": "servegen-m-mid", "count": 20_000, "rate": "6 /s"}, seed=1)
    told = describe(made)
    assert told["tenants"]["client 0"] == pytest.approx(0.52, abs=0.12)
    assert told["gaps"]["fano"]["10"] > 5
    few = build_requests({"dataset": "servegen-m-mid", "count": 50, "rate": "6 /s"}, seed=1)
    assert few.equals(made[:50])
    fast = build_requests({"dataset": "servegen-m-mid", "count": 50, "rate": "60 /s"}, seed=1)
    np.testing.assert_allclose(fast.arrival_s * 10, few.arrival_s)
