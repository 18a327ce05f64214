"""The numbers of a device that the formulas use, flat and in SI, with the fitted constants."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from codesign.base.document import read_yaml
from codesign.base.errors import ConfigError, unknown_name
from hwmodels.spec import PRECISION_BYTES, Device

from .cost import PARTS

CONSTANTS_FILE = Path(__file__).parent / "constants.yaml"
# a tensor core without the type multiplies in the next one of the list
_FALLBACK: dict[str, tuple[str, ...]] = {
    "fp8": ("bf16", "fp16"),
    "int8": ("fp8", "bf16", "fp16"),
    "fp4": ("fp8", "bf16", "fp16"),
    "nvfp4": ("fp4", "fp8", "bf16", "fp16"),
    "mxfp4": ("fp4", "fp8", "bf16", "fp16"),
    "bf16": ("fp16", "tf32", "fp32"),
    "fp16": ("bf16", "tf32", "fp32"),
    "fp32": ("tf32",),
}


@lru_cache(maxsize=1)
def default_constants() -> dict[str, float]:
    """Return the fitted constants that every device inherits, as ``section.name: value``."""
    document = read_yaml(CONSTANTS_FILE, "constants file")
    return {
        f"{section}.{name}": float(value)
        for section, values in document.data.items()
        if section != "sources"
        for name, value in values.items()
    }


@dataclass(frozen=True, slots=True)
class Machine:
    """A device as the formulas see it.

    ``speed`` multiplies the speed of each part (a what-if knob; 1 by default): ``Cost.parts`` is the
    derivative with respect to its logarithm.
    """

    flop_rate: dict[str, float]  # FLOP/s by precision, dense peak
    vector_rate: float  # FLOP/s
    units: int
    clock_hz: float
    bandwidth: float  # bytes/s, peak of the main memory
    memory_efficiency: float
    memory_latency_s: float
    l2_bytes: float
    l2_bandwidth: float
    launch_s: float
    tiles: tuple[tuple[int, int], ...]
    architecture: str
    main: str
    constants: dict[str, float]
    speed: dict[str, float] = field(default_factory=dict)

    def precision(self, name: str) -> str:
        """Return the type in which the device multiplies `name` operands.

        Raises
        ------
        ConfigError   unknown type, or the device multiplies nothing that can hold it
        """
        if name in self.flop_rate:
            return name
        for other in _FALLBACK.get(name, ()):
            if other in self.flop_rate:
                return other
        raise unknown_name("precision", name, self.flop_rate)

    def peak(self, name: str) -> float:
        """Return FLOP/s for operands of type `name`, the compute knob included."""
        return self.flop_rate[self.precision(name)] * self.speed["compute"]


def value_bytes(name: str) -> float:
    """Return the bytes of one value of a type.

    Raises
    ------
    ConfigError   unknown type
    """
    if name not in PRECISION_BYTES:
        raise unknown_name("precision", name, PRECISION_BYTES)
    return PRECISION_BYTES[name]


def machine_of(
    device: Device, speed: Mapping[str, float] | None = None, override: Mapping[str, float] | None = None
) -> Machine:
    """Flatten a device; its ``calibration``, then `override`, replace inherited constants.

    Raises
    ------
    ConfigError   an unknown constant or part, with the nearest name
    """
    constants = dict(default_constants())
    for given, where in ((device.calibration, f"{device.name}: calibration"), (override or {}, "constants")):
        for name, value in given.items():
            if name not in constants:
                raise unknown_name("calibration constant", name, constants, where)
            constants[name] = value
    knobs = _knobs(speed or {})
    tier = device.memory[device.main_memory]
    l2 = device.memory[device.l2] if device.l2 else None
    compute = device.compute
    vector = compute.vector_flop_rate or max(compute.peak_flop_rate.values()) / 16
    return Machine(
        dict(compute.peak_flop_rate),
        vector * knobs["vector"],
        compute.units,
        compute.clock,
        tier.bandwidth * knobs["memory"],
        tier.efficiency,
        tier.latency / knobs["launch"],
        l2.capacity if l2 else 0.0,
        (l2.bandwidth if l2 else 2 * tier.bandwidth) * knobs["cache"],
        compute.launch_overhead / knobs["launch"],
        tuple(compute.tiles),
        compute.architecture,
        device.main_memory,
        constants,
        knobs,
    )


def _knobs(speed: Mapping[str, float]) -> dict[str, float]:
    knobs = dict.fromkeys(PARTS, 1.0)
    for part, value in speed.items():
        if part not in knobs:
            raise unknown_name("part", part, PARTS)
        if not value > 0:
            raise ConfigError(f"speed.{part} = {value}: must be positive")
        knobs[part] = value
    return knobs
