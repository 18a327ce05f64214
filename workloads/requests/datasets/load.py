"""Read a dataset file: quantiles of lengths and gaps, their joint ranks, and how gaps follow each other."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field, model_validator

from codesign.base.document import Strict, read_yaml, validate
from codesign.base.errors import ConfigError, unknown_name
from workloads.requests.arrivals import ARRIVALS, Arrivals, Component, Poisson, RecordedGaps, Rng
from workloads.requests.clients import ClientMix, Family, Renewal
from workloads.requests.fields import Count, Rate
from workloads.requests.joint import Copula, GaussianCopula, GridCopula, balanced
from workloads.requests.lengths import TokensReal
from workloads.requests.sharing import Sharing
from workloads.requests.spec import FloatArray

_HERE = Path(__file__).parent
Level = Annotated[float, Field(ge=0, le=1)]


class QuantileTable(Strict):
    """A distribution: `values` at `levels`, linear between, flat outside."""

    levels: Annotated[list[Level], Field(min_length=2, max_length=10_000)]
    values: Annotated[list[Annotated[float, Field(ge=0)]], Field(max_length=10_000)]

    @model_validator(mode="after")
    def _check(self) -> QuantileTable:
        if len(self.levels) != len(self.values):
            raise ValueError(f"{len(self.levels)} levels, but {len(self.values)} values")
        if any(b <= a for a, b in pairwise(self.levels)):
            raise ValueError("levels must ascend")
        if any(b < a for a, b in pairwise(self.values)):
            raise ValueError("values must not descend")
        return self


class TokenTable(QuantileTable):
    """A distribution of token counts."""

    values: Annotated[list[TokensReal], Field(max_length=10_000)]


class ComponentEntry(Strict):
    """One slow component of the gaps."""

    share: Annotated[float, Field(ge=0, le=1)]
    memory: Annotated[float, Field(gt=0, le=1e9)]


class GapTable(QuantileTable):
    """Gaps between arrivals, in units of their mean."""

    components: tuple[ComponentEntry, ...] = ()

    @model_validator(mode="after")
    def _shares(self) -> GapTable:
        if sum(part.share for part in self.components) > 1 + 1e-9:
            raise ValueError("the shares of the components exceed 1")
        if not self.values[-1] > 0:
            raise ValueError("all gaps are 0")
        return self


class ClientEntry(Strict):
    """One client: its share of the requests, and how its gaps vary."""

    share: Annotated[float, Field(gt=0)]
    family: Family
    shape: Annotated[float, Field(ge=0.02, le=1000)]


class SharingTable(Strict):
    """How prompts continue earlier ones (`workloads.requests.sharing`)."""

    block_tokens: Count
    reuse: Annotated[tuple[Level, ...], Field(min_length=1, max_length=1000)]
    age: TokenTable
    fresh: TokenTable


class DatasetFile(Strict):
    """What a dataset file holds."""

    name: str
    source: str
    note: str = ""
    requests: Annotated[int, Field(ge=1, le=10**15)]
    rate: Rate | None = None
    prompt_tokens: TokenTable
    output_tokens: TokenTable
    joint: tuple[tuple[Annotated[float, Field(ge=0)], ...], ...] = ()
    gaps: GapTable | None = None
    clients: Annotated[tuple[ClientEntry, ...], Field(max_length=100_000)] = ()
    sharing: SharingTable | None = None

    @model_validator(mode="after")
    def _check(self) -> DatasetFile:
        if any(len(row) != len(self.joint) or not sum(row) for row in self.joint):
            raise ValueError("joint must be a square table without empty rows")
        if (self.gaps is not None) + bool(self.clients) != (self.rate is not None):
            raise ValueError("a rate and either gaps or clients belong together")
        return self


@dataclass(frozen=True)
class Quantiles:
    """A quantile function as two arrays."""

    levels: FloatArray
    values: FloatArray

    def quantile(self, u: FloatArray) -> FloatArray:
        """Interpolate linearly; flat outside."""
        return np.interp(u, self.levels, self.values)


@dataclass(frozen=True)
class Dataset:
    """A dataset ready to draw from; `rate` (1/s) is None where the source has lengths alone."""

    name: str
    source: str
    requests: int
    rate: float | None
    prompt: Quantiles
    output: Quantiles
    copula: Copula
    arrivals: Arrivals
    sharing: Sharing | None = None  # None: no block ids are known


@lru_cache(maxsize=1)
def dataset_names() -> tuple[str, ...]:
    """Return the names of the shipped datasets."""
    return tuple(sorted(path.stem for path in _HERE.glob("*.yaml")))


def check_name(name: str, where: str = "") -> None:
    """Refuse what is neither a shipped dataset nor the path of a dataset file."""
    if name not in dataset_names() and not name.endswith((".yaml", ".yml")):
        raise unknown_name("dataset", name, dataset_names(), f"{where}: dataset" if where else "")


def load_dataset(name: str, base_dir: str | Path | None = None, where: str = "") -> Dataset:
    """Load a shipped dataset by name, or a dataset file by path (``.yaml``; beside `base_dir`, or here).

    Raises
    ------
    ConfigError   unknown name, with the nearest one; a broken file
    """
    if name in dataset_names():
        return _load(_HERE / f"{name}.yaml")
    check_name(name, where)
    path = Path(name).expanduser()
    if base_dir is not None and (Path(base_dir) / path).exists():
        path = Path(base_dir) / path
    try:
        return read_dataset(path)
    except ConfigError as error:
        raise ConfigError(f"{where}: dataset: {error}" if where else str(error)) from None


@lru_cache(maxsize=16)
def _load(path: Path) -> Dataset:
    return read_dataset(path)


def read_dataset(path: str | Path) -> Dataset:
    """Read and check one dataset file."""
    file = validate(DatasetFile, read_yaml(path, "dataset file"))
    copula: Copula = GridCopula(balanced(np.array(file.joint))) if file.joint else GaussianCopula()
    prompt, output = _quantiles(file.prompt_tokens), _quantiles(file.output_tokens)
    return Dataset(
        file.name, file.source, file.requests, file.rate, prompt, output, copula, _process(file),
        _sharing(file.sharing, prompt),
    )  # fmt: skip


def _sharing(table: SharingTable | None, prompt: Quantiles) -> Sharing | None:
    if table is None:
        return None
    cells = len(table.reuse)
    edges = prompt.quantile(np.arange(1, cells) / cells)
    tables = _quantiles(table.age), _quantiles(table.fresh)
    return Sharing(table.block_tokens, edges, np.array(table.reuse), *tables)


def _quantiles(table: QuantileTable) -> Quantiles:
    return Quantiles(np.array(table.levels), np.array(table.values))


def _process(file: DatasetFile) -> Arrivals:
    table = file.gaps
    if file.clients:
        shares = np.array([client.share for client in file.clients])
        renewals = tuple(Renewal(client.family, client.shape) for client in file.clients)
        return ClientMix(shares / shares.sum(), renewals)
    if table is None:
        return Poisson()
    levels, gaps = np.array(table.levels), np.array(table.values)
    levels, gaps = np.concatenate(([0.0], levels, [1.0])), np.concatenate((gaps[:1], gaps, gaps[-1:]))
    return RecordedGaps(levels, gaps, tuple(Component(part.share, part.memory) for part in table.components))


@ARRIVALS.register("trace-like")
@dataclass(frozen=True)
class TraceLike:
    """The arrival process of a dataset (shipped, or a fitted file), at any rate."""

    dataset: str
    needs_rate: ClassVar[bool] = True

    def times(self, n: int, rate_per_s: float, rng: Rng) -> FloatArray:
        """Return times of the dataset's own process."""
        return load_dataset(self.dataset).arrivals.times(n, rate_per_s, rng)
