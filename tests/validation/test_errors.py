"""Errors against measurements: the arithmetic by hand, the split by shape, and ceilings on real rows."""

from pathlib import Path

import numpy as np
import pytest

from codesign.validation import plots
from codesign.validation.errors import (
    Validated,
    _join,
    _join_measured,
    error_rows,
    noise_floor,
    statistics,
)
from hwmodels.calibration.data import DEVICES, Measured, is_test, read
from hwmodels.costs.rows import predict
from hwmodels.costs.tables import TABLES
from hwmodels.load import load_device

DATA = Path(__file__).parents[3] / "shared" / "data" / "measured"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="../shared/data/measured is not here")
# median error on unseen shapes of measured devices, with room for the thinned sample
CEILINGS = {"gemm": 0.10, "moe": 0.12, "attention_prefill": 0.085, "attention_decode": 0.10, "mla": 0.10,
            "collectives": 0.12, "moe_alltoall": 0.12}  # fmt: skip


def test_statistics_by_hand():
    predicted, measured = np.array([1.1, 0.8, 3.0, 1.0]), np.array([1.0, 1.0, 2.0, 1.0])
    median, mean, p90, bias, weighted = statistics(predicted, measured)
    assert median == pytest.approx(0.15)
    assert mean == pytest.approx((0.1 + 0.2 + 0.5 + 0.0) / 4)
    assert p90 == pytest.approx(np.percentile([0.1, 0.2, 0.5, 0.0], 90))
    assert bias == pytest.approx(0.05)
    assert weighted == pytest.approx(1.3 / 5)
    assert all(np.isnan(statistics(np.array([]), np.array([]))))


def test_noise_floor_is_the_spread_of_repeats():
    columns = {"m": np.array([1.0, 1.0, 2.0]), "kernel": np.array(["a", "a", "a"], dtype=object)}
    gpu = np.array(["x"] * 3, dtype=object)
    seconds, test = np.array([0.9, 1.1, 5.0]), np.full(3, True)
    assert noise_floor(Measured(columns, gpu, seconds, test)) == pytest.approx(0.1)


def test_a_shape_is_on_one_side_whoever_measured_it():
    rng = np.random.default_rng(0)
    shapes = {name: rng.integers(1, 9000, 5000).astype(float) for name in ("m", "n", "k")}
    side = is_test("gemm", shapes)
    assert (side == is_test("gemm", {**shapes, "kernel": np.full(5000, "x", dtype=object)})).all()
    assert 0.27 < side.mean() < 0.33  # five standard deviations of a fair split


@needs_data
@pytest.mark.parametrize("operator", TABLES)
def test_errors_on_unseen_shapes_stay_below_their_ceiling(operator, tmp_path):
    found = thinned(operator)
    rows = list(error_rows(found))
    total = rows[-1]
    assert (total.device, total.dtype) == ("all", "all")
    assert total.covered >= 0.95 * total.rows
    assert total.median <= CEILINGS[operator]
    assert total.median < total.roofline_median
    assert abs(total.bias) < 0.05
    assert all(place.stat().st_size > 1000 for place in plots.draw(found, tmp_path))


def thinned(operator):
    """Return about two thousand unseen rows of each device, a fixed draw."""
    measured = read(operator, DATA)
    keep = measured.test & (measured.columns["bytes"] >= 2**24 if operator == "collectives" else True)
    parts, predictions = [], []
    for gpu in DEVICES:
        rows = np.random.default_rng(0).permutation(np.flatnonzero(keep & (measured.gpu == gpu)))[:2000]
        parts.append(measured.where(rows))
        predictions.append(predict(operator, parts[-1].columns, load_device(DEVICES[gpu])))
    return Validated(operator, _join_measured(parts), _join(predictions))
