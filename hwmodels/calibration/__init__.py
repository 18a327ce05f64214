"""Refits the constants of the cost models from measured tables: ``python -m hwmodels.calibration``."""
