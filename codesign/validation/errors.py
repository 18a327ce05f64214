"""Errors of predicted times: per operator, device and type, beside the roofline and the noise floor."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hwmodels.calibration.data import DEVICES, Measured, read
from hwmodels.costs.rows import Prediction, predict
from hwmodels.costs.tables import TABLES
from hwmodels.load import load_device

FloatArray = npt.NDArray[np.float64]
GOALS = {"gemm": 0.08, "attention_prefill": 0.08, "attention_decode": 0.08, "mla": 0.10, "moe": 0.12,
         "collectives": 0.12, "moe_alltoall": 0.12}  # fmt: skip
# median, on unseen shapes of measured devices
LARGE_MESSAGE_BYTES = 16 * 2**20


@dataclass(frozen=True)
class ErrorRow:
    """Errors over one group of rows; ratios, not percent."""

    operator: str
    device: str
    dtype: str
    rows: int
    covered: int
    median: float
    mean: float
    p90: float
    bias: float  # median of predicted / measured - 1
    latency_weighted: float  # sum of absolute errors over sum of measured times
    roofline_median: float
    noise_median: float  # repeated measurements of one shape around their median; nan if there are none

    def as_dict(self) -> dict[str, Any]:
        """Return a plain mapping; what is not known is None."""
        return {name: None if value != value else value for name, value in asdict(self).items()}


@dataclass(frozen=True)
class Validated:
    """One operator's test rows and what was predicted for them."""

    operator: str
    measured: Measured
    prediction: Prediction


def validate_operator(operator: str, folder: Path, gpus: Sequence[str] = tuple(DEVICES)) -> Validated:
    """Predict the rows of one measured table whose shapes no constant was fitted to.

    Raises
    ------
    ConfigError   unknown operator, no such table
    """
    measured = read(operator, folder, gpus)
    keep = measured.test
    if operator == "collectives":
        keep = keep & (measured.columns["bytes"] >= LARGE_MESSAGE_BYTES)
    parts = [measured.where(keep & (measured.gpu == gpu)) for gpu in gpus]
    found = [predict(operator, part.columns, load_device(DEVICES[gpu]))
             for gpu, part in zip(gpus, parts, strict=True)]  # fmt: skip
    return Validated(operator, _join_measured(parts), _join(found))


def _join_measured(parts: Sequence[Measured]) -> Measured:
    columns = {name: np.concatenate([p.columns[name] for p in parts]) for name in parts[0].columns}
    rest = [np.concatenate([getattr(p, name) for p in parts]) for name in ("gpu", "seconds", "test")]
    return Measured(columns, *rest)


def _join(parts: Sequence[Prediction]) -> Prediction:
    names = ("seconds", "roofline_s", "reason", "section")
    return Prediction(*(np.concatenate([getattr(p, name) for p in parts]) for name in names))


def error_rows(found: Validated) -> Iterator[ErrorRow]:
    """Yield the errors of each device and type, of each device, and of all rows, in this order."""
    gpu, dtype = found.measured.gpu.astype(str), _dtype_of(found)
    for device in np.unique(gpu):
        kinds = np.unique(dtype[gpu == device])
        for kind in kinds if len(kinds) > 1 else ():
            yield _row(found, str(device), str(kind), (gpu == device) & (dtype == kind))
        yield _row(found, str(device), "all", gpu == device)
    yield _row(found, "all", "all", np.full(len(gpu), True))


def _dtype_of(found: Validated) -> npt.NDArray[Any]:
    kind = found.measured.columns["dtype"].astype(str)
    if "kv_dtype" in found.measured.columns:
        cache = found.measured.columns["kv_dtype"].astype(str)
        kind = np.where(cache == "", kind, np.char.add(np.char.add(kind, "/"), cache))
    return kind


def _row(found: Validated, device: str, dtype: str, mask: npt.NDArray[np.bool_]) -> ErrorRow:
    measured, predicted = found.measured.seconds[mask], found.prediction.seconds[mask]
    covered = ~np.isnan(predicted)
    roofline = found.prediction.roofline_s[mask][covered]
    figures = statistics(predicted[covered], measured[covered])
    naive = statistics(roofline, measured[covered])[0]
    noise = noise_floor(found.measured.where(mask))
    return ErrorRow(
        found.operator, device, dtype, int(mask.sum()), int(covered.sum()), *figures, naive, noise
    )


def statistics(predicted: FloatArray, measured: FloatArray) -> tuple[float, float, float, float, float]:
    """Return (median, mean, P90) of the absolute relative error, its bias, and the latency-weighted error.

    All are nan if there are no rows.
    """
    if not len(measured):
        return (float("nan"),) * 5
    error = predicted / measured - 1.0
    size = np.abs(error)
    weighted = np.abs(predicted - measured).sum() / measured.sum()
    return (float(np.median(size)), float(size.mean()), float(np.percentile(size, 90)),
            float(np.median(error)), float(weighted))  # fmt: skip


def noise_floor(measured: Measured) -> float:
    """Return the median deviation of repeated measurements from their median: all equal but a version."""
    codes = np.zeros(len(measured.seconds), dtype=np.int64)
    columns = [values for name, values in measured.columns.items() if name != "version"]
    for values in (*columns, measured.gpu):
        plain = values.astype(str) if values.dtype == object else values
        unique, code = np.unique(plain, return_inverse=True)
        codes = np.unique(codes * len(unique) + code, return_inverse=True)[1]
    order = np.argsort(codes, kind="stable")
    bounds = np.flatnonzero(np.diff(codes[order])) + 1
    repeated = [part for part in np.split(measured.seconds[order], bounds) if len(part) > 1]
    if not repeated:
        return float("nan")
    return float(np.median(np.concatenate([np.abs(part / np.median(part) - 1.0) for part in repeated])))


def operators(chosen: Sequence[str]) -> list[str]:
    """Return the operators to validate: those chosen, or all."""
    return list(chosen) or list(TABLES)
