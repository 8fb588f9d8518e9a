# SPDX-License-Identifier: LGPL-2.1-only
"""What was seen on a host: frozen values, live or recorded alike.

No I/O and no policy here.  dom0/snapshot.py fills these in on a live dom0, dom0/recording.py reads and writes them as
JSON, planning only reads them.
"""

from typing import NamedTuple

from xlplug.model.addr import Domid
from xlplug.model.bdf import Bdf
from xlplug.model.problem import Problem
from xlplug.model.rangeset import Range, RangeSet

__all__ = [
    "E820_FIRMWARE",
    "E820_RAM",
    "IORESOURCE_IO",
    "IORESOURCE_MEM_64",
    "IORESOURCE_UNSET",
    "PCIBACK",
    "PCIBACK_DRIVERS",
    "ROM_INDEX",
    "VBIOS_SHADOW",
    "HostSnapshot",
    "MemRegion",
    "OpRegion",
    "PciDevice",
    "Resource",
    "Vbios",
    "XenInfo",
]

#: The driver that holds what can be assigned, by its name in sysfs.  Source: Linux drivers/xen/xen-pciback/pci_stub.c.
PCIBACK = "pciback"
PCIBACK_DRIVERS = (PCIBACK, "xen-pciback")  #: with both names that it has had

#: Flag of a line of sysfs ``resource`` that counts I/O ports.  Source: Linux include/linux/ioport.h.
IORESOURCE_IO = 0x100
#: Flag of a line without an address (same file), and of a memory BAR that takes a 64-bit address.
IORESOURCE_UNSET = 0x20000000
IORESOURCE_MEM_64 = 0x100000
#: Line of sysfs ``resource`` that holds the expansion ROM.  Source: Linux include/linux/pci.h, PCI_ROM_RESOURCE.
ROM_INDEX = 6

#: Host bytes where the firmware leaves a copy of the boot display's ROM.  Source: Linux arch/x86/pci/fixup.c,
#: pci_fixup_video.
VBIOS_SHADOW = Range(0xC0000, 0xE0000)

#: E820 types: usable RAM, and those of memory that the firmware keeps: reserved and ACPI NVS.  Every other type (3 ACPI tables,
#: 5 bad memory, 7 and 12 persistent memory, 16 coreboot's tables, and what firmware invents) counts as neither: not as RAM, and
#: never granted.  Source: ACPI 6.5, table 15.6; xen/include/asm-x86/e820.h; Linux arch/x86/include/asm/e820/types.h.
E820_RAM = 1
E820_FIRMWARE = (2, 4)


class Resource(NamedTuple):
    """One non-empty line of sysfs ``resource``, numbered from 0: host bytes or ports ``[start, stop)``, Linux's resource flags."""

    line: int
    start: int
    stop: int
    flags: int

    @property
    def has_address(self) -> bool:
        """Whether the firmware or the kernel gave it one: else Linux shows its size from 0 on, flagged "unset"."""
        return self.start != 0 and not self.flags & IORESOURCE_UNSET

    @property
    def is_port(self) -> bool:
        """Whether the range counts I/O ports (else host bytes of memory)."""
        return bool(self.flags & IORESOURCE_IO)


class PciDevice(NamedTuple):
    """A PCI function as the host shows it.

    ``class_code`` is the 24-bit class (base, sub, programming interface).  ``config`` is what could be read of config
    space (64 bytes without privilege).  ``boot_vga`` is None where sysfs has no such file; ``physfn`` is the physical
    function of an SR-IOV virtual function; ``owner`` the domain it is assigned to, None when to none or not known.
    """

    bdf: Bdf
    vendor: int
    device: int
    class_code: int
    resources: tuple[Resource, ...] = ()
    config: bytes = b""
    boot_vga: bool | None = None
    physfn: Bdf | None = None
    driver: str | None = None
    iommu_group: int | None = None
    owner: Domid | None = None

    @property
    def rom(self) -> Resource | None:
        """The expansion ROM's line of sysfs ``resource``, or None."""
        return next((r for r in self.resources if r.line == ROM_INDEX), None)

    def config_u32(self, offset: int) -> int | None:
        """Little-endian 32-bit config register at ``offset``, or None where config space could not be read so far."""
        raw = self.config[offset : offset + 4]
        return int.from_bytes(raw, "little") if len(raw) == 4 else None


class MemRegion(NamedTuple):
    """A line of the *machine's* memory map (E820): host bytes ``[start, stop)`` of E820 type ``kind``."""

    start: int
    stop: int
    kind: int


class OpRegion(NamedTuple):
    """The header of Intel's OpRegion as it was read at host byte ``maddr``; nothing is checked yet.

    ``size`` in bytes (the header counts KiB).  ``version`` is major<<8 | minor.  ``rvda`` and ``rvds`` give the
    extended VBT: absolute host byte address for version 2.0, relative to ``maddr`` from 2.1, and its length in bytes.
    Source: Linux drivers/vfio/pci/vfio_pci_igd.c.
    """

    maddr: int
    signature: bytes
    size: int
    version: int
    rvda: int = 0
    rvds: int = 0


class Vbios(NamedTuple):
    """The VBIOS shadow as its ROM header describes it: at host byte ``maddr``, ``size`` bytes, made for a device."""

    maddr: int
    size: int
    vendor: int
    device: int


class XenInfo(NamedTuple):
    """The running hypervisor: (major, minor), the full version text, and its capabilities line."""

    version: tuple[int, int]
    text: str
    capabilities: str = ""


OPREGION, VBIOS, MEMORY = "opregion", "vbios", "memory"  #: what a `HostNote` is about
UNNAMED = "unnamed"  #: and a PCI function that xl cannot name


class HostNote(NamedTuple):
    """A part of the host that could not be read, and why.

    ``about`` is `OPREGION`, `VBIOS`, `MEMORY`, `UNNAMED`, or a PCI function's address as text.
    """

    about: str
    problem: Problem

    def __str__(self) -> str:
        return str(self.problem)


class HostSnapshot(NamedTuple):
    """All that planning may know about a host.

    ``opregion`` and ``vbios`` are None when there is none or it could not be read: then ``notes`` says why.  ``memory``
    is empty when the machine's memory map could not be read.  ``libraries`` maps a Xen library's soname to where it was
    found.  ``mmcfg`` are the windows of PCI Express configuration space, host bytes, empty where they were not read;
    ``opregion_pin`` is the OpRegion's address when it was first seen since boot; ``distribution`` the ID of os-release(5);
    ``kept_ports`` are those that dom0 lacks itself, among all or those of a configuration; None where Xen was not asked.
    """

    name: str
    devices: tuple[PciDevice, ...] = ()
    memory: tuple[MemRegion, ...] = ()
    opregion: OpRegion | None = None
    vbios: Vbios | None = None
    xen: XenInfo | None = None
    libraries: tuple[tuple[str, str], ...] = ()
    notes: tuple[HostNote, ...] = ()
    provenance: str = ""
    mmcfg: tuple[Range, ...] = ()
    opregion_pin: int | None = None
    distribution: str = ""
    kept_ports: RangeSet | None = None

    def note(self, about: str) -> Problem | None:
        """Why a part could not be read, None where nothing is known of that."""
        return next((note.problem for note in self.notes if note.about == about), None)

    def why_unread(self, about: str) -> Problem:
        """Why a firmware header was not read."""
        return self.note(about) or Problem("its header was not read", "run xlplug as root in dom0")

    def device(self, bdf: Bdf) -> PciDevice | None:
        """The function at ``bdf``, or None."""
        return next((d for d in self.devices if d.bdf == bdf), None)

    @property
    def is_qubes(self) -> bool:
        """Whether libxl, hvmloader and QEMU have the patches of Qubes OS (docs/qubes.md)."""
        return self.distribution == "qubes"

    @property
    def ram(self) -> RangeSet:
        """Host bytes that are System RAM."""
        return RangeSet(Range(m.start, m.stop) for m in self.memory if m.kind == E820_RAM)
