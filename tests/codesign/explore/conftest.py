"""What the tests of sweeps share."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))  # worker processes import `sweep_evaluators` by name

EXPERIMENT: dict[str, Any] = {
    "model": "mixtral-8x7b",
    "system": "dgx-h100",
    "parallel": {"tensor": 2, "expert": 4},
    "precision": {"weights": "bf16"},
    "workload": {
        "requests": {"count": 8, "concurrency": 8, "prompt_tokens": 64, "output_tokens": 8},
        "routing": {"generator": "zipf", "exponent": 0.3},
    },
    "policies": {"placement": "round_robin"},
}


@pytest.fixture
def experiment() -> dict[str, Any]:
    """A small experiment."""
    from copy import deepcopy

    return deepcopy(EXPERIMENT)


@pytest.fixture
def toy() -> str:
    """Name of the stand-in for the simulator."""
    return "sweep_evaluators:Toy"
