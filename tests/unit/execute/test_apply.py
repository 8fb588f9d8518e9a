# SPDX-License-Identifier: LGPL-2.1-only
"""Undoing: what others need stays, and a failure is a failure."""

import errno

import pytest

from xlplug.execute.apply import take_back
from xlplug.model.addr import Domid
from xlplug.model.hypervisor import DomainInfo, HeldRights
from xlplug.model.rangeset import Range, RangeSet
from xlplug.model.steps import IOMEM_PERMISSION, IOPORT_PERMISSION, MEMORY_MAPPING, POPULATE_PHYSMAP, Room, Step
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


MAPPING = step(MEMORY_MAPPING, 0xA0, 0xA5)._replace(first_guest=0x1A0)


def map_pages(xen: MemXen, *pages: int) -> None:
    for page in pages:
        xen.memory_mapping(7, 0x100 + page, page, 1, add=True)


@pytest.mark.parametrize("pages", [(0xA0, 0xA1, 0xA2, 0xA3, 0xA4), (0xA1, 0xA2), (0xA4,), (0xA0,), ()])
def test_pages_that_are_mapped_are_unmapped_whatever_the_others_are(xen: MemXen, pages: tuple[int, ...]) -> None:
    """Xen stops at the first page that is not mapped."""
    map_pages(xen, *pages)
    map_pages(xen, 0xA5)
    assert undo(xen, MAPPING) == ()
    assert xen.mapped(7)[0] == {0x1A5: 0xA5}
    assert xen.held()[7].memory == MEMORY


@pytest.mark.parametrize("failing", [0, 1, 2, 5])
def test_a_page_that_cannot_be_unmapped_is_left(xen: MemXen, failing: int) -> None:
    """The first call is for all, then one for each page."""
    map_pages(xen, 0xA1, 0xA4)
    xen.fail_call(failing, errno.ENOMEM)
    (left,) = undo(xen, MAPPING)
    assert "ENOMEM" in left
    assert undo(xen, MAPPING) == ()
    assert xen.mapped(7)[0] == {}


@pytest.mark.parametrize("kept", [RangeSet(), RangeSet([(0xA0, 0xA2)])])
def test_a_mapping_whose_permission_is_gone(xen: MemXen, kept: RangeSet) -> None:
    """Up to 4.21 the permission is lent for the call, and what others hold by right of their own is not taken."""
    map_pages(xen, 0xA0, 0xA3)
    xen.iomem_permission(7, 0xA0, 0x20, allow=False)
    assert undo(xen, MAPPING._replace(kept=kept)) == ()
    assert xen.mapped(7)[0] == {}
    assert xen.held()[7].memory == kept


def test_a_page_that_is_not_mapped_is_gone_already(xen: MemXen) -> None:
    one = MAPPING._replace(nr=1)
    calls = xen.calls
    assert undo(xen, one) == ()
    assert xen.calls == calls + 1
