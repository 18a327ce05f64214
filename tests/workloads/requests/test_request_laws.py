"""Laws of drawn streams: lengths, arrivals, independence, and the datasets against their traces."""

import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import yaml

from codesign.base.document import parse_yaml
from codesign.base.errors import ConfigError
from workloads.requests import build_requests, read_settings
from workloads.requests.arrivals import ARRIVALS, Bursty, Mmpp, autoregress, weibull_shape
from workloads.requests.datasets import dataset_names, load_dataset
from workloads.requests.fit import fit_dataset, write_dataset
from workloads.requests.joint import GridCopula, balanced
from workloads.requests.lengths import LENGTHS, normal_cdf
from workloads.requests.traces import read_trace

DATA = Path(__file__).parents[3] / "../shared/data/requests"
needs_data = pytest.mark.skipif(not DATA.exists(), reason="../shared/data is absent")
TRACES = {
    "azure-conv-2023": "AzureLLMInferenceTrace_conv_2023_first60pct.csv.gz",
    "azure-code-2023": "AzureLLMInferenceTrace_code_2023_first60pct.csv.gz",
    "mooncake-synthetic": "mooncake_synthetic_trace.jsonl.gz",
    "sharegpt": "nanoflow_sharegpt_lengths.csv.gz",
}
TIMED = [name for name in TRACES if name != "sharegpt"]
PLAIN = {"count": 400, "prompt_tokens": 100, "output_tokens": 10, "rate": "5 /s"}


def trace(name):
    return read_trace(DATA / TRACES[name]).requests


def ks_distance(a, b):
    points = np.union1d(a, b)
    return max(abs(np.searchsorted(np.sort(a), points, "right") / len(a)
                   - np.searchsorted(np.sort(b), points, "right") / len(b)))  # fmt: skip


def spearman(a, b):
    return np.corrcoef(np.argsort(np.argsort(a)), np.argsort(np.argsort(b)))[0, 1]


def fano(times, span, window):
    counts = np.histogram(times, np.arange(0, span, window))[0]
    return counts.var() / counts.mean()


# the shipped datasets against what they describe


@needs_data
@pytest.mark.parametrize("name", TRACES)
@pytest.mark.parametrize("column", ["prompt_tokens", "output_tokens"])
def test_lengths_of_a_dataset_have_the_distribution_of_its_trace(name, column):
    drawn = build_requests({"dataset": name, "count": 200_000, "batch": True}, seed=3)
    real, made = getattr(trace(name), column), getattr(drawn, column)
    assert ks_distance(real, made) < 0.012
    assert made.mean() == pytest.approx(real.mean(), rel=0.03)
    assert made.max() <= real.max() * 1.001  # five digits are kept


@needs_data
@pytest.mark.parametrize("name", TRACES)
def test_prompt_and_output_are_drawn_together(name):
    real = trace(name)
    made = build_requests({"dataset": name, "count": len(real) * 3, "batch": True}, seed=4)
    assert spearman(made.prompt_tokens, made.output_tokens) == pytest.approx(
        spearman(real.prompt_tokens, real.output_tokens), abs=0.04
    )
    edges = np.quantile(real.prompt_tokens, [0, 0.25, 0.5, 0.75, 1])
    for low, high in pairwise(edges):
        means = [
            np.median(x.output_tokens[(x.prompt_tokens >= low) & (x.prompt_tokens <= high)])
            for x in (real, made)
        ]
        assert means[1] == pytest.approx(means[0], rel=0.12, abs=2)


@needs_data
@pytest.mark.parametrize("name", TIMED)
def test_gaps_of_a_dataset_have_rate_and_variation_of_its_trace(name):
    gaps = np.diff(trace(name).arrival_s)
    table = load_dataset(name)
    _, cv = table.arrivals.moments()
    assert table.rate == pytest.approx(1 / gaps.mean(), rel=1e-4)
    assert cv == pytest.approx(gaps.std() / gaps.mean(), rel=0.03)


def test_the_code_trace_is_bursty_and_the_conversation_is_not():
    assert load_dataset("azure-code-2023").arrivals.moments()[1] > 12
    assert load_dataset("azure-conv-2023").arrivals.moments()[1] < 1.2


@needs_data
@pytest.mark.parametrize(
    ("name", "windows"), [("azure-code-2023", (1, 10, 60)), ("azure-conv-2023", (1, 10, 60))]
)
def test_counts_over_windows_vary_as_in_the_trace(name, windows):
    """The trace's own Fano factor lies between the 5th and 95th percentile of 60 drawn streams."""
    real = trace(name)
    for window in windows:
        found = fano(real.arrival_s, real.duration_s, window)
        made = []
        for seed in range(60):
            drawn = build_requests({"dataset": name, "count": len(real)}, seed=seed)
            made.append(fano(drawn.arrival_s, real.duration_s, window))
        low, high = np.quantile(made, [0.05, 0.95])
        assert low <= found <= high, (window, found, low, high)


@needs_data
@pytest.mark.parametrize("name", TRACES)
def test_shipped_files_are_what_the_fit_gives(name, tmp_path):
    path = Path(load_dataset.__code__.co_filename).parent / f"{name}.yaml"
    shipped = yaml.safe_load(path.read_text())
    again = fit_dataset(trace(name), name=name, source=shipped["source"], note=shipped["note"])
    write_dataset(again, tmp_path / "again.yaml")
    assert yaml.safe_load((tmp_path / "again.yaml").read_text()) == shipped
    assert "source" in shipped


def test_a_fitted_file_is_a_dataset(tmp_path):
    drawn = build_requests(PLAIN | {"prompt_tokens": {"name": "uniform", "min": 5, "max": 50}}, seed=1)
    write_dataset(fit_dataset(drawn, name="mine", source="drawn here"), tmp_path / "mine.yaml")
    found = build_requests({"dataset": "mine.yaml", "count": 300}, seed=2, base_dir=tmp_path)
    assert found.name == "mine"
    assert found.prompt_tokens.min() >= 5
    assert found.prompt_tokens.max() <= 50
    with pytest.raises(ConfigError, match="too few"):
        fit_dataset(drawn[:10], name="x", source="y")


# randomness


FORMS = [
    PLAIN,
    PLAIN | {"arrivals": {"name": "bursty", "cv": 3.0, "correlation": 0.4}},
    PLAIN | {"arrivals": {"name": "gamma", "cv": 2.0}},
    PLAIN | {"arrivals": {"name": "weibull", "shape": 0.5}},
    PLAIN | {"arrivals": {"name": "mmpp", "burst": 10, "burst_time": "2 s"}},
    PLAIN | {"arrivals": {"name": "trace-like", "dataset": "azure-code-2023"}},
    PLAIN | {"arrivals": "constant"},
    *({"dataset": name, "count": 400, "rate": "5 /s"} for name in TRACES),
]


@pytest.mark.parametrize("form", FORMS)
def test_the_same_seed_gives_the_same_stream_and_another_another(form):
    assert build_requests(form, seed=1).equals(build_requests(form, seed=1))
    if form.get("arrivals") != "constant":
        assert not build_requests(form, seed=1).equals(build_requests(form, seed=2))


@pytest.mark.parametrize("form", [f for f in FORMS if "mmpp" not in str(f)])
def test_another_rate_scales_the_times_and_nothing_else(form):
    slow, fast = (build_requests(form | {"rate": rate}, seed=1) for rate in ("2 /s", "8 /s"))
    np.testing.assert_array_equal(slow.prompt_tokens, fast.prompt_tokens)
    np.testing.assert_array_equal(slow.output_tokens, fast.output_tokens)
    np.testing.assert_allclose(slow.arrival_s, fast.arrival_s * 4, rtol=1e-12)


@pytest.mark.parametrize("form", FORMS)
def test_the_first_requests_do_not_depend_on_how_many_follow(form):
    few, many = build_requests(form | {"count": 50}, seed=1), build_requests(form | {"count": 400}, seed=1)
    assert few.equals(many[:50])


def test_another_arrival_process_or_output_changes_no_other_draw():
    lengths = {"prompt_tokens": {"name": "lognormal", "median": 90, "sigma": 1}}
    one = build_requests(PLAIN | lengths, seed=1)
    two = build_requests(PLAIN | lengths | {"output_tokens": {"name": "uniform", "min": 1, "max": 9}}, seed=1)
    three = build_requests(PLAIN | lengths | {"arrivals": {"name": "gamma", "cv": 3.0}}, seed=1)
    np.testing.assert_array_equal(one.prompt_tokens, two.prompt_tokens)
    np.testing.assert_array_equal(one.arrival_s, two.arrival_s)
    np.testing.assert_array_equal(one.prompt_tokens, three.prompt_tokens)


# arrival processes


@pytest.mark.parametrize(
    ("arrivals", "cv"),
    [
        ("poisson", 1.0), ("constant", 0.0), ({"name": "gamma", "cv": 2.5}, 2.5),
        ({"name": "weibull", "shape": 1.0}, 1.0), ({"name": "bursty", "cv": 2.5}, 2.5),
        ({"name": "bursty", "cv": 2.5, "correlation": 0.3, "memory": 20.0}, 2.5),
    ],
)  # fmt: skip
def test_gaps_have_the_mean_and_variation_that_were_asked_for(arrivals, cv):
    made = build_requests(PLAIN | {"count": 300_000, "arrivals": arrivals}, seed=5)
    gaps = np.diff(made.arrival_s)
    assert gaps.mean() == pytest.approx(1 / 5, rel=0.03)
    assert gaps.std() / gaps.mean() == pytest.approx(cv, rel=0.04, abs=1e-6)


def test_correlation_makes_bursts_last():
    independent = Bursty(2.0).times(200_000, 1.0, np.random.default_rng(0))
    lasting = Bursty(2.0, 0.4, 100.0).times(200_000, 1.0, np.random.default_rng(0))
    assert fano(independent, independent[-1], 200) == pytest.approx(4.0, rel=0.25)  # cv^2: renewal theory
    assert fano(lasting, lasting[-1], 200) > 3 * fano(independent, independent[-1], 200)


def test_an_mmpp_keeps_its_mean_rate():
    times = Mmpp(burst=20, burst_time=5.0, burst_share=0.1).times(200_000, 7.0, np.random.default_rng(0))
    assert (np.diff(times) >= 0).all()
    assert len(times) / times[-1] == pytest.approx(7.0, rel=0.1)
    assert fano(times, times[-1], 1.0) > 2


@pytest.mark.parametrize("name", ["batch", "constant", "poisson"])
@pytest.mark.parametrize("n", [0, 1, 7])
def test_any_number_of_times_ascends_from_zero(name, n):
    times = ARRIVALS.get(name)().times(n, 3.0, np.random.default_rng(0))
    assert times.shape == (n,)
    assert (np.diff(times) >= 0).all()
    assert (times >= 0).all()


@pytest.mark.parametrize("n", [0, 1, 5, 999])
@pytest.mark.parametrize("memory", [0.5, 3.0, 400.0])
def test_blocks_of_the_autoregression_give_the_plain_recursion(n, memory):
    white, rho, x = np.random.default_rng(1).standard_normal(n), float(np.exp(-1 / memory)), 0.0
    plain = [x := rho * x + w for w in white]
    np.testing.assert_allclose(autoregress(white, rho), plain, rtol=0, atol=1e-7)


@pytest.mark.parametrize("cv", [0.1, 1.0, 3.0, 13.0])
def test_the_weibull_shape_gives_its_variation(cv):
    from math import gamma

    shape = weibull_shape(cv)
    assert gamma(1 + 2 / shape) / gamma(1 + 1 / shape) ** 2 - 1 == pytest.approx(cv**2, rel=1e-6)


# lengths


@pytest.mark.parametrize(
    ("settings", "mean", "low", "high"),
    [
        (512, 512, 512, 512),
        ({"name": "fixed", "value": 9}, 9, 9, 9),
        ({"name": "uniform", "min": 3, "max": 5}, 4, 3, 5),
        ({"name": "normal", "mean": 100, "std": 10}, 100, 40, 160),
        ({"name": "lognormal", "median": 100, "sigma": 0.5, "max": 900}, 113.3, 5, 900),
        ({"name": "zipf", "theta": 0.0, "min": 1, "max": 9}, 5, 1, 9),
        ({"name": "quantiles", "levels": {0: 10, 0.5: 20, 1: 40}}, 22.5, 10, 40),
    ],
)
def test_a_distribution_has_its_mean_and_bounds(settings, mean, low, high):
    made = build_requests(PLAIN | {"count": 100_000, "prompt_tokens": settings}, seed=6).prompt_tokens
    assert made.mean() == pytest.approx(mean, rel=0.01)
    assert low <= made.min()
    assert made.max() <= high


@pytest.mark.parametrize("asked", [-1.0, -0.4, 0.0, 0.7, 1.0])
def test_the_rank_correlation_is_the_one_asked_for(asked):
    normal = {"name": "normal", "mean": 10_000, "std": 1_000}
    form = PLAIN | {"count": 50_000, "prompt_tokens": normal, "output_tokens": normal, "correlation": asked}
    made = build_requests(form, seed=7)
    assert spearman(made.prompt_tokens, made.output_tokens) == pytest.approx(asked, abs=0.02)


def test_every_distribution_is_monotone():
    u = np.linspace(0.0001, 0.9999, 500)
    settings = {
        "fixed": {"value": 3}, "uniform": {"min": 1, "max": 9}, "normal": {"mean": 9, "std": 3},
        "lognormal": {"median": 9, "sigma": 1}, "zipf": {"theta": 1.1, "min": 1, "max": 99},
        "quantiles": {"levels": {0: 1, 1: 9}},
    }  # fmt: skip
    assert sorted(settings) == LENGTHS.names()
    for name, values in settings.items():
        built = LENGTHS.build(parse_yaml(str({"name": name} | values), "x"))
        assert (np.diff(built.quantile(u)) >= 0).all()


def test_a_grid_copula_keeps_both_ranks_uniform():
    rng = np.random.default_rng(0)
    grid = GridCopula(balanced(rng.integers(0, 50, (6, 6)).astype(float)))
    ranks = grid.output_rank(rng.random(60_000), rng.random(60_000))
    assert ks_distance(ranks, (np.arange(60_000) + 0.5) / 60_000) < 0.01


def test_the_table_of_the_normal_distribution_is_close():
    from scipy.special import ndtr

    z = np.linspace(-9, 9, 100_001)
    assert np.abs(normal_cdf(z) - ndtr(z)).max() < 1e-6


# forms


def test_a_closed_loop_and_a_batch_start_at_zero():
    closed = build_requests({"dataset": "sharegpt", "count": 9, "concurrency": 4}, seed=1)
    assert closed.concurrency == 4
    assert not closed.arrival_s.any()
    for way in ({"batch": True}, {"arrivals": "batch"}):
        made = build_requests({"dataset": "azure-conv-2023", "count": 9} | way, seed=1)
        assert made.concurrency is None
        assert not made.arrival_s.any()


@needs_data
def test_a_trace_is_scaled_retimed_or_held_back():
    path = {"trace": TRACES["azure-conv-2023"], "limit": 500}

    def made(**more):
        return build_requests(path | more, seed=1, base_dir=DATA)

    plain = made()
    np.testing.assert_allclose(made(speedup=2).arrival_s * 2, plain.arrival_s)
    np.testing.assert_allclose(made(time_scale=3).arrival_s, plain.arrival_s * 3)
    assert 499 / made(rate="40 /s").duration_s == pytest.approx(40)
    assert np.diff(made(rate="40 /s", arrivals="constant").arrival_s) == pytest.approx(1 / 40)
    assert made(concurrency=8).concurrency == 8
    assert not made(batch=True).arrival_s.any()
    for other in (made(speedup=2), made(rate="40 /s", arrivals="poisson"), made(concurrency=8)):
        np.testing.assert_array_equal(other.prompt_tokens, plain.prompt_tokens)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("dataset: azure-con\ncount: 5", "x.yaml:1: dataset: unknown dataset 'azure-con'.*azure-conv-2023"),
        ("dataset: azure-conv-2023\ncuont: 5", "x.yaml:2: cuont: unknown key.*'count'"),
        ("dataset: azure-conv-2023\ncount: 0", "count = 0"),
        ("dataset: azure-conv-2023\ncount: 2.5", "count = 2.5"),
        ("dataset: azure-conv-2023\ncount: true", "whole number"),
        ("dataset: sharegpt\ncount: 5", "rate: is required"),
        ("dataset: azure-conv-2023\ncount: 5\nrate: 6", "rate = 6: has no unit"),
        ("dataset: azure-conv-2023\ncount: 5\nrate: -6 /s", "rate"),
        ("dataset: azure-conv-2023\ncount: 5\nrate: 6 B/s", "rate"),
        ("dataset: azure-conv-2023\ncount: 5\nrate: 1e-300 /s", "centuries"),
        ("dataset: azure-conv-2023\ncount: 5\nconcurrency: 4\nbatch: true", "exclude each other"),
        ("dataset: azure-conv-2023\ncount: 5\nconcurrency: 4\nrate: 5 /s", "exclude each other"),
        ("dataset: azure-conv-2023\ncount: 5\narrivals: batch\nrate: 5 /s", "rate: has no meaning"),
        ("dataset: azure-conv-2023\ncount: 5\narrivals: poison", "x.yaml:3: .*'poisson'"),
        ("dataset: azure-conv-2023\ncount: 5\narrivals: {name: gamma, cv: -1}", "x.yaml:3: arrivals.cv = -1"),
        ("dataset: nowhere.yaml\ncount: 5", "no such dataset file"),
        ("trace: nowhere.csv", "x.yaml:1: trace: nowhere.csv: no such trace file"),
        ("trace: azure-conv-2023.csv", "did you mean dataset: azure-conv-2023"),
        ("trace: a.csv\nspeedup: 2\ntime_scale: 2", "exclude each other"),
        ("trace: a.csv\nformat: azur", "did you mean 'azure'"),
        ("count: 5\nprompt_tokens: 10\nrate: 5 /s", "output_tokens: is required"),
        ("count: 5\nprompt_tokens: 10\noutput_tokens: 5", "rate: is required"),
        ("count: 5\nprompt_tokens: 10\noutput_tokens: 0\nrate: 5 /s", "output_tokens|value = 0"),
        ("count: 5\nprompt_tokens: [1]\noutput_tokens: 5\nrate: 5 /s", "prompt_tokens.*number of tokens"),
        ("count: 5\nprompt_tokens: {name: uniform, min: 9, max: 3}\noutput_tokens: 5\nrate: 5 /s", "min = 9"),
        ("- 5", "is written as"),
    ],
)
def test_wrong_settings_are_refused_with_their_place(text, said):
    with pytest.raises(ConfigError, match=said):
        build_requests(parse_yaml(text, "x.yaml"), seed=1)


def test_settings_are_checked_without_work():
    settings = read_settings({"trace": "absent.csv", "rate": "5 /s"})
    assert settings.rate_per_s == 5
    with pytest.raises(ConfigError):
        read_settings({"trace": "absent.csv", "rate": "5"})
    with pytest.raises(ConfigError, match="azure-conv-2023"):
        read_settings({"dataset": "azure-con", "count": 5})


def test_a_million_requests_are_drawn_within_a_second():
    build_requests({"dataset": "azure-code-2023", "count": 10}, seed=1)
    for form in ({"dataset": "azure-code-2023", "count": 1_000_000}, PLAIN | {"count": 1_000_000}):
        start = time.process_time()
        build_requests(form, seed=1)
        assert time.process_time() - start < 1.0


def test_every_shipped_dataset_is_tested_here():
    assert list(dataset_names()) == sorted([*TRACES, "servegen-m-mid", "servegen-m-small"])
