# SPDX-License-Identifier: LGPL-2.1-only
"""The hypervisor in memory beyond the contract: what the real one cannot be made to do in a test."""

import errno
import gc
import tracemalloc
from collections.abc import Callable

import pytest

from tests.contract.versions import behaviour
from xlplug.model.errors import XenError
from xlplug.model.hypervisor import DomainInfo, HeldRights, Hypervisor, Store
from xlplug.model.rangeset import RangeSet
from xlplug.xen.ctrl import XenCtrl
from xlplug.xen.in_memory import MemStore, MemXen, dom0_rights
from xlplug.xen.store import XenStore

#: mypy holds the real classes and those in memory to the protocols.
CONFORM: tuple[Hypervisor, Store, type[Hypervisor], type[Store]] = (MemXen(), MemStore(), XenCtrl, XenStore)


def code(call: Callable[[], None]) -> int | None:
    with pytest.raises(XenError) as caught:
        call()
    return caught.value.errno


def machine(version: tuple[int, int] = (4, 17), **fields: object) -> MemXen:
    xen = MemXen(version)
    xen.add_domain(DomainInfo(7, nr_pages=0x4000, max_pages=0x4100)._replace(**fields))
    return xen


def test_a_dying_domain_still_takes_rights_but_no_pages() -> None:
    xen = machine(dying=True)
    xen.iomem_permission(7, 0xA0, 0x20, allow=True)
    xen.ioport_mapping(7, 0x3B0, 0x3B0, 0xC, add=True)
    assert xen.held()[7] == HeldRights(RangeSet([(0x3B0, 0x3BC)]), RangeSet([(0xA0, 0xC0)]))
    assert code(lambda: xen.populate_physmap(7, [0x80000])) == errno.EBUSY


def test_dom0_loses_what_is_revoked_and_then_nobody_gets_it() -> None:
    xen = machine()
    xen.ioport_permission(0, 0x3B0, 0xC, allow=False)
    assert code(lambda: xen.ioport_permission(0, 0x3B0, 0xC, allow=True)) == errno.EPERM
    assert code(lambda: xen.ioport_permission(7, 0x3B0, 0xC, allow=True)) == errno.EPERM
    assert code(lambda: xen.ioport_mapping(7, 0x3B0, 0x3B0, 0xC, add=True)) == errno.EPERM


def test_a_pv_domain() -> None:
    xen = machine(hvm=False)
    xen.memory_mapping(7, 0xA0, 0xA0, 0x20, add=True)
    assert xen.mapped(7) == ({}, ())
    assert code(lambda: xen.ioport_mapping(7, 0x3B0, 0x3B0, 0xC, add=True)) == errno.EOPNOTSUPP


def test_mapping_over_ram_hides_it_and_unmapping_leaves_a_hole() -> None:
    xen = machine()
    xen.iomem_permission(7, 0x10, 1, allow=True)
    xen.memory_mapping(7, 0x10, 0x10, 1, add=True)
    xen.memory_mapping(7, 0x10, 0x10, 1, add=False)
    assert code(lambda: xen.decrease_reservation(7, [0x10])) == errno.EINVAL
    info = xen.domain_info(7)
    assert info is not None
    assert info.nr_pages == 0x4000, "it stays charged"


def test_a_failed_mapping_takes_an_older_one_with_it_from_4_22_on() -> None:
    """libxenctrl unmaps the whole range after a failure, and from 4.22 on Xen lets it, permission or not."""
    for version, left in (((4, 17), 1), ((4, 22), 0)):
        xen = machine(version)
        xen.iomem_permission(7, 0xA0, 1, allow=True)
        xen.memory_mapping(7, 0xA0, 0xA0, 1, add=True)
        xen.iomem_permission(7, 0xA0, 1, allow=False)
        assert code(lambda xen=xen: xen.memory_mapping(7, 0xA0, 0xA0, 1, add=True)) == errno.EPERM  # type: ignore[misc]
        assert len(xen.mapped(7)[0]) == left


def test_calls_fail_when_told_to() -> None:
    xen = machine()
    xen.fail_call(1, errno.ENOMEM)
    xen.iomem_permission(7, 0xA0, 1, allow=True)
    assert code(lambda: xen.iomem_permission(7, 0xA1, 1, allow=True)) == errno.ENOMEM
    xen.iomem_permission(7, 0xA2, 1, allow=True)
    assert xen.held()[7].memory == RangeSet(((0xA0, 0xA1), (0xA2, 0xA3)))


def test_dom0_of_any_version() -> None:
    for version in ((4, 14), (4, 19), (4, 20), (4, 31), (5, 0)):
        assert dom0_rights(version) == behaviour(version).dom0
    assert dom0_rights((4, 10)) == behaviour((4, 14)).dom0


def test_dropped_machines_leave_no_memory() -> None:
    def turn() -> None:
        for _ in range(60):
            xen = machine()
            xen.iomem_permission(7, 0xA0, 0x20, allow=True)
            xen.memory_mapping(7, 0xA0, 0xA0, 0x20, add=True)

    turn()
    tracemalloc.start()
    try:
        turn()
        gc.collect()  # it also empties the interpreter's own free lists, which would be counted
        first = tracemalloc.get_traced_memory()[0]
        turn()
        gc.collect()
        assert tracemalloc.get_traced_memory()[0] - first < 16384
    finally:
        tracemalloc.stop()
