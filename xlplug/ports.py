# SPDX-License-Identifier: LGPL-2.1-only
"""I/O ports: what is mapped 1:1 for an HVM guest, and which of ``ioports=`` will not do what was meant.

Policy only.  libxl permits the ports of ``ioports=`` and never maps them, which is inert for an HVM guest.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from xlplug.config.domain import DomainConfig
from xlplug.model.bdf import Bdf
from xlplug.model.host import HostSnapshot, PciDevice
from xlplug.model.problem import Problem
from xlplug.model.rangeset import Range, RangeSet
from xlplug.model.steps import IOPORT_MAPPING, MEMORY_MAPPING, TARGET, Step
from xlplug.registers import port_bars
from xlplug.vga import VGA_MEMORY, VGA_PORT_SET, VGA_PORTS
from xlplug.vga_owner import legacy_owner, shows_dom0

__all__ = ["Ports", "plan_ports"]

#: Ports that Xen keeps from dom0, so that dom0 cannot give them on, on every machine.  On a live host Xen itself says which
#: (`HostSnapshot.kept_ports`).  Source: xen/arch/x86/dom0_build.c, dom0_setup_permissions; from 4.19 on the second list too.
_KEPT = (
    (Range(0x20, 0x22), "the interrupt controller"),
    (Range(0x40, 0x44), "the interval timer"),
    (Range(0x61, 0x62), "timer channel 2 and the speaker"),
    (Range(0xA0, 0xA2), "the second interrupt controller"),
    (Range(0xCFC, 0xD00), "PCI configuration"),
)
_KEPT_4_19 = (
    (Range(0x92, 0x93), "system control port A"),
    (Range(0xF0, 0xF1), "the FPU's error port"),
    (Range(0x4D0, 0x4D2), "the interrupt controllers' edge and level registers"),
    (Range(0xCF9, 0xCFA), "reset control"),
)
_KEEPS_MORE = (4, 19)
#: Names for what the command line of Xen (console=com1) and the machine's firmware decide.
_CONSOLES = (
    (Range(0x3F8, 0x400), "Xen's own serial console, COM 1"),
    (Range(0x2F8, 0x300), "Xen's own serial console, COM 2"),
)
_OTHER = "Xen uses them itself: ACPI's power management timer, or its console"

#: Ports of the whole machine: a guest that writes to them ends the host, or gets code of the firmware's to run.  Xen does not
#: keep all of them from dom0.  Source: Intel's ICH and PCH datasheets, PORT92 (92, INIT_NOW), APM_CNT and APM_STS (b2, b3: an SMI),
#: RST_CNT (cf9); PCI 3.0, 3.2.2.3.2, CONFIG_ADDRESS (cf8), which Xen and dom0 use between two accesses to it.
_MACHINE = (
    (Range(0x92, 0x93), "system control port A, and its fast reset"),
    (Range(0xB2, 0xB4), "the SMI command port"),
    (Range(0xCF8, 0xCFC), "PCI configuration, and the reset at cf9"),
)

#: What Xen and QEMU's HVM machines emulate in any case.
#: Source: the `ioreq_server port` line of Xen's q dump for a guest of QEMU 7.2; xen/arch/x86/hvm (pit, pic, rtc, pmtimer).
_ALWAYS = (
    (Range(0x0, 0x20), "the DMA controller"),
    (Range(0x20, 0x22), "the interrupt controller"),
    (Range(0x40, 0x44), "the interval timer"),
    (Range(0x60, 0x61), "the keyboard controller"),
    (Range(0x61, 0x62), "the speaker"),
    (Range(0x64, 0x65), "the keyboard controller"),
    (Range(0x70, 0x72), "the clock (RTC)"),
    (Range(0x80, 0x90), "the DMA controller"),
    (Range(0x92, 0x93), "system control port A"),
    (Range(0xA0, 0xA2), "the second interrupt controller"),
    (Range(0xB2, 0xB4), "power management (APM)"),
    (Range(0xC0, 0xE0), "the second DMA controller"),
    (Range(0xE9, 0xEA), "Xen's debug console"),
    (Range(0xF0, 0xF1), "the FPU's error port"),
    (Range(0x170, 0x178), "the second IDE channel"),
    (Range(0x1F0, 0x1F8), "the first IDE channel"),
    (Range(0x376, 0x377), "the second IDE channel"),
    (Range(0x3F0, 0x3F8), "the floppy controller, and the first IDE channel at 3f6"),
    (Range(0x4D0, 0x4D2), "the interrupt controllers' edge and level registers"),
    (Range(0x510, 0x512), "QEMU's firmware configuration"),
    (Range(0xAE00, 0xAE18), "ACPI hotplug"),
    (Range(0xAF00, 0xAF20), "CPU hotplug"),
    (Range(0xAFE0, 0xAFE4), "ACPI events"),
    (Range(0xB000, 0xB010), "ACPI power management"),
    (Range(0xB100, 0xB140), "the SMBus controller"),
    (Range(0xCF8, 0xD00), "PCI configuration"),
)
#: Where QEMU puts the n-th ISA port of a kind.
#: Source: QEMU hw/char/serial-isa.c, isa_serial_io.
_SERIAL = (0x3F8, 0x2F8, 0x3E8, 0x2E8)
#: ISA sound cards of ``soundhw``.  Source: QEMU hw/audio/{sb16,adlib,gus,cs4231a}.c
_SOUND = {
    "sb16": (Range(0x220, 0x230),),
    "adlib": (Range(0x220, 0x224), Range(0x388, 0x38C)),
    "gus": (Range(0x240, 0x250), Range(0x340, 0x350)),
    "cs4231a": (Range(0x534, 0x538),),
}
_VBE = Range(0x1CE, 0x1D1)  # the Bochs interface of stdvga and qxl: QEMU hw/display/vga.c
#: I/O BARs of emulated PCI devices, in ports.  hvmloader gives out addresses from c000 on, largest first.
#: Source: tools/firmware/hvmloader/pci.c, io_resource; QEMU hw/ide/piix.c, hw/usb/hcd-uhci.c, hw/i386/xen/xen_platform.c.
_BAR_BASE = 0xC000
_IDE_BAR, _PLATFORM_BAR, _USB_BAR, _NIC_BAR = 0x10, 0x100, 0x20, 0x100
_SOUND_BAR = {"ac97": 0x500, "es1370": 0x100}

#: First Xen for which mappings that only touch overlap: xen/arch/x86/domctl.c, XEN_DOMCTL_ioport_mapping.
_TOUCHING = (4, 23)


class Ports(NamedTuple):
    """The mappings to make, and what is to be said."""

    mappings: tuple[Step, ...] = ()
    warnings: tuple[Problem, ...] = ()
    refusals: tuple[Problem, ...] = ()


def plan_ports(
    config: DomainConfig, host: HostSnapshot, devices: Sequence[PciDevice], owner: PciDevice | None, *, map_legacy: bool
) -> Ports:
    """The 1:1 mappings: the VGA set of its ``owner`` on request, and the configuration's own ports.

    ``devices`` are the assigned functions.
    """
    wanted = RangeSet(config.ioports)
    refusals = (*_kept_from_dom0(wanted, host), *_of_the_machine(wanted))
    if config.type != "hvm":
        return Ports(refusals=refusals)
    found, warnings = _vga_mappings(owner, map_legacy=map_legacy)
    mine, left = _left_to_the_device_model(wanted, host, devices, owner)
    found += [_map(IOPORT_MAPPING, ports, "ioports= is inert for HVM until mapped", None) for ports in mine]
    warnings = (*warnings, *left, *_emulated_too(mine, config), *_of_live_screen(mine, host))
    return Ports(tuple(found), warnings, refusals)


def _vga_mappings(owner: PciDevice | None, *, map_legacy: bool) -> tuple[list[Step], tuple[Problem, ...]]:
    if not map_legacy:
        return [], ()
    if owner is None:
        text = "mapping the legacy VGA set was asked for, but no display of this guest gets it: not mapped"
        return [], (Problem(text, code="XLP345"),)
    found = [_map(MEMORY_MAPPING, VGA_MEMORY, "VGA frame buffer, on request", owner.bdf)]
    found += [_map(IOPORT_MAPPING, ports, "VGA ports, on request", owner.bdf) for ports in VGA_PORTS]
    return found, ()


def _map(op: str, span: Range, reason: str, device: Bdf | None) -> Step:
    return Step(op, TARGET, None, span.start, span.nr, reason, device, first_guest=span.start)


def _kept_from_dom0(wanted: RangeSet, host: HostSnapshot) -> tuple[Problem, ...]:
    """One refusal that names the ports which dom0 has not got itself."""
    names = [*_KEPT, *(_KEPT_4_19 if host.xen is not None and host.xen.version >= _KEEPS_MORE else ())]
    kept = RangeSet(span for span, _ in names)
    if host.kept_ports is not None:
        names, kept = [*_KEPT, *_KEPT_4_19, *_CONSOLES], host.kept_ports
    hit = [f"{both.bare} ({name})" for span, name in names if (both := wanted & kept & RangeSet([span]))]
    others = (wanted & kept) - RangeSet(span for span, _ in names)
    if others:
        hit.append(f"{others.bare} ({_OTHER})")
    if not hit:
        return ()
    what = f"ioports: Xen keeps {', '.join(hit)} even from dom0, so that xl create ends with EPERM"
    return (Problem(what, "remove these ports from ioports=", code="XLP341"),)


def _of_the_machine(wanted: RangeSet) -> Iterator[Problem]:
    """One refusal that names the ports by which a guest has the whole host."""
    hit = [f"{both.bare} ({name})" for span, name in _MACHINE if (both := wanted & RangeSet([span]))]
    if hit:
        what = f"ioports: a guest that writes to {', '.join(hit)} can reset the host or run code of its firmware"
        yield Problem(what, "remove these ports from ioports=", code="XLP347")


def _left_to_the_device_model(
    wanted: RangeSet, host: HostSnapshot, devices: Sequence[PciDevice], owner: PciDevice | None
) -> tuple[RangeSet, tuple[Problem, ...]]:
    """The ports that we map, and why the others are not: the device model maps these, or from 4.23 on its neighbours.

    From Xen 4.23 on one more mapping that overlaps another one, or merely touches it, fails with EBUSY.
    """
    bars = RangeSet(span for device in devices for span in port_bars(device))
    touching = host.xen is None or host.xen.version >= _TOUCHING
    warnings = []
    if owner is not None and wanted & VGA_PORT_SET:
        wanted -= VGA_PORT_SET
        text = "ioports= repeats VGA ports, which are left to the device model: it maps them for the display"
        warnings.append(Problem(text, "remove them from ioports=", code="XLP342"))
    overlap = wanted & bars
    if overlap:
        wanted -= bars
        text = (
            f"ioports {overlap.bare} not mapped: they are an I/O BAR of an assigned device, which the device model maps"
        )
        warnings.append(Problem(text, "remove them from ioports=", code="XLP342"))
    others = _others_bars(wanted, host, devices)
    wanted -= RangeSet(span for _, theirs in others for span in theirs)
    for bdf, theirs in others:
        text = f"ioports {theirs.bare} not mapped: they are an I/O BAR of {bdf}, which is not assigned"
        warnings.append(Problem(text, f"assign {bdf} in pci=, or remove them from ioports=", code="XLP348"))
    for what, neighbours in (
        ("the VGA ports", VGA_PORT_SET if touching and owner is not None else RangeSet()),
        ("an I/O BAR of an assigned device", bars if touching else RangeSet()),
    ):
        wide = RangeSet((max(0, r.start - 1), r.stop + 1) for r in neighbours)
        beside = RangeSet(ports for ports in wanted if wide.overlaps(*ports))
        if beside:
            wanted -= beside
            text = f"ioports {beside.bare} not mapped: they touch {what}, and from Xen 4.23 a mapping that touches another fails"
            warnings.append(Problem(text, "remove them from ioports=", code="XLP343"))
    return wanted, tuple(warnings)


def _of_live_screen(mapped: RangeSet, host: HostSnapshot) -> Iterator[Problem]:
    """A warning where ``ioports=`` reaches dom0's own screen: it is what was asked for, and hardly what was meant."""
    vga = mapped & VGA_PORT_SET
    owner = legacy_owner(host.devices).owner if vga else None
    if owner is not None and shows_dom0(owner):
        how = f"which dom0 drives ({owner.driver})" if owner.driver else "where dom0 has its console"
        whose = f"VGA ports of {owner.bdf}, {how}"
        text = f"ioports {vga.bare}: {whose}: the guest can change dom0's screen"
        yield Problem(text, "remove these ports from ioports=", code="XLP346")


def _others_bars(
    wanted: RangeSet, host: HostSnapshot, devices: Sequence[PciDevice]
) -> tuple[tuple[Bdf, RangeSet], ...]:
    """The ports that are a BAR of a function which is not assigned, dom0's for one: nobody asked to give that away."""
    mine = {device.bdf for device in devices}
    found = []
    for device in host.devices:
        theirs = RangeSet(both for span in port_bars(device) for both in wanted.within(*span))
        if theirs and device.bdf not in mine:
            found.append((device.bdf, theirs))
    return tuple(found)


def _emulated_too(mapped: RangeSet, config: DomainConfig) -> Iterator[Problem]:
    """One warning for each device that is emulated for this very configuration, and whose ports are mapped away from it."""
    emulated = tuple(_emulated(config))
    both = mapped & RangeSet(span for span, _ in emulated)
    if not both:
        return
    by_name: dict[str, RangeSet] = {}
    for span, name in emulated:
        by_name[name] = by_name.get(name, RangeSet()) | (both & RangeSet([span]))
    for name, ports in by_name.items():
        if ports:
            text = (
                f"ioports {ports.bare}: the guest will reach the host's device there, and not {name}, which is emulated"
            )
            yield Problem(text, _ADVICE.get(name.partition(" ")[0], ""), code="XLP344")


_ADVICE = {"COM": "remove serial=, or these ports"}


def _emulated(config: DomainConfig) -> Iterator[tuple[Range, str]]:
    yield from _ALWAYS
    for number, base in _numbered(config.serials, _SERIAL):
        yield Range(base, base + 8), f"COM {number} (serial=)"
    if config.vga != "none":
        for ports in VGA_PORTS:
            yield ports, f"the {config.vga} card (vga=)"
    if config.vga in ("stdvga", "qxl"):
        yield _VBE, f"the {config.vga} card (vga=)"
    for card in _SOUND if "all" in config.soundhw else config.soundhw:
        for ports in _SOUND.get(card, ()):
            yield ports, f"the {card} card (soundhw=)"
    yield (
        Range(_BAR_BASE, _BAR_BASE + _bar_room(config)),
        "PCI devices of QEMU's (hvmloader gives them ports from c000 on)",
    )


def _numbered(kinds: Iterable[str], bases: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Number (from 1) and first port of each device that is not "none"."""
    for number, (kind, base) in enumerate(zip(kinds, bases, strict=False), 1):
        if kind != "none":
            yield number, base


def _bar_room(config: DomainConfig) -> int:
    room = _IDE_BAR + _PLATFORM_BAR + (_USB_BAR if config.usb else 0)
    room += sum(_NIC_BAR for vif in config.vifs if vif.type in ("", "ioemu"))
    return room + sum(_SOUND_BAR.get(card, 0) for card in config.soundhw)
