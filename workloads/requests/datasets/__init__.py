"""Shipped descriptions of recorded streams: one YAML file each, quantile tables with their source."""

from workloads.requests.datasets.load import Dataset, dataset_names, load_dataset

__all__ = ["Dataset", "dataset_names", "load_dataset"]
