"""Read ServeGen's clients: a table of rates per client and window, and frequencies of lengths."""

from __future__ import annotations

import csv
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from codesign.base.errors import ConfigError
from workloads.requests.clients import Client, ClientRecord, Family, Renewal
from workloads.requests.files import Rows, read_trace_text
from workloads.requests.spec import MAX_TIME_S, MAX_TOKENS, FloatArray

_COLUMNS = ("client_id", "window_start_s", "rate_rps", "interarrival_cv", "family", "param1", "param2")
_SHAPES = (0.02, 1000.0)  # of gaps: outside, a fit to a handful of requests says nothing
_FAMILIES: dict[str, Family] = {"gamma": "gamma", "weibull": "weibull"}


def read_clients(path: str | Path) -> ClientRecord:
    """Read ``client_id, window_start_s, rate_rps, interarrival_cv, family, param1, param2`` (gzip or plain).

    A client's gaps have the family that holds for more of its requests, and the median shape (`param1`)
    of it, weighted by requests.  Windows without a row have no requests of that client.

    Raises
    ------
    ConfigError   broken file or row (line, row, column, value, rule)
    """
    name = str(path)
    table = list(csv.reader(read_trace_text(path).splitlines()))
    header = [cell.strip().lower() for cell in table[0]]
    if tuple(header) != _COLUMNS:
        raise ConfigError(f"{name}:1: is no table of clients; its columns are {', '.join(_COLUMNS)}")
    if len(table) < 2:
        raise ConfigError(f"{name}: has a header and no row; a table has at least one client")
    for line, row in enumerate(table, 1):
        if len(row) != len(_COLUMNS):
            raise ConfigError(f"{name}:{line}: row has {len(row)} cells; the header has {len(_COLUMNS)}")
    rows = Rows(name, range(2, len(table) + 1))
    cells = dict(zip(_COLUMNS, zip(*table[1:], strict=True), strict=True))
    ids = rows.tokens("client_id", cells["client_id"])
    start, rate = (rows.seconds(key, cells[key]) for key in ("window_start_s", "rate_rps"))
    shape = rows.seconds("param1", cells["param1"])
    family = np.array([_family(rows, i, cell) for i, cell in enumerate(cells["family"])])
    window = np.unique(np.diff(np.unique(start)))
    window_s = float(window[0]) if len(window) else 600.0
    found = [_client(rows, int(c), ids == c, start, rate, shape, family, window_s) for c in np.unique(ids)]
    clients = tuple(client for client in found if client.work[-1] > 0)
    if not clients:
        raise ConfigError(f"{name}: no client sends any request")
    return ClientRecord(clients, window_s, name)


def _family(rows: Rows, row: int, cell: str) -> Family:
    found = _FAMILIES.get(cell.strip().lower())
    if found is None:
        rows.fail(row, "family", cell, f"must be {' or '.join(_FAMILIES)}")
    return found


def _client(
    rows: Rows, code: int, mine: NDArray[np.bool_], start: FloatArray, rate: FloatArray, shape: FloatArray,
    family: NDArray[np.str_], window_s: float,
) -> Client:  # fmt: skip
    index = np.flatnonzero(mine)[np.argsort(start[mine], kind="stable")]
    start, rate = start[index], rate[index]
    if (np.diff(start) <= 0).any():
        row = int(index[1:][np.diff(start) <= 0][0])
        rows.fail(row, "window_start_s", float(start[np.flatnonzero(np.diff(start) <= 0)[0]]), "occurs twice")
    if start[-1] + window_s > MAX_TIME_S:
        rows.fail(int(index[-1]), "window_start_s", float(start[-1]), "is out of range")
    weibull = rate[family[index] == "weibull"].sum() > rate[family[index] == "gamma"].sum()
    chosen: Family = "weibull" if weibull else "gamma"
    own = family[index] == chosen
    renewal = Renewal(chosen, float(np.clip(_median(shape[index][own], rate[own]), *_SHAPES)))
    # a window that has no row, or the time before the first one, adds no work
    ends = start + window_s
    knots = np.concatenate(([0.0], np.column_stack((start, ends)).ravel()))
    work = np.concatenate(([0.0], np.cumsum(np.column_stack((np.zeros(len(rate)), rate * window_s)).ravel())))
    return Client(code, start, rate, renewal, knots, work)


def _median(values: FloatArray, weights: FloatArray) -> float:
    order = np.argsort(values, kind="stable")
    total = np.cumsum(weights[order])
    return float(values[order][np.searchsorted(total, total[-1] / 2)]) if total[-1] > 0 else 1.0


@dataclass(frozen=True)
class Frequencies:
    """Token counts and the share of requests up to each, both ascending, shape (V,)."""

    tokens: FloatArray
    cumulated: FloatArray

    def quantile(self, u: FloatArray) -> FloatArray:
        """Return the least length that a share `u` of the requests does not exceed."""
        at = np.minimum(np.searchsorted(self.cumulated, u), len(self.tokens) - 1)
        return np.asarray(self.tokens[at], dtype=np.float64)


def read_length_frequencies(path: str | Path) -> tuple[Frequencies, Frequencies]:
    """Read an ``.npz`` with ``input`` and ``output``, each rows of (tokens, frequency).

    Returns
    -------
    Frequencies of prompt and output; lengths below 1 count as 1

    Raises
    ------
    ConfigError   missing, no .npz, without these arrays, of another shape, with values that no length has
    """
    try:
        with open(path, "rb") as raw, np.load(raw, allow_pickle=False) as file:
            arrays = [np.asarray(file[key], dtype=np.float64) for key in ("input", "output")]
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file of lengths") from None
    except KeyError:
        raise ConfigError(f"{path}: needs the arrays 'input' and 'output'") from None
    except (OSError, ValueError, TypeError, AttributeError, EOFError, zipfile.BadZipFile) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ConfigError(f"{path}: no readable .npz of lengths: {reason}") from None
    return _cumulated(f"{path}: input", arrays[0]), _cumulated(f"{path}: output", arrays[1])


def _cumulated(where: str, rows: NDArray[np.float64]) -> Frequencies:
    if rows.ndim != 2 or rows.shape[1:] != (2,) or not len(rows):
        raise ConfigError(f"{where}: has shape {rows.shape}; needs rows of (tokens, frequency)")
    bad = ~np.isfinite(rows).all(axis=1) | (rows < 0).any(axis=1) | (rows[:, 0] > MAX_TOKENS)
    if bad.any() or not rows[:, 1].sum() > 0:
        row = int(np.argmax(bad))
        raise ConfigError(f"{where}: row {row + 1} = {rows[row].tolist()}: is no length with a frequency")
    ordered = rows[np.argsort(rows[:, 0], kind="stable")]
    total = np.cumsum(ordered[:, 1])
    return Frequencies(np.maximum(ordered[:, 0], 1.0), total / total[-1])
