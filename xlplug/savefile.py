# SPDX-License-Identifier: LGPL-2.1-only
"""The configuration inside a file that ``xl save`` wrote.

Source: tools/xl/xl.h, struct save_file_header; tools/xl/xl_vmcontrol.c, create_domain.
"""

import struct

from xlplug.sources import open_plain

__all__ = ["config_in"]

_MAGIC = b"Xen saved domain, xl format\n \0 \r"
_HEADER = struct.Struct("<32sIIII")  # magic, byte order, mandatory flags, optional flags, length of optional data
_BYTE_ORDER = 0x01020304
_MAX = 64 << 20  # bytes of optional data that we read


def config_in(path: str) -> bytes | None:
    """The saved configuration: libxl's JSON, or xl's text from an old xl.

    None when xl will refuse the file itself, and for a pipe: what we read of it xl would miss.
    """
    try:
        file = open_plain(path)
        if file is None:
            return None
        with file:
            head = file.read(_HEADER.size)
            if len(head) < _HEADER.size:
                return None
            magic, order, _mandatory, _optional, length = _HEADER.unpack(head)
            if magic != _MAGIC or order != _BYTE_ORDER or not 4 <= length <= _MAX:
                return None
            data = file.read(length)
    except OSError:
        return None
    size = int.from_bytes(data[:4], "little")
    return data[4 : 4 + size] if len(data) == length and 4 + size <= length else None
