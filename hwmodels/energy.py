"""Joules of what was counted: FLOP by precision, bytes by tier and link, watts over time.

Every function is pure and linear in its count; counts may be numbers or arrays.  A device's energy over a
time T in which it is busy for B seconds is

    idle * T  +  other * B  +  sum(FLOP energy)  +  sum(byte energy)

which is what a meter at the device would read; `facility_energy_j` adds the cooling and the conversion.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from codesign.base.errors import ConfigError, unknown_name
from hwmodels.spec import PRECISION_BYTES, Device, Dma, Link, MemoryTier, Pim, System

Count = TypeVar("Count", float, npt.NDArray[np.float64])


def energy_per_flop_j(device: Device, precision: str) -> float:
    """Return joules of one FLOP; a type without an entry is computed in the next wider one that has one.

    A device without any entry gives 0.0 (``codesign hw check`` warns of it).

    Raises
    ------
    ConfigError   unknown precision
    """
    known = device.compute.energy_per_flop
    if precision in known or not known:
        return known.get(precision, 0.0)
    if precision not in PRECISION_BYTES:
        raise unknown_name("precision", precision, PRECISION_BYTES)
    return known[_next_wider(precision, known)]


def flop_energy_j(device: Device, precision: str, flop: Count) -> Count:
    """Return joules of `flop` operations on operands of a precision.

    Law: linear in `flop`.
    """
    return flop * energy_per_flop_j(device, precision)


def tier_energy_j(hardware: Device | System, tier: str, n_bytes: Count) -> Count:
    """Return joules of bytes that a memory tier delivers to (or takes from) the unit that uses them.

    A system also knows the tiers of its host.  Law: linear in `n_bytes`.

    Raises
    ------
    ConfigError   there is no such tier
    """
    return n_bytes * _tier(hardware, tier).energy_per_byte


def link_energy_j(link: Link | Dma, n_bytes: Count) -> Count:
    """Return joules of bytes that cross a link or a copy path, counted once, where they are sent.

    Law: linear in `n_bytes`.
    """
    return n_bytes * link.energy_per_byte


def unit_energy_j(unit: Pim, flop: Count, n_bytes: Count) -> Count:
    """Return joules of work beside a memory: its operations and the bytes that it reads there."""
    return flop * unit.energy_per_flop + n_bytes * unit.energy_per_byte


def pim_energy_j(device: Device, flop: Count, n_bytes: Count) -> Count:
    """Return joules of a device's PIM unit; see `unit_energy_j`.

    Raises
    ------
    ConfigError   the device has no PIM unit
    """
    if device.pim is None:
        raise ConfigError(f"device {device.name!r} has no pim unit")
    return unit_energy_j(device.pim, flop, n_bytes)


def active_power_w(device: Device) -> float:
    """Return watts over idle that a device draws while any kernel runs, whatever the kernel does."""
    return device.power.other


def idle_power_w(system: System, devices_used: int) -> float:
    """Return watts of devices that do nothing and of their share of the hosts.

    A host is shared by its node's devices: law ``idle(a) + idle(b) == idle(a + b)``.

    Raises
    ------
    ConfigError   more devices than the system has
    """
    return devices_used * system.device.power.idle + host_idle_power_w(system, devices_used)


def host_idle_power_w(system: System, devices_used: int) -> float:
    """Return the watts of `idle_power_w` that the hosts draw: what a meter of the devices alone omits."""
    return node_share(system, devices_used) * system.host.idle


def peak_power_w(system: System, devices_used: int) -> float:
    """Return watts of devices and their share of the hosts at their limits; an upper bound of the average."""
    share = node_share(system, devices_used)
    return devices_used * system.device.power.peak + share * max(system.host.peak, system.host.idle)


def facility_energy_j(system: System, energy_j: Count) -> Count:
    """Return joules at the building's meter: `energy_j` of the machines times their PUE."""
    return energy_j * system.power_usage_effectiveness


def node_share(system: System, devices_used: int) -> float:
    """Return the number of nodes that `devices_used` devices amount to (not rounded).

    Raises
    ------
    ConfigError   less than one device, or more than the system has
    """
    if not 0 < devices_used <= system.devices:
        raise ConfigError(f"{devices_used} devices: system {system.name!r} has 1 ... {system.devices}")
    return devices_used / system.devices_per_node


def _next_wider(precision: str, known: Iterable[str]) -> str:
    """Return the narrowest known type that holds `precision`, else the widest; first named wins a tie."""
    wanted = PRECISION_BYTES[precision]
    by_width = sorted(known, key=lambda name: PRECISION_BYTES[name])
    return next((name for name in by_width if PRECISION_BYTES[name] >= wanted), by_width[-1])


def _tier(hardware: Device | System, name: str) -> MemoryTier:
    tiers = dict(hardware.device.memory if isinstance(hardware, System) else hardware.memory)
    if isinstance(hardware, System):
        tiers = {**hardware.host.memory, **tiers}
    if name not in tiers:
        raise unknown_name("memory tier", name, tiers, hardware.name)
    return tiers[name]
