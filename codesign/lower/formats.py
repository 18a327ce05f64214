"""Pass: how each routed expert is stored: bits of a value, rank, work of decoding, whose weights it shares.

The experts of one layer may be stored in several ways (`Format`); each way is a variant of the iteration's
tables, with its own bytes, work and decoding.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from codesign.base.document import Document
from codesign.base.errors import ConfigError
from codesign.experiment.merging import merged_experts
from codesign.experiment.routing import plain_routing
from codesign.experiment.schema import DecodeSpec, ExpertsSpec
from codesign.lower.foresight import profile_ids, usage
from codesign.lower.parallel import Parallel
from codesign.lower.precision import Precision
from codesign.policies.expert_bits import EXPERT_BITS
from ext.iteration.layout import MAX_VARIANTS
from workloads.models import MoE

if TYPE_CHECKING:
    from codesign.experiment import Experiment

F64 = NDArray[np.float64]
_KEY = ("precision", "experts")


@dataclass(frozen=True)
class Format:
    """How an expert's weights are stored.

    bits : of a value; stored_bits : with its share of scales and zeros
    rank : inner width of the two factors of each matrix; None: whole matrices
    decode : what turns them into values to multiply; None: nothing has to
    """

    bits: float
    stored_bits: float
    rank: int | None = None
    decode: DecodeSpec | None = None

    def share(self, rows: int, columns: int) -> float:
        """Return stored values (and products) over those of a whole matrix."""
        return 1.0 if self.rank is None else self.rank * (rows + columns) / (rows * columns)


@dataclass(frozen=True)
class Formats:
    """The formats of every expert of a model.

    Attributes
    ----------
    layers : tuple of tuples of Format    of each MoE layer, all of the same length
    variant : int32[L, E]                 index of each expert's format in its layer's
    leader : int16[L, E] or None          expert whose weights each uses, if some are merged
    """

    layers: tuple[tuple[Format, ...], ...]
    variant: NDArray[np.int32]
    leader: NDArray[np.int16] | None = None

    @property
    def n_variants(self) -> int:
        """Formats of a layer."""
        return len(self.layers[0]) if self.layers else 1

    def expert_bytes(self, moes: list[MoE], hidden: int, parallel: Parallel) -> F64:
        """Return the bytes of each expert on one rank, float64[L, E]; 0 where it uses another's weights.

        Law: whole matrices of b bits take ``parameters / expert_tensor * b / 8``.
        """
        out = np.zeros(self.variant.shape)
        for m, moe in enumerate(moes):
            rows, columns = moe.latent_size or hidden, moe.expert.intermediate_size
            values = moe.expert_parameters(hidden) / parallel.expert_tensor
            sizes = [values * f.share(rows, columns) * (f.stored_bits / 8.0) for f in self.layers[m]]
            out[m, : moe.n_experts] = np.array(sizes)[self.variant[m, : moe.n_experts]]
        if self.leader is not None:
            out *= self.leader == np.arange(self.leader.shape[1])
        return out

    def average_bits(self) -> float:
        """Return the mean bits of a value over all experts, scales not counted."""
        bits = [[f.bits for f in layer] for layer in self.layers]
        if not bits:
            return 0.0
        return float(np.take_along_axis(np.array(bits), self.variant.astype(np.int64), axis=1).mean())


def build_formats(experiment: Experiment, precision: Precision) -> Formats:
    """Read ``precision.experts``, and let its policies choose.

    Raises
    ------
    ConfigError   bits, ranks or numbers of experts that do not suit the model
    """
    moes = [moe for layer in experiment.model.layers if (moe := layer.moe)]
    shape = len(moes), experiment.model.n_experts
    spec, plain = experiment.spec.precision.experts, 8.0 * precision.expert_bytes
    if not isinstance(spec, ExpertsSpec) or not moes:
        return Formats(((Format(plain, plain),),) * len(moes), np.zeros(shape, np.int32))
    _check(experiment, spec, moes)
    routing = plain_routing(experiment)
    leader = merged_experts(experiment, routing) if routing else None
    bits = _bits(experiment, spec, plain, shape, leader)
    layers, variant = _variants(bits, spec, 8.0 * precision.activation_bytes, experiment.document)
    return Formats(layers, variant, leader)


def _check(experiment: Experiment, spec: ExpertsSpec, moes: list[MoE]) -> None:
    document, hidden = experiment.document, experiment.model.hidden_size
    for moe in moes:
        width = min(moe.latent_size or hidden, moe.expert.intermediate_size)
        if spec.rank is not None and spec.rank > width:
            raise document.error((*_KEY, "rank"), f"must be at most the {width} of an expert", spec.rank)


def _bits(
    experiment: Experiment, spec: ExpertsSpec, plain: float, shape: tuple[int, int],
    leader: NDArray[np.int16] | None,
) -> F64:  # fmt: skip
    """Return the bits of each expert's values, float64[L, E]; a policy sees only those that keep theirs."""
    written: Any = spec.bits
    if written is None:
        return np.full(shape, plain)
    if isinstance(written, str | dict):
        place = _part(experiment.document)
        policy = EXPERT_BITS.build(place)
        counts = usage(profile_ids(experiment, None, policy.profile_tokens), shape[1])
        shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
        try:
            if leader is None:
                return policy.allocate(shares, experiment.seed)
            kept = np.array([np.unique(row) for row in leader], dtype=np.int64)
            bits = np.zeros(shape)
            allotted = policy.allocate(np.take_along_axis(shares, kept, axis=1), experiment.seed)
            np.put_along_axis(bits, kept, allotted, axis=1)
            return np.take_along_axis(bits, leader.astype(np.int64), axis=1)
        except ConfigError as error:
            raise ConfigError(f"{place.where(())}: precision.experts.bits: {error}") from None
    return _numbers(written, shape, experiment.document)


def _part(document: Document) -> Document:
    for key in (*_KEY, "bits"):
        document = document.child(key)
    return document


def _numbers(written: Any, shape: tuple[int, int], document: Document) -> F64:
    rule = f"is a number from 0.01 to 64, one for each of {shape[0]} layers, or lists of {shape[1]} by expert"
    try:
        found = np.array(written, dtype=np.float64)
        found = np.broadcast_to(found[:, None] if found.ndim == 1 else found, shape)
    except (ValueError, TypeError):
        raise document.error((*_KEY, "bits"), rule, written) from None
    if not (isinstance(written, int | float | list) and np.all((found >= 0.01) & (found <= 64))):
        raise document.error((*_KEY, "bits"), rule, written)
    return found


def _variants(
    bits: F64, spec: ExpertsSpec, activation_bits: float, document: Document
) -> tuple[tuple[tuple[Format, ...], ...], NDArray[np.int32]]:
    """Gather each layer's formats; layers with fewer repeat their first."""
    found = [np.unique(row, return_inverse=True) for row in bits]
    most = max(len(values) for values, _ in found)
    if most > MAX_VARIANTS:
        rule = f"a layer has {most} different ones; at most {MAX_VARIANTS}"
        raise document.error((*_KEY, "bits"), rule)

    def stored(value: float) -> Format:
        if value >= activation_bits:
            return Format(value, value, spec.rank)
        return Format(value, value + spec.overhead_bits, spec.rank, spec.decode)

    layers = []
    for values, _ in found:
        formats = [stored(float(value)) for value in values]
        layers.append(tuple(formats + formats[:1] * (most - len(formats))))
    return tuple(layers), np.array([index.reshape(-1) for _, index in found], dtype=np.int32)
