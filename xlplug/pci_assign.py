# SPDX-License-Identifier: LGPL-2.1-only
"""Assigned PCI functions: which they are, whether they may be assigned, and what libxl and the device model do for them.

Policy only.  Nothing that depends on where the guest puts its BARs is ours: those are delegated to the device model.
"""

from typing import NamedTuple

from xlplug.config.domain import DomainConfig, PciAssignment
from xlplug.model.addr import libxl_page_span, page_span
from xlplug.model.bdf import Bdf
from xlplug.model.host import PCIBACK, ROM_INDEX, VBIOS_SHADOW, HostSnapshot, PciDevice
from xlplug.model.occasion import Who
from xlplug.model.problem import Problem
from xlplug.model.rangeset import Range
from xlplug.model.steps import IOMEM, IOPORT, TARGET
from xlplug.vga_owner import driven_by_dom0

__all__ = ["Assigned", "Delegated", "LibxlGrant", "Resolved", "delegated", "libxl_grants", "resolve"]

_CLASS_BRIDGE = 0x0604  # PCI-to-PCI: base and sub class
_CLASS_DISPLAY = 0x03  # base class


class Assigned(NamedTuple):
    """A function of the configuration found on the host, and the entry that names it."""

    entry: PciAssignment
    device: PciDevice


class Resolved(NamedTuple):
    """The functions of a configuration, and what is wrong with them."""

    assigned: tuple[Assigned, ...] = ()
    warnings: tuple[Problem, ...] = ()
    refusals: tuple[Problem, ...] = ()


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


def resolve(config: DomainConfig, host: HostSnapshot, *, who: Who, granting: bool) -> Resolved:
    """The assigned functions, and what is wrong with them.

    ``who.target`` may already own them.  A function that is not bound to pciback is a refusal when ``granting``, else a
    warning, as it is with ``seize=1``.
    """
    by_bdf = {device.bdf: device for device in host.devices}
    slots: dict[tuple[int, ...], list[PciDevice]] = {}
    for device in host.devices:
        slots.setdefault(device.bdf[:3], []).append(device)
    found: dict[Bdf, Assigned] = {}
    warnings: list[Problem] = []
    refusals: list[Problem] = []
    for entry in config.pci:
        if entry.bdf is None:
            text = f"{entry}: a device given by name cannot be looked up here"
            refusals.append(Problem(text, "write its address in pci=", code="XLP307"))
            continue
        matches = slots.get(entry.bdf[:3], []) if entry.all_functions else filter(None, (by_bdf.get(entry.bdf),))
        devices = tuple(matches)
        if not devices:
            refusals.append(_absent(entry, host))
        for device in devices:
            if device.bdf in found:
                text = f"{device.bdf}: listed twice in pci=: xl create ends with 'PCI device is not assignable'"
                warnings.append(Problem(text, "remove one of the two", code="XLP314"))
                continue
            found[device.bdf] = Assigned(entry, device)
            fault = _assigned_elsewhere(device, who) or _bridge(device)
            if fault is not None:
                refusals.append(fault)
                continue
            fault = _not_assignable(entry, device, host.distribution)
            if fault is not None:
                (refusals if granting and not entry.seize else warnings).append(fault)
    return Resolved(tuple(found.values()), tuple(warnings), tuple(refusals))


def _absent(entry: PciAssignment, host: HostSnapshot) -> Problem:
    nowhere = Problem(f"{entry}: no such PCI device on host {host.name}", "see 'lspci -D'", code="XLP301")
    return host.note(str(entry.bdf)) or nowhere


def _assigned_elsewhere(device: PciDevice, who: Who) -> Problem | None:
    if device.owner is None or device.owner == who.target:
        return None
    advice = f"take it back first: xl pci-detach {device.owner} {device.bdf}"
    return Problem(f"{device.bdf}: assigned to domain {device.owner}", advice, code="XLP302")


def _bridge(device: PciDevice) -> Problem | None:
    if device.class_code >> 8 != _CLASS_BRIDGE:
        return None
    return Problem(
        f"{device.bdf}: a PCI bridge, which cannot be passed through",
        "assign the functions behind it instead",
        code="XLP303",
    )


def _not_assignable(entry: PciAssignment, device: PciDevice, distribution: str) -> Problem | None:
    if device.owner is not None or device.driver == PCIBACK:
        return None
    bound = f"bound to {device.driver}" if device.driver else "bound to no driver"
    if device.class_code >> 16 == _CLASS_DISPLAY and driven_by_dom0(device):
        from xlplug.hide_at_boot import hide_at_boot

        advice = hide_at_boot(device.bdf, distribution)
        if entry.seize:
            return Problem(
                f"{device.bdf}: a display {bound}, and seize=1 takes it away, which can hang the host",
                advice,
                code="XLP306",
            )
        return Problem(f"{device.bdf}: a display {bound}, not assignable", advice, code="XLP306")
    if entry.seize:
        return Problem(f"{device.bdf}: {bound}, and xl will seize it (seize=1)")
    return Problem(f"{device.bdf}: {bound}, not assignable", f"run: xl pci-assignable-add {device.bdf}", code="XLP304")


def delegated(device: PciDevice) -> tuple[Delegated, ...]:
    """The BARs 0 to 5 of a function, which the device model maps.  The ROM is emulated by it."""
    return tuple(
        Delegated(device.bdf, r.line, *_kind_and_range(r.start, r.stop, is_port=r.is_port))
        for r in device.resources
        if r.line < ROM_INDEX and r.has_address
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
