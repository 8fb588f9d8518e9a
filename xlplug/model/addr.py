# SPDX-License-Identifier: LGPL-2.1-only
"""Address spaces, one type each, and the only page rounding in the package.

Four spaces meet here and a bare ``int`` must not cross from one to another:

mfn
    *Host* frame number: what the memory bus sees, divided by the page size.  Permissions (iomem) are on mfns.
gfn
    *Guest* frame number: what the guest believes is physical.  A mapping puts an mfn at a gfn; populating puts RAM there.
port
    An x86 I/O port, 0 to 0xffff.  Host and guest port are written ``port`` and ``gport``.
maddr
    A host byte address, plain ``int``: what sysfs and config space speak.  It becomes an mfn only through
    `page_span`, which rounds both ends *outward*; libxl floors the start and rounds the size, which comes out one page
    short for a range that straddles (tools/libs/light/libxl_pci.c, pci_add_dm_done).

``domid`` numbers a domain.  Absence of a domain is ``None``, never 0: 0 is dom0.
Source of the vocabulary: xen/include/xen/mm.h, the comment that opens it.
"""

from typing import NewType

__all__ = ["DOMID_FIRST_RESERVED", "PAGE_SHIFT", "PAGE_SIZE", "PORT_LIMIT", "Domid", "Gfn", "Mfn", "Port", "page_span"]

Domid = NewType("Domid", int)
Mfn = NewType("Mfn", int)
Gfn = NewType("Gfn", int)
Port = NewType("Port", int)

PAGE_SHIFT = 12  #: x86 base page.  Source: xen/include/asm-x86/page.h, PAGE_SHIFT.
PAGE_SIZE = 1 << PAGE_SHIFT  #: bytes
PORT_LIMIT = 0x10000  #: one past the last x86 I/O port
#: First domid that never names an ordinary domain.  Source: xen/include/public/xen.h, DOMID_FIRST_RESERVED.
DOMID_FIRST_RESERVED = 0x7FF0


def page_span(start: int, stop: int) -> tuple[Mfn, int]:
    """First mfn and number of pages that cover host bytes ``[start, stop)``, both ends rounded outward.

    Raises:
        ValueError: the range is empty or negative (a bug in the caller).
    """
    if not 0 <= start < stop:
        raise ValueError(f"not a byte range: [{start:#x}, {stop:#x})")
    first = start >> PAGE_SHIFT
    return Mfn(first), ((stop - 1) >> PAGE_SHIFT) - first + 1
