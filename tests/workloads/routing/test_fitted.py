"""Fitted streams look to hardware like what they were fitted on: the figures that the project promises."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from codesign.base.errors import ConfigError
from workloads.routing import RoutingTrace, build_routing, read_trace, set_domain
from workloads.routing.fits import Fit, presets, read_preset
from workloads.routing.fitting import fit_of_trace, fit_trace
from workloads.routing.generate import generate
from workloads.routing.stats import RoutingStats, routing_stats
from workloads.routing.transfer import Histogram, domain_spread, fit_histogram, log_shares, simulated_counts

RECORDED = Path("../shared/data/routing/gptoss_20b_decode_trace.npz")
needs_data = pytest.mark.skipif(not RECORDED.exists(), reason="../shared/data is absent")


def drawn_stats(fit: Fit, tokens: int, seed: int):
    shape = fit.shape()
    stats = RoutingStats(shape.n_layers, shape.n_experts, shape.top_k)
    for block in generate(fit, tokens, seed):
        stats.add(block.experts, block.sequence)
    return stats.summary()


def assert_alike(found, recorded):
    """The promised figures: reuse rmse .02, LRU .05, active experts 7 %, Gini .04, affinity .05."""
    overlap = [found["overlap"][lag] - recorded["overlap"][lag] for lag in recorded["overlap"]]
    assert np.sqrt(np.mean(np.square(overlap))) <= 0.02
    for share, hit in recorded["lru_hit"].items():
        assert found["lru_hit"][share] == pytest.approx(hit, abs=0.05)
    for kind, batches in recorded["active_experts"].items():
        for size, active in batches.items():
            assert found["active_experts"][kind][size] == pytest.approx(active, rel=0.07)
    assert found["gini"]["mean"] == pytest.approx(recorded["gini"]["mean"], abs=0.04)
    for name in ("mutual_information_ratio", "set_hit"):
        assert found["affinity"][name] == pytest.approx(recorded["affinity"][name], abs=0.05)


@needs_data
def test_the_shipped_fit_looks_like_its_trace():
    recorded = routing_stats(read_trace(RECORDED))
    assert_alike(drawn_stats(read_preset("gpt-oss-20b"), recorded["tokens"], seed=11), recorded)


@needs_data
@pytest.mark.slow
def test_a_fit_of_half_the_requests_looks_like_the_other_half():
    trace = read_trace(RECORDED)
    order = np.random.default_rng(5).permutation(len(trace.lengths))
    half = len(order) // 2
    fit = fit_of_trace(trace.select(np.sort(order[:half])), "one half", iterations=7)
    recorded = routing_stats(trace.select(np.sort(order[half:])))
    assert_alike(drawn_stats(fit, recorded["tokens"], seed=1), recorded)


def made_trace(tokens=3000, **settings):
    stream = build_routing(
        {"generator": "synthetic", **settings}, moe_layers=range(3), n_experts=12, top_k=2, seed=9
    )
    n = tokens // 100
    ids = stream.draw(np.arange(n), np.zeros(n, np.int64), np.full(n, 100))
    return RoutingTrace(ids, np.arange(0, tokens + 1, 100), 12, np.arange(n) % 2, ("a", "b"))


def test_a_fit_follows_the_locality_of_its_trace():
    found = {}
    for locality in (0.0, 0.6):
        trace = made_trace(popularity={"zipf": 0.6}, locality=locality, affinity=0.3)
        fit = fit_of_trace(trace, "made", iterations=4)
        found[locality] = drawn_stats(fit, 3000, 1)["overlap"]["1"], routing_stats(trace)["overlap"]["1"]
    assert found[0.6][0] > found[0.0][0] + 0.2
    for drawn, recorded in found.values():
        assert drawn == pytest.approx(recorded, abs=0.12)


def test_the_same_trace_and_seed_give_the_same_fit():
    trace = made_trace(1500)
    one, two = (fit_of_trace(trace, "made", iterations=1) for _ in range(2))
    assert one.model.laws == two.model.laws
    np.testing.assert_array_equal(one.model.popularity, two.model.popularity)


def test_what_cannot_be_fitted_is_refused():
    trace = made_trace(1500)
    unused = trace.experts.copy()
    unused[3, 0, 1] = -1
    with pytest.raises(ConfigError, match="unused slots"):
        fit_trace(replace(trace, experts=unused))
    with pytest.raises(ConfigError, match="has 500 tokens; a fit needs at least 1000"):
        fit_trace(trace.select(range(5)))


@pytest.mark.skipif("gpt-oss-20b" not in presets(), reason="no preset")
def test_a_histogram_gives_popularity_and_domains_and_says_what_it_does_not():
    rng = np.random.default_rng(2)
    shares = np.exp(0.8 * rng.standard_normal((4, 6)) + 0.4 * rng.standard_normal((5, 4, 6)))
    counts = (1e6 * shares / shares.sum(axis=2, keepdims=True)).astype(np.int64)
    histogram = Histogram(counts, (0, 1, 2, 3), tuple("abcde"), "made")
    fit = fit_histogram(histogram, read_preset("gpt-oss-20b"), top_k=2, name="made")
    assert "slow" in fit.unidentified
    assert list(fit.domains) == list("abcde")
    drawn = np.sum([simulated_counts(fit.model, 5, seed) for seed in range(100, 106)], axis=0)
    wanted = log_shares(counts.sum(axis=0))
    assert np.abs(log_shares(drawn.sum(axis=0)) - wanted).mean() < 0.3
    assert domain_spread(drawn).mean() > 0.05


def test_the_domain_of_a_request_drives_its_routing():
    fit = read_preset("olmoe-1b-7b")
    settings = {"generator": "preset", "name": "olmoe-1b-7b"}
    shape = {"moe_layers": range(16), "n_experts": 64, "top_k": 8}
    uses = {}
    for domain in (0, 1):
        stream = build_routing(settings, **shape)
        for request in range(40):
            set_domain(stream, request, domain)
        ids = stream.draw(np.arange(40), np.zeros(40, np.int64), np.full(40, 30))
        uses[domain] = np.bincount(ids[:, 8].ravel(), minlength=64) / ids[:, 8].size
    assert fit.model.n_domains == 5
    assert np.abs(uses[0] - uses[1]).sum() > 0.3
    set_domain(build_routing({"generator": "uniform"}, **shape), 1, 2)  # knows no domains: nothing happens
