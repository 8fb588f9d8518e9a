# SPDX-License-Identifier: LGPL-2.1-only
"""Reads what ``xlplug doctor`` judges of PCI functions, displays, and what firmware has left for them in memory."""

import contextlib
import os

from xlplug.doctor.facts import Firmware
from xlplug.doctor.places import Places
from xlplug.doctor.reading import Broken, Missing, Reading, Skipped, Unread, after, tried
from xlplug.dom0 import firmware, opregion_pin, pci
from xlplug.dom0.os_release import distribution
from xlplug.igd import header_fault
from xlplug.model.bdf import Bdf
from xlplug.model.errors import ConfigError
from xlplug.model.host import OPREGION, VBIOS, HostNote, HostSnapshot, MemRegion, PciDevice, XenInfo
from xlplug.model.hypervisor import Store
from xlplug.model.problem import Problem

__all__ = ["all_functions", "arbiter_line", "assignable", "dev_mem", "host_of", "left_by_firmware"]

_ARBITER_BYTES = 1024


def all_functions(places: Places, store: Reading[Store]) -> tuple[Reading[tuple[PciDevice, ...]], tuple[HostNote, ...]]:
    """Every function, and a note for each that cannot be read; the owners are left out where xenstored does not answer."""
    owned = {} if isinstance(store, Missing) else tried(pci.owners, store)

    def look() -> tuple[tuple[PciDevice, ...], tuple[HostNote, ...]]:
        paths = [f"{places.sys_pci}/{name}" for name in os.listdir(places.sys_pci)]
        return pci.several(paths, {} if isinstance(owned, Missing) else owned)

    found = tried(look)
    return (found, ()) if isinstance(found, Missing) else found


def assignable(places: Places) -> Reading[tuple[Bdf, ...]]:
    """The functions that pciback holds."""
    try:
        names = os.listdir(places.pciback)
    except FileNotFoundError:
        return Broken("the xen-pciback driver is not loaded, so no device is assignable", "modprobe xen-pciback")
    except OSError as error:
        return Unread(f"{places.pciback}: {error.strerror}")
    found = []
    for name in names:
        with contextlib.suppress(ConfigError):  # the driver's own files
            found.append(Bdf.parse(name))
    return tuple(sorted(found))


def arbiter_line(places: Places) -> Reading[str]:
    """The first line of /dev/vga_arbiter, which repeats it without end."""
    return tried(_first_line, f"{places.dev}/vga_arbiter")


def _first_line(path: str) -> str:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        return os.read(fd, _ARBITER_BYTES).decode("ascii", "replace").partition("\n")[0]
    finally:
        os.close(fd)


def dev_mem(places: Places, euid: int) -> Reading[str]:
    """/dev/mem, opened and closed again."""
    path = f"{places.dev}/mem"
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
    except FileNotFoundError:
        return Broken(f"{path} is missing", "boot a dom0 kernel with CONFIG_DEVMEM")
    except OSError as error:
        if euid != 0:
            return Skipped("root")
        return Broken(f"{path}: {error.strerror}", "boot dom0 without kernel lockdown (see kernel_lockdown(7))")
    return path


def host_of(
    places: Places,
    devices: Reading[tuple[PciDevice, ...]],
    memory: Reading[tuple[MemRegion, ...]],
    version: Reading[tuple[int, int, str]],
) -> Reading[HostSnapshot]:
    """What plans are made with."""

    def look(devices: tuple[PciDevice, ...]) -> HostSnapshot:
        regions = () if isinstance(memory, Missing) else memory
        mmcfg = firmware.read_mmcfg()
        opregion, vbios, notes = firmware.read_firmware(devices, regions, f"{places.dev}/mem", mmcfg)
        info = None if isinstance(version, Missing) else XenInfo(version[:2], version[2])
        return HostSnapshot(
            os.uname().nodename, devices, regions, opregion, vbios, info, notes=notes, mmcfg=mmcfg,
            opregion_pin=opregion_pin.pinned(), distribution=distribution(places.os_release),
        )  # fmt: skip

    return after("display", devices, look)


def left_by_firmware(host: Reading[HostSnapshot], memory: Reading[tuple[MemRegion, ...]]) -> Reading[Firmware]:
    """Which headers of OpRegion and VBIOS were read, and which could not be."""
    if isinstance(memory, Skipped):
        return memory
    if isinstance(memory, Missing):
        return type(memory)(f"the machine's memory map was not read: {memory.what}", memory.advice, memory.code)
    return after("display", host, _headers)


def _headers(host: HostSnapshot) -> Firmware:
    read, notes = [], [note.problem for note in host.notes if note.about in (OPREGION, VBIOS)]
    region = host.opregion
    if region is not None and (fault := header_fault(region)):
        notes.append(Problem(f"OpRegion at {region.maddr:x}: {fault}", "update the firmware", code="XLP404"))
    elif region is not None:
        version = f"{region.version >> 8}.{region.version & 0xFF}"
        read.append(f"OpRegion at {region.maddr:#x}, version {version}, {region.size >> 10} KiB")
    if host.vbios is not None:
        rom = host.vbios
        read.append(f"VBIOS shadow at {rom.maddr:#x}, {rom.size} bytes, of {rom.vendor:04x}:{rom.device:04x}")
    return Firmware(tuple(read), tuple(notes))
