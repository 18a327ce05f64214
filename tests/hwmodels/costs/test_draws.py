"""The busiest rank of a benchmark's router: sums, bounds, one stream."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codesign.base.errors import ConfigError
from hwmodels.costs import draws
from hwmodels.costs.experts import TILES
from hwmodels.costs.rows import predict
from hwmodels.load import load_device


@given(tokens=st.integers(1, 5000), top_k=st.integers(1, 8), log_e=st.integers(3, 8),
       exponent=st.sampled_from([None, 0.6, 1.0, 1.01, 1.2]), share=st.integers(0, 3))  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_statistics_of_the_busiest_rank(tokens, top_k, log_e, exponent, share):
    experts, ranks = 2**log_e, 2**share
    found = draws.rank_statistics(tokens, top_k, experts, ranks, exponent)
    assigned, active, padded = found[0], found[1], found[2:]
    total = tokens * top_k
    assert total / ranks - 1e-6 <= assigned <= total + 1e-6
    assert active <= min(experts / ranks, assigned) + 1e-6
    assert (padded >= assigned - 1e-6).all()
    assert (padded <= assigned + active * np.array(TILES)).all()
    assert found == pytest.approx(draws.rank_statistics(tokens, top_k, experts, ranks, exponent))


@given(tokens=st.integers(1, 3000), top_k=st.integers(1, 8), experts=st.integers(8, 300))
@settings(max_examples=40, deadline=None)
def test_every_assignment_is_drawn_once(tokens, top_k, experts):
    rng = np.random.default_rng(0)
    counts = draws.power_law_counts(rng, tokens, top_k, experts, 1.2)
    assert (counts.sum(axis=1) == tokens * top_k).all()
    assert counts.min() >= 0


def test_skew_loads_the_busiest_rank_more():
    even = draws.rank_statistics(1024, 8, 128, 8, None)[0]
    assert even == 1024
    assert draws.rank_statistics(1024, 8, 128, 8, 1.2)[0] > 1.2 * even


def test_an_unknown_distribution_is_named():
    with pytest.raises(ConfigError, match="write balanced or power_law_A"):
        draws.exponent_of("zipf")


@pytest.mark.parametrize("exponent", [None, 1.01, 1.2])
@pytest.mark.parametrize("ranks", [1, 4, 32])
def test_a_rank_that_computes_the_others_assignments_does_all_of_its_tokens(exponent, ranks):
    tokens, top_k = 1024, 8
    local = draws.rank_statistics(tokens, top_k, 128, ranks, exponent)
    whole = draws.rank_statistics(tokens, top_k, 128, ranks, exponent, remote=True)
    reached = whole[0] / top_k
    assert local[0] <= whole[0] <= tokens * top_k * (1 + 1e-12)
    assert reached == pytest.approx(min(tokens, local[0]), rel=0.05)  # a power law is a mean over draws
    assert whole[1] == pytest.approx(local[1])
    assert (whole[2:] >= whole[0] - 1e-6).all()
    if ranks == 1:
        assert whole == pytest.approx(local)


def test_what_a_version_of_a_benchmark_times_counts_only_where_experts_lie_on_several_ranks():
    shape = {"num_tokens": 4096.0, "hidden_size": 4096.0, "inter_size": 1536.0, "topk": 8.0,
             "num_experts": 128.0, "tp": 1.0}  # fmt: skip
    rows = [(version, ep) for version in ("0.5.10", "0.5.14", "") for ep in (1.0, 8.0)]
    columns = {name: np.full(len(rows), value) for name, value in shape.items()}
    columns["ep"] = np.array([ep for _, ep in rows])
    words = {"version": [version for version, _ in rows], "kernel": ["sglang_marlin_moe"] * len(rows),
             "dtype": ["int4_wo"] * len(rows)}  # fmt: skip
    columns |= {name: np.array(values, dtype=object) for name, values in words.items()}
    seconds = dict(zip(rows, predict("moe", columns, load_device("h100")).seconds, strict=True))
    assert seconds["0.5.10", 1.0] == pytest.approx(seconds["0.5.14", 1.0])
    assert seconds["0.5.10", 8.0] > 3.0 * seconds["0.5.14", 8.0]
    assert seconds["", 8.0] == pytest.approx(seconds["0.5.14", 8.0])
