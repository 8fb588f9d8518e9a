# SPDX-License-Identifier: LGPL-2.1-only
"""What ``xl save`` and ``xl migrate`` write before libxl's stream: a header, and in it the configuration.

Source: tools/xl/xl.h, struct save_file_header; tools/xl/xl_saverestore.c, save_domain_core_writeconfig;
tools/xl/xl_vmcontrol.c, create_domain.
"""

import struct
from typing import NamedTuple

from xlplug.dom0.files import MAX_BYTES, open_regular

__all__ = ["HEADER_SIZE", "Head", "config_in", "optional_length", "parse_head"]

_MAGIC = b"Xen saved domain, xl format\n \0 \r"
_HEADER = struct.Struct("<32sIIII")  # magic, byte order, mandatory flags, optional flags, length of optional data
_BYTE_ORDER = 0x01020304
HEADER_SIZE = _HEADER.size  #: bytes, without the optional data


class Head(NamedTuple):
    """All that comes before libxl's stream: two words of flags, the configuration, and more optional data.

    The configuration is libxl's JSON, NUL-terminated, or xl's text from an old xl.
    """

    mandatory: int
    optional: int
    config: bytes
    more: bytes = b""

    def __bytes__(self) -> bytes:
        data = len(self.config).to_bytes(4, "little") + self.config + self.more
        return _HEADER.pack(_MAGIC, _BYTE_ORDER, self.mandatory, self.optional, len(data)) + data


def optional_length(header: bytes) -> int:
    """How many bytes of optional data follow the first `HEADER_SIZE`; 0 for what xl will refuse, and for too many."""
    if len(header) < _HEADER.size:
        return 0
    magic, order, _, _, length = _HEADER.unpack_from(header)
    return int(length) if magic == _MAGIC and order == _BYTE_ORDER and length <= MAX_BYTES else 0


def parse_head(data: bytes) -> Head | None:
    """The header with its optional data; None when xl will refuse it, or it has no configuration."""
    length = optional_length(data)
    if length < 4 or len(data) != _HEADER.size + length:
        return None
    _, _, mandatory, optional, _ = _HEADER.unpack_from(data)
    rest = data[_HEADER.size + 4 :]
    size = int.from_bytes(data[_HEADER.size : _HEADER.size + 4], "little")
    return Head(mandatory, optional, rest[:size], rest[size:]) if size <= len(rest) else None


def config_in(path: str) -> bytes | None:
    """The configuration in a file that ``xl save`` wrote.

    None when xl will refuse the file itself, and for a pipe: what we read of it xl would miss.
    """
    try:
        file = open_regular(path)
        if file is None:
            return None
        with file:
            data = file.read(_HEADER.size)
            head = parse_head(data + file.read(optional_length(data)))
    except OSError:
        return None
    return None if head is None else head.config
