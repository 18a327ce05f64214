"""Errors on a GPU whose measurements no constant has seen."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from hwmodels.costs.machine import Constants
from hwmodels.costs.rows import predict
from hwmodels.load import load_device

from .data import DEVICES, read


def errors_without(gpu: str, operator: str, folder: Path, constants: Mapping[str, Any]) -> str:
    """Return one line: the errors of an operator on all rows of a GPU that was left out of the fit."""
    rows = read(operator, folder, [gpu])
    found = predict(operator, rows.columns, load_device(DEVICES[gpu]), Constants(constants))
    covered = ~np.isnan(found.seconds)
    error = found.seconds[covered] / rows.seconds[covered] - 1.0
    size = np.abs(error)
    return (f"{operator} on {gpu}, fitted without it: {covered.sum()} of {len(covered)} rows, median"
            f" {np.median(size):.1%}, mean {size.mean():.1%}, P90 {np.percentile(size, 90):.1%},"
            f" bias {np.median(error):+.1%}")  # fmt: skip
