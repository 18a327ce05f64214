"""Kernels: pure functions over arrays.  Each package holds ``reference.py`` and its compiled twins."""
