"""The busiest rank of a benchmark's router: sums, bounds, one stream."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codesign.base.errors import ConfigError
from hwmodels.costs import draws
from hwmodels.costs.experts import TILES


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
