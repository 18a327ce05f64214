"""The description of hardware: a device composed of units, tiers and links; a system of devices.

Every number is written with its unit in a YAML file of ``hwmodels/library`` (or of the user) and has a
source in the file's ``sources``.  Inside, all is SI.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PositiveInt

from codesign.base.document import Strict
from codesign.base.units import (
    Area,
    Bandwidth,
    Bytes,
    EnergyPerByte,
    EnergyPerFlop,
    FlopRate,
    Frequency,
    Latency,
    Money,
    MoneyPerEnergy,
    MoneyRate,
    Power,
)
from hwmodels.timing import Timing

PRECISION_BYTES: dict[str, float] = {
    "fp64": 8.0,
    "fp32": 4.0,
    "tf32": 4.0,
    "bf16": 2.0,
    "fp16": 2.0,
    "fp8": 1.0,
    "int8": 1.0,
    "fp6": 0.75,
    "fp4": 0.5,
    "int4": 0.5,
    "mxfp4": 0.53125,
    "nvfp4": 0.5625,
    "int3": 0.375,
    "int2": 0.25,
}  # bytes per value; mxfp4: 4 bit + 8 bit per 32 (OCP MX 1.0), nvfp4: 4 bit + 8 bit per 16


def _flat(value: Any, prefix: str = "") -> Any:
    """Turn ``{a: {b: 1}}`` into ``{"a.b": 1}``; anything but a mapping is returned as it is."""
    if not isinstance(value, dict):
        return value
    out: dict[str, Any] = {}
    for key, inner in value.items():
        below = _flat(inner, f"{prefix}{key}.")
        out |= below if isinstance(below, dict) else {f"{prefix}{key}": below}
    return out


class Compute(Strict):
    """A compute unit (a GPU's tensor cores, a CPU's matrix units): peak rates and geometry."""

    peak_flop_rate: dict[str, FlopRate]  # dense, by precision
    vector_flop_rate: FlopRate | None = None  # CUDA cores or SIMD, fp32
    units: int = Field(gt=0)  # streaming multiprocessors, compute units, cores
    clock: Frequency  # the clock at which the peaks hold
    shared_memory_per_unit: Bytes | None = None
    tiles: list[tuple[PositiveInt, PositiveInt]] = Field(
        default_factory=lambda: [
            (256, 128),
            (128, 256),
            (128, 128),
            (64, 256),
            (64, 128),
            (128, 64),
            (64, 64),
            (32, 64),
            (16, 64),
            (16, 128),
        ],
        min_length=1,
    )
    launch_overhead: Latency  # floor of one kernel inside a CUDA graph
    architecture: str = "generic"  # ampere, hopper, ada, blackwell, cdna3, ...
    energy_per_flop: dict[str, EnergyPerFlop] = Field(default_factory=dict)


class MemoryTier(Strict):
    """A memory that the device reads and writes at its own port: SRAM, HBM, DDR, flash."""

    kind: Literal["sram", "hbm", "gddr", "ddr", "lpddr", "cxl", "nvme", "flash"]
    capacity: Bytes
    bandwidth: Bandwidth  # peak read
    write_bandwidth: Bandwidth | None = None
    latency: Latency
    energy_per_byte: EnergyPerByte  # read, at the unit that uses the data
    efficiency: float = Field(default=0.9, gt=0, le=1)  # large sequential reads, share of peak
    granularity: Bytes | None = None
    shared_by: int = Field(default=1, ge=1)  # devices that share this tier's bandwidth (host memory)
    standard: str | None = None  # key of the DRAM standards library, for `fidelity: cycle`
    channels: int | None = Field(default=None, gt=0)
    interleave: Bytes | None = None  # consecutive bytes in one channel; default by kind, see `hwmodels.cycle`


class Pim(Strict):
    """A unit that computes beside one tier: processing in memory, or a host's processor beside its memory."""

    tier: str = "hbm"
    level: Literal["bank", "bank_group", "logic_die", "beside"]
    bandwidth: Bandwidth  # internal, summed over the device
    efficiency: float = Field(default=1.0, gt=0, le=1)  # of long streams, share of it: openings, refresh
    peak_flop_rate: FlopRate
    launch_overhead: Latency
    energy_per_byte: EnergyPerByte
    energy_per_flop: EnergyPerFlop
    area: Area | None = None
    bundles: int | None = Field(
        default=None, ge=1
    )  # of banks, each read by one unit at a time; None: no limit


class Dma(Strict):
    """A copy path between two tiers (or a tier and the host)."""

    source: str
    target: str
    bandwidth: Bandwidth
    latency: Latency
    energy_per_byte: EnergyPerByte
    efficiency: float = Field(default=0.9, gt=0, le=1)
    shared_by: int = Field(default=1, ge=1)


class Price(Strict):
    """What a device costs: rented by the hour, or bought and written off."""

    rental: MoneyRate | None = None
    purchase: Money | None = None
    lifetime_years: float = Field(default=4.0, gt=0)


class DevicePower(Strict):
    """Electrical power of one device."""

    idle: Power
    peak: Power  # TDP / TGP
    other: Power = 0.0  # drawn while any kernel runs, over idle, whatever it does


class Device(Timing, Strict):
    """One accelerator, or one CPU socket."""

    name: str
    compute: Compute
    memory: dict[str, MemoryTier]  # fastest first; "hbm"/"gddr"/"ddr" ... and "l2"
    main_memory: str  # the tier that holds weights and KV by default
    l2: str | None = None  # key of the on-chip cache tier in `memory`
    pim: Pim | None = None
    dma: dict[str, Dma] = Field(default_factory=dict)
    power: DevicePower
    price: Price
    area: Area | None = None
    # override the cost models' constants: ``gemm.compute_efficiency: 0.7``, or nested (so a sweep's axis may)
    calibration: Annotated[dict[str, float], BeforeValidator(_flat)] = Field(default_factory=dict)
    sources: dict[str, str] = Field(default_factory=dict)


class Link(Strict):
    """A port of a device, or of a node, into an interconnect."""

    bandwidth: Bandwidth  # per direction, per device
    latency: Latency  # one message between two ends, software included
    energy_per_byte: EnergyPerByte
    efficiency: float = Field(default=0.8, gt=0, le=1)  # large messages, share of peak
    topology: Literal["switch", "ring", "full", "pcie"] = "switch"
    in_network_reduction: bool = False  # NVLink SHARP and its like
    # how reductions and gathers go: as measured libraries choose, or from rank to rank around a ring, where
    # every hop pays `latency`
    algorithm: Literal["library", "ring"] = "library"


class Host(Strict):
    """The CPU side of a node: what it costs, draws and stores."""

    memory: dict[str, MemoryTier] = Field(default_factory=dict)
    idle: Power = 0.0
    peak: Power = 0.0
    price: Price = Price()
    links: dict[str, Dma] = Field(default_factory=dict)  # "pcie": a host tier -> "device" (its main memory)
    units: dict[str, Pim] = Field(default_factory=dict)  # "cpu": what computes beside a host tier


class Pool(Strict):
    """Devices of another type beside those of the system, reached over a network: what serves attention."""

    device: Device
    devices: PositiveInt  # for each engine (replica) of the system
    link: Link  # a port of each device, on either side


class System(Strict):
    """Nodes of equal devices: ``nodes x devices_per_node``, links inside and between nodes."""

    name: str
    device: Device
    devices_per_node: int = Field(gt=0)
    nodes: int = Field(default=1, gt=0)
    intra_node: Link | None = None  # required if devices_per_node > 1
    inter_node: Link | None = None  # required if nodes > 1; per device (one NIC per GPU)
    attention: Pool | None = None  # keeps the KV cache and computes attention; None: the devices do
    host: Host = Host()
    power_usage_effectiveness: float = Field(default=1.0, ge=1.0)
    electricity: MoneyPerEnergy = 0.0
    price: Price | None = None  # of one whole node; else devices and host are summed
    sources: dict[str, str] = Field(default_factory=dict)

    @property
    def devices(self) -> int:
        """Number of devices of the whole system."""
        return self.devices_per_node * self.nodes
