"""Points that no other point beats, and how much of the objectives' space they dominate."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

F64 = NDArray[np.float64]


def nondominated(costs: F64) -> NDArray[np.bool_]:
    """Tell which points no other point dominates.

    Parameters
    ----------
    costs : float64[N, M]     less is better; NaN never belongs to the front

    Returns
    -------
    bool[N]    equal points are kept together

    Notes
    -----
    Law: every point outside is dominated by one inside (no worse anywhere, better somewhere).
    """
    keep: NDArray[np.bool_] = np.asarray(~np.isnan(costs).any(axis=1))
    index = np.flatnonzero(keep)
    index = index[np.lexsort(costs[index].T[::-1])]
    front = np.empty((0, costs.shape[1]))
    for i in index:  # sorted: a later point never dominates an earlier one
        point = costs[i]
        if len(front) and bool(((front <= point).all(axis=1) & (front < point).any(axis=1)).any()):
            keep[i] = False
        else:
            front = np.vstack([front, point])
    return keep


def hypervolume(costs: F64, reference: F64) -> float:
    """Return the volume that points dominate below a reference point.

    Parameters
    ----------
    costs : float64[N, M]       less is better; points not below the reference add nothing
    reference : float64[M]

    Notes
    -----
    Slices along the last objective; exact.  Law: it never shrinks when a point is added.
    """
    inside = costs[(costs < reference).all(axis=1)]
    if not len(inside):
        return 0.0
    inside = np.unique(inside[nondominated(inside)], axis=0)
    if costs.shape[1] == 1:
        return float(reference[0] - inside.min())
    if costs.shape[1] == 2:
        return _area(inside, reference)
    inside = inside[np.argsort(inside[:, -1])]
    tops = np.append(inside[1:, -1], reference[-1])
    slices = (hypervolume(inside[: i + 1, :-1], reference[:-1]) for i in range(len(inside)))
    return float(sum(v * (top - low) for v, top, low in zip(slices, tops, inside[:, -1], strict=True)))


def _area(front: F64, reference: F64) -> float:
    front = front[np.argsort(front[:, 0])]
    right = np.append(front[1:, 0], reference[0])
    return float(((right - front[:, 0]) * (reference[1] - front[:, 1])).sum())
