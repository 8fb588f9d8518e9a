# SPDX-License-Identifier: LGPL-2.1-only
"""Whether functions may be delegated to a guest: everything that is refused, before anything is touched."""

import errno
from collections.abc import Sequence
from typing import Protocol

from xlplug.config.delegated import Spec, place
from xlplug.delegate.process import Placement
from xlplug.delegation import delegation
from xlplug.model.bar import bars_of
from xlplug.model.errors import Refused, XenError
from xlplug.model.host import PciDevice
from xlplug.model.hypervisor import DomainInfo, IoreqServerInfo
from xlplug.model.problem import Problem

__all__ = ["Servers", "admit", "check", "guest"]

_CONFIG_HEADER = 64


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
        raise Refused(Problem(f"domain {domid} does not exist", "see 'xl list'", code="XLP112"))
    if not domid:
        raise Refused(Problem("domain 0 is dom0", "give the domid of a guest (xl list)", code="XLP802"))
    if not info.hvm:
        raise Refused(
            Problem(
                f"domain {domid} is a PV domain, which has no BARs of its own",
                "delegate to an HVM or PVH guest",
                code="XLP701",
            )
        )
    return info


def admit(
    domid: int, specs: Sequence[Spec], devices: Sequence[PciDevice], xen: Servers, distribution: str = ""
) -> tuple[Placement, ...]:
    """The functions with their places in the guest.  ``devices`` are those of ``specs`` that the host has.

    Raises:
        Refused, ConfigError: one of them cannot be delegated.
    """
    check(specs, devices, distribution)
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


def check(specs: Sequence[Spec], devices: Sequence[PciDevice], distribution: str) -> None:
    """What of `admit` can be asked before there is a guest.

    Raises:
        Refused: one of them cannot be delegated.
    """
    refusals = delegation(specs, devices, distribution, granting=True).refusals
    if refusals:
        raise Refused(*refusals, see="")
