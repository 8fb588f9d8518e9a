# SPDX-License-Identifier: LGPL-2.1-only
"""Undoing: what others need stays, and a failure is a failure."""

import errno

import pytest

from xlplug.execute.apply import take_back
from xlplug.model.addr import Domid
from xlplug.model.hypervisor import DomainInfo, HeldRights
from xlplug.model.rangeset import Range, RangeSet
from xlplug.model.steps import IOMEM_PERMISSION, IOPORT_PERMISSION, POPULATE_PHYSMAP, Room, Step
from xlplug.xen.in_memory import MemXen

PORTS, MEMORY = RangeSet([(0x3C0, 0x3E0)]), RangeSet([(0xA0, 0xC0)])


def step(op: str, start: int, stop: int, domid: int = 7) -> Step:
    span = Range(start, stop)
    return Step(op, "target" if domid == 7 else "stubdom", Domid(domid), span.start, span.nr, "", None)


@pytest.fixture
def xen() -> MemXen:
    made = MemXen((4, 17))
    for domid in (7, 8):
        made.add_domain(DomainInfo(domid, nr_pages=1000, max_pages=1256), HeldRights(PORTS, MEMORY))
    return made


def undo(xen: MemXen, *steps: Step, protect: tuple[Step, ...] = ()) -> tuple[str, ...]:
    return take_back(steps, xen, lambda line: None, protect=protect)


def test_what_others_need_stays(xen: MemXen) -> None:
    frame, ports = step(IOMEM_PERMISSION, 0xA0, 0xC0), step(IOPORT_PERMISSION, 0x3C0, 0x3E0)
    others = (
        step(IOMEM_PERMISSION, 0xA8, 0xAA),
        step(IOPORT_PERMISSION, 0x3D0, 0x3D1),
        step(IOMEM_PERMISSION, 0xB0, 0xB1, 8),
    )
    assert undo(xen, frame, ports, protect=others) == ()
    assert xen.held()[7] == HeldRights(RangeSet([(0x3D0, 0x3D1)]), RangeSet([(0xA8, 0xAA)]))
    assert xen.held()[8] == HeldRights(PORTS, MEMORY)
    assert undo(xen, frame, ports) == ()
    assert xen.held()[7] == HeldRights()


def test_ram_is_not_shared(xen: MemXen) -> None:
    ram = step(POPULATE_PHYSMAP, 0x4000, 0x4010)._replace(before=Room(1000, 1256, 1256))
    from xlplug.execute.populate import populate

    populate(ram, xen)
    assert undo(xen, ram, protect=(ram,)) == ()
    info = xen.domain_info(7)
    assert info is not None
    assert info.nr_pages == 1000


@pytest.mark.parametrize("number", [errno.EPERM, errno.EINVAL])
def test_a_permission_that_cannot_be_taken_back_is_left(xen: MemXen, number: int) -> None:
    """Only a mapping of memory is tried in other ways."""
    before = xen.held()
    for one in (step(IOPORT_PERMISSION, 0x3C0, 0x3E0), step(IOMEM_PERMISSION, 0xA0, 0xC0)):
        calls = xen.calls
        xen.fail_call(0, number)
        (left,) = undo(xen, one)
        assert str(one) in left
        assert xen.calls == calls + 1
        assert xen.held() == before
