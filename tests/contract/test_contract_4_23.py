# SPDX-License-Identifier: LGPL-2.1-only
"""Xen 4.23's port mapping, as measured on its development tree: no lab machine has one, so in memory only."""

import errno
from collections.abc import Callable

import pytest

from tests.contract.conftest import MemoryWorld
from xlplug.model.errors import XenError
from xlplug.model.rangeset import RangeSet
from xlplug.xen.in_memory import MemXen


@pytest.fixture
def xen() -> MemXen:
    world = MemoryWorld((4, 23))
    assert world.domain() == 1
    return world.memory


def code(call: Callable[[], None]) -> int:
    with pytest.raises(XenError) as caught:
        call()
    assert caught.value.errno
    return caught.value.errno


def allow(xen: MemXen, first: int, count: int) -> None:
    xen.ioport_permission(1, first, count, allow=True)


def add(xen: MemXen, first: int, count: int, gport: int | None = None) -> None:
    xen.ioport_mapping(1, first if gport is None else gport, first, count, add=True)


def remove(xen: MemXen, first: int, count: int) -> None:
    xen.ioport_mapping(1, first, first, count, add=False)


def test_a_mapping_needs_the_whole_permission(xen: MemXen) -> None:
    assert code(lambda: add(xen, 0x3B0, 0xC)) == errno.EPERM
    allow(xen, 0x3B0, 6)
    assert code(lambda: add(xen, 0x3B0, 0xC)) == errno.EPERM
    allow(xen, 0x3B0, 0xC)
    add(xen, 0x3B0, 0xC)


def test_exact_repeats_are_fine_until_the_permission_goes(xen: MemXen) -> None:
    allow(xen, 0x3B0, 0xC)
    add(xen, 0x3B0, 0xC)
    add(xen, 0x3B0, 0xC)
    add(xen, 0x3B0, 0xC, gport=0x100)
    xen.ioport_permission(1, 0x3B0, 0xC, allow=False)
    assert code(lambda: add(xen, 0x3B0, 0xC)) == errno.EPERM
    remove(xen, 0x3B0, 0xC)


def test_unmapping_is_exact_and_keeps_the_permission(xen: MemXen) -> None:
    allow(xen, 0x3B0, 0x30)
    add(xen, 0x3C0, 0x20)
    for first, count in ((0x3C0, 0x10), (0x3C0, 0x21), (0x3C4, 4), (0x3B0, 4)):
        assert code(lambda first=first, count=count: remove(xen, first, count)) == errno.ENOENT
    remove(xen, 0x3C0, 0x20)
    assert xen.held()[1].ports == RangeSet([(0x3B0, 0x3E0)])
    assert code(lambda: remove(xen, 0x3C0, 0x20)) == errno.ENOENT


@pytest.mark.parametrize(
    ("one", "two", "expected"),
    [
        ((0x3B0, 0xC), (0x3C0, 0x20), 0),
        ((0x3C0, 0x20), (0x3B0, 0xC), 0),
        ((0x3B0, 0x10), (0x3C0, 0x20), errno.EBUSY),
        ((0xD000, 8), (0xD008, 4), errno.EBUSY),
        ((0xD008, 4), (0xD000, 8), errno.EBUSY),
        ((0xD000, 8), (0xD009, 4), 0),
        ((0xD000, 8), (0xD004, 8), errno.EBUSY),
    ],
)
def test_ranges_may_not_overlap_or_touch(
    xen: MemXen, one: tuple[int, int], two: tuple[int, int], expected: int
) -> None:
    allow(xen, *one)
    allow(xen, *two)
    add(xen, *one)
    if expected:
        assert code(lambda: add(xen, *two)) == expected
    else:
        add(xen, *two)


def test_the_missing_permission_comes_before_the_overlap(xen: MemXen) -> None:
    allow(xen, 0x3B0, 0xC)
    add(xen, 0x3B0, 0xC)
    assert code(lambda: add(xen, 0x3B8, 0x10)) == errno.EPERM


def test_arguments_and_the_caller_s_own_ports(xen: MemXen) -> None:
    assert code(lambda: add(xen, 0x3B0, 0)) == errno.EINVAL
    assert code(lambda: add(xen, 0xFFFF, 2)) == errno.EINVAL
    assert code(lambda: add(xen, 0x20, 1)) == errno.EPERM
