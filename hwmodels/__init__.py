"""What can be done and what it costs: devices, systems, operator costs, energy, money.  Knows no workload.

``hwmodels.load("dgx-h100")`` gives a checked `System`, ``hwmodels.load("h100")`` a `Device`.
"""

from hwmodels.load import load, load_device, load_system, names, resolve
from hwmodels.spec import Device, System

__all__ = ["Device", "System", "load", "load_device", "load_system", "names", "resolve"]
