"""The numbers of a device that the formulas use, flat and in SI, with the fitted constants."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

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


Framework = Literal["sglang", "trtllm", "vllm"]  # whose kernels were measured
Sections = dict[str, dict[str, float]]
_NOT_SECTIONS = ("sources", "architectures", "aliases")


class Constants:
    """The fitted constants: sections of named numbers, each with overlays by architecture.

    A section is an operator (``gemm``), a family of implementations of it (``gemm/fp8``) or one of them
    (``gemm/fp8/torch_flow``); each holds only what differs from the section above.  An architecture
    without an overlay inherits its parent's.
    """

    def __init__(self, data: Mapping[str, Any]) -> None:
        self.parents: dict[str, str] = dict(data["architectures"])
        self.aliases: dict[str, dict[str, str]] = dict(data.get("aliases", {}))
        self.sections: dict[str, dict[str, Any]] = {
            name: values for name, values in data.items() if name not in _NOT_SECTIONS
        }

    def section(self, name: str, architecture: str) -> dict[str, float]:
        """Return the constants of a section for an architecture.

        Raises
        ------
        ConfigError   unknown section
        """
        if name not in self.sections:
            raise unknown_name("section of constants", name, self.sections)
        out: dict[str, float] = {}
        parts = name.split("/")
        for above in ("/".join(parts[: i + 1]) for i in range(len(parts))):
            for layer in ("default", *self.lineage(architecture)):
                out.update(self.sections.get(above, {}).get(layer, {}))
        return out

    def __iter__(self) -> Iterator[str]:
        """Yield every constant as ``section.name``."""
        for name in self.sections:
            for constant in self.section(name, "default"):
                yield f"{name}.{constant}"

    def lineage(self, architecture: str) -> list[str]:
        """Return an architecture's ancestors and itself, oldest first."""
        line = [architecture]
        while line[0] in self.parents:
            line.insert(0, self.parents[line[0]])
        return line

    def resolve(self, architecture: str) -> Sections:
        """Return every section for an architecture, by its own name and by its aliases.

        An alias names the section that stands for implementations nobody measured, by architecture.
        """
        out = {name: self.section(name, architecture) for name in self.sections}
        line = ["default", *self.lineage(architecture)]
        for alias, targets in self.aliases.items():
            target = next((targets[each] for each in reversed(line) if each in targets), None)
            while target and target not in out:
                target = target.rpartition("/")[0]
            if target and alias not in out:
                out[alias] = dict(out[target])
        return out


@lru_cache(maxsize=1)
def default_constants() -> Constants:
    """Return the fitted constants that every device inherits."""
    return Constants(read_yaml(CONSTANTS_FILE, "constants file").data)


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
    sections: Sections  # fitted constants of operators and of their implementations
    flop_energy: dict[str, float]  # joules by precision; what is not given draws no power
    budget_w: float  # what the board's peak power leaves above what it draws while any kernel runs
    warm: bool = False  # operands stay in the cache from one run to the next, as in a benchmark
    speed: dict[str, float] = field(default_factory=dict)

    def section(self, name: str) -> dict[str, float]:
        """Return the constants of an operator or of one implementation of it."""
        return self.sections[name]

    def cycles_s(self, cycles: Any) -> Any:
        """Return the seconds of a latency that is a number of clock cycles."""
        return cycles / self.clock_hz / self.speed["launch"]

    def bytes_per_s(self, per_cycle: Any, part: str = "memory") -> Any:
        """Return the bytes/s of requests in flight to a part that return so many bytes each clock cycle."""
        return per_cycle * self.clock_hz * self.speed[part]

    def powered_s(self, flop: Any, name: str) -> Any:
        """Return the seconds over which the board's power spreads FLOPs on operands of type `name`."""
        joules = self.flop_energy.get(self.precision(name), 0.0)
        return flop * joules / self.budget_w / self.speed["compute"]

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
    device: Device, speed: Mapping[str, float] | None = None, override: Mapping[str, float] | None = None,
    warm: bool = False, constants: Constants | None = None,
) -> Machine:  # fmt: skip
    """Flatten a device; its ``calibration``, then `override`, replace inherited constants.

    Raises
    ------
    ConfigError   an unknown constant or part, with the nearest name
    """
    sections = (constants or default_constants()).resolve(device.compute.architecture)
    _overlay(sections, device.calibration, f"{device.name}: calibration")
    _overlay(sections, override or {}, "constants")
    knobs = _knobs(speed or {})
    tier = device.memory[device.main_memory]
    l2 = device.memory[device.l2] if device.l2 else None
    compute = device.compute
    vector = compute.vector_flop_rate or max(compute.peak_flop_rate.values()) / 16
    return Machine(
        dict(compute.peak_flop_rate), vector * knobs["vector"], compute.units, compute.clock,
        tier.bandwidth * knobs["memory"], tier.efficiency, tier.latency / knobs["launch"],
        l2.capacity if l2 else 0.0, (l2.bandwidth if l2 else 2 * tier.bandwidth) * knobs["cache"],
        compute.launch_overhead / knobs["launch"], tuple(compute.tiles), compute.architecture,
        device.main_memory, sections, dict(compute.energy_per_flop),
        device.power.peak - device.power.idle - device.power.other, warm, knobs,
    )  # fmt: skip


def _overlay(sections: Sections, given: Mapping[str, float], where: str) -> None:
    """Replace constants ``section.name`` in place; an operator's reaches its implementations too."""
    for key, value in given.items():
        section, _, name = key.rpartition(".")
        reached = [own for own in sections if own == section or own.startswith(section + "/")]
        if not reached or name not in sections[reached[0]]:
            known = [f"{own}.{each}" for own, values in sections.items() for each in values]
            raise unknown_name("calibration constant", key, known, where)
        for own in reached:
            sections[own][name] = value


def _knobs(speed: Mapping[str, float]) -> dict[str, float]:
    knobs = dict.fromkeys(PARTS, 1.0)
    for part, value in speed.items():
        if part not in knobs:
            raise unknown_name("part", part, PARTS)
        if not value > 0:
            raise ConfigError(f"speed.{part} = {value}: must be positive")
        knobs[part] = value
    return knobs
