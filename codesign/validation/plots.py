"""Plots of a validation: predicted against measured, and the error over the size of the operator."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from .errors import Validated

FloatArray = npt.NDArray[np.float64]
_POINTS = 4000  # drawn per device, a fixed choice
_BINS, _FEWEST = 24, 5


class Scatter(NamedTuple):
    """Points of one device."""

    device: str
    measured_us: FloatArray
    predicted_us: FloatArray


class Band(NamedTuple):
    """Signed error of one device over the measured time, in bins of equal ratio."""

    device: str
    time_us: FloatArray
    low: FloatArray  # P10
    middle: FloatArray
    high: FloatArray  # P90


class Cloud(NamedTuple):
    """Points of one group of end-to-end rows, in a unit that the plot names."""

    group: str
    measured: list[float]
    predicted: list[float]


def scatters(found: Validated) -> list[Scatter]:
    """Return the covered points of each device, thinned by a fixed draw."""
    out = []
    for device, rows in _devices(found):
        chosen = np.random.default_rng(0).permutation(rows)[:_POINTS]
        measured, predicted = found.measured.seconds[chosen], found.prediction.seconds[chosen]
        out.append(Scatter(device, measured * 1e6, predicted * 1e6))
    return out


def bands(found: Validated) -> list[Band]:
    """Return the error of each device over the measured time."""
    out = []
    for device, rows in _devices(found):
        measured = found.measured.seconds[rows]
        out.append(_band(device, measured * 1e6, found.prediction.seconds[rows] / measured - 1.0))
    return out


def _devices(found: Validated) -> list[tuple[str, npt.NDArray[np.int64]]]:
    covered, gpu = ~np.isnan(found.prediction.seconds), found.measured.gpu.astype(str)
    return [(str(each), np.flatnonzero(covered & (gpu == each))) for each in np.unique(gpu[covered])]


def _band(device: str, time_us: FloatArray, error: FloatArray) -> Band:
    edges = np.geomspace(time_us.min(), time_us.max() * 1.0001, _BINS + 1)
    place = np.clip(np.digitize(time_us, edges) - 1, 0, _BINS - 1)
    used = [i for i in range(_BINS) if (place == i).sum() >= _FEWEST]
    low, middle, high = (np.array([np.percentile(error[place == i], q) for i in used]) for q in (10, 50, 90))
    return Band(device, np.sqrt(edges[:-1] * edges[1:])[used], low, middle, high)


def draw(found: Validated, folder: Path) -> list[Path]:
    """Write both plots of an operator as PNG; return where."""
    from matplotlib.figure import Figure

    folder.mkdir(parents=True, exist_ok=True)
    scatter, size = Figure(figsize=(5.2, 5.0)), Figure(figsize=(6.4, 4.0))
    _draw_scatter(scatter.add_subplot(), scatters(found), found.operator)
    _draw_bands(size.add_subplot(), bands(found), found.operator)
    places = [folder / f"{found.operator}_predicted.png", folder / f"{found.operator}_error.png"]
    for figure, place in zip((scatter, size), places, strict=True):
        figure.tight_layout()
        figure.savefig(place, dpi=110)
    return places


def draw_whole(name: str, unit: str, clouds: list[Cloud], folder: Path) -> Path:
    """Write the plot of one end-to-end figure, predicted against measured, as PNG; return where."""
    from matplotlib.figure import Figure

    folder.mkdir(parents=True, exist_ok=True)
    figure = Figure(figsize=(6.0, 5.4))
    ax = figure.add_subplot()
    for cloud in clouds:
        ax.loglog(cloud.measured, cloud.predicted, ".", markersize=4, label=cloud.group)
    every = [value for cloud in clouds for value in cloud.measured]
    if every:
        ax.loglog([min(every), max(every)], [min(every), max(every)], color="black", linewidth=0.8)
        ax.legend(fontsize="small")
    ax.set(xlabel=f"measured ({unit})", ylabel=f"predicted ({unit})", title=f"{name}: predicted rows")
    place = folder / f"{name.replace(' ', '_')}.png"
    figure.tight_layout()
    figure.savefig(place, dpi=110)
    return place


def _draw_scatter(ax: Any, data: list[Scatter], operator: str) -> None:
    for points in data:
        ax.loglog(points.measured_us, points.predicted_us, ".", markersize=1.5, label=points.device)
    if data:
        line = [min(p.measured_us.min() for p in data), max(p.measured_us.max() for p in data)]
        ax.loglog(line, line, color="black", linewidth=0.8)
        ax.legend(markerscale=6)
    ax.set(xlabel="measured (us)", ylabel="predicted (us)", title=f"{operator}: unseen shapes")


def _draw_bands(ax: Any, data: list[Band], operator: str) -> None:
    for band in data:
        (line,) = ax.semilogx(band.time_us, band.middle * 100, label=f"{band.device} (median, P10-P90)")
        ax.fill_between(band.time_us, band.low * 100, band.high * 100, alpha=0.15, color=line.get_color())
    ax.axhline(0.0, color="black", linewidth=0.8)
    ax.set(xlabel="measured (us)", ylabel="error (%)", title=f"{operator}: error over size", ylim=(-60, 60))
    if data:
        ax.legend()
