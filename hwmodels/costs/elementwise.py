"""Operators that only move data: norms, residuals, activations, rotary embedding."""

from __future__ import annotations

from typing import Any

from .cost import Terms
from .machine import Machine
from .namespace import blend


def elementwise(xp: Any, machine: Machine, moved: Any, flop: Any = 0.0) -> Terms:
    """Cost one kernel that moves `moved` bytes (read and written) and computes `flop` on vector units."""
    c = machine.section("elementwise")
    memory_s = moved / (machine.bandwidth * c["efficiency"])
    parts = blend(c["overlap_power"], memory_s, flop / machine.vector_rate)
    launch = machine.launch_s * c["launch_factor"]
    return Terms(memory=parts[0], vector=parts[1], launch=launch, flop=flop, bytes_main=moved)
