"""One name for any stream: a trace, a dataset (shipped or fitted), settings, or an experiment file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from codesign.base.compose import merge
from codesign.base.document import Document, read_yaml
from workloads.requests.build import build_requests
from workloads.requests.datasets import dataset_names, load_dataset
from workloads.requests.spec import Requests

MOST = 100_000  # of requests that are drawn from a dataset without being asked for so many


def open_stream(name: str, *, seed: int = 0, count: int | None = None, rate: str | None = None) -> Requests:
    """Build the stream that a word of the command line means.

    Parameters
    ----------
    name : str    a shipped dataset; a YAML file (a fitted dataset, ``workload.requests`` alone, or a whole
                  experiment); else a trace file
    count : int   how many to draw (of a trace: to keep); None: as many as the source has
    rate : str    requests per time, ``6 /s``; None: the source's own

    Raises
    ------
    ConfigError   whatever is wrong with it
    """
    document, base_dir = _document(name)
    changes: dict[str, Any] = {} if rate is None else {"rate": rate}
    if count is not None:
        changes["limit" if "trace" in document.data else "count"] = count
    return build_requests(merge(document, Document(changes, "option")), seed=seed, base_dir=base_dir)


def _document(name: str) -> tuple[Document, Path | None]:
    if name in dataset_names():
        return Document(_own(name), name), None
    if not name.endswith((".yaml", ".yml")):
        return Document({"trace": name}, "requests"), None
    document = read_yaml(name)
    if "source" in document.data:
        return Document(_own(name), name), None
    base_dir = Path(name).parent
    for key in ("workload", "requests"):
        if isinstance(document.data, dict) and key in document.data:
            document = document.child(key)
    if not isinstance(document.data, dict):
        raise document.error((), "is written as {trace: PATH}, {dataset: NAME, count: N} ...", document.data)
    return document, base_dir


def _own(name: str) -> dict[str, Any]:
    table = load_dataset(name)
    own: dict[str, Any] = {"dataset": name, "count": min(table.requests, MOST)}
    return own if table.rate is not None else own | {"batch": True}
