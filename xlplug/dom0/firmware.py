# SPDX-License-Identifier: LGPL-2.1-only
"""Reading what firmware left in the host's memory, through /dev/mem in dom0.

Only memory that the machine's memory map reserves is read, and the ROM area below 1 MiB: reading a device's registers
could change the device.
"""

import os

from xlplug.igd import ASLS, has_opregion, is_igd, page_fault, vbt_span
from xlplug.model.addr import page_span
from xlplug.model.errors import HostError
from xlplug.model.firmware_headers import (
    INNER_VBT,
    OPREGION_HEADER,
    VBIOS_HEADER,
    parse_mcfg,
    parse_opregion,
    parse_vbios,
    parse_vbt,
)
from xlplug.model.host import (
    OPREGION,
    VBIOS,
    VBIOS_SHADOW,
    HostNote,
    HostSnapshot,
    MemRegion,
    OpRegion,
    PciDevice,
    Vbios,
)
from xlplug.model.problem import Problem
from xlplug.model.rangeset import Range
from xlplug.vga import can_own_legacy_vga

__all__ = ["DEV_MEM", "read_firmware", "read_mmcfg", "read_vbt"]

DEV_MEM = "/dev/mem"
_ROM_AREA = Range(VBIOS_SHADOW.start, 0x100000)  # option ROMs and BIOS: PC/AT memory layout
_MCFG = "/sys/firmware/acpi/tables/MCFG"
_LARGEST_VBT = 1 << 20  # bytes that we are willing to read; a VBT's own size field has 16 bits


def read_firmware(
    devices: tuple[PciDevice, ...],
    memory: tuple[MemRegion, ...],
    dev_mem: str = DEV_MEM,
    mmcfg: tuple[Range, ...] = (),
    asked: tuple[PciDevice, ...] | None = None,
) -> tuple[OpRegion | None, Vbios | None, tuple[HostNote, ...]]:
    """The OpRegion and the VBIOS header, None where there is none, and why one could not be read.

    ``devices`` are all that are known; only what belongs to those in ``asked`` is read, where that is given.
    """
    notes: list[HostNote] = []
    opregion: OpRegion | None = None
    vbios: Vbios | None = None
    host = HostSnapshot("", devices, memory, mmcfg=mmcfg)
    for device in devices if asked is None else asked:
        address = device.config_u32(ASLS)
        if is_igd(device) and has_opregion(device) and address is not None:
            try:
                opregion = parse_opregion(_read_firmware_memory(dev_mem, address, OPREGION_HEADER, host), address)
            except HostError as error:
                notes.append(_not_read(OPREGION, "OpRegion", error))
        rom = device.rom
        if can_own_legacy_vga(device) and device.boot_vga and rom is not None and rom.start == VBIOS_SHADOW.start:
            try:
                vbios = parse_vbios(_read(dev_mem, VBIOS_SHADOW.start, VBIOS_HEADER), VBIOS_SHADOW.start)
            except HostError as error:
                notes.append(_not_read(VBIOS, "VBIOS", error))
    return opregion, vbios, tuple(notes)


def read_mmcfg(path: str = _MCFG) -> tuple[Range, ...]:
    """The windows of PCI Express configuration space, host bytes; none where ACPI's table is not there or not ours to read."""
    try:
        with open(path, "rb") as file:
            return parse_mcfg(file.read(1 << 16))
    except (OSError, HostError):
        return ()


def read_vbt(host: HostSnapshot, dev_mem: str = DEV_MEM) -> bytes:
    """The Video BIOS Table of the integrated display, as i915 takes it from a file.

    Raises:
        HostError: there is none, or it cannot be read.
    """
    region = host.opregion
    if not any(is_igd(device) and has_opregion(device) is not False for device in host.devices):
        raise HostError(
            "this host has no Intel display with an OpRegion at 0000:00:02.0, so there is no VBT",
            hint="leave --vbt out",
            code="XLP401",
        )
    if region is None:
        why = host.why_unread(OPREGION)
        raise HostError(f"no OpRegion was read on this host: {why.what}", hint=why.advice, code="XLP401")
    span = vbt_span(region) or Range(region.maddr + INNER_VBT.start, region.maddr + INNER_VBT.stop)
    if span.nr > _LARGEST_VBT:
        raise HostError(
            f"the OpRegion's header claims a VBT of {span.nr} bytes", hint="update the firmware", code="XLP406"
        )
    return parse_vbt(_read_firmware_memory(dev_mem, span.start, span.nr, host))


def _not_read(about: str, name: str, error: HostError) -> HostNote:
    return HostNote(about, Problem(f"{name} header not read: {error.message}", error.hint))


def _read_firmware_memory(path: str, maddr: int, length: int, host: HostSnapshot) -> bytes:
    """``length`` bytes of host memory from ``maddr``, if every page of them is memory of the firmware's."""
    if not host.memory:
        raise HostError("the host's memory map is not known", hint="run xlplug as root in dom0", code="XLP401")
    first, count = page_span(maddr, maddr + length)
    for mfn in range(first, first + count):
        why = page_fault(mfn, host)
        if why:
            raise HostError(
                f"{maddr:x} is not in memory of the firmware's: page {mfn:x} is {why}",
                hint="update the firmware",
                code="XLP403",
            )
    return _read(path, maddr, length)


def _read(path: str, maddr: int, length: int) -> bytes:
    """``length`` bytes of host memory from ``maddr``.

    Raises:
        HostError: not root, or the kernel refuses.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise HostError(f"{path}: {error.strerror}", hint="run xlplug as root in dom0", code="XLP409") from error
    try:
        data = os.pread(fd, length, maddr)
    except OSError as error:
        raise HostError(
            f"{path} at {maddr:x}: {error.strerror}", hint="see CONFIG_STRICT_DEVMEM of dom0's kernel", code="XLP409"
        ) from error
    finally:
        os.close(fd)
    if len(data) != length:
        raise HostError(f"{path} at {maddr:x}: {len(data)} of {length} bytes read", code="XLP409")
    return data
