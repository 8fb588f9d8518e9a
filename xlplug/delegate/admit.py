# SPDX-License-Identifier: LGPL-2.1-only
"""Whether functions may be delegated to a guest: everything that is refused, before anything is touched."""

import errno
from collections.abc import Sequence
from typing import Protocol

from xlplug.config.delegated import Spec, place
from xlplug.delegate.bar import bars_of, unfit
from xlplug.delegate.process import Placement
from xlplug.model.bdf import Bdf
from xlplug.model.errors import HostError, Refused, XenError
from xlplug.model.host import PciDevice
from xlplug.model.hypervisor import DomainInfo, IoreqServerInfo
from xlplug.model.problem import Problem

__all__ = ["Servers", "admit", "check", "guest"]

_DRIVERS = ("pciback", "xen-pciback")
_HEADER_TYPE, _CONFIG_HEADER = 0x0E, 64


class Servers(Protocol):
    """What of `xlplug.xen.ctrl.XenCtrl` is looked at."""

    def domain_info(self, domid: int) -> DomainInfo | None: ...
    def ioreq_servers(self) -> dict[int, tuple[IoreqServerInfo, ...]]: ...


def guest(domid: int, xen: Servers) -> DomainInfo:
    """The living HVM or PVH guest of that number.

    Raises:
        Refused: it is not one.
    """
    info = xen.domain_info(domid)
    if info is None or info.dying:
        raise Refused(Problem(f"domain {domid} does not exist", "see 'xl list'"))
    if not domid:
        raise Refused(Problem("domain 0 is dom0", "give the domid of a guest (xl list)"))
    if not info.hvm:
        raise Refused(
            Problem(f"domain {domid} is a PV domain, which has no BARs of its own", "delegate to an HVM or PVH guest")
        )
    return info


def admit(domid: int, specs: Sequence[Spec], devices: Sequence[PciDevice], xen: Servers) -> tuple[Placement, ...]:
    """The functions with their places in the guest.  ``devices`` are those of ``specs`` that the host has.

    Raises:
        Refused, ConfigError, HostError: one of them cannot be delegated.
    """
    check(specs, devices)
    by_host = {device.bdf: device for device in devices}
    servers = _servers(domid, xen)
    taken = {
        sbdf >> 3 for server in servers for start, stop in server.pci for sbdf in range(start, stop) if sbdf < 0x100
    }
    places = place(specs, taken)
    chosen = (by_host[spec.host] for spec in specs)
    return tuple(
        Placement(device.bdf, at, device.config[:_CONFIG_HEADER], bars_of(device))
        for device, at in zip(chosen, places, strict=True)
    )


def _servers(domid: int, xen: Servers) -> tuple[IoreqServerInfo, ...]:
    """Who serves the guest already, as far as Xen's dump shows it.

    None where the dump cannot be had, as on a host with a dozen guests: then a slot of our choice is still a free one, because
    QEMU gives out the lowest and we the highest, and one that was asked for is the administrator's.
    """
    try:
        return xen.ioreq_servers().get(domid, ())
    except XenError as error:
        if error.errno not in (errno.ENODATA, errno.EAGAIN):
            raise
        return ()


def check(specs: Sequence[Spec], devices: Sequence[PciDevice]) -> None:
    """What of `admit` can be asked before there is a guest.

    Raises:
        Refused, HostError: one of them cannot be delegated.
    """
    by_host = {device.bdf: device for device in devices}
    for spec in specs:
        _check(spec.host, by_host.get(spec.host))


def _check(host: Bdf, device: PciDevice | None) -> None:
    """One function.

    Raises:
        Refused, HostError: it cannot be delegated.
    """
    if device is None:
        raise HostError(f"{host} was not found on this host", hint="see 'lspci -D'")
    if device.owner is not None:
        raise Refused(Problem(
            f"{host} is assigned to domain {device.owner}, whose device model maps it",
            "remove it from pci=[...], or do not delegate it",
        ))  # fmt: skip
    if device.driver not in _DRIVERS:
        bound = f"bound to the driver {device.driver}" if device.driver else "bound to no driver"
        raise Refused(Problem(f"{host} is {bound}, not to pciback", f"run: xl pci-assignable-add {host}"))
    if len(device.config) < _CONFIG_HEADER:
        raise HostError(f"the config space of {host} cannot be read", hint="run xlplug as root in dom0")
    if device.config[_HEADER_TYPE] & 0x7F:
        raise Refused(Problem(f"{host} is a bridge, and only devices can be delegated", "name the device behind it"))
    wrong = unfit(host, bars_of(device))
    if wrong:
        raise Refused(Problem(wrong, "assign the device with pci=[...]"))
