# SPDX-License-Identifier: LGPL-2.1-only
"""Populating and releasing guest RAM: how a populate_physmap step is carried out in few calls, whole or not at all.

No policy: which gfns, and what max_pages becomes, is in the step.  Everything goes upwards from the first gfn, so that what
a killed run had done is always the lower part.
"""

import errno
from collections.abc import Iterator, Sequence

from xlplug.model.errors import XenError
from xlplug.model.hypervisor import Hypervisor
from xlplug.model.steps import Step

__all__ = ["SUPERPAGE_ORDER", "extents", "populate", "release"]

#: 2 MiB: the largest that Xen hands out in one piece to any host's guest, and what nested paging maps with one entry.
#: Source: xen/include/asm-x86/page.h, PAGE_ORDER_2M.
SUPERPAGE_ORDER = 9
_BATCH = 1 << 12  # extents of one call: libxenctrl copies them, 8 bytes each
_KIB_PER_PAGE = 4


def extents(first: int, nr: int) -> Iterator[tuple[int, range]]:
    """(order, gfns) of the fewest extents that cover ``nr`` pages from ``first``, upwards, each aligned to its size."""
    stop, size = first + nr, 1 << SUPERPAGE_ORDER
    large = min(stop, -(-first // size) * size)
    rest = max(large, stop // size * size)
    for order, start, end in ((0, first, large), (SUPERPAGE_ORDER, large, rest), (0, rest, stop)):
        if start < end:
            yield order, range(start, end, 1 << order)


def populate(step: Step, xen: Hypervisor) -> None:
    """Raise max_pages as the step says, and populate.  What a failure leaves half done is for `release`.

    Raises:
        XenError: EBUSY where the host is out of memory.
    """
    domid = step.domid or 0
    info = xen.domain_info(domid)
    if step.before is not None and (info is None or info.max_pages < step.before.raised):
        xen.set_max_mem(domid, step.before.raised * _KIB_PER_PAGE)
    pages = 0 if info is None else info.nr_pages
    for order, gfns in extents(step.first, step.nr):
        if order == 0:
            _populate_pages(gfns, domid, xen)
            pages += len(gfns)
            continue
        try:
            xen.populate_physmap(domid, gfns, order)
        except XenError as error:
            if error.errno != errno.EBUSY:
                raise
            # The host has no more memory in pieces as large.  Xen has done those before, and says how many in this way only.
            done = (_nr_pages(domid, xen) - pages) >> order
            _populate_pages(range(gfns.start + (done << order), gfns.stop), domid, xen)


def release(step: Step, xen: Hypervisor) -> None:
    """Take back what is populated of the step's gfns, all of it or a part, and the raise of max_pages.

    Nothing to do for a domain that is gone or going: its pages go with it.

    Raises:
        XenError: EINVAL when the domain has more pages than before all the same: to take single pages out of a large one Xen
            needs a page of the domain's pool for its tables, and when there is none says what it says of an empty gfn.
    """
    domid = step.domid or 0
    info = xen.domain_info(domid)
    if info is None or info.dying:
        return
    for batch in _batches(range(step.first, step.first + step.nr)):
        try:
            xen.decrease_reservation(domid, batch)
        except XenError as error:
            if error.errno != errno.EINVAL:
                raise
            _release_each(batch, domid, xen)  # it stops at the first gfn that is not populated
    if step.before is None:
        return
    more = _nr_pages(domid, xen) - step.before.nr_pages
    if more > 0:
        raise XenError(
            "xc_domain_decrease_reservation_exact", errno.EINVAL, f"domid={domid}: {more} pages more than before",
            hint="they go with the domain",
        )  # fmt: skip
    if step.before.raised > step.before.max_pages and info.max_pages == step.before.raised:  # else it was set by others
        xen.set_max_mem(domid, step.before.max_pages * _KIB_PER_PAGE)


def _release_each(gfns: Sequence[int], domid: int, xen: Hypervisor) -> None:
    for gfn in gfns:
        try:
            xen.decrease_reservation(domid, [gfn])
        except XenError as error:
            if error.errno != errno.EINVAL:
                raise


def _populate_pages(gfns: range, domid: int, xen: Hypervisor) -> None:
    for batch in _batches(range(gfns.start, gfns.stop)):
        xen.populate_physmap(domid, batch)


def _batches(gfns: range) -> Iterator[range]:
    return (gfns[at : at + _BATCH] for at in range(0, len(gfns), _BATCH))


def _nr_pages(domid: int, xen: Hypervisor) -> int:
    info = xen.domain_info(domid)
    return 0 if info is None else info.nr_pages
