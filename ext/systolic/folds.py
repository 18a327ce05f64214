"""How a matrix product is cut for a systolic array: weight-, output- and input-stationary.

What stays in the array is cut into folds of its size; the rest streams through it, skewed by one cycle per
row and column.  Names as in SCALE-Sim (Samajdar et al., ISPASS 2020): Sr x Sc is cut, T streams.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
DATAFLOWS = ("ws", "os", "is")


@dataclass(frozen=True)
class Array:
    """A systolic array and its buffers."""

    rows: int
    columns: int
    dataflow: str = "ws"
    input_buffer_bytes: float = float("inf")  # each buffer is used in two halves
    weight_buffer_bytes: float = float("inf")
    output_buffer_bytes: float = float("inf")


@dataclass(frozen=True)
class Plan:
    """Folds in the order in which they run."""

    cycles: FloatArray  # shape (folds,): fill, stream, drain
    load_bytes: FloatArray  # from DRAM before the fold can start
    store_bytes: FloatArray  # to DRAM after it
    used_cells: FloatArray  # cells of the array that hold something


def fold_cycles(array: Array, streamed: int) -> int:
    """Return the cycles of one fold: ``2 R + C + T - 2``; without a fill (os) ``R + C + T - 2``.

    Weights (ws) or inputs (is) take R cycles to shift in; a wave takes R + C - 2 more to cross the array.
    """
    fill = 0 if array.dataflow == "os" else array.rows
    return fill + array.rows + array.columns + streamed - 2


def plan(array: Array, m: int, n: int, k: int, value_bytes: float = 2.0, sum_bytes: float = 4.0) -> Plan:
    """Cut ``y[m, n] = x[m, k] @ w[k, n]`` into folds with their traffic.

    Laws: folds == ceil(Sr / R) * ceil(Sc / C); sum(used_cells) * T == m n k for ws and is; loads are at
    least each operand once; with unlimited buffers exactly once.
    """
    cut = {"ws": (k, n, m), "os": (m, n, k), "is": (k, m, n)}[array.dataflow]
    down, across = _pieces(cut[0], array.rows), _pieces(cut[1], array.columns)
    r, c = np.meshgrid(down, across)  # the first index of a fold changes slowest: its column
    first_row = np.broadcast_to(np.arange(len(down)) == 0, r.shape)
    last_row = np.broadcast_to(np.arange(len(down)) == len(down) - 1, r.shape)
    first_column = np.broadcast_to((np.arange(len(across)) == 0)[:, None], r.shape)
    if array.dataflow == "os":
        load, store = _output_stationary(array, r, c, cut, value_bytes, first_row, first_column)
    else:
        load, store = _operand_stationary(
            array, r, c, cut[2], (cut[0], value_bytes, sum_bytes), (first_row, last_row, first_column)
        )
    cycles = np.full(r.size, float(fold_cycles(array, cut[2])))
    return Plan(cycles, load.ravel(), store.ravel(), (r * c).ravel())


def _pieces(size: int, step: int) -> FloatArray:
    whole, rest = divmod(size, step)
    return np.array([float(step)] * whole + ([float(rest)] if rest else []))


def _operand_stationary(
    array: Array, r: FloatArray, c: FloatArray, streamed: int, sizes: tuple[int, float, float],
    edges: tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_], npt.NDArray[np.bool_]],
) -> tuple[FloatArray, FloatArray]:  # fmt: skip
    """Traffic if r x c of one operand stays; the other streams again per column of folds unless it fits."""
    depth, value_bytes, sum_bytes = sizes
    first_row, last_row, first_column = edges
    ws = array.dataflow == "ws"
    stream_buffer = array.input_buffer_bytes if ws else array.weight_buffer_bytes
    again = streamed * depth * value_bytes > stream_buffer / 2
    load = r * c * value_bytes + np.where(first_column | again, streamed * r * value_bytes, 0.0)
    result = streamed * c
    if streamed * array.columns * sum_bytes > array.output_buffer_bytes / 2:  # partial sums travel
        load = load + np.where(first_row, 0.0, result * sum_bytes)
        return load, np.where(last_row, result * value_bytes, result * sum_bytes)
    return load, np.where(last_row, result * value_bytes, 0.0)


def _output_stationary(
    array: Array, r: FloatArray, c: FloatArray, cut: tuple[int, int, int], value_bytes: float,
    first_row: npt.NDArray[np.bool_], first_column: npt.NDArray[np.bool_],
) -> tuple[FloatArray, FloatArray]:  # fmt: skip
    """Traffic if r x c results stay: inputs stream down the rows, weights down the columns."""
    m, _, depth = cut
    inputs_again = m * depth * value_bytes > array.input_buffer_bytes / 2
    weights_again = array.columns * depth * value_bytes > array.weight_buffer_bytes / 2
    load = np.where(first_column | inputs_again, r * depth * value_bytes, 0.0)
    load = load + np.where(first_row | weights_again, c * depth * value_bytes, 0.0)
    return load, r * c * value_bytes
