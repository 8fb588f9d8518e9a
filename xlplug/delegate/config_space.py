# SPDX-License-Identifier: LGPL-2.1-only
"""The config space that a guest sees of a delegated function: a type 0 header, and no capabilities.

Pure: bytes in, bytes out, and which BARs are decoded where.  Source: PCI Local Bus Specification 3.0, 6.1 and 6.2.  What
needs interrupts or DMA is not there: no interrupt pin, no capability list, no expansion ROM; bus mastering can be set in the
guest's command register and has no effect.
"""

from collections.abc import Iterable
from typing import NamedTuple

from xlplug.model.bar import BARS, IO, MEMORY64, Bar

__all__ = ["CONFIG_BYTES", "ConfigSpace", "Decoded"]

CONFIG_BYTES = 256
COMMAND, STATUS, HEADER_TYPE, BAR0, INTERRUPT_LINE = 0x04, 0x06, 0x0E, 0x10, 0x3C
DECODE_IO, DECODE_MEMORY, BUS_MASTER = 1, 2, 4  #: bits of the command register
_INTX_DISABLE = 1 << 10
_CAPABILITIES = 1 << 4  # of the status register
_STATUS_FIXED = 0x06E0  # 66 MHz, fast back-to-back, DEVSEL timing: what does not change
_MULTIFUNCTION = 0x80
#: Read-only registers taken from the host as they are: IDs, revision and class, CIS, subsystem, Min_Gnt and Max_Lat.
_FIXED = (range(0x00, 0x04), range(0x08, 0x0C), range(0x28, 0x30), range(0x3E, 0x40))
_WRITABLE = {0x0C: 0xFF, 0x0D: 0xFF, INTERRUPT_LINE: 0xFF}  # cache line size, latency timer, interrupt line
_COMMAND_WRITABLE = DECODE_IO | DECODE_MEMORY | BUS_MASTER | _INTX_DISABLE
#: The last is the most that x86 addresses (AMD64 Architecture Programmer's Manual 2, 1.1.3): all ones in the upper half is sizing.
_LIMIT_32, _LIMIT_PORTS, _LIMIT_64 = 1 << 32, 1 << 16, 1 << 52


class Decoded(NamedTuple):
    """A BAR that the guest has given an address, with decoding on: guest bytes, or ports, ``[start, stop)``."""

    bar: Bar
    start: int
    stop: int


class ConfigSpace:
    """One function's registers.

    ``store`` holds them: 256 bytes that may be shared with another process.  What is in it is taken over where the guest may
    have written it, which is how a delegate goes on where another one died.
    """

    def __init__(
        self, host: bytes, bars: tuple[Bar, ...], store: "memoryview | bytearray", *, many: bool = False
    ) -> None:
        if len(host) < 64:
            raise ValueError("less than a header")
        self.bars = bars
        self._bytes = store
        self._masks = _masks(bars)
        fixed = bytearray(CONFIG_BYTES)
        for registers in _FIXED:
            fixed[registers.start : registers.stop] = host[registers.start : registers.stop]
        fixed[STATUS : STATUS + 2] = (int.from_bytes(host[STATUS : STATUS + 2], "little") & _STATUS_FIXED).to_bytes(
            2, "little"
        )
        fixed[HEADER_TYPE] = _MULTIFUNCTION if many else 0
        for bar in bars:
            fixed[BAR0 + 4 * bar.number] = bar.low_bits
        for at, mask in enumerate(self._masks):
            store[at] = store[at] & mask | fixed[at]

    def read(self, register: int, size: int) -> int:
        """``size`` bytes at ``register``; ones where there is no register any more."""
        data = bytes(self._bytes[register : register + size])
        return int.from_bytes(data + b"\xff" * (size - len(data)), "little")

    def write(self, register: int, size: int, value: int) -> bool:
        """Write as the hardware would; whether what is decoded may have changed."""
        for i in range(min(size, CONFIG_BYTES - register)):
            at = register + i
            mask = self._masks[at]
            self._bytes[at] = self._bytes[at] & ~mask & 0xFF | value >> 8 * i & mask
        end = register + size
        return (register < COMMAND + 2 and end > COMMAND) or (register < BAR0 + 4 * BARS and end > BAR0)

    def decoded(self) -> Iterable[Decoded]:
        """The BARs that are live: decoding on, and an address that is neither unset nor the answer to sizing."""
        command = self._bytes[COMMAND]
        for bar in self.bars:
            if not command & (DECODE_MEMORY if bar.is_memory else DECODE_IO):
                continue
            start = self._address(bar)
            if start is not None:
                yield Decoded(bar, start, start + bar.size)

    def _address(self, bar: Bar) -> int | None:
        """Where the guest has put a BAR; None for nowhere, for the answer to sizing, and beyond what can be addressed."""
        start = self.read(BAR0 + 4 * bar.number, 4) & -bar.size & ~(3 if bar.kind == IO else 15)
        sizing = start == -bar.size & (_LIMIT_32 - 1) and start
        limit = _LIMIT_PORTS if bar.kind == IO else _LIMIT_32
        if bar.kind == MEMORY64:
            start = (start | self.read(BAR0 + 4 * bar.number + 4, 4) << 32) & -bar.size
            limit = _LIMIT_64
        return None if not start or sizing or start + bar.size > limit else start


def _masks(bars: tuple[Bar, ...]) -> bytes:
    """The bits of each byte that the guest may write."""
    masks = bytearray(CONFIG_BYTES)
    for at, mask in _WRITABLE.items():
        masks[at] = mask
    masks[COMMAND : COMMAND + 2] = _COMMAND_WRITABLE.to_bytes(2, "little")
    for bar in bars:
        width = 8 if bar.kind == MEMORY64 else 4
        at = BAR0 + 4 * bar.number
        masks[at : at + width] = (-bar.size & ((1 << 8 * width) - 1)).to_bytes(width, "little")
    return bytes(masks)
