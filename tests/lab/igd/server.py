# SPDX-License-Identifier: LGPL-2.1-only
"""An Intel display for the lab's machine: a vfio-user server for QEMU's ``vfio-user-pci``.

It answers for the configuration space, the BARs and nothing else: this display does no DMA and raises no interrupt.  The
protocol is little endian; a message has a header of 16 bytes, and a reply has the number and the command of its request.
Source: QEMU, docs/interop/vfio-user.rst; what QEMU 11.1 really sends is a part of it, and anything else is answered with an
error.

    python3 -m tests.lab.igd.server SOCKET

serves one connection, and ends with it.
"""

import errno
import json
import os
import socket
import struct
import sys
from collections.abc import Callable
from typing import NamedTuple

from tests.lab.igd.firmware import DEVICE, OFFSET, VENDOR

#: Commands.  Source: vfio-user.rst, "Commands".
VERSION, DMA_MAP, DMA_UNMAP, GET_INFO, GET_REGION_INFO, GET_IRQ_INFO, SET_IRQS, REGION_READ, REGION_WRITE = (
    1, 2, 3, 4, 5, 7, 8, 9, 10,
)  # fmt: skip
_REPLY, _NO_REPLY, _ERROR = 0x1, 0x10, 0x20  # flags of a header
_HEADER = struct.Struct("<HHIII")  # number, command, size with the header, flags, errno
_DESCRIPTORS = 16

#: Regions and interrupts are numbered as VFIO does.  Source: linux/vfio.h, VFIO_PCI_BAR0_REGION_INDEX and following.
CONFIG_REGION, _REGIONS, _INTERRUPTS = 7, 9, 5
_READ, _WRITE, _MMAP = 1, 2, 4
_IS_PCI = 2

#: Registers of the display.  Source: Intel's Programmer's Reference Manual, volume 2, GGC, BDSM, ASLS.
GGC, BDSM, ASLS = 0x50, 0x5C, 0xFC
#: Not a register of any real display: dom0 sets the sub-class here (00: VGA, 80: other), which is then in the class code.
#: With GONE the server ends at once, as if the card had been pulled.
SUBCLASS, GONE = 0xE0, 0xDE


class Bar(NamedTuple):
    """A BAR: its register, the type bits of its lower half, and its size in bytes."""

    index: int
    kind: int
    size: int

    @property
    def wide(self) -> bool:
        return self.kind & 0x7 == 0x4


#: 64-bit memory; 64-bit prefetchable memory; ports.
BARS = (Bar(0, 0x4, 16 << 20), Bar(2, 0xC, 256 << 20), Bar(4, 0x1, 64))


def initial_config() -> bytearray:
    """The configuration space as it is after a reset."""
    config = bytearray(256)
    struct.pack_into("<HHHH", config, 0x00, VENDOR, DEVICE, 0x0000, 0x0010)  # status: there are capabilities
    struct.pack_into("<I", config, 0x08, 0x03000002)  # VGA, revision 2
    for bar in BARS:
        config[0x10 + 4 * bar.index] = bar.kind
    struct.pack_into("<HH", config, 0x2C, VENDOR, 0x2212)
    config[0x34], config[0x3D] = 0x40, 1  # first capability; pin A
    config[0x40:0x44] = bytes((0x09, 0xAC, 0x0C, 0x01))  # vendor-specific, 12 bytes
    config[0xAC:0xAE] = bytes((0x05, 0xD0))  # MSI
    config[0xD0:0xD4] = bytes((0x01, 0x00, 0x22, 0x00))  # power management
    struct.pack_into("<H", config, GGC, 0x02C1)
    struct.pack_into("<I", config, BDSM, 0x7C000001)
    return config


def write_mask() -> bytearray:
    """Which bits of the configuration space can be written."""
    mask = bytearray(256)
    struct.pack_into("<H", mask, 0x04, 0x0407)  # ports, memory, bus master, interrupt disable
    for bar in BARS:
        bits = ~(bar.size - 1) & ((1 << 64) - 1)
        struct.pack_into(
            "<Q" if bar.wide else "<I", mask, 0x10 + 4 * bar.index, bits if bar.wide else bits & 0xFFFFFFFF
        )
    mask[0x3C] = 0xFF
    mask[0xAE:0xB6] = bytes((0x71, 0x00, 0xFC, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF))  # MSI control, address, data
    mask[0xD4] = 0x03  # power state
    for register in (GGC, BDSM, ASLS):
        mask[register : register + 4] = b"\xff" * 4
    mask[SUBCLASS] = 0xFF
    return mask


class Display:
    """The device: what is read and written, whoever asks."""

    def __init__(self) -> None:
        self.config = initial_config()
        self.mask = write_mask()
        self.memory = {bar.index: _memory(bar.size) for bar in BARS if not bar.kind & 1}
        self.ports = bytearray(BARS[-1].size)
        self.loaded = False

    def read(self, region: int, offset: int, count: int) -> bytes:
        if region == CONFIG_REGION:
            return bytes(self.config[offset : offset + count])
        if region in self.memory:
            return os.pread(self.memory[region], count, offset)
        return bytes(self.ports[offset : offset + count])

    def write(self, region: int, offset: int, data: bytes) -> None:
        if region == CONFIG_REGION:
            self._write_config(offset, data)
        elif region in self.memory:
            os.pwrite(self.memory[region], data, offset)
        else:
            self.ports[offset : offset + len(data)] = data

    def _write_config(self, offset: int, data: bytes) -> None:
        for at, value in enumerate(data, offset):
            self.config[at] = (self.config[at] & ~self.mask[at]) | (value & self.mask[at])
        if offset <= SUBCLASS < offset + len(data):
            if self.config[SUBCLASS] == GONE:
                sys.exit("the display is gone")
            self.config[0x0A] = self.config[SUBCLASS]
        if offset == ASLS and len(data) == 4 and not self.loaded and any(data):
            self.loaded = True
            struct.pack_into("<I", self.config, ASLS, int.from_bytes(data, "little") + OFFSET)


def _memory(size: int) -> int:
    fd = os.memfd_create("bar")
    os.ftruncate(fd, size)
    return fd


class Server:
    """A connection from QEMU."""

    def __init__(self, connection: socket.socket, display: Display) -> None:
        self.connection = connection
        self.display = display
        self.answers: dict[int, Callable[[bytes], tuple[bytes, list[int]]]] = {
            VERSION: self._version, DMA_MAP: _nothing, DMA_UNMAP: _same, GET_INFO: _info, GET_REGION_INFO: self._region,
            GET_IRQ_INFO: _interrupt, SET_IRQS: _nothing, REGION_READ: self._read, REGION_WRITE: self._write,
        }  # fmt: skip

    def serve(self) -> None:
        """Answer until the connection ends."""
        while (head := self._receive(_HEADER.size)) is not None:
            number, command, size, flags, _ = _HEADER.unpack(head)
            body = self._receive(size - _HEADER.size)
            if body is None:
                return
            answer = self.answers.get(command)
            reply, fds, flag, error = b"", [], _REPLY, 0
            if answer is None:
                flag, error = _REPLY | _ERROR, errno.ENOTSUP
            else:
                reply, fds = answer(body)
            if not flags & _NO_REPLY:
                message = _HEADER.pack(number, command, _HEADER.size + len(reply), flag, error) + reply
                socket.send_fds(self.connection, [message], fds)

    def _receive(self, count: int) -> bytes | None:
        """So many bytes, None at the end; descriptors that come along are not wanted."""
        data = b""
        while len(data) < count:
            try:
                part, fds, _, _ = socket.recv_fds(self.connection, count - len(data), _DESCRIPTORS)
            except ConnectionError:
                return None
            for fd in fds:
                os.close(fd)
            if not part:
                return None
            data += part
        return data

    def _version(self, body: bytes) -> tuple[bytes, list[int]]:
        """What we can do: of what QEMU offers, only the limits.  The reply may not be longer than the request."""
        offered = json.loads(body[4:].rstrip(b"\0"))["capabilities"]
        kept = ("pgsizes", "max_msg_fds", "max_dma_maps", "max_data_xfer_size")
        text = json.dumps({"capabilities": {key: offered[key] for key in kept}}, separators=(",", ":"))
        return body[:4] + text.encode() + b"\0", []

    def _region(self, body: bytes) -> tuple[bytes, list[int]]:
        argsz, _, index, _, _, _ = struct.unpack("<IIIIQQ", body)
        size, flags, fds = 0, 0, []
        if index == CONFIG_REGION:
            size, flags = len(self.display.config), _READ | _WRITE
        for bar in BARS:
            if bar.index == index:
                size, flags = bar.size, _READ | _WRITE
                if index in self.display.memory:
                    flags, fds = flags | _MMAP, [self.display.memory[index]]
        return struct.pack("<IIIIQQ", argsz, flags, index, 0, size, 0), fds

    def _read(self, body: bytes) -> tuple[bytes, list[int]]:
        offset, region, count = struct.unpack("<QII", body)
        return body + self.display.read(region, offset, count), []

    def _write(self, body: bytes) -> tuple[bytes, list[int]]:
        offset, region, _ = struct.unpack_from("<QII", body)
        self.display.write(region, offset, body[16:])
        return body[:16], []


def _nothing(body: bytes) -> tuple[bytes, list[int]]:
    return b"", []


def _same(body: bytes) -> tuple[bytes, list[int]]:
    return body, []


def _info(body: bytes) -> tuple[bytes, list[int]]:
    return struct.pack("<IIII", len(body), _IS_PCI, _REGIONS, _INTERRUPTS), []


def _interrupt(body: bytes) -> tuple[bytes, list[int]]:
    argsz, flags, index, _ = struct.unpack("<IIII", body)
    return struct.pack("<IIII", argsz, flags, index, 0), []


def main(path: str) -> None:
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(path)
        listening.listen(1)
        connection, _ = listening.accept()
    with connection:
        Server(connection, Display()).serve()


if __name__ == "__main__":
    main(sys.argv[1])
