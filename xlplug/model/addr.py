# SPDX-License-Identifier: LGPL-2.1-only
"""The words for addresses, and the only page rounding in the package.

Xen and its libraries take plain integers, and so does everything here; what a number counts is in its name:

mfn
    *Host* frame number: what the memory bus sees, divided by the page size.  Permissions (iomem) are on mfns.
gfn
    *Guest* frame number: what the guest believes is physical.  A mapping puts an mfn at a gfn; populating puts RAM there.
port
    An x86 I/O port, 0 to 0xffff.  Host and guest port are written ``port`` and ``gport``.
maddr
    A host byte address, plain ``int``: what sysfs and config space speak.  It becomes an mfn only through
    `page_span`, which rounds both ends *outward*, or through `libxl_page_span`, which says what libxl will do.

``domid`` numbers a domain; `Domid` is only a name for such an ``int``.  Absence of a domain is ``None``, never 0: 0 is dom0.
Source of the vocabulary: xen/include/xen/mm.h, the comment that opens it.
"""

from typing import TypeAlias

__all__ = ["DOMID_FIRST_RESERVED", "PAGE_SHIFT", "Domid", "libxl_page_span", "page_span"]

Domid: TypeAlias = int

PAGE_SHIFT = 12  #: x86 base page.  Source: xen/include/asm-x86/page.h, PAGE_SHIFT.
#: First domid that never names an ordinary domain.  Source: xen/include/public/xen.h, DOMID_FIRST_RESERVED.
DOMID_FIRST_RESERVED = 0x7FF0


def page_span(start: int, stop: int) -> tuple[int, int]:
    """First mfn and number of pages that cover host bytes ``[start, stop)``, both ends rounded outward.

    Raises:
        ValueError: the range is empty or negative (a bug in the caller).
    """
    if not 0 <= start < stop:
        raise ValueError(f"not a byte range: [{start:#x}, {stop:#x})")
    first = start >> PAGE_SHIFT
    return first, ((stop - 1) >> PAGE_SHIFT) - first + 1


def libxl_page_span(start: int, stop: int) -> tuple[int, int]:
    """First mfn and number of pages that libxl grants for host bytes ``[start, stop)``: start rounded down, size up.

    One page short for a range that straddles a page's end.  Source: tools/libs/light/libxl_pci.c, pci_add_dm_done.
    """
    return start >> PAGE_SHIFT, (stop - start + (1 << PAGE_SHIFT) - 1) >> PAGE_SHIFT
