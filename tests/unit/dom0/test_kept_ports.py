# SPDX-License-Identifier: LGPL-2.1-only
"""Asking Xen which ports dom0 lacks, without changing anything."""

import errno

import pytest

from xlplug.dom0.kept_ports import kept_ports
from xlplug.model.errors import XenError
from xlplug.model.rangeset import Range, RangeSet
from xlplug.xen.in_memory import MemXen, dom0_rights


@pytest.mark.parametrize("version", [(4, 17), (4, 20), (4, 23)])
def test_all_that_dom0_lacks(version: tuple[int, int]) -> None:
    xen = MemXen(version)
    before = xen.held()
    everything = RangeSet([(0, 0x10000)])
    assert kept_ports(everything, xen) == everything - dom0_rights(version).ports
    assert xen.held() == before


def test_of_what_was_asked() -> None:
    xen = MemXen((4, 17))
    assert kept_ports([Range(0x3F0, 0x400), Range(0x2F8, 0x300)], xen) == RangeSet([(0x3F8, 0x400)])
    assert kept_ports([Range(0x608, 0x609)], xen) == RangeSet([(0x608, 0x609)])
    assert kept_ports([], xen) == RangeSet()


def test_one_call_where_dom0_has_them() -> None:
    calls = []

    class Counting:
        def ioport_permission(self, domid: int, first_port: int, nr_ports: int, *, allow: bool) -> None:
            calls.append((domid, first_port, nr_ports, allow))

    assert kept_ports([Range(0x2F8, 0x300)], Counting()) == RangeSet()
    assert calls == [(0, 0x2F8, 8, True)]


def test_xen_that_does_not_answer() -> None:
    class Closed:
        def ioport_permission(self, *_: object, **__: object) -> None:
            raise XenError("xc_domain_ioport_permission", errno.EACCES)

    assert kept_ports([Range(0, 0x10000)], Closed()) is None
