"""Cases that evaluate one operator alone, where a study is about a unit and not about serving.

    base: {operator: pim, unit: {from: duplex_logic}, m: 1, n: 16384, k: 4096}

Changes by dotted path work as on experiments: ``unit.area: 900 mm**2``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Annotated, Any

from pydantic import Field

from codesign.base.document import Document, Strict, validate
from codesign.base.errors import ConfigError, unknown_name

OPERATOR = "operator"
Values = dict[str, float]
_Size = Annotated[int, Field(gt=0, le=1 << 24, strict=True)]


class PimProduct(Strict):
    """``y[m, n] = x[m, k] w[k, n]`` with the weights in the banks of a PIM unit."""

    operator: str
    unit: Any  # library name, or a mapping laid over one (`from`)
    m: _Size
    n: _Size
    k: _Size


class Product(Strict):
    """The same on a device, under a cost model."""

    operator: str
    device: Any
    cost_model: Any = "analytical"
    weights: str = "bf16"
    activations: str = "bf16"
    m: _Size
    n: _Size
    k: _Size


def _pim(document: Document) -> Values:
    from hwmodels.cycle.pim import gemm, unit_of

    spec = validate(PimProduct, document)
    unit = unit_of(document.child("unit"))
    return {
        **asdict(gemm(unit, spec.m, spec.n, spec.k)), "peak_flop_rate": unit.peak_flop_rate,
        "bandwidth": unit.bandwidth, "external_bandwidth": unit.external_bandwidth,
    }  # fmt: skip


def _gemm(document: Document) -> Values:
    from hwmodels.costs import build_cost_model
    from hwmodels.load import load_device

    spec = validate(Product, document)
    device = load_device(document.child("device"))
    cost = build_cost_model(spec.cost_model, device).gemm(
        spec.m, spec.n, spec.k, spec.weights, spec.activations
    )
    return {
        "seconds": cost.duration_s, "flop": cost.flop, "bytes": cost.bytes_of(device.main_memory),
        **{f"{part}_s": value for part, value in zip(_parts(), cost.parts, strict=True)},
    }  # fmt: skip


def _parts() -> tuple[str, ...]:
    from hwmodels.costs import PARTS

    return tuple(PARTS)


OPERATORS: dict[str, Callable[[Document], Values]] = {"gemm": _gemm, "pim": _pim}


def evaluate(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Values]:
    """Evaluate an operator; return its numbers where `codesign.study.measures` looks for them.

    Raises
    ------
    ConfigError   an unknown operator, settings that are wrong
    """
    from codesign.base.compose import replace

    document = Document(dict(base), "operator")
    for path, value in changes.items():
        document = replace(document, path, value, path)
    name = document.get((OPERATOR,))
    if not isinstance(name, str):
        raise ConfigError(f"operator: operator = {name!r}: is no name; choose from {', '.join(OPERATORS)}")
    if name not in OPERATORS:
        raise unknown_name("operator", name, OPERATORS)
    return {"summary": OPERATORS[name](document)}
