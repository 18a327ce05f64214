"""Experts with narrow weights and wide activations: read faster, multiplied slower."""

from __future__ import annotations

import numpy as np
import pytest

from hwmodels.costs import build_cost_model
from hwmodels.load import load_device


def seconds(tokens: int, weights: str) -> float:
    model = build_cost_model("analytical", load_device("h100"))
    return model.experts(np.full(8, tokens), 4096, 14336, weights=weights).duration_s


@pytest.mark.parametrize("narrow", ["int4", "mxfp4", "int8"])
def test_narrow_weights_are_read_faster_and_multiplied_slower(narrow):
    """As the measured kernels do: few tokens wait for bytes, many for values that must first be widened."""
    assert seconds(1, narrow) < 0.75 * seconds(1, "bf16")
    assert seconds(2048, narrow) > 1.1 * seconds(2048, "bf16")
