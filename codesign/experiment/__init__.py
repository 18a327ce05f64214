"""Experiments: read, validate, override, resolve, hash."""

from codesign.experiment.experiment import Experiment
from codesign.experiment.load import load_experiment

__all__ = ["Experiment", "load_experiment"]
