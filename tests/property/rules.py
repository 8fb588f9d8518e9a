# SPDX-License-Identifier: LGPL-2.1-only
"""Who may hold what: the rules of docs/grants.md once more, in another way, and from nothing that makes plans.

Sets of pages and ports, no ranges.  Where the documents leave a choice, this takes what is safer.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from tests.property.worlds import PAGE, Wish, World
from xlplug.model.bdf import Bdf
from xlplug.model.host import HostSnapshot, PciDevice
from xlplug.model.rangeset import Range

__all__ = ["Held", "allowed", "assigned", "by_libxl", "forbidden", "pages"]

IGD = Bdf(0, 0, 2, 0)
VGA_PAGES = frozenset(range(0xA0, 0xC0))
VGA_PORTS = frozenset((*range(0x3B0, 0x3BC), *range(0x3C0, 0x3E0)))


class Held(NamedTuple):
    """Rights: mfns, and ports."""

    pages: frozenset[int] = frozenset()
    ports: frozenset[int] = frozenset()

    def __or__(self, other: "Held") -> "Held":
        return Held(self.pages | other.pages, self.ports | other.ports)

    def __sub__(self, other: "Held") -> "Held":
        return Held(self.pages - other.pages, self.ports - other.ports)

    def __bool__(self) -> bool:
        return bool(self.pages or self.ports)


def pages(start: int, stop: int) -> frozenset[int]:
    """All pages that have a byte of it."""
    return frozenset(range(start // PAGE, (stop - 1) // PAGE + 1))


def assigned(world: World) -> tuple[PciDevice, ...]:
    """The functions that pci= names, in its order, each once."""
    found: dict[Bdf, PciDevice] = {}
    for bdf, every in world.wish.pci:
        for device in world.host.devices:
            if device.bdf == bdf or (every and device.bdf[:3] == bdf[:3]):
                found.setdefault(device.bdf, device)
    return tuple(found.values())


def is_legacy_display(device: PciDevice) -> bool:
    """docs/grants.md: class 0x0300xx, 0x000100, or 0x038000 when its vendor is Intel; never a virtual function."""
    kind = device.class_code
    of_class = 0x030000 <= kind <= 0x0300FF or kind == 0x000100 or (kind == 0x038000 and device.vendor == 0x8086)
    return of_class and device.physfn is None


# legacy VGA -----------------------------------------------------------------------------------------------------------


def bridges_above(device: PciDevice, host: HostSnapshot) -> Iterator[PciDevice]:
    bus, seen = device.bdf.bus, set()
    while True:
        above = [
            d
            for d in host.devices
            if d.class_code >> 8 == 0x0604 and d.bdf.segment == device.bdf.segment and d.config[0x19] == bus != 0
        ]
        if not above or above[0].bdf in seen:
            return
        seen.add(above[0].bdf)
        yield above[0]
        bus = above[0].bdf.bus


def reached(host: HostSnapshot) -> list[PciDevice]:
    """The displays that legacy VGA cycles may reach: "Who owns legacy VGA", rules 1 to 4."""

    def screen(device: PciDevice) -> bool:
        return bool(device.boot_vga) and device.owner is None and device.driver not in (None, "pciback")

    def forwards(device: PciDevice) -> bool:
        above = list(bridges_above(device, host))
        return bool(above) and all(bridge.config[0x3E] & 8 for bridge in above)

    def decodes(device: PciDevice) -> bool:
        if screen(device):
            return True
        command = device.config[4:6]
        return len(command) < 2 or command == b"\xff\xff" or bool(command[0] & 3)  # not known counts as yes

    left = [
        device
        for device in host.devices
        if is_legacy_display(device) and all(bridge.config[0x3E] & 8 for bridge in bridges_above(device, host))
    ]
    left = [device for device in left if decodes(device)] or left
    if any(map(forwards, left)):

        def answers_first(device: PciDevice) -> bool:
            command = device.config[4:6]
            known = len(command) == 2 and command != b"\xff\xff"
            console = bool(device.boot_vga) and device.owner is None and device.driver is None
            return (screen(device) or console) and known and bool(command[0] & 3) and device.class_code >> 8 == 0x0300

        left = [device for device in left if forwards(device) or answers_first(device)]
    boot = [device for device in left if device.boot_vga]
    return boot if len(boot) == 1 else left


def vga_display(world: World) -> PciDevice | None:
    """The assigned display that may have the VGA set: only where whoever the cycles may reach is this guest's own."""
    mine = [device for device in assigned(world) if is_legacy_display(device)]
    may = reached(world.host)
    if not world.wish.gfx or not may or not all(device in mine for device in may):
        return None
    return next(device for device in mine if device in may)


# memory that nobody may have ------------------------------------------------------------------------------------------


def bars_of(device: PciDevice) -> Iterator[tuple[Range, bool]]:
    """A function's own ranges, and whether they are ports: BARs, its ROM, and those of virtual functions.

    Not the windows of a bridge, which are other functions' BARs, nor the ROM line at c0000, which is the shadow.
    """
    for line, start, stop, flags in device.resources:
        if start == 0 or flags & 0x20000000 or (device.class_code >> 8 == 0x0604 and line > 6) or start == 0xC0000:
            continue
        yield Range(start, stop), bool(flags & 0x100)


def forbidden(host: HostSnapshot, mine: Iterable[Bdf]) -> Held:
    """What no step may ever cover: RAM, the chipset's registers, PCI configuration, others' BARs."""
    mine = set(mine)
    found: set[int] = set(pages(0xFEC00000, 1 << 32))
    ports: set[int] = set()
    for start, stop, kind in host.memory:
        if kind == 1:
            # Beyond what any step of these worlds can reach, a set would only take time.
            found |= pages(max(start, 0), min(stop, 0x200000)) if start < 0x200000 else frozenset()
            found |= pages(max(start, stop - 0x10000), stop)
    for start, stop in windows(host):
        found |= pages(start, min(stop, start + 0x100000))
    for device in host.devices:
        for span, is_port in bars_of(device):
            if device.bdf not in mine and is_port:
                ports |= set(range(*span))
            elif device.bdf not in mine:
                found |= pages(*span)
    return Held(frozenset(found), frozenset(ports))


def windows(host: HostSnapshot) -> Iterable[tuple[int, int]]:
    """PCI configuration: ACPI's MCFG; without it, reserved entries that look like one."""
    if host.mmcfg:
        return host.mmcfg
    sizes = (64 << 20, 128 << 20, 256 << 20)
    return [
        (start, stop)
        for start, stop, kind in host.memory
        if kind == 2 and start >= 1 << 31 and stop - start in sizes and start % (stop - start) == 0
    ]


# OpRegion and VBIOS ---------------------------------------------------------------------------------------------------


def opregion_pages(world: World) -> frozenset[int]:
    """The three pages, or none of them: "The OpRegion"."""
    host = world.host
    display = next((device for device in assigned(world) if device.bdf == IGD), None)
    if display is None or display.vendor != 0x8086 or not is_legacy_display(display) or len(display.config) < 0x100:
        return frozenset()
    address = int.from_bytes(display.config[0xFC:0x100], "little")
    region = host.opregion
    if address in (0, 0xFFFFFFFF) or host.opregion_pin not in (None, address) or region is None:
        return frozenset()
    if region.maddr != address or region.signature.rstrip(b"\0") != b"IntelGraphicsMem" or region.size != 8192:
        return frozenset()
    first = address // PAGE
    wanted = frozenset(range(first, first + 3))
    for page in wanted:
        start, stop = page * PAGE, (page + 1) * PAGE
        over = [entry for entry in host.memory if entry.start < stop and start < entry.stop]
        if len(over) != 1 or over[0].kind not in (2, 4) or not (over[0].start <= start and stop <= over[0].stop):
            return frozenset()
        if any(base < stop and start < end for base, end in windows(host)) or stop > 0xFEC00000:
            return frozenset()
        for device in host.devices:
            if any(not is_port and r.start < stop and start < r.stop for r, is_port in bars_of(device)):
                return frozenset()
    return wanted


def vbios_pages(world: World, display: PciDevice | None) -> frozenset[int]:
    """The shadow, as far as the ROM's header reaches; the stubdomain's only."""
    vbios = world.host.vbios
    rom = next((r for r in display.resources if r.line == 6), None) if display is not None else None
    if display is None or rom is None or rom.start != 0xC0000 or vbios is None or vbios.maddr != 0xC0000:
        return frozenset()
    stop = 0xC0000 + vbios.size
    if not vbios.size > 0 or stop > min(0xE0000, rom.stop) or vbios.vendor != display.vendor:
        return frozenset()
    return pages(0xC0000, stop)


# all of it ------------------------------------------------------------------------------------------------------------


def port_bars(devices: Iterable[PciDevice]) -> frozenset[int]:
    return frozenset(
        port for device in devices for span, is_port in bars_of(device) if is_port for port in range(*span)
    )


def allowed(world: World) -> dict[str, Held]:
    """What the target and the stubdomain may be granted by us."""
    wish = world.wish
    if wish.kind != "hvm":
        return {"target": Held(), "stubdom": Held()}
    display = vga_display(world)
    both = Held(VGA_PAGES if display else frozenset(), VGA_PORTS if display else frozenset())
    if wish.gfx:
        both |= Held(opregion_pages(world))
    asked = frozenset(port for span in wish.ioports for port in range(*span))
    # A BAR is the device model's to map, or nobody's: never ioports='s.
    asked -= port_bars(world.host.devices)
    target = both | Held(ports=asked)
    stubdom = both | Held(vbios_pages(world, display)) if wish.stubdom else Held()
    return {"target": target, "stubdom": stubdom}


def by_libxl(wish: Wish, devices: Iterable[PciDevice]) -> dict[str, Held]:
    """What libxl grants for these functions: tools/libs/light/libxl_pci.c, pci_add_dm_done; libxl_create.c."""
    mine: set[int] = set()
    ports: set[int] = set()
    for device in devices:
        for line, start, stop, flags in device.resources:
            if line <= 6 and start and flags & 0x100:
                ports |= set(range(start, stop))
            elif line <= 6 and start:
                mine |= set(range(start // PAGE, start // PAGE + (stop - start + PAGE - 1) // PAGE))
        if wish.gfx in ("igd", "1") and wish.kind == "hvm" and device.class_code == 0x030000:
            mine |= VGA_PAGES
    stubdom = Held(frozenset(mine), frozenset(ports)) if wish.stubdom else Held()
    mine |= {mfn + i for mfn, nr in wish.iomem for i in range(nr)}
    ports |= {port for span in wish.ioports for port in range(*span)}
    return {"target": Held(frozenset(mine), frozenset(ports)), "stubdom": stubdom}
