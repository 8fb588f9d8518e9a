# SPDX-License-Identifier: LGPL-2.1-only
"""Base address registers: what a function has, as its host shows it.  Pure values."""

from typing import NamedTuple

from xlplug.model.bdf import Bdf
from xlplug.model.host import IORESOURCE_IO, PciDevice
from xlplug.model.problem import Problem
from xlplug.model.rangeset import Range

__all__ = ["BARS", "IO", "KINDS", "MEMORY32", "MEMORY64", "Bar", "bars_of", "unfit"]

IO, MEMORY32, MEMORY64 = "io", "memory32", "memory64"
KINDS = (IO, MEMORY32, MEMORY64)
#: Source: Linux, include/linux/ioport.h.
_MEM, _PREFETCH, _MEM_64 = 0x200, 0x2000, 0x100000
BARS = 6  #: registers at 10h, 14h, ... 24h of a type 0 header; a 64-bit one takes two


class Bar(NamedTuple):
    """One BAR: its number, kind, and machine range: host bytes or ports ``[start, stop)``, a power of two of them."""

    number: int
    kind: str
    start: int
    stop: int
    prefetch: bool = False

    @property
    def size(self) -> int:
        """In bytes or ports."""
        return self.stop - self.start

    @property
    def is_memory(self) -> bool:
        """Whether it is memory, not ports."""
        return self.kind != IO

    @property
    def range(self) -> Range:
        """The machine range."""
        return Range(self.start, self.stop)

    @property
    def low_bits(self) -> int:
        """The read-only bits at the bottom of the register.  Source: PCI Local Bus Specification 3.0, 6.2.5.1."""
        return 1 if self.kind == IO else (4 if self.kind == MEMORY64 else 0) | (8 if self.prefetch else 0)

    def __str__(self) -> str:
        """As in the record: ``memory64-prefetch 38000000-38ffffff``, hexadecimal, both ends inclusive."""
        return f"{self.kind}{'-prefetch' if self.prefetch else ''} {self.start:x}-{self.stop - 1:x}"

    @classmethod
    def parse(cls, number: int, text: str) -> "Bar":
        """Read what ``str`` prints.

        Raises:
            ValueError: it is anything else.
        """
        kind, space, ends = text.partition(" ")
        first, dash, last = ends.partition("-")
        plain = kind.removesuffix("-prefetch")
        bar = cls(number, plain, int(first, 16), int(last, 16) + 1, plain != kind)
        if not space or not dash or plain not in KINDS or str(bar) != text or bar.size < 1 or not 0 <= number < BARS:
            raise ValueError(f"not a BAR: {text!r}")
        return bar


def bars_of(device: PciDevice) -> tuple[Bar, ...]:
    """A function's BARs, from the lines 0 to 5 of its sysfs ``resource``."""
    found = []
    for resource in device.resources:
        if resource.line >= BARS or not resource.flags & (IORESOURCE_IO | _MEM):
            continue
        kind = IO if resource.is_port else MEMORY64 if resource.flags & _MEM_64 else MEMORY32
        prefetch = kind != IO and bool(resource.flags & _PREFETCH)
        found.append(Bar(resource.line, kind, resource.start, resource.stop, prefetch))
    return tuple(found)


def unfit(bdf: Bdf, bars: tuple[Bar, ...]) -> Problem | None:
    """What makes a function's BARs impossible to emulate."""
    for bar in bars:
        if not bar.start:
            what = f"BAR {bar.number} of {bdf} has no address on the host"
            return Problem(what, "see dom0's kernel log (dmesg)", code="XLP704")
        if bar.size & (bar.size - 1) or bar.size < (4 if bar.kind == IO else 16):
            what = f"BAR {bar.number} of {bdf} has {bar.size:#x} bytes, which is not a size that a BAR can have"
            return Problem(what, "assign the device with pci=[...]", code="XLP704")
    return None
