# SPDX-License-Identifier: LGPL-2.1-only
"""From a configuration and a host to a `Plan`: every step to take, and why nothing else is taken.

Pure: no I/O, no clock, no environment.  Which ranges there are, and who gets them, is the business of the other policy modules;
this file calls them in turn, merges rights into the fewest calls, orders them, and finds what is shared with libxl.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from xlplug.config.domain import DomainConfig, not_for_us
from xlplug.delegation import Served, delegation
from xlplug.displays import LegacyRights, legacy_rights
from xlplug.igd import OPREGION_REASON
from xlplug.model.addr import DOMID_FIRST_RESERVED, PAGE_SHIFT, Domid
from xlplug.model.bdf import Bdf
from xlplug.model.host import UNNAMED, HostSnapshot, PciDevice
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
from xlplug.obstacles import Scene, may_share_a_page, obstacles
from xlplug.pci_assign import Assigned, Delegated, LibxlGrant, delegated, libxl_grants, resolve
from xlplug.physmap import plan_physmap
from xlplug.ports import plan_ports
from xlplug.registers import bars, port_bars
from xlplug.vga import VGA_MEMORY, VGA_PORT_SET

__all__ = ["Plan", "build", "domid_refusals", "mapped_in_vain", "needs_whole_host"]


class Plan(NamedTuple):
    """What to do and what not.  With ``refusals`` it must not be carried out.

    ``warnings`` say what will not work; ``notes`` what is left undone though all is well.  ``legacy_owner`` is the assigned
    display that gets the VGA set, None where none does.  ``preload``: the device model has our library, which reads in
    xenstore what has been done.  ``served``: functions that a delegate serves.
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
    legacy_owner: Bdf | None = None
    served: tuple[Served, ...] = ()


def build(
    config: DomainConfig, host: HostSnapshot, who: Who = NOBODY, occasion: Occasion = AHEAD, *, map_legacy: bool = False
) -> Plan:
    """Plan the grants for ``config`` on ``host``; ``map_legacy`` also maps the VGA set 1:1."""
    has_stubdom = config.stubdom or who.stubdom is not None
    grantees = (TARGET, STUBDOM) if has_stubdom else (TARGET,)
    assigned, pci_warnings, pci_refusals = resolve(config, host, who=who, granting=occasion.granting)
    devices = tuple(a.device for a in assigned)
    legacy = legacy_rights(config, host, devices, grantees, target=who.target, attach_later=occasion.attach_later)
    ports = plan_ports(config, host, devices, legacy.owner, map_legacy=map_legacy or config.map_legacy)
    by_libxl = _by_libxl(config, devices, grantees)
    steps = _steps(legacy.rights, ports.mappings, by_libxl, who)
    physmap = plan_physmap(config, who.target, has_stubdom=has_stubdom, ram_left=occasion.ram_left)
    served = delegation(config.delegate, host.devices, host.distribution, granting=occasion.granting)
    return Plan(
        host=host.name,
        domain=config.name,
        target=who.target,
        stubdom=who.stubdom,
        has_stubdom=has_stubdom,
        devices=assigned,
        steps=(*steps, *physmap.steps),
        delegated=tuple(d for device in devices for d in delegated(device)) if config.type == "hvm" else (),
        by_libxl=by_libxl,
        notes=(
            *(*legacy.notes, *_opregion_note(config, legacy, host, grantees), *physmap.notes, *served.notes),
            *(note.problem for note in host.notes if note.about == UNNAMED),
        ),
        warnings=(
            *(*config.warnings, *pci_warnings, *legacy.warnings, *ports.warnings, *served.warnings),
            *_attached_already(legacy, ports.mappings, who),
            *obstacles(Scene(config, host, devices, has_stubdom, legacy.needless)),
        ),
        refusals=(
            *(*_other_device_model(config), *pci_refusals, *domid_refusals(who)),
            *(*legacy.refusals, *ports.refusals, *_ram_refusals(legacy.rights, host)),
            *(*_populate_on_demand(config, steps), *physmap.refusals, *served.refusals),
            *(*_bar_refusals(legacy.rights, host, devices), *_no_stubdom_yet(config, who, occasion)),
        ),
        preload=config.preload,
        legacy_owner=None if legacy.owner is None else legacy.owner.bdf,
        served=served.served,
    )


def mapped_in_vain(plan: Plan, held: HeldRights) -> bool:
    """Whether the device model has been given the display already, and could not map the VGA set; ``held`` is the target's.

    It tries once, when it is given the display.  A guest that holds the ports by then has them mapped: up to Xen 4.22 mapping
    also grants them.  So this is about every stubdomain, and from 4.23 about a device model in dom0 too.
    """
    attached = any(a.device.bdf == plan.legacy_owner and a.device.owner == plan.target for a in plan.devices)
    return plan.target is not None and attached and bool(VGA_PORT_SET - held.ports)


def needs_whole_host(config: DomainConfig, devices: Iterable[PciDevice]) -> bool:
    """Whether a plan depends on functions that it does not assign: on who owns legacy VGA, on what shares a page or ports.

    ``devices`` are the assigned functions.
    """
    devices = tuple(devices)
    if config.type == "hvm" and config.ioports:
        return True
    if config.type != "hvm" or not devices:
        return False
    return config.gfx_passthru is not None or any(map(may_share_a_page, devices))


def domid_refusals(who: Who) -> list[Problem]:
    """Why these numbers cannot be a target and its stubdomain."""
    found = []
    for name, domid in ((TARGET, who.target), (STUBDOM, who.stubdom)):
        if domid is None:
            continue
        if domid == 0:
            found.append(
                Problem(
                    f"{name} domid=0 is dom0, which holds these rights already",
                    "give a guest's domid (xl list)",
                    code="XLP364",
                )
            )
        elif domid not in range(1, DOMID_FIRST_RESERVED):
            found.append(
                Problem(
                    f"{name} domid={domid} is not a domain's number",
                    "give one from 1 to 32751 (xl list)",
                    code="XLP364",
                )
            )
    if who.target is not None and who.target == who.stubdom:
        found.append(
            Problem(f"target and stubdom are both domid={who.target}", "give two different domains", code="XLP364")
        )
    return found


def _no_stubdom_yet(config: DomainConfig, who: Who, occasion: Occasion) -> Iterator[Problem]:
    if config.stubdom and occasion.granting and who.target is not None and who.stubdom is None:
        text = "the configuration asks for a stubdomain and none runs yet"
        yield Problem(text, "grant once it has been built", code="XLP363")


def _other_device_model(config: DomainConfig) -> Iterator[Problem]:
    problem = not_for_us(config)
    if problem is not None and config.wants_legacy:
        yield problem


def _attached_already(legacy: LegacyRights, mappings: Sequence[Step], who: Who) -> Iterator[Problem]:
    owner = legacy.owner
    if owner is None or who.target is None or owner.owner != who.target:
        return
    if any(mapping.op == MEMORY_MAPPING for mapping in mappings):
        yield Problem(
            f"{owner.bdf}: attached already, so the device model may have mapped the VGA set itself, and revoking unmaps that too"
        )


def _populate_on_demand(config: DomainConfig, steps: Sequence[Step]) -> Iterator[Problem]:
    if steps and config.type == "hvm" and config.maxmem > config.memory:
        yield Problem(
            f"maxmem={config.maxmem} is more than memory={config.memory}: a guest with I/O rights cannot populate on demand",
            "set maxmem to memory",
            code="XLP361",
        )


def _opregion_note(
    config: DomainConfig, legacy: LegacyRights, host: HostSnapshot, grantees: tuple[str, ...]
) -> Iterator[Problem]:
    """Which QEMU runs in a stubdomain is not known here, but on Qubes OS, so that this is not a warning."""
    display = next((right.device for right in legacy.rights if right.reason == OPREGION_REASON), None)
    if display is not None and STUBDOM in grantees and not config.preload and not host.is_qubes:
        yield Problem(
            f"{display}: stock QEMU in a stubdomain leaves the OpRegion out without xlplug's preload library",
            "see hooks/preload/README.md",
        )


def _by_libxl(config: DomainConfig, devices: Sequence[PciDevice], grantees: tuple[str, ...]) -> tuple[LibxlGrant, ...]:
    """Everything that libxl grants for this configuration, in its own order."""
    found = [LibxlGrant(IOPORT, ports, TARGET, "ioports=") for ports in config.ioports]
    found += [LibxlGrant(IOMEM, Range(m.mfn, m.mfn + m.nr), TARGET, "iomem=") for m in config.iomem]
    if config.gfx_passthru is not None and not config.igd_by_args:
        # libxl_pci.c, libxl__grant_vga_iomem_permission: exactly class 0x030000, memory only.
        found += [
            LibxlGrant(IOMEM, VGA_MEMORY, grantee, "VGA frame buffer", device.bdf)
            for device in devices
            if device.class_code == 0x030000
            for grantee in grantees
        ]
    for device in devices:
        found += libxl_grants(device, grantees)
    return tuple(found)


def _ram_refusals(rights: Iterable[Right], host: HostSnapshot) -> Iterable[Problem]:
    """One refusal for each range that would give away System RAM.  Xen does not check this: the check is ours."""
    ram = host.ram
    return dict.fromkeys(
        Problem(
            f"{right.reason} mfn {right.range} for {right.device} lies in the host's System RAM",
            "update the firmware",
            code="XLP362",
        )
        for right in rights
        if right.kind == IOMEM and ram.overlaps(right.range.start << PAGE_SHIFT, right.range.stop << PAGE_SHIFT)
    )


def _bar_refusals(rights: Iterable[Right], host: HostSnapshot, devices: Sequence[PciDevice]) -> Iterable[Problem]:
    """One refusal for each range in which a function that is not assigned has a BAR: firmware may put one anywhere."""
    mine = {device.bdf for device in devices}
    others = [device for device in host.devices if device.bdf not in mine]
    blocks = [(device.bdf, IOMEM, Range(span.start, span.stop)) for device in others for span in bars(device)]
    blocks += [(device.bdf, IOPORT, span) for device in others for span in port_bars(device)]
    return dict.fromkeys(
        Problem(
            f"{right.reason} {right.kind} {right.range} for {right.device} is also a BAR of {bdf}, which is not assigned",
            f"assign {bdf} as well, or update the firmware",
            code="XLP365",
        )
        for right in rights
        for bdf, kind, span in blocks
        if kind == right.kind and _overlap(right, span)
    )


def _overlap(right: Right, span: Range) -> bool:
    """Whether a right covers any part of a range of host bytes or ports."""
    shift = PAGE_SHIFT if right.kind == IOMEM else 0
    return right.range.start << shift < span.stop and span.start < right.range.stop << shift


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
