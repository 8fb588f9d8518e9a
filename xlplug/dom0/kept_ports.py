# SPDX-License-Identifier: LGPL-2.1-only
"""Which ports Xen keeps from dom0, so that dom0 cannot give them on.

Asked of Xen by permitting dom0 what it has already: nothing changes, and where dom0 lacks a port, EPERM is the answer.  No list is
as true: the address of ACPI's PM timer is the machine's own, and Xen's own serial ports depend on its command line.
Source: xen/arch/x86/domctl.c, XEN_DOMCTL_ioport_permission; xen/drivers/char/ns16550.c, ns16550_endboot.
"""

import errno
from collections.abc import Iterable
from typing import Protocol

from xlplug.model.errors import XenError
from xlplug.model.rangeset import Range, RangeSet

__all__ = ["kept_ports"]


class Permits(Protocol):
    """What of a hypervisor is asked."""

    def ioport_permission(self, domid: int, first_port: int, nr_ports: int, *, allow: bool) -> None: ...


def kept_ports(wanted: Iterable[Range], xen: Permits) -> RangeSet | None:
    """Those of the ports that dom0 has not got; None where Xen does not answer for another reason."""
    lacking: list[Range] = []
    left = list(wanted)
    while left:
        span = left.pop()
        try:
            xen.ioport_permission(0, span.start, span.nr, allow=True)
        except XenError as error:
            if error.errno != errno.EPERM:
                return None
            if span.nr == 1:
                lacking.append(span)
                continue
            middle = span.start + span.nr // 2
            left += (Range(span.start, middle), Range(middle, span.stop))
    return RangeSet(lacking)
