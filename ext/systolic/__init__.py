"""Cycle counts of a systolic array: folds of a matrix product, double buffering, stalls on DRAM.

``plan`` cuts a product into folds; ``double_buffer`` runs them through two halves of the buffers (compiled
where built, with its plain twin in ``reference``).
"""

from __future__ import annotations

from ext.backend import kernels

from .folds import DATAFLOWS, Array, Plan, fold_cycles, plan

double_buffer = kernels("ext.systolic", cython="_buffer").double_buffer

__all__ = ["DATAFLOWS", "Array", "Plan", "double_buffer", "fold_cycles", "plan"]
