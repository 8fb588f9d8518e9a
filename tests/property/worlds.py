# SPDX-License-Identifier: LGPL-2.1-only
"""Hosts and configurations for hypothesis: what firmware, Linux and users may come up with, hostile or broken ones included.

A `Wish` is what the user wants.  `Wish.text` is its xl configuration, so that the code under test reads the same text as xl
would, and the rules in rules.py need none of its readers.
"""

from typing import NamedTuple

from hypothesis import strategies as st

from xlplug.model.bdf import Bdf
from xlplug.model.host import (
    IORESOURCE_IO,
    IORESOURCE_UNSET,
    HostNote,
    HostSnapshot,
    MemRegion,
    OpRegion,
    PciDevice,
    Resource,
    Vbios,
    XenInfo,
)
from xlplug.model.problem import Problem
from xlplug.model.rangeset import Range

__all__ = ["VERSIONS", "Wish", "World", "worlds"]

VERSIONS = ((4, 14), (4, 17), (4, 20), (4, 22), (4, 23))
IGD = Bdf(0, 0, 2, 0)
MEMORY = 0x200  # IORESOURCE_MEM, Linux include/linux/ioport.h
PAGE = 0x1000
PILE = 0x7A000000  # the firmware's memory, above the RAM below 4 GiB
WINDOW = 0xE0000000  # PCI configuration, where it is sane
BARS = 0xC0000000
#: Places where a BAR, an OpRegion or an E820 entry has no business.
ODD_PLACES = (
    0, PAGE, 0x9F000, 0xA0000, 0xB8000, 0xBF800, 0xC0000, 0x100000, PILE - PAGE, PILE, PILE + PAGE, PILE + 2 * PAGE + 0x18,
    WINDOW, WINDOW + 0x1000, 0xFEBFF000, 0xFEC00000, 0xFED00000, 0xFEE00000, 0xFFFFE000, (1 << 32) - 1,
)  # fmt: skip
ODD_PORTS = (0x3B0, 0x3B4, 0x3BC, 0x3C0, 0x3D8, 0x3DF, 0x3E0, 0x2F8, 0x20, 0xCF8)
#: Of them those that a display has to do with.
HOT_PLACES = (0xA0000, 0xB8000, 0xBF800, 0xC0000, PILE, PILE + PAGE, PILE + 2 * PAGE + 0x18)
#: What xl's user may write into ioports=: harmless, legacy VGA, next to it, and what others have.
PORTS = (
    (0x2F8, 0x300), (0x378, 0x37B), (0x3B0, 0x3BC), (0x3C0, 0x3E0), (0x3BC, 0x3C0), (0x3A8, 0x3B0), (0x3E0, 0x3E8),
    (0x300, 0x400),
    (0x3000, 0x3010), (0x3000, 0x3100), (0x3004, 0x3005), (0x3024, 0x3028),
    (0x3008, 0x3048), (0x20, 0x22), (0x5000, 0x5001), (0xFFFF, 0x10000),
)  # fmt: skip
KINDS = (2, 4, 2, 4, 2, 4, 2, 4, 2, 4, 1, 3, 5, 20)
CLASSES = (0x030000, 0x030000, 0x030001, 0x038000, 0x000100, 0x030200, 0x020000, 0x010601)
WINDOWS = ((Range(WINDOW, WINDOW + (64 << 20)),), (Range(PILE + 2 * PAGE, PILE + 3 * PAGE),))
#: What may be unusual about a world.  A world has some of them, so that one that fails shrinks to those that matter.
ODDITIES = (
    "MCFG", "seen before", "other buses",
    "misplaced BARs", "misplaced port BARs", "BARs that share pages", "BARs without address", "BARs of virtual functions",
    "misplaced OpRegion", "hostile OpRegion", "OpRegion not read", "hostile VBIOS", "VBIOS not read", "config space not read",
    "virtual functions", "assigned to others", "anything at 02.0", "no display at 02.0", "absent devices", "no memory map",
    "overlapping entries", "holes in the memory map", "entries end within a page", "PCI configuration in the memory map",
)  # fmt: skip
#: What every other world has at least, so that none of it is rare.
THEMES = (
    ("MCFG",),
    ("PCI configuration in the memory map", "OpRegion in PCI configuration"),
    ("RAM in the VGA hole",),
    ("misplaced OpRegion",),
    ("hostile OpRegion",),
    ("seen before",),
    ("overlapping entries",),
    ("entries end within a page",),
    ("misplaced BARs",),
    ("misplaced port BARs",),
    ("BARs of virtual functions",),
    ("hostile VBIOS",),
    ("BARs that share pages",),
    ("I/O BARs in ioports=",),
    ("VGA in ioports=",),
    ("VGA in ioports=", "a second display"),
    (),
)
WISHES = ("ioports=", "map-legacy", "preload", "iomem=", "whole slots", "not HVM")
PLAIN = "a plain display"


class Wish(NamedTuple):
    """What the user asks for; ``pci`` with whether all functions of the slot are meant; ``iomem`` as mfn and count."""

    kind: str = "hvm"
    gfx: str = "igd"  # "", "igd", "1", or "args": by the device model's arguments only
    pci: tuple[tuple[Bdf, bool], ...] = ()
    ioports: tuple[Range, ...] = ()
    iomem: tuple[tuple[int, int], ...] = ()
    stubdom: bool = False
    map_legacy: bool = False
    preload: bool = False
    vga: str = "none"
    memory: int = 64

    @property
    def text(self) -> str:
        lines = [f'name="g"\ntype="{self.kind}"\nmemory={self.memory}\nvga="{self.vga}"\nmaxmem={self.memory}']
        lines += ['device_model_version="qemu-xen"', f"device_model_stubdomain_override={self.stubdom:d}"]
        lines += [f"xlplug_map_legacy={self.map_legacy:d}", f"xlplug_preload={self.preload:d}", "pci_seize=1"]
        entries = [f"{str(bdf)[:-1]}*" if every else str(bdf) for bdf, every in self.pci]
        lines.append(f"pci=[{','.join(map(repr, entries))}]")
        lines.append(f"ioports=[{','.join(repr(f'{r.start:x}-{r.last:x}') for r in self.ioports)}]")
        lines.append(f"iomem=[{','.join(repr(f'{mfn:x},{nr:x}') for mfn, nr in self.iomem)}]")
        if self.gfx == "args":
            lines.append("device_model_args=['-machine','igd-passthru=on']")
        elif self.gfx:
            lines.append(f"gfx_passthru='{self.gfx}'")
        return "\n".join(lines) + "\n"


class World(NamedTuple):
    host: HostSnapshot
    wish: Wish


@st.composite
def memory_maps(draw: st.DrawFn, asls: int, odd: frozenset[str]) -> tuple[MemRegion, ...]:
    """An E820 map: as usual at the bottom, then entries of every kind and length, and with oddities one over others."""
    found = [MemRegion(0, 0x9FC00, 1), MemRegion(0x9FC00, 0xA0000, 2), MemRegion(0xE0000, 0x100000, 2)]
    found += [MemRegion(0x100000, PILE, 1), MemRegion(0xFEC00000, 0xFF000000, 2), MemRegion(1 << 32, 2 << 32, 1)]
    kinds = (2, 4, 2, 4, 2, 4, 2, 4, 2, 3) if PLAIN in odd else KINDS
    at = PILE
    for kind, count in draw(st.lists(st.tuples(st.sampled_from(kinds), st.integers(2, 9)), min_size=2, max_size=4)):
        end = at + count * PAGE
        found.append(MemRegion(at, end - (0x400 if "entries end within a page" in odd else 0), kind))
        at = end + (PAGE if "holes in the memory map" in odd else 0)
    if "PCI configuration in the memory map" in odd:
        found.append(MemRegion(WINDOW, WINDOW + draw(st.sampled_from((64 << 20, 256 << 20, 3 * PAGE))), 2))
    if "RAM in the VGA hole" in odd:
        found.append(MemRegion(0xA0000, draw(st.sampled_from((0xA1000, 0xC0000))), 1))
    if "overlapping entries" in odd:
        page = asls & ~(PAGE - 1)
        start = draw(st.sampled_from((page, page + PAGE, page + 0x800, 0xA0000, 0xBF800, PILE + PAGE, PILE - 0x800)))
        found.append(
            MemRegion(
                start, start + draw(st.sampled_from((0x100, PAGE, 4 * PAGE))), draw(st.sampled_from((1, 1, 2, 4, 7)))
            )
        )
    return () if "no memory map" in odd else tuple(sorted(found))


@st.composite
def bars(draw: st.DrawFn, number: int, odd: frozenset[str]) -> tuple[Resource, ...]:
    """The BARs of the n-th function: usually apart from all others, with oddities where something else is."""
    found = []
    shape = draw(st.sampled_from(("mps", "ms", "mpr", "m", "p", "")))
    if "m" in shape:
        start = draw(st.sampled_from(ODD_PLACES)) if "misplaced BARs" in odd else BARS + number * 0x10000
        if "BARs that share pages" in odd:
            start = BARS + (number + 1) * 0x800
        unset = IORESOURCE_UNSET if "BARs without address" in odd else 0
        found.append(Resource(0, start, start + draw(st.sampled_from((0x1000, 0x4000, 0x100, 0x1800))), MEMORY | unset))
    if "p" in shape:
        start = draw(st.sampled_from(ODD_PORTS)) if "misplaced port BARs" in odd else 0x3000 + number * 0x20
        found.append(Resource(4, start, start + draw(st.sampled_from((8, 0x20, 1))), IORESOURCE_IO))
    if "r" in shape or "s" in shape:
        start = 0xC0000 if "s" in shape else BARS + number * 0x10000 + 0x8000
        found.append(Resource(6, start, start + draw(st.sampled_from((0x20000, 0x10000))), MEMORY))
    if "BARs of virtual functions" in odd:
        start = draw(st.sampled_from(HOT_PLACES) | st.sampled_from(ODD_PLACES)) or PAGE
        found.append(Resource(draw(st.integers(7, 12)), start, start + 2 * PAGE, MEMORY))
    return tuple(found)


def config_space(command: int, **registers: int) -> bytes:
    raw = bytearray(256)
    for name, value in registers.items():
        at = int(name[1:], 16)
        raw[at : at + 4] = value.to_bytes(4, "little")
    raw[4:6] = command.to_bytes(2, "little")
    return bytes(raw)


@st.composite
def functions(draw: st.DrawFn, bdf: Bdf, number: int, asls: int, odd: frozenset[str]) -> PciDevice:
    """A display or anything else at this address."""
    codes = (0x030000, 0x030000, 0x038000) if bdf == IGD and "anything at 02.0" not in odd else CLASSES
    if "a second display" in odd:
        codes = (0x030000,)
    intel = bdf == IGD or draw(st.booleans())
    if bdf == IGD and PLAIN in odd:
        bars_, space = draw(bars(number, odd)), config_space(7, _fc=asls)
        rom = Resource(6, 0xC0000, draw(st.sampled_from((0xE0000, 0xD0000))), MEMORY)
        bars_ = (*(r for r in bars_ if r.line != 6), *((rom,) if draw(st.booleans()) else ()))
        return PciDevice(bdf, 0x8086, 0x1234, 0x030000, bars_, space, boot_vga=True, driver="pciback")
    space = config_space(draw(st.sampled_from((7, 3, 0, 0, 1, 0xFFFF))), _fc=asls if intel else 0)
    return PciDevice(
        bdf, 0x8086 if intel else 0x1002, 0x1234, draw(st.sampled_from(codes)),
        resources=draw(bars(number, odd)),
        config=space[: draw(st.sampled_from((256, 64, 4))) if "config space not read" in odd else 256],
        boot_vga=draw(st.sampled_from((None, False, True))),
        physfn=Bdf(0, 0, 3, 0) if "virtual functions" in odd and draw(st.booleans()) else None,
        driver=draw(st.sampled_from(("pciback", "pciback", "i915", None))),
        owner=9 if "assigned to others" in odd and draw(st.booleans()) else None,
    )  # fmt: skip


@st.composite
def trees(draw: st.DrawFn, asls: int, odd: frozenset[str]) -> tuple[PciDevice, ...]:
    """Functions on the root bus and behind bridges, which forward VGA or do not; a bus that no bridge leads to; segments."""
    found: list[PciDevice] = []
    buses = [(0, 0)]
    for number in range(draw(st.integers(0, 2))):
        segment, bus = draw(st.sampled_from(buses))
        control = draw(st.sampled_from((8, 0))) << 16
        raw = config_space(7, _18=(number + 1) << 8 | (number + 1) << 16, _3c=control)
        window = (Resource(8, 0xA0000, 0xC0000, MEMORY), Resource(8, BARS, BARS + 0x200000, MEMORY))[number]
        address = Bdf(segment, bus, 0x1C, number)
        found.append(PciDevice(address, 0x8086, 0x9D10, 0x060400, (window,), raw, driver="pcieport"))
        buses.append((segment, number + 1))
    if "other buses" in odd:
        buses += [(0, 0x40), (1, 0)]
    places = [] if "no display at 02.0" in odd else [IGD]
    for number in range(draw(st.integers("a second display" in odd, 3))):
        segment, bus = draw(st.sampled_from(buses))
        places.append(Bdf(segment, bus, number + 4, number & 1))
    return (*found, *(draw(functions(bdf, number, asls, odd)) for number, bdf in enumerate(places)))


@st.composite
def headers(draw: st.DrawFn, asls: int, odd: frozenset[str]) -> OpRegion:
    """What was read where config space says that the OpRegion is.  Its extended VBT may be anywhere."""
    header = OpRegion(
        asls, b"IntelGraphicsMem", 0x2000, draw(st.sampled_from((0x0100, 0x0200, 0x0201))),
        draw(st.sampled_from((0, PAGE, 0x2000, asls + 0x2000, (1 << 64) - 1))), draw(st.sampled_from((0, 0x1000, 0xFFFFFFFF))),
    )  # fmt: skip
    if "hostile OpRegion" not in odd:
        return header
    return draw(
        st.sampled_from(
            (
                header._replace(maddr=asls ^ PAGE),
                header._replace(signature=b"IntelGraphicsMe\0"),
                header._replace(signature=b"\xff" * 16),
                header._replace(size=0x3000),
                header._replace(size=0xFFFFFFFF << 10),
                header._replace(size=0),
                header._replace(version=0xFFFF),
            )
        )
    )


@st.composite
def worlds(draw: st.DrawFn) -> World:
    """A host, and a wish on it."""
    odd = draw(st.frozensets(st.sampled_from(ODDITIES), max_size=3))
    if draw(st.integers(0, 3)):  # mostly a display to which everything would be granted, but for one theme
        odd = frozenset((PLAIN, *draw(st.sampled_from(THEMES))))
    asls = PILE + draw(st.integers(0, 4)) * PAGE + draw(st.sampled_from((0, 0x18, 0xFF0)))
    if "misplaced OpRegion" in odd:
        asls = draw(st.sampled_from((0xFEE00018, 0xFED00000, 0xFEC00000, WINDOW + 0x18, BARS, 0x100000, 0xA0000)))
    if "OpRegion in PCI configuration" in odd:
        asls = WINDOW + PAGE + 0x18
    devices = draw(trees(asls, odd))
    vbios = Vbios(0xC0000, draw(st.sampled_from((0x10000, 0xFE00, 0x20000))), 0x8086, 0x1234)
    if "hostile VBIOS" in odd:
        vbios = Vbios(
            *draw(st.sampled_from(((0xC0000, 0), (0xC0000, 0x1FE00), (0xC0000, 0x40000), (0xA0000, 0x10000)))),
            0x1002,
            0,
        )
    host = HostSnapshot(
        "h", tuple(sorted(devices)), draw(memory_maps(asls, odd)),
        None if "OpRegion not read" in odd else draw(headers(asls, odd)), None if "VBIOS not read" in odd else vbios,
        draw(st.sampled_from((None, *(XenInfo(v, "") for v in VERSIONS)))),
        notes=(HostNote("unnamed", Problem("10000:00:02.0: behind Intel VMD")),) if "other buses" in odd else (),
        mmcfg=draw(st.sampled_from(WINDOWS)) if "MCFG" in odd else (),
        opregion_pin=draw(st.sampled_from((None, asls, asls, PILE))) if "seen before" in odd else None,
    )  # fmt: skip
    return World(host, draw(wishes(host.devices, odd)))


@st.composite
def wishes(draw: st.DrawFn, devices: tuple[PciDevice, ...], odd: frozenset[str]) -> Wish:
    """What a user of this host may want."""
    plain = [device.bdf for device in devices if device.class_code >> 8 != 0x0604]
    left_out = draw(st.sampled_from((None, *(bdf for bdf in plain if bdf != IGD or PLAIN not in odd))))
    odd |= draw(st.frozensets(st.sampled_from(WISHES), max_size=3))
    pci = [(bdf, "whole slots" in odd) for bdf in plain if bdf != left_out]
    ports = [Range(*r) for r in PORTS]
    if "I/O BARs in ioports=" in odd:
        odd = (odd | {"ioports="}) - {"not HVM"}
        bars_ = [Range(r.start, r.stop) for device in devices for r in device.resources if r.flags & IORESOURCE_IO]
        ports = [Range(r.start + off, r.stop) for r in bars_ for off in (0, r.nr // 2)] or ports
    if "absent devices" in odd:
        pci.append((Bdf(0, 0x55, 0, 0), False))
    if "VGA in ioports=" in odd:
        odd = (odd | {"ioports="}) - {"not HVM"}
        ports = [Range(0x3B0, 0x3BC), Range(0x3C0, 0x3E0), Range(0x3C0, 0x3D0), Range(0x3B4, 0x3DC)]
    return Wish(
        draw(st.sampled_from(("pv", "pvh"))) if "not HVM" in odd else "hvm",
        draw(st.sampled_from(("igd", "1", "args") if PLAIN in odd else ("igd", "1", "igd", "1", "args", ""))), tuple(pci),
        tuple(draw(st.lists(st.sampled_from(ports), min_size=1, max_size=3))) if "ioports=" in odd else (),
        draw(st.sampled_from((((0x500, 1),), ((0xA8, 4),), ((PILE // PAGE + 1, 2),)))) if "iomem=" in odd else (),
        draw(st.booleans()), "map-legacy" in odd, "preload" in odd,
        draw(st.sampled_from(("stdvga", "cirrus") if "preload" in odd else ("none", "none", "stdvga", "cirrus"))),
        draw(st.sampled_from((64, 128, 3840))),
    )  # fmt: skip
