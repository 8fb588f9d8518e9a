# SPDX-License-Identifier: LGPL-2.1-only
"""Reading firmware's headers out of the host's memory, through /dev/mem in dom0.

Only memory that the machine's memory map reserves is read, and the ROM area below 1 MiB: reading a device's registers
could change the device.
"""

import os

from xlplug.igd import ASLS
from xlplug.model.errors import HostError
from xlplug.model.firmware_headers import OPREGION_HEADER, VBIOS_HEADER, parse_opregion, parse_vbios
from xlplug.model.host import (
    E820_RESERVED,
    OPREGION,
    VBIOS,
    VBIOS_SHADOW,
    HostNote,
    MemRegion,
    OpRegion,
    PciDevice,
    Vbios,
)
from xlplug.model.problem import Problem
from xlplug.model.rangeset import RangeSet
from xlplug.vga import VENDOR_INTEL, owns_legacy_vga

__all__ = ["DEV_MEM", "read_firmware"]

DEV_MEM = "/dev/mem"
_ROM_AREA = RangeSet([(VBIOS_SHADOW.start, 0x100000)])  # option ROMs and BIOS: PC/AT memory layout


def read_firmware(
    devices: tuple[PciDevice, ...], memory: tuple[MemRegion, ...], dev_mem: str = DEV_MEM
) -> tuple[OpRegion | None, Vbios | None, tuple[HostNote, ...]]:
    """The OpRegion and the VBIOS header, None where there is none, and why one could not be read."""
    notes: list[HostNote] = []
    opregion: OpRegion | None = None
    vbios: Vbios | None = None
    readable = RangeSet((m.start, m.stop) for m in memory if m.kind in E820_RESERVED)
    for device in devices:
        if not owns_legacy_vga(device):
            continue
        address = device.config_u32(ASLS) if device.vendor == VENDOR_INTEL else 0
        if address not in (None, 0, 0xFFFFFFFF) and opregion is None:
            try:
                opregion = parse_opregion(_read(dev_mem, address, OPREGION_HEADER, readable), address)
            except HostError as error:
                notes.append(_not_read(OPREGION, "OpRegion", error))
        rom = device.rom
        if device.boot_vga and rom is not None and rom.start == VBIOS_SHADOW.start:
            try:
                vbios = parse_vbios(_read(dev_mem, VBIOS_SHADOW.start, VBIOS_HEADER, _ROM_AREA), VBIOS_SHADOW.start)
            except HostError as error:
                notes.append(_not_read(VBIOS, "VBIOS", error))
    return opregion, vbios, tuple(notes)


def _not_read(about: str, name: str, error: HostError) -> HostNote:
    return HostNote(about, Problem(f"{name} header not read: {error.message}", error.hint))


def _read(path: str, maddr: int, length: int, allowed: RangeSet) -> bytes:
    """``length`` bytes of host memory from ``maddr``, all of them within ``allowed``.

    Raises:
        HostError: not allowed, not root, or the kernel refuses.
    """
    if not allowed.covers(maddr, maddr + length):
        raise HostError(f"{maddr:#x} to {maddr + length - 1:#x} is not host-reserved memory")
    try:
        fd = os.open(path, os.O_RDONLY)
    except OSError as error:
        raise HostError(f"{path}: {error.strerror}", hint="run xlplug as root in dom0") from error
    try:
        data = os.pread(fd, length, maddr)
    except OSError as error:
        raise HostError(
            f"{path} at {maddr:#x}: {error.strerror}", hint="see CONFIG_STRICT_DEVMEM of dom0's kernel"
        ) from error
    finally:
        os.close(fd)
    if len(data) != length:
        raise HostError(f"{path} at {maddr:#x}: {len(data)} of {length} bytes read")
    return data
