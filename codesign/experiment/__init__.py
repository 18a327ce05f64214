"""Experiments: read, validate, override, resolve, hash."""

from codesign.experiment.experiment import Experiment
from codesign.experiment.load import read_experiment

__all__ = ["Experiment", "read_experiment"]
