"""Recorded routing on disk: ``.npz`` (never pickled) and Parquet, checked whole before use.

An ``.npz`` holds ``experts`` [tokens, layers, k] (ids in router order, -1 unused) and ``num_experts``; if
given, ``sequence`` [tokens] (else one sequence), ``domain`` [tokens] with ``domain_names``, ``layer_ids``
[layers], ``top_k``, ``model`` and the header ``format_version``, ``provenance``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt

from codesign.base.errors import ConfigError
from workloads.routing.stream import Int16Array, IntArray

FORMAT_VERSION = 1


@dataclass(frozen=True)
class RoutingTrace:
    """Routing of recorded sequences, one after the other.

    Law: sequence s holds rows ``offsets[s]`` to ``offsets[s + 1] - 1``; ids are -1 .. n_experts - 1, and no
    expert stands twice in one (token, layer).
    """

    experts: Int16Array  # (T, L, k)
    offsets: IntArray  # (S + 1,)
    n_experts: int
    domains: IntArray  # (S,)
    domain_names: tuple[str, ...] = ("all",)
    layer_ids: tuple[int, ...] = ()
    model: str = ""
    provenance: str = ""
    notes: tuple[str, ...] = field(default=(), compare=False)  # what the reader dropped or assumed

    @property
    def lengths(self) -> IntArray:
        """Tokens of each sequence, shape (S,)."""
        return np.diff(self.offsets)

    def select(self, sequences: npt.ArrayLike) -> RoutingTrace:
        """Return a trace of some of the sequences, in the order given."""
        chosen = np.asarray(sequences, np.int64)
        rows = [np.arange(self.offsets[s], self.offsets[s + 1]) for s in chosen]
        index = np.concatenate(rows) if rows else np.zeros(0, np.int64)
        offsets = np.concatenate([[0], np.cumsum(self.lengths[chosen])]).astype(np.int64)
        return RoutingTrace(
            self.experts[index],
            offsets,
            self.n_experts,
            self.domains[chosen],
            self.domain_names,
            self.layer_ids,
            self.model,
            self.provenance,
            self.notes,
        )


def read_trace(path: str | Path) -> RoutingTrace:
    """Read a recorded trace, ``.npz`` or ``.parquet``.

    Raises
    ------
    ConfigError   missing, truncated, pickled, of a wrong shape, ids out of range: with the place
    """
    place = Path(path)
    if place.is_dir():
        raise ConfigError(f"{place}: is a directory; a routing trace (.npz or .parquet) is needed")
    if not place.exists():
        raise ConfigError(f"{place}: no such routing trace")
    if place.suffix == ".parquet":
        from workloads.routing.parquet import read_parquet_arrays

        return trace_from_arrays(read_parquet_arrays(place), str(place))
    return trace_from_arrays(read_npz_arrays(place), str(place))


def read_npz_arrays(path: Path) -> dict[str, npt.NDArray[Any]]:
    """Read every array of an ``.npz`` without unpickling anything."""
    try:
        with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            if not hasattr(file, "files"):
                raise ConfigError(f"{path}: is one array, not an .npz with 'experts' and 'num_experts'")
            return {name: _member(file, name, path) for name in file.files}
    except ConfigError:
        raise
    except (BadZipFile, ValueError, EOFError, OSError, KeyError) as error:
        reason = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
        if "pickle" in reason:
            reason = "not an .npz archive (plain pickled data is never read)"
        raise ConfigError(f"{path}: cannot be read as .npz: {reason}") from None


def _member(file: Mapping[str, npt.NDArray[Any]], name: str, path: Path) -> npt.NDArray[Any]:
    from zlib import error as ZlibError

    try:
        return file[name]
    except ValueError as error:
        if "Object arrays" in str(error) or "pickle" in str(error):
            raise ConfigError(
                f"{path}: {name}: holds pickled objects, which are never read; save plain numbers"
            ) from None
        raise ConfigError(f"{path}: {name}: truncated or damaged ({str(error)[:80]})") from None
    except (EOFError, BadZipFile, ZlibError, OSError, KeyError, SyntaxError) as error:
        raise ConfigError(f"{path}: {name}: truncated or damaged ({str(error)[:80]})") from None


def trace_from_arrays(arrays: Mapping[str, npt.NDArray[Any]], origin: str) -> RoutingTrace:
    """Check the arrays of a trace and build it."""
    check_version(arrays.get("format_version"), origin)
    experts = _experts(arrays, origin)
    tokens, layers, _ = experts.shape
    n_experts = _integer(arrays, "num_experts", origin)
    _check_ids(experts, n_experts, origin)
    notes: list[str] = []
    sequence = _per_token(arrays, "sequence", tokens, origin)
    order, offsets = _sequences(sequence)
    domain = _per_token(arrays, "domain", tokens, origin)
    if order is not None:
        experts, domain = experts[order], domain[order]
        notes.append("sequences were interleaved; tokens were put in sequence order")
    names = tuple(str(name) for name in np.atleast_1d(arrays.get("domain_names", np.array(["all"]))))
    domains = domain[offsets[:-1]]
    if len(domains) and not 0 <= int(domains.min()) <= int(domains.max()) < max(len(names), 1):
        raise ConfigError(f"{origin}: domain = {int(domains.max())}: there are {len(names)} domain_names")
    return RoutingTrace(
        np.ascontiguousarray(experts, np.int16),
        offsets,
        n_experts,
        domains,
        names,
        _layer_ids(arrays, layers, origin),
        _text(arrays, "model"),
        _text(arrays, "provenance"),
        tuple(notes),
    )


def check_version(version: npt.NDArray[Any] | None, origin: str) -> None:
    """Refuse a file of a later version of the format than this program knows; none is fine."""
    if version is None:
        return
    if (
        version.size != 1
        or version.dtype.kind not in "iu"
        or not 1 <= int(version.reshape(-1)[0]) <= FORMAT_VERSION
    ):
        raise ConfigError(
            f"{origin}: format_version = {str(version)[:20]}: this program reads up to {FORMAT_VERSION};"
            " convert the file with the program that wrote it"
        )


def _experts(arrays: Mapping[str, npt.NDArray[Any]], origin: str) -> npt.NDArray[Any]:
    if "experts" not in arrays:
        held = ", ".join(sorted(arrays)) or "nothing"
        raise ConfigError(f"{origin}: has no array 'experts' [tokens, layers, k]; it holds {held}")
    experts = arrays["experts"]
    if experts.ndim != 3 or experts.dtype.kind not in "iu":
        raise ConfigError(
            f"{origin}: experts: is {experts.dtype} {experts.shape}; must be integers [tokens, layers, k]"
        )
    if 0 in experts.shape:
        raise ConfigError(f"{origin}: experts: has shape {experts.shape}; holds no routing")
    return experts


def _check_ids(experts: npt.NDArray[Any], n_experts: int, origin: str) -> None:
    if not 1 <= n_experts <= 32767:
        raise ConfigError(f"{origin}: num_experts = {n_experts}: must be between 1 and 32767")
    low, high = int(experts.min()), int(experts.max())
    if low < -1 or high >= n_experts:
        bad = np.argwhere((experts < -1) | (experts >= n_experts))[0]
        token, layer, slot = (int(i) for i in bad)
        raise ConfigError(
            f"{origin}: experts[{token}, {layer}, {slot}] = {int(experts[token, layer, slot])}:"
            f" must be -1 .. {n_experts - 1}"
        )
    for i in range(experts.shape[2]):
        for j in range(i):
            same = (experts[:, :, i] == experts[:, :, j]) & (experts[:, :, i] >= 0)
            if same.any():
                token, layer = (int(x) for x in np.argwhere(same)[0])
                raise ConfigError(
                    f"{origin}: experts[{token}, {layer}]: expert {int(experts[token, layer, i])} stands in"
                    f" slots {j} and {i}; a token goes to different experts"
                )


def _integer(arrays: Mapping[str, npt.NDArray[Any]], name: str, origin: str) -> int:
    value = arrays.get(name)
    if value is None:
        raise ConfigError(f"{origin}: has no number {name!r}")
    if value.size != 1 or value.dtype.kind not in "iu":
        raise ConfigError(f"{origin}: {name}: is {value.dtype} {value.shape}; must be one integer")
    return int(value.reshape(-1)[0])


def _text(arrays: Mapping[str, npt.NDArray[Any]], name: str) -> str:
    value = arrays.get(name)
    return str(value.reshape(-1)[0]) if value is not None and value.size == 1 else ""


def _per_token(arrays: Mapping[str, npt.NDArray[Any]], name: str, tokens: int, origin: str) -> IntArray:
    value = arrays.get(name)
    if value is None:
        return np.zeros(tokens, np.int64)
    if value.shape != (tokens,) or value.dtype.kind not in "iu":
        raise ConfigError(f"{origin}: {name}: is {value.dtype} {value.shape}; must be integers ({tokens},)")
    return value.astype(np.int64)


def _sequences(sequence: IntArray) -> tuple[IntArray | None, IntArray]:
    """Return the row order (None: as it is) and the offsets of the sequences."""
    starts = np.flatnonzero(np.diff(sequence)) + 1
    order = None
    if len(np.unique(sequence)) != len(starts) + 1:
        order = np.argsort(sequence, kind="stable")
        starts = np.flatnonzero(np.diff(sequence[order])) + 1
    return order, np.concatenate([[0], starts, [len(sequence)]]).astype(np.int64)


def _layer_ids(arrays: Mapping[str, npt.NDArray[Any]], layers: int, origin: str) -> tuple[int, ...]:
    ids = arrays.get("layer_ids", np.arange(layers))
    if ids.shape != (layers,) or ids.dtype.kind not in "iu":
        raise ConfigError(f"{origin}: layer_ids: is {ids.dtype} {ids.shape}; must be integers ({layers},)")
    return tuple(int(i) for i in ids)


def trace_arrays(trace: RoutingTrace) -> dict[str, npt.NDArray[Any]]:
    """Return the arrays that stand for a trace on disk."""
    lengths = trace.lengths
    small = trace.n_experts <= 127
    return {
        "experts": trace.experts.astype(np.int8) if small else trace.experts,
        "sequence": np.repeat(np.arange(len(lengths), dtype=np.int32), lengths),
        "domain": np.repeat(trace.domains.astype(np.int16), lengths),
        "domain_names": np.array(trace.domain_names),
        "layer_ids": np.array(trace.layer_ids or range(trace.experts.shape[1]), np.int64),
        "num_experts": np.array(trace.n_experts),
        "top_k": np.array(trace.experts.shape[2]),
        "model": np.array(trace.model),
        "provenance": np.array(trace.provenance),
        "format_version": np.array(FORMAT_VERSION),
    }


def write_trace(trace: RoutingTrace, path: str | Path) -> None:
    """Write a trace as ``.npz`` or ``.parquet``, by the file's suffix."""
    place = Path(path)
    if place.suffix == ".parquet":
        from workloads.routing.parquet import write_parquet

        write_parquet(trace, place)
    elif place.suffix == ".npz":
        try:
            np.savez_compressed(place, allow_pickle=False, **trace_arrays(trace))
        except OSError as error:
            raise ConfigError(f"{place}: cannot be written: {error.strerror}") from None
    else:
        raise ConfigError(f"{place}: a routing trace is written as .npz or .parquet")
