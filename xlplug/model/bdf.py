# SPDX-License-Identifier: LGPL-2.1-only
"""A PCI function's address: ``SSSS:BB:DD.F``, all hexadecimal.

"segment" is what Linux and libxl call the PCI domain; that word is kept for Xen domains.
"""

from typing import NamedTuple

from xlplug.model.errors import ConfigError

__all__ = ["Bdf"]


class Bdf(NamedTuple):
    """Segment (0 to 0xffff), bus (0 to 0xff), device (0 to 0x1f) and function (0 to 7) of a PCI function."""

    segment: int
    bus: int
    device: int
    function: int

    def __str__(self) -> str:
        return f"{self.segment:04x}:{self.bus:02x}:{self.device:02x}.{self.function:x}"

    @property
    def sbdf(self) -> int:
        """The 32-bit number of Xen's interfaces: segment<<16 | bus<<8 | device<<3 | function."""
        return self.segment << 16 | self.bus << 8 | self.device << 3 | self.function

    @classmethod
    def parse(cls, text: str) -> "Bdf":
        """Read ``[SSSS:]BB:DD.F`` strictly, as sysfs prints it (config/pci_spec.py reads xl's configs, leniently).

        Raises:
            ConfigError: the text is anything else, or a part is out of its range.
        """
        head, dot, function = text.rpartition(".")
        parts = head.split(":")
        if len(parts) == 2:
            parts.insert(0, "0")
        fields = [*parts, function]
        if not dot or len(fields) != 4 or not all(f and set(f) <= _HEX for f in fields):
            raise ConfigError(f"'{text}' is not a PCI address", hint="write it as 0000:00:02.0", code="XLP220")
        bdf = cls(*(int(field, 16) for field in fields))
        if bdf.segment > 0xFFFF or bdf.bus > 0xFF or bdf.device > 0x1F or bdf.function > 7:
            raise ConfigError(
                f"'{text}' is out of range for a PCI address", hint="write it as 0000:00:02.0", code="XLP220"
            )
        return bdf


_HEX = frozenset("0123456789abcdefABCDEF")
