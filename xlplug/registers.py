# SPDX-License-Identifier: LGPL-2.1-only
"""Host memory that is registers, even where the E820 map says reserved: nothing of it may be granted or read as firmware's memory.

Policy only.  E820 calls registers "reserved", the same as the firmware's own memory.
"""

from collections.abc import Iterator

from xlplug.model.host import ROM_INDEX, VBIOS_SHADOW, HostSnapshot, PciDevice
from xlplug.model.rangeset import Range

__all__ = ["bars", "port_bars", "register_ranges"]

#: I/O APICs, HPET (fed00000), TPM (fed40000), the local APIC and MSI (fee00000), the firmware's flash.
#: Source: Intel PCH datasheets, memory map; Intel SDM volume 3, 11.4.1; HPET specification 1.0a, 3.2.4.
_FIXED = Range(0xFEC00000, 1 << 32)
#: An entry of this size and alignment, above the RAM below 4 GiB, is taken for the PCI Express configuration window where
#: its real place is not known: a window for 64, 128 or 256 buses of 1 MiB each.  Source: PCI Firmware Specification 3.0, 4.1.
_WINDOW_SIZES = (64 << 20, 128 << 20, 256 << 20)
_WINDOW_LOWEST = 0x80000000
_BRIDGE = 0x0604  # class: lines after the ROM's are its windows, which are other functions' BARs
_E820_RESERVED = 2


def register_ranges(host: HostSnapshot) -> Iterator[tuple[Range, str]]:
    """Host bytes that are registers, and whose."""
    yield _FIXED, "the chipset (APIC, HPET, TPM, flash)"
    windows = host.mmcfg or tuple(_guessed_windows(host))
    for window in windows:
        yield window, "PCI configuration (MMCFG)"
    for device in host.devices:
        for bar in bars(device):
            yield bar, str(device.bdf)


def _guessed_windows(host: HostSnapshot) -> Iterator[Range]:
    for m in host.memory:
        size = m.stop - m.start
        if m.kind == _E820_RESERVED and m.start >= _WINDOW_LOWEST and size in _WINDOW_SIZES and not m.start % size:
            yield Range(m.start, m.stop)


def bars(device: PciDevice) -> Iterator[Range]:
    """Host bytes of a function's memory BARs and ROM, those of its virtual functions included (lines 7 to 12)."""
    bridge = device.class_code >> 8 == _BRIDGE
    for r in device.resources:
        if r.is_port or not r.has_address or (bridge and r.line > ROM_INDEX) or r.start == VBIOS_SHADOW.start:
            continue
        yield Range(r.start, r.stop)


def port_bars(device: PciDevice) -> Iterator[Range]:
    """A function's I/O BARs, in ports."""
    bridge = device.class_code >> 8 == _BRIDGE
    for r in device.resources:
        if r.is_port and r.has_address and not (bridge and r.line > ROM_INDEX):
            yield Range(r.start, r.stop)
