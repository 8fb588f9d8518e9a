# SPDX-License-Identifier: LGPL-2.1-only
"""Headers that firmware leaves in the host's memory: bytes in, values out.  igd.py decides whether to believe them."""

from xlplug.model.errors import HostError
from xlplug.model.host import OpRegion, Vbios

__all__ = ["OPREGION_HEADER", "VBIOS_HEADER", "parse_opregion", "parse_vbios"]

#: Bytes to read for `parse_opregion`: up to and with RVDS at 0x3c2, 4 bytes.
OPREGION_HEADER = 0x3C6
#: Bytes to read for `parse_vbios`: the PCI data structure lies within the image's first 64 KiB.
VBIOS_HEADER = 0x10000


def parse_opregion(data: bytes, maddr: int) -> OpRegion:
    """The OpRegion header at host byte ``maddr``.  Offsets: Linux drivers/vfio/pci/vfio_pci_igd.c.

    Raises:
        HostError: fewer than `OPREGION_HEADER` bytes.
    """
    if len(data) < OPREGION_HEADER:
        raise HostError(f"OpRegion at {maddr:#x}: {len(data)} bytes read, {OPREGION_HEADER} wanted")
    return OpRegion(
        maddr=maddr,
        signature=data[:16],
        size=int.from_bytes(data[0x10:0x14], "little") << 10,
        version=int.from_bytes(data[0x16:0x18], "little"),
        rvda=int.from_bytes(data[0x3BA:0x3C2], "little"),
        rvds=int.from_bytes(data[0x3C2:0x3C6], "little"),
    )


def parse_vbios(data: bytes, maddr: int) -> Vbios:
    """The ROM header of the VBIOS shadow at host byte ``maddr``.

    The size is byte 2 of the header, in 512-byte blocks: what the BIOS left resident, which is what the shadow holds.
    Source: PCI Firmware Specification 3.0, 5.1 (55 aa, size at 2, PCI data structure's offset at 0x18).

    Raises:
        HostError: no ROM header, or no PCI data structure.
    """
    if data[:2] != b"\x55\xaa" or len(data) < 0x1A:
        raise HostError(f"VBIOS shadow at {maddr:#x}: no ROM header (55 aa)")
    at = int.from_bytes(data[0x18:0x1A], "little")
    if data[at : at + 4] != b"PCIR" or len(data) < at + 8:
        raise HostError(f"VBIOS shadow at {maddr:#x}: no PCI data structure at offset {at:#x}")
    vendor, device = (int.from_bytes(data[at + o : at + o + 2], "little") for o in (4, 6))
    return Vbios(maddr, data[2] * 512, vendor, device)
