# SPDX-License-Identifier: LGPL-2.1-only
"""What must be true of pciback, the displays, and the memory that firmware has left for them.  Pure."""

from collections.abc import Iterable, Iterator

from xlplug.doctor.facts import Facts
from xlplug.doctor.finding import INFO, OK, WARNING, Finding, missing
from xlplug.doctor.reading import Missing, Reading
from xlplug.hide_at_boot import hide_at_boot
from xlplug.model.host import PCIBACK, PciDevice
from xlplug.vga import VENDOR_INTEL, can_own_legacy_vga
from xlplug.vga_owner import driven_by_dom0, legacy_owner


def pciback(facts: Facts) -> Iterator[Finding]:
    """The driver that holds what is to be assigned."""
    if isinstance(facts.assignable, Missing):
        yield missing("pciback", facts.assignable)
    elif facts.assignable:
        yield Finding(OK, "pciback", f"loaded; assignable: {', '.join(str(bdf) for bdf in facts.assignable)}")
    else:
        yield Finding(
            INFO,
            "pciback",
            "loaded, and no device is assignable yet",
            "to pass one through: xl pci-assignable-add ADDRESS",
        )


def displays_of(facts: Facts) -> list[PciDevice]:
    """The functions that can own the legacy VGA ranges."""
    return [] if isinstance(facts.devices, Missing) else [d for d in facts.devices if can_own_legacy_vga(d)]


def displays(facts: Facts) -> Iterator[Finding]:
    """Which displays there are, who drives them, and which one the legacy VGA cycles reach."""
    if isinstance(facts.devices, Missing):
        yield missing("display", facts.devices)
        return
    for damaged in facts.damaged:
        yield Finding(WARNING, "pci", *damaged)
    for unnamed in facts.unnamed:
        yield Finding(INFO, "pci", *unnamed)
    found = displays_of(facts)
    if not found:
        yield Finding(INFO, "display", "none on this host")
        return
    for device in found:
        what = f"{device.bdf} [{device.vendor:04x}:{device.device:04x}]"
        advice = f"to pass it through: xl pci-assignable-add {device.bdf}"
        if driven_by_dom0(device):
            advice = f"to pass it through, {hide_at_boot(device.bdf, facts.distribution)}"
        if device.owner is not None:
            yield Finding(OK, "display", f"{what} belongs to domain {device.owner}")
        elif device.driver == PCIBACK:
            yield Finding(OK, "display", f"{what} is assignable")
        else:
            state = f"is dom0's own ({device.driver})" if device.driver else "has no driver"
            yield Finding(OK, "display", f"{what} {state}", advice)
    yield _legacy_vga(facts.devices, facts.arbiter)


def _legacy_vga(devices: Iterable[PciDevice], line: Reading[str]) -> Finding:
    owner, possible = legacy_owner(devices)
    arbiter = _arbiter(line)
    if owner is None:
        text = "legacy VGA cycles reach no display"
        if possible:
            text = f"whether legacy VGA cycles reach {' or '.join(str(device.bdf) for device in possible)} is not known"
        advice = "let the firmware start the display that is to be passed through"
        return Finding(WARNING, "legacy vga", f"{text}{arbiter}", advice)
    known = ("boot VGA" if owner.boot_vga else "", f"driven by {owner.driver}" if owner.driver else "")
    how = ", ".join(filter(None, known))
    return Finding(OK, "legacy vga", f"legacy VGA cycles reach {owner.bdf}{f' ({how})' if how else ''}{arbiter}")


def _arbiter(line: Reading[str]) -> str:
    """The kernel's VGA arbiter, where there is one.  Format: Linux Documentation/gpu/vgaarbiter.rst."""
    if isinstance(line, Missing):
        return ""
    owns = next((word.removeprefix("owns=") for word in line.split(",") if word.startswith("owns=")), "")
    return f"; dom0's VGA arbiter: owns {owns}" if owns else ""


def firmware(facts: Facts) -> Iterator[Finding]:
    """/dev/mem, where a display's OpRegion or VBIOS has to be read through it."""
    needed = any(d.vendor == VENDOR_INTEL or (d.boot_vga and d.rom is not None) for d in displays_of(facts))
    wanted = needed or isinstance(facts.devices, Missing)
    if not isinstance(facts.dev_mem, Missing):
        yield Finding(OK, "/dev/mem", "readable" if wanted else "readable, and no display here needs it")
    elif wanted:
        yield missing("/dev/mem", facts.dev_mem)
    else:
        yield Finding(INFO, "/dev/mem", "not readable, and no display here needs it")
    if isinstance(facts.firmware, Missing):
        if wanted:
            yield missing("firmware", facts.firmware)
        return
    for text in facts.firmware.read:
        yield Finding(OK, "firmware", text)
    for note in facts.firmware.notes:
        yield Finding(WARNING, "firmware", *note)
