"""US dollars of hardware over time: rented by the hour, or bought, written off and fed with electricity."""

from __future__ import annotations

from typing import Literal

from hwmodels.energy import node_share
from hwmodels.spec import Price, System

Basis = Literal["auto", "rental", "owned"]
YEAR_S = 365.25 * 86400.0


def rental_usd_per_s(system: System, devices_used: int) -> float | None:
    """Return the rent of devices and their share of the hosts; None if no rent is known.

    The price of a whole node, where given, is shared among its devices; else a device's rent includes its
    host.  Electricity is in the rent.
    """
    share = node_share(system, devices_used)
    if system.price is not None and system.price.rental is not None:
        return share * system.price.rental
    rent = system.device.price.rental
    return None if rent is None else devices_used * rent


def with_pool(usd_per_s: float | None, system: System, engines: int) -> float | None:
    """Add the rent of the devices that serve attention; None if a rent is not known."""
    pool = system.attention
    if pool is None or usd_per_s is None:
        return usd_per_s
    rent = pool.device.price.rental
    return None if rent is None else usd_per_s + engines * pool.devices * rent


def owned_usd_per_s(system: System, devices_used: int, average_power_w: float) -> float | None:
    """Return the write-off of what was bought plus its electricity; None if no purchase price is known.

    ``purchase / lifetime + average_power_w * PUE * electricity``; hosts are shared as in `idle_power_w`.
    """
    share = node_share(system, devices_used)
    if system.price is not None and system.price.purchase is not None:
        written_off = share * _per_s(system.price)
    elif system.device.price.purchase is not None:
        written_off = devices_used * _per_s(system.device.price) + share * _per_s(system.host.price)
    else:
        return None
    return written_off + average_power_w * system.power_usage_effectiveness * system.electricity


def usd_per_s(
    system: System, devices_used: int, average_power_w: float, basis: Basis = "auto"
) -> float | None:
    """Return what a run of `devices_used` devices costs a second.

    Parameters
    ----------
    average_power_w : float   of the used devices and their share of the hosts, without PUE; W
    basis : str               "rental", "owned", or "auto": the rent if known, else owned

    Returns
    -------
    float or None             USD/s; None where the files give no price
    """
    rental = rental_usd_per_s(system, devices_used)
    if basis == "rental" or (basis == "auto" and rental is not None):
        return rental
    return owned_usd_per_s(system, devices_used, average_power_w)


def usd_per_million_tokens(usd_per_second: float | None, tokens_per_s: float) -> float | None:
    """Return USD per million tokens; None without a price or without tokens.

    Law: ``usd_per_million_tokens(c, t) * t / 1e6 == c``.
    """
    if usd_per_second is None or tokens_per_s <= 0:
        return None
    return usd_per_second / tokens_per_s * 1e6


def _per_s(price: Price) -> float:
    return (price.purchase or 0.0) / (price.lifetime_years * YEAR_S)
