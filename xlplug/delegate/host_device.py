# SPDX-License-Identifier: LGPL-2.1-only
"""A function's BARs on the host, opened by root through sysfs and used later by a process that has no rights.

Accesses have exactly the width that the guest used: one load or store through a pointer of that type, because copying from
a mapping may split or join them.  The neighbours of a BAR that is smaller than a page are in the mapping, and are never reached:
every access is checked against the BAR.
"""

import mmap
import os
from abc import ABC, abstractmethod

from xlplug.model.bar import Bar
from xlplug.model.bdf import Bdf
from xlplug.model.errors import HostError
from xlplug.model.host import PCIBACK_DRIVERS
from xlplug.xen.lib import ffi

__all__ = ["AbsentBar", "HostBar", "MemoryBar", "PortBar", "is_held", "open_bar"]

_TYPES = {1: "uint8_t *", 2: "uint16_t *", 4: "uint32_t *", 8: "uint64_t *"}


class HostBar(ABC):
    """One BAR; ``offset`` and ``size`` are inside it (`Model` sees to that), and ``size`` is 1, 2, 4 or 8."""

    @abstractmethod
    def read(self, offset: int, size: int) -> int:
        """One access; OSError when the device does not answer."""

    @abstractmethod
    def write(self, offset: int, size: int, value: int) -> None:
        """One access; OSError when the device does not answer."""


class MemoryBar(HostBar):
    """Memory, mapped through sysfs ``resourceN``."""

    def __init__(self, fd: int, bar: Bar) -> None:
        self._size = bar.size
        # The file is as long as the BAR, and what is mapped are whole pages: the mapping begins with the page that a smaller
        # BAR is in.  A BAR lies at a multiple of its size, so it never goes beyond that page.
        self._mapping = mmap.mmap(fd, bar.size)
        self._base = ffi.cast("uint8_t *", ffi.from_buffer(self._mapping)) + (bar.start & (mmap.PAGESIZE - 1))

    def read(self, offset: int, size: int) -> int:
        self._check(offset, size)
        return int(ffi.cast(_TYPES[size], self._base + offset)[0])

    def write(self, offset: int, size: int, value: int) -> None:
        self._check(offset, size)
        ffi.cast(_TYPES[size], self._base + offset)[0] = value & ((1 << 8 * size) - 1)

    def _check(self, offset: int, size: int) -> None:
        """Once more here, where a mistake would reach another device."""
        if offset < 0 or offset + size > self._size:
            raise ValueError(f"[{offset:#x}, {offset + size:#x}) of a BAR of {self._size:#x} bytes")


class PortBar(HostBar):
    """Ports, through reads and writes of sysfs ``resourceN`` at the offset.

    Source: Linux, drivers/pci/pci-sysfs.c, pci_resource_io: 1, 2 or 4 bytes, inside the BAR.  Eight bytes are not a port access.
    """

    def __init__(self, fd: int, bar: Bar) -> None:
        self._fd, self._size = fd, bar.size

    def read(self, offset: int, size: int) -> int:
        return int.from_bytes(os.pread(self._fd, size, offset), "little")

    def write(self, offset: int, size: int, value: int) -> None:
        os.pwrite(self._fd, (value & ((1 << 8 * size) - 1)).to_bytes(size, "little"), offset)


class AbsentBar(HostBar):
    """A BAR of a device that is no longer there: reads all ones."""

    def read(self, offset: int, size: int) -> int:
        return (1 << 8 * size) - 1

    def write(self, offset: int, size: int, value: int) -> None:
        pass


def is_held(sys_pci: str, host: Bdf) -> bool:
    """Whether pciback has a function of that address: else it has left the host, or dom0 or another device has taken its place."""
    try:
        return os.path.basename(os.readlink(f"{sys_pci}/{host}/driver")) in PCIBACK_DRIVERS
    except OSError:
        return False


def open_bar(sys_pci: str, bdf: Bdf, bar: Bar) -> HostBar:
    """Open one BAR for use.

    Raises:
        HostError: sysfs refuses it: the kernel is locked down, or a driver in dom0 holds the range.
    """
    path = f"{sys_pci}/{bdf}/resource{bar.number}"
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        if not bar.is_memory:
            return PortBar(fd, bar)
        try:
            return MemoryBar(fd, bar)
        finally:
            os.close(fd)
    except OSError as error:
        raise HostError(
            f"{path}: {error.strerror}",
            hint="is the kernel locked down, or the device held by a driver in dom0?",
            code="XLP703",
        ) from error
