# SPDX-License-Identifier: LGPL-2.1-only
"""Which functions own the legacy VGA ranges, and which ranges those are.

Policy only: imports nothing that can touch a machine.  Intel's OpRegion and the VBIOS are igd.py's.
"""

from xlplug.model.bdf import Bdf
from xlplug.model.host import PciDevice
from xlplug.model.rangeset import Range, RangeSet
from xlplug.model.steps import IOMEM, IOPORT, Right

__all__ = ["VGA_MEMORY", "VGA_PORTS", "VGA_PORT_SET", "VENDOR_INTEL", "is_display", "can_own_legacy_vga", "vga_rights"]

VENDOR_INTEL = 0x8086  #: Source: PCI-SIG vendor list.

#: The legacy frame buffer, in mfns: host bytes 0xa0000 to 0xbffff.
#: Source: PCI-to-PCI Bridge Specification 1.2, 3.2.5.18 (VGA Enable); QEMU hw/xen/xen_pt_graphics.c, vga_mem_map.
VGA_MEMORY = Range(0xA0, 0xC0)

#: The VGA ports, exactly as QEMU maps them (same file: {0x3b0, 0xc} and {0x3c0, 0x20}).  They must not be widened or
#: merged: 0x3bc-0x3bf is a printer port, and from Xen 4.23 a mapping that overlaps or merely touches another one fails
#: with EBUSY, so one range 0x3b0-0x3df of ours would break QEMU's own two calls.
VGA_PORTS = (Range(0x3B0, 0x3BC), Range(0x3C0, 0x3E0))
VGA_PORT_SET = RangeSet(VGA_PORTS)

#: Class codes, 24 bits: base, sub, interface.  Source: PCI Code and ID Assignment Specification 1.11, 1.4.
_CLASS_VGA = 0x0300  # base and sub: any interface
_CLASS_VGA_PRE_2_0 = 0x000100  # "VGA-compatible unclassified device", from before class codes
_CLASS_DISPLAY_OTHER = 0x038000  # how Raptor Lake's graphics show themselves


def is_display(device: PciDevice) -> bool:
    """Whether the function is a display that can own the legacy VGA ranges, leaving virtual functions aside.

    Class 0x0380 counts for Intel only: there the function is a full VGA in all but its class code (Raptor Lake; libxl
    since 4.20, commit 4191619e08).  On other vendors it marks a second head or a 3D engine with no VGA core.
    """
    return (
        device.class_code >> 8 == _CLASS_VGA
        or device.class_code == _CLASS_VGA_PRE_2_0
        or (device.class_code == _CLASS_DISPLAY_OTHER and device.vendor == VENDOR_INTEL)
    )


def can_own_legacy_vga(device: PciDevice) -> bool:
    """Whether legacy VGA cycles can belong to the function: a display, and no SR-IOV virtual function."""
    return device.physfn is None and is_display(device)


def vga_rights(bdf: Bdf, grantees: tuple[str, ...]) -> tuple[Right, ...]:
    """The legacy VGA set for each grantee, on behalf of the display at ``bdf``."""
    return tuple(
        right
        for grantee in grantees
        for right in (
            Right(IOMEM, VGA_MEMORY, grantee, "VGA frame buffer", bdf),
            Right(IOPORT, VGA_PORTS[0], grantee, "VGA ports, monochrome", bdf),
            Right(IOPORT, VGA_PORTS[1], grantee, "VGA ports, colour and attributes", bdf),
        )
    )
