# SPDX-License-Identifier: LGPL-2.1-only
"""What a PC's firmware brings for an Intel display: a VBIOS and an OpRegion, as bytes.

Source: PCI Firmware Specification 3.0, 5.1 (option ROM, PCIR); Linux, drivers/vfio/pci/vfio_pci_igd.c (OpRegion header).
"""

import struct

VENDOR, DEVICE = 0x8086, 0x5916  #: Kaby Lake's GT2: a common laptop's.

#: A real OpRegion seldom begins on a page.  SeaBIOS loads its file on one, with this many bytes before the header, and
#: what SeaBIOS writes to ASLS, the first to write there, is put right by server.py.
OFFSET = 0x18

#: Bytes of the VBIOS, and what is in it for a guest to find, at TEXT_AT.
ROM_SIZE, ROM_TEXT, TEXT_AT = 0x8000, b"xlplug VBIOS", 0x100
_PCIR = 0x60

SIGNATURE = b"IntelGraphicsMem"
#: Bytes of an OpRegion.
SIZE = 0x2000
#: Bytes of the file that SeaBIOS loads, hence of reserved memory: room for OpRegions in every place a test wants one.
ROOM = 0x10000


def vbios(vendor: int = VENDOR, device: int = DEVICE, size: int = ROM_SIZE) -> bytes:
    """An option ROM that does nothing when it is run, with a valid checksum."""
    rom = bytearray(size)
    rom[0:4] = bytes((0x55, 0xAA, size // 512, 0xCB))  # retf
    struct.pack_into("<H", rom, 0x18, _PCIR)
    rom[_PCIR : _PCIR + 4] = b"PCIR"
    # ids; no list of devices; length and revision; class 030000; length; code revision; x86; the last image
    struct.pack_into("<HHHHB3sHHBB", rom, _PCIR + 4, vendor, device, 0, 24, 0, b"\0\0\3", size // 512, 0, 0, 0x80)
    rom[TEXT_AT : TEXT_AT + len(ROM_TEXT)] = ROM_TEXT
    rom[-1] = -sum(rom) & 0xFF
    return bytes(rom)


def opregion(
    version: int = 0x0200, kib: int = SIZE >> 10, rvda: int = 0, rvds: int = 0, signature: bytes = SIGNATURE
) -> bytes:
    """An OpRegion; ``rvda`` and ``rvds`` say where its extended VBT is and how long, in bytes."""
    data = bytearray(SIZE)
    data[:16] = signature
    struct.pack_into("<I", data, 0x10, kib)
    struct.pack_into("<H", data, 0x16, version)
    struct.pack_into("<QI", data, 0x3BA, rvda, rvds)
    return bytes(data)


def opregion_file() -> bytes:
    """What SeaBIOS copies into reserved memory: an OpRegion that does not begin on a page, and nothing behind it."""
    data = bytes(OFFSET) + opregion()
    return data.ljust(ROOM, b"\0")
