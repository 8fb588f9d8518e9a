# SPDX-License-Identifier: LGPL-2.1-only
"""From a configuration and a host to a `Plan`: every step to take, and why nothing else is taken.

Pure: no I/O, no clock, no environment.  Ranges are policy's (vga.py, igd.py, pci_assign.py, physmap.py); this file
merges rights into the fewest calls, orders them, finds what is shared with libxl, and collects refusals.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from xlplug.config.domain import DomainConfig
from xlplug.igd import opregion_rights, vbios_rights
from xlplug.model.addr import DOMID_FIRST_RESERVED, PAGE_SHIFT, Domid
from xlplug.model.bdf import Bdf
from xlplug.model.host import HostSnapshot, PciDevice
from xlplug.model.hypervisor import HeldRights
from xlplug.model.occasion import AHEAD, NOBODY, Occasion, Who
from xlplug.model.problem import Problem
from xlplug.model.rangeset import Range, RangeSet
from xlplug.model.steps import (
    IOMEM,
    IOMEM_PERMISSION,
    IOPORT,
    IOPORT_MAPPING,
    IOPORT_PERMISSION,
    MEMORY_MAPPING,
    OPS,
    STUBDOM,
    TARGET,
    Right,
    Step,
)
from xlplug.pci_assign import (
    Assigned,
    Delegated,
    LibxlGrant,
    adjacent_port_bars,
    delegated,
    libxl_grants,
    resolve,
)
from xlplug.physmap import plan_physmap
from xlplug.vga import VENDOR_INTEL, VGA_MEMORY, VGA_PORT_SET, VGA_PORTS, owns_legacy_vga, vga_rights

__all__ = ["Plan", "build", "domid_refusals", "mapped_in_vain"]

#: Ports that QEMU's default HVM machine emulates: a 1:1 mapping takes them away from it.  Inclusive pairs.
#: Source: the `ioreq_server port` line of Xen's q dump for a guest of QEMU 7.2, and xen/arch/x86/hvm (pit, pic, rtc).
_EMULATED = RangeSet(
    (first, last + 1)
    for first, last in (
        (0x00, 0x1F), (0x20, 0x21), (0x40, 0x43), (0x60, 0x61), (0x64, 0x64), (0x70, 0x71), (0x80, 0x8F), (0x92, 0x92),
        (0xA0, 0xA1), (0xC0, 0xDF), (0x170, 0x177), (0x1F0, 0x1F7), (0x376, 0x376), (0x3B0, 0x3DF), (0x3F0, 0x3F7),
        (0x4D0, 0x4D1), (0x510, 0x511), (0xAE00, 0xAE17), (0xCF8, 0xCFF),
    )
)  # fmt: skip


class Plan(NamedTuple):
    """What to do and what not.  With ``refusals`` it must not be carried out.

    ``notes`` say what is left undone though all is well.  ``preload``: the device model has our library, and is told what
    has been done for it.
    """

    host: str
    domain: str
    target: Domid | None
    stubdom: Domid | None
    has_stubdom: bool
    devices: tuple[Assigned, ...] = ()
    steps: tuple[Step, ...] = ()
    delegated: tuple[Delegated, ...] = ()
    by_libxl: tuple[LibxlGrant, ...] = ()
    notes: tuple[Problem, ...] = ()
    warnings: tuple[Problem, ...] = ()
    refusals: tuple[Problem, ...] = ()
    preload: bool = False


def build(
    config: DomainConfig,
    host: HostSnapshot,
    who: Who = NOBODY,
    occasion: Occasion = AHEAD,
    *,
    map_legacy: bool = False,
) -> Plan:
    """Plan the grants for ``config`` on ``host``.

    A stubdomain is planned for when the configuration asks for one or its domid is given.  ``map_legacy`` also maps the
    VGA set 1:1.
    """
    target, stubdom = who
    has_stubdom = config.stubdom or stubdom is not None
    grantees = (TARGET, STUBDOM) if has_stubdom else (TARGET,)
    assigned, found_warnings, found_refusals = resolve(config, host, who=who, granting=occasion.granting)
    warnings = [*config.warnings, *found_warnings]
    refusals = [*found_refusals, *domid_refusals(who)]
    if config.stubdom and occasion.granting and target is not None and stubdom is None:
        refusals.append(
            Problem("the configuration asks for a stubdomain and none runs yet", "grant once it has been built")
        )

    rights, displays = _legacy_rights(
        config, host, assigned, grantees, warnings, refusals, attach_later=occasion.attach_later
    )
    by_libxl = _by_libxl(config, assigned, grantees)
    mappings = _mappings(config, displays, map_legacy=map_legacy or config.map_legacy, warnings=warnings, host=host)
    if any(m.op == MEMORY_MAPPING for m in mappings) and target is not None and displays[0].owner == target:
        warnings.append(
            Problem(
                f"{displays[0].bdf}: attached already, so the device model may have mapped the VGA set itself, and revoking "
                "unmaps that too"
            )
        )
    refusals += _ram_refusals(rights, host)
    steps = _steps(rights, mappings, by_libxl, who)
    if steps and config.type == "hvm" and config.maxmem > config.memory:
        refusals.append(
            Problem(
                f"maxmem={config.maxmem} is more than memory={config.memory}: a guest with I/O rights cannot populate on "
                "demand",
                "set maxmem to memory",
            )
        )
    physmap = plan_physmap(config, target, has_stubdom=has_stubdom, ram_left=occasion.ram_left)
    if host.xen is None or host.xen.version >= (4, 23):
        warnings += adjacent_port_bars(assigned)
    return Plan(
        host=host.name,
        domain=config.name,
        target=target,
        stubdom=stubdom,
        has_stubdom=has_stubdom,
        devices=assigned,
        steps=(*steps, *physmap.steps),
        delegated=tuple(d for a in assigned for d in delegated(a.device)),
        by_libxl=by_libxl,
        notes=physmap.notes,
        warnings=tuple(warnings),
        refusals=(*refusals, *physmap.refusals),
        preload=config.preload,
    )


def mapped_in_vain(plan: Plan, held: HeldRights) -> bool:
    """Whether the device model has been given the display already, and could not map the VGA set; ``held`` is the target's.

    It tries once, when it is given the display.  A guest that holds the ports by then has them mapped: up to Xen 4.22 mapping
    also grants them.  So this is about every stubdomain, and from 4.23 about a device model in dom0 too.
    """
    attached = any(owns_legacy_vga(a.device) and a.device.owner == plan.target for a in plan.devices)
    wanted = any(s.kind == IOPORT and s.grantee == TARGET and VGA_PORT_SET & RangeSet([s.range]) for s in plan.steps)
    return plan.target is not None and attached and wanted and bool(VGA_PORT_SET - held.ports)


def domid_refusals(who: Who) -> list[Problem]:
    """Why these numbers cannot be a target and its stubdomain."""
    found = []
    for name, domid in ((TARGET, who.target), (STUBDOM, who.stubdom)):
        if domid is None:
            continue
        if domid == 0:
            found.append(
                Problem(f"{name} domid=0 is dom0, which holds these rights already", "give a guest's domid (xl list)")
            )
        elif not 0 < domid < DOMID_FIRST_RESERVED:
            found.append(
                Problem(f"{name} domid={domid} is not a domain's number", "give one from 1 to 32751 (xl list)")
            )
    if who.target is not None and who.target == who.stubdom:
        found.append(Problem(f"target and stubdom are both domid={who.target}", "give two different domains"))
    return found


def _legacy_rights(
    config: DomainConfig,
    host: HostSnapshot,
    assigned: Sequence[Assigned],
    grantees: tuple[str, ...],
    warnings: list[Problem],
    refusals: list[Problem],
    *,
    attach_later: bool,
) -> tuple[list[Right], list[PciDevice]]:
    """The rights that displays need, and the displays that claim legacy VGA."""
    if config.gfx_passthru is None:
        for a in assigned:
            if owns_legacy_vga(a.device):
                warnings.append(Problem(f"{a.device.bdf}: a display, but gfx_passthru is off: no legacy VGA for it"))
        return [], []
    displays = [a.device for a in assigned if owns_legacy_vga(a.device)]
    for a in assigned:
        if a.device.physfn is not None and a.device.class_code >> 16 == 0x03:
            warnings.append(Problem(f"{a.device.bdf}: a virtual function of {a.device.physfn}: no legacy VGA for it"))
    if not displays:
        text = "gfx_passthru is set but no display device is assigned"
        if not attach_later:
            refusals.append(Problem(text, "add one to pci=, or remove gfx_passthru"))
        elif not refusals:
            warnings.append(Problem(f"{text}: nothing is granted until one is plugged in", "see 'xlplug watch'"))
        return [], []
    if len(displays) > 1:
        names = " and ".join(str(d.bdf) for d in displays)
        refusals.append(
            Problem(f"{names} both claim the legacy VGA ranges", "assign one display, or set gfx_passthru=0")
        )
        return [], displays
    display = displays[0]
    if config.gfx_passthru == "default" and display.vendor != VENDOR_INTEL:
        warnings.append(
            Problem(
                f"{display.bdf}: xl itself refuses gfx_passthru=1 without an Intel display", 'write gfx_passthru="igd"'
            )
        )
    rights = list(vga_rights(display.bdf, grantees))
    if display.vendor == VENDOR_INTEL:
        more, refusal = opregion_rights(display, host, grantees)
        rights += more
        if refusal:
            refusals.append(refusal)
    if STUBDOM in grantees:
        more, warning = vbios_rights(display, host)
        rights += more
        if warning:
            warnings.append(warning)
    return rights, displays


def _by_libxl(config: DomainConfig, assigned: Sequence[Assigned], grantees: tuple[str, ...]) -> tuple[LibxlGrant, ...]:
    """Everything that libxl grants for this configuration, in its own order."""
    found = [LibxlGrant(IOPORT, ports, TARGET, "ioports=") for ports in config.ioports]
    found += [LibxlGrant(IOMEM, Range(m.mfn, m.mfn + m.nr), TARGET, "iomem=") for m in config.iomem]
    if config.gfx_passthru is not None and not config.igd_by_args:
        # libxl_pci.c, libxl__grant_vga_iomem_permission: exactly class 0x030000, memory only.
        found += [
            LibxlGrant(IOMEM, VGA_MEMORY, grantee, "VGA frame buffer", a.device.bdf)
            for a in assigned
            if a.device.class_code == 0x030000
            for grantee in grantees
        ]
    for a in assigned:
        found += libxl_grants(a.device, grantees)
    return tuple(found)


def _mappings(
    config: DomainConfig,
    displays: Sequence[PciDevice],
    *,
    map_legacy: bool,
    warnings: list[Problem],
    host: HostSnapshot,
) -> list[Step]:
    """The 1:1 mappings that we make: the VGA set on request, and the configuration's own ports."""
    if config.type != "hvm":
        return []
    found: list[Step] = []
    device = displays[0].bdf if displays else None
    if map_legacy and not displays:
        warnings.append(
            Problem(
                "mapping the legacy VGA set was asked for, but no display is assigned with gfx_passthru: not mapped"
            )
        )
    elif map_legacy:
        found.append(_map(MEMORY_MAPPING, VGA_MEMORY, "VGA frame buffer, on request", device))
        found += [_map(IOPORT_MAPPING, ports, "VGA ports, on request", device) for ports in VGA_PORTS]
    wanted = RangeSet(config.ioports)
    if displays:
        wanted -= VGA_PORT_SET
        if wanted != RangeSet(config.ioports):
            warnings.append(
                Problem("ioports= repeats VGA ports, which are left to the device model: it maps them for the display")
            )
    for ports in wanted:
        if displays and any(ports.start <= vga.stop and vga.start <= ports.stop for vga in VGA_PORTS):
            warnings.append(
                Problem(
                    f"ioports {ports.start:x}-{ports.last:x} not mapped: they touch the VGA ports, and from Xen 4.23 a "
                    "mapping that touches another fails",
                    "remove them from ioports=",
                )
            )
            continue
        exact = [vga for vga in VGA_PORTS if ports == vga]
        found.append(_map(IOPORT_MAPPING, exact[0] if exact else ports, "ioports= is inert for HVM until mapped", None))
        if _EMULATED.overlaps(ports.start, ports.stop):
            both = _EMULATED & RangeSet([ports])
            warnings.append(
                Problem(f"ioports {both}: QEMU emulates these too, and the guest will reach the host's device instead")
            )
    return found


def _map(op: str, span: Range, reason: str, device: Bdf | None) -> Step:
    return Step(op, TARGET, None, span.start, span.nr, reason, device, first_guest=span.start)


def _ram_refusals(rights: Iterable[Right], host: HostSnapshot) -> list[Problem]:
    """One refusal for each range that would give away System RAM.  Xen does not check this: the check is ours."""
    ram = host.ram
    found = []
    for right in rights:
        start, stop = right.range.start << PAGE_SHIFT, right.range.stop << PAGE_SHIFT
        if right.kind == IOMEM and ram.overlaps(start, stop):
            found.append(
                Problem(
                    f"{right.reason} mfn={right.range} for {right.device} lies in the host's System RAM",
                    "update the firmware, or set gfx_passthru=0",
                )
            )
    return list(dict.fromkeys(found))


def _steps(
    rights: Sequence[Right],
    mappings: Sequence[Step],
    by_libxl: Sequence[LibxlGrant],
    who: Who,
) -> tuple[Step, ...]:
    """The fewest permission calls, then the mappings, in the order of `OPS`, stubdomain first.

    The stubdomain comes first because its device model is what will act on the rights.
    """
    needs = [*rights, *(Right(m.kind, m.range, m.grantee, m.reason, m.device) for m in mappings)]
    steps: list[Step] = []
    for grantee in (STUBDOM, TARGET):
        for kind, op in ((IOMEM, IOMEM_PERMISSION), (IOPORT, IOPORT_PERMISSION)):
            mine = sorted((r for r in needs if r.grantee == grantee and r.kind == kind), key=lambda right: right.range)
            libxl = RangeSet(g.range for g in by_libxl if g.grantee == grantee and g.kind == kind)
            at = 0
            for span in RangeSet(right.range for right in mine):
                end = next((i for i in range(at, len(mine)) if mine[i].range.start >= span.stop), len(mine))
                inside, at = mine[at:end], end
                reason = ", ".join(dict.fromkeys(r.reason for r in inside))
                kept, domid = libxl.within(*span), who.domid(grantee)
                steps.append(Step(op, grantee, domid, span.start, span.nr, reason, inside[0].device, kept=kept))
    ports = RangeSet(g.range for g in by_libxl if g.grantee == TARGET and g.kind == IOPORT)
    for mapping in mappings:
        kept = ports.within(*mapping.range) if mapping.op == IOPORT_MAPPING else RangeSet()
        steps.append(mapping._replace(domid=who.target, kept=kept))
    return tuple(sorted(steps, key=lambda step: (OPS.index(step.op), step.grantee, step.first)))
