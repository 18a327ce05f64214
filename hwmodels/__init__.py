"""What can be done and what it costs: devices, systems, operator costs, energy, money.  Knows no workload."""

from hwmodels.spec import Device, System

__all__ = ["Device", "System"]
