"""Points of the unit cube: pseudo-random, Sobol, Latin hypercube."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from codesign.base.random import stream_key


def unit_cube(method: str, n: int, dimensions: int, seed: int) -> NDArray[np.float64]:
    """Draw n points; float64[n, dimensions] in [0, 1).

    Notes
    -----
    Same arguments, same points.  Sobol points are scrambled (Owen); any n is allowed, a power of two is
    balanced.  In a Latin hypercube each dimension has one point in each of n equal slices.
    """
    draws = np.random.default_rng(stream_key(seed, "sample", method))
    if method == "random":
        return np.asarray(draws.random((n, dimensions)))
    from scipy.stats import qmc

    if method == "lhs":
        return np.asarray(qmc.LatinHypercube(dimensions, rng=draws).random(n))
    sobol = qmc.Sobol(dimensions, scramble=True, rng=draws)
    return np.asarray(sobol.random_base2(max(0, int(n - 1).bit_length()))[:n])
