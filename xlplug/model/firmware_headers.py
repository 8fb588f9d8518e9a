# SPDX-License-Identifier: LGPL-2.1-only
"""Headers that firmware leaves in the host's memory: bytes in, values out.  igd.py decides whether to believe them."""

from xlplug.model.errors import HostError
from xlplug.model.host import OpRegion, Vbios
from xlplug.model.rangeset import Range

__all__ = [
    "INNER_VBT", "OPREGION_HEADER", "VBIOS_HEADER", "parse_mcfg", "parse_opregion", "parse_vbios", "parse_vbt",
]  # fmt: skip

#: Bytes to read for `parse_opregion`: up to and with RVDS at 0x3c2, 4 bytes.
OPREGION_HEADER = 0x3C6
#: Bytes to read for `parse_vbios`: the PCI data structure lies within the image's first 64 KiB.
VBIOS_HEADER = 0x10000
#: Where the VBT is within an OpRegion that has no extended one: mailbox 4, up to mailbox 5.
#: Source: Linux drivers/gpu/drm/i915/display/intel_opregion.c, OPREGION_VBT_OFFSET and OPREGION_ASLE_EXT_OFFSET.
INNER_VBT = Range(0x400, 0x1C00)
_VBT_SIGNATURE = b"$VBT"
_VBT_SIZE = 0x18  # u16: bytes of the whole table.  Source: i915's intel_vbt_defs.h, struct vbt_header

_MCFG_ENTRIES = 44  # an ACPI table's header and 8 reserved bytes.  Source: PCI Firmware Specification 3.0, 4.1.2
_MCFG_ENTRY = 16


def parse_opregion(data: bytes, maddr: int) -> OpRegion:
    """The OpRegion header at host byte ``maddr``.  Offsets: Linux drivers/vfio/pci/vfio_pci_igd.c.

    Raises:
        HostError: fewer than `OPREGION_HEADER` bytes.
    """
    if len(data) < OPREGION_HEADER:
        raise HostError(f"OpRegion at {maddr:#x}: {len(data)} bytes read, {OPREGION_HEADER} wanted", code="XLP409")
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
        raise HostError(f"VBIOS shadow at {maddr:#x}: no ROM header (55 aa)", code="XLP409")
    at = int.from_bytes(data[0x18:0x1A], "little")
    if data[at : at + 4] != b"PCIR" or len(data) < at + 8:
        raise HostError(f"VBIOS shadow at {maddr:#x}: no PCI data structure at offset {at:#x}", code="XLP409")
    vendor, device = (int.from_bytes(data[at + o : at + o + 2], "little") for o in (4, 6))
    return Vbios(maddr, data[2] * 512, vendor, device)


def parse_vbt(data: bytes) -> bytes:
    """The VBT at the beginning of ``data``, cut to the size that its header has.

    Raises:
        HostError: it is not one, or not whole.
    """
    if not data.startswith(_VBT_SIGNATURE) or len(data) < _VBT_SIZE + 2:
        raise HostError(
            "no VBT where the OpRegion says that one is (no $VBT signature)", hint="update the firmware", code="XLP409"
        )
    size = int.from_bytes(data[_VBT_SIZE : _VBT_SIZE + 2], "little")
    if not _VBT_SIZE < size <= len(data):
        raise HostError(
            f"the VBT's header claims {size} bytes, and {len(data)} are there",
            hint="update the firmware",
            code="XLP409",
        )
    return data[:size]


def parse_mcfg(data: bytes) -> tuple[Range, ...]:
    """The windows of PCI Express configuration space in ACPI's MCFG table, host bytes: 1 MiB a bus.

    Raises:
        HostError: it is not an MCFG table.
    """
    if data[:4] != b"MCFG" or len(data) < _MCFG_ENTRIES:
        raise HostError("ACPI's MCFG table is malformed", code="XLP409")
    found = []
    for at in range(_MCFG_ENTRIES, len(data) - _MCFG_ENTRY + 1, _MCFG_ENTRY):
        base, first, last = int.from_bytes(data[at : at + 8], "little"), data[at + 10], data[at + 11]
        if first <= last:
            found.append(Range(base + (first << 20), base + ((last + 1) << 20)))
    return tuple(found)
