"""Two namespaces for one formula: plain floats (fast for one shape) and NumPy arrays (fast for many).

A formula takes `xp`, one of `SCALAR` and `VECTOR`, and uses its functions alone, so that the scalar path
and the vectorised path are the same lines of code.
"""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np


def _where(condition: Any, yes: Any, no: Any) -> Any:
    return yes if condition else no


SCALAR = SimpleNamespace(
    ceil=math.ceil,
    floor=math.floor,
    maximum=max,
    minimum=min,
    where=_where,
    log2=math.log2,
    log=math.log,
    exp=math.exp,
    sqrt=math.sqrt,
)
VECTOR = SimpleNamespace(
    ceil=np.ceil,
    floor=np.floor,
    maximum=np.maximum,
    minimum=np.minimum,
    where=np.where,
    log2=np.log2,
    log=np.log,
    exp=np.exp,
    sqrt=np.sqrt,
)
_TINY_S = 1e-18  # keeps powers of a zero time defined; far below any latency


def blend(power: float, *times_s: Any) -> tuple[Any, ...]:
    """Split the p-norm of component times among the components.

    The total is ``(sum t_i**p) ** (1/p)``: p -> infinity is perfect overlap (the maximum), p = 1 none.

    Returns
    -------
    parts, one for each time: ``t_i**p * total**(1-p)``

    Notes
    -----
    Law: parts sum to the total, and part i is ``d total / d ln t_i`` (Euler; the norm is homogeneous).
    """
    total = sum(t**power for t in times_s) + _TINY_S**power
    scale = total ** (1.0 / power - 1.0)
    return tuple(t**power * scale for t in times_s)
