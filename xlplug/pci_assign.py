# SPDX-License-Identifier: LGPL-2.1-only
"""Assigned PCI functions: which they are, whether they may be assigned, and what libxl and the device model do for them.

Policy only.  Nothing that depends on where the guest puts its BARs is ours: those are delegated to the device model.
"""

from itertools import pairwise
from typing import NamedTuple

from xlplug.config.domain import DomainConfig, PciAssignment
from xlplug.model.addr import libxl_page_span, page_span
from xlplug.model.bdf import Bdf
from xlplug.model.host import ROM_INDEX, VBIOS_SHADOW, HostSnapshot, PciDevice
from xlplug.model.occasion import Who
from xlplug.model.problem import Problem
from xlplug.model.rangeset import Range
from xlplug.model.steps import IOMEM, IOPORT, TARGET

__all__ = ["Assigned", "Delegated", "LibxlGrant", "adjacent_port_bars", "delegated", "libxl_grants", "resolve"]

_PCIBACK = "pciback"  # the driver's name in sysfs.  Source: Linux drivers/xen/xen-pciback/pci_stub.c.


class Assigned(NamedTuple):
    """A function of the configuration found on the host, and the entry that names it."""

    entry: PciAssignment
    device: PciDevice


class Delegated(NamedTuple):
    """A BAR that the device model maps where the guest puts it: machine range in mfns or ports."""

    device: Bdf
    bar: int
    kind: str
    range: Range


class LibxlGrant(NamedTuple):
    """What libxl itself grants, so that our undo leaves it: mfns or ports, to ``grantee``."""

    kind: str
    range: Range
    grantee: str
    reason: str
    device: Bdf | None = None


def resolve(
    config: DomainConfig, host: HostSnapshot, *, who: Who, granting: bool
) -> tuple[tuple[Assigned, ...], tuple[Problem, ...], tuple[Problem, ...]]:
    """The assigned functions, warnings and refusals.

    ``who.target`` may already own them.  A function that is not bound to pciback is a refusal when
    ``granting``, else a warning, as it is with ``seize=1``.
    """
    found: list[Assigned] = []
    warnings: list[Problem] = []
    refusals: list[Problem] = []
    seen: set[Bdf] = set()
    for entry in config.pci:
        if entry.bdf is None:
            refusals.append(
                Problem(f"{entry}: a device given by name cannot be looked up here", "write its address in pci=")
            )
            continue
        matches = _matches(entry, entry.bdf, host)
        if not matches:
            refusals.append(
                host.note(str(entry.bdf))
                or Problem(f"{entry}: no such PCI device on host {host.name}", "see 'lspci -D'")
            )
        for device in matches:
            if device.bdf in seen:
                warnings.append(
                    Problem(f"{device.bdf}: listed twice in pci= and counted once", "remove one of the two")
                )
                continue
            seen.add(device.bdf)
            found.append(Assigned(entry, device))
            if device.owner is not None and device.owner != who.target:
                refusals.append(
                    Problem(
                        f"{device.bdf}: assigned to domain {device.owner}",
                        f"take it back first: xl pci-detach {device.owner} {device.bdf}",
                    )
                )
            elif device.driver != _PCIBACK:
                bound = f"bound to {device.driver}" if device.driver else "bound to no driver"
                if entry.seize:
                    warnings.append(Problem(f"{device.bdf}: {bound}, and xl will seize it (seize=1)"))
                    continue
                (refusals if granting else warnings).append(
                    Problem(f"{device.bdf}: {bound}, not assignable", f"run: xl pci-assignable-add {device.bdf}")
                )
    return tuple(found), tuple(warnings), tuple(refusals)


def _matches(entry: PciAssignment, bdf: Bdf, host: HostSnapshot) -> tuple[PciDevice, ...]:
    if not entry.all_functions:
        device = host.device(bdf)
        return () if device is None else (device,)
    return tuple(d for d in host.devices if d.bdf[:3] == bdf[:3])


def delegated(device: PciDevice) -> tuple[Delegated, ...]:
    """The BARs 0 to 5 of a function, which the device model maps.  The ROM is emulated by it."""
    return tuple(
        Delegated(device.bdf, r.line, *_kind_and_range(r.start, r.stop, is_port=r.is_port))
        for r in device.resources
        if r.line < ROM_INDEX
    )


def libxl_grants(device: PciDevice, grantees: tuple[str, ...]) -> tuple[LibxlGrant, ...]:
    """Permissions that libxl gives on lines 0 to 6 of sysfs ``resource`` when it attaches the function.

    Source: tools/libs/light/libxl_pci.c, pci_add_dm_done.  Memory is rounded as libxl rounds it: start down, size up.
    """
    found = []
    for grantee in grantees:
        for r in device.resources:
            if r.line > ROM_INDEX or r.start == 0:
                continue
            reason = f"BAR {r.line}"
            if r.line == ROM_INDEX:
                reason = "ROM"
                if r.start == VBIOS_SHADOW.start and grantee == TARGET:
                    reason = "ROM: the VBIOS shadow, writable; xlplug never grants it to the target"
            kind, span = _kind_and_range(r.start, r.stop, is_port=r.is_port, as_libxl=True)
            found.append(LibxlGrant(kind, span, grantee, reason, device.bdf))
    return tuple(found)


def _kind_and_range(start: int, stop: int, *, is_port: bool, as_libxl: bool = False) -> tuple[str, Range]:
    if is_port:
        return IOPORT, Range(start, stop)
    first, count = (libxl_page_span if as_libxl else page_span)(start, stop)
    return IOMEM, Range(first, first + count)


def adjacent_port_bars(assigned: tuple[Assigned, ...]) -> tuple[Problem, ...]:
    """Pairs of I/O BARs that touch, one sentence each.

    Xen 4.23 takes a port mapping that touches another one for an overlap and answers EBUSY, so the second BAR of such a
    pair never works in the guest (xen/arch/x86/domctl.c, XEN_DOMCTL_ioport_mapping; seen with two e1000).
    """
    bars = sorted(
        (r.start, r.stop, str(a.device.bdf), r.line)
        for a in assigned
        for r in a.device.resources
        if r.is_port and r.line < ROM_INDEX
    )
    return tuple(
        Problem(
            f"I/O BARs of {one[2]} (BAR {one[3]}) and {two[2]} (BAR {two[3]}) touch at port {two[0]:#x}: Xen 4.23 and "
            "later refuse the second mapping with EBUSY",
            "assign only one of them to this guest",
        )
        for one, two in pairwise(bars)
        if one[1] >= two[0]
    )
