"""Write a stream to a file that the readers read: our own CSV (everything), or Mooncake's JSON lines."""

from __future__ import annotations

import csv
import gzip
import io
import json
from pathlib import Path

from codesign.base.errors import ConfigError
from workloads.requests.spec import Int32Array, Requests

SUFFIXES = (".csv", ".csv.gz", ".jsonl", ".jsonl.gz")


def write_requests(requests: Requests, path: str | Path) -> tuple[str, ...]:
    """Write a stream; the suffix chooses the form (one of `SUFFIXES`).

    Returns
    -------
    tuple of str   what the form cannot hold and was left out

    Raises
    ------
    ConfigError   another suffix, a path that cannot be written

    Notes
    -----
    Law: reading the CSV gives every time, length, label and block id back, to the bit.
    """
    place = Path(path)
    packed = place.name.endswith(".gz")
    suffix = Path(place.stem).suffix if packed else place.suffix
    if suffix not in (".csv", ".jsonl"):
        raise ConfigError(f"{place}: requests are written as {', '.join(SUFFIXES)}")
    text, lost = _csv(requests) if suffix == ".csv" else _lines(requests)
    try:
        # no file name and no time in the header: the same stream gives the same bytes
        place.write_bytes(gzip.compress(text.encode(), mtime=0) if packed else text.encode())
    except OSError as error:
        raise ConfigError(f"{place}: cannot be written: {error.strerror}") from None
    return lost


def _csv(requests: Requests) -> tuple[str, tuple[str, ...]]:
    columns: dict[str, list[object]] = {
        name: getattr(requests, name).tolist() for name in ("arrival_s", "prompt_tokens", "output_tokens")
    }
    for name in ("tenant", "domain", "conversation"):
        codes = getattr(requests, name)
        if codes is not None:
            columns[name] = _words(codes, getattr(requests, f"{name}_names", ()))
    if requests.prefix_ptr is not None:
        n = len(requests)
        columns["prefix_ids"] = [" ".join(map(str, requests.blocks(i).tolist())) for i in range(n)]
        columns["block_tokens"] = [requests.block_tokens] * n
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(zip(*columns.values(), strict=True))
    return out.getvalue(), () if requests.concurrency is None else ("concurrency",)


def _words(codes: Int32Array, names: tuple[str, ...]) -> list[object]:
    return ["" if code < 0 else names[code] if code < len(names) else code for code in codes.tolist()]


def _lines(requests: Requests) -> tuple[str, tuple[str, ...]]:
    rows = []
    for i in range(len(requests)):
        row: dict[str, object] = {
            "timestamp": float(requests.arrival_s[i]) * 1e3,
            "input_length": int(requests.prompt_tokens[i]),
            "output_length": int(requests.output_tokens[i]),
        }
        if requests.prefix_ptr is not None:
            row["hash_ids"] = requests.blocks(i).tolist()
        rows.append(json.dumps(row) + "\n")
    labels = ("conversation", "tenant", "domain", "concurrency")
    return "".join(rows), tuple(name for name in labels if getattr(requests, name) is not None)
