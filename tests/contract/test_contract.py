# SPDX-License-Identifier: LGPL-2.1-only
"""What every hypervisor must do, the real and the one in memory alike: each row of docs/semantics.md."""

import errno
from collections.abc import Callable

import pytest

from tests.contract.conftest import World
from xlplug.model.errors import XenError
from xlplug.model.rangeset import RangeSet

VGA, MDA = (0x3C0, 0x20), (0x3B0, 0xC)
BOTH = RangeSet(((0x3B0, 0x3BC), (0x3C0, 0x3E0)))


def code(call: Callable[[], None]) -> int:
    """The errno that a call fails with."""
    with pytest.raises(XenError) as caught:
        call()
    assert caught.value.errno
    return caught.value.errno


def test_what_dom0_itself_holds(world: World) -> None:
    assert world.xen.held()[0] == world.does.dom0


@pytest.mark.parametrize("absent", [77, 0x7FF0, 0x7FF1, 0x7FF2, 0x7FF4, -1, 1 << 16, (1 << 16) + 1, 1 << 32])
def test_a_domain_that_is_not_there_is_esrch(world: World, absent: int) -> None:
    xen = world.xen
    assert code(lambda: xen.iomem_permission(absent, 0xA0, 0x20, allow=True)) == errno.ESRCH
    assert code(lambda: xen.ioport_permission(absent, *MDA, allow=True)) == errno.ESRCH
    assert code(lambda: xen.memory_mapping(absent, 0xA0, 0xA0, 0x20, add=True)) == errno.ESRCH
    assert code(lambda: xen.ioport_mapping(absent, 0x3B0, *MDA, add=True)) == errno.ESRCH
    assert code(lambda: xen.set_max_mem(absent, 4096)) == errno.ESRCH
    assert xen.domain_info(absent) is None


def test_esrch_comes_before_the_arguments_are_looked_at(world: World) -> None:
    assert code(lambda: world.xen.ioport_permission(77, 0x3B0, 0, allow=True)) == errno.ESRCH
    assert code(lambda: world.xen.iomem_permission(77, 1, 0, allow=True)) == errno.ESRCH


def test_iomem_grants_are_a_set_union_and_repeat_is_nothing(world: World, domid: int) -> None:
    for first, count in ((0xA0, 0x10), (0xB0, 0x10), (0xA0, 0x20)):
        world.xen.iomem_permission(domid, first, count, allow=True)
    assert world.xen.held()[domid].memory == RangeSet([(0xA0, 0xC0)])


def test_a_revoke_in_the_middle_splits_and_a_revoke_of_nothing_is_fine(world: World, domid: int) -> None:
    world.xen.iomem_permission(domid, 0xA0, 0x20, allow=True)
    world.xen.iomem_permission(domid, 0xA8, 8, allow=False)
    world.xen.iomem_permission(domid, 0xBC, 8, allow=False)
    world.xen.iomem_permission(domid, 0xC8, 8, allow=False)
    assert world.xen.held()[domid].memory == RangeSet(((0xA0, 0xA8), (0xB0, 0xBC)))


@pytest.mark.parametrize("allow", [True, False])
@pytest.mark.parametrize(
    ("first", "count", "expected"),
    [
        (0xA0, 0, errno.EINVAL),
        ((1 << 64) - 1, 2, errno.EINVAL),
        (0, 0, errno.EPERM),
        (0xFEE00, 1, errno.EPERM),
        (0xFED90, 1, errno.EPERM),
        (0xFED8F, 2, errno.EPERM),
        (0xFD00000, 1, errno.EPERM),
    ],
)
def test_iomem_ranges_that_are_refused(
    world: World, domid: int, first: int, count: int, expected: int, *, allow: bool
) -> None:
    assert code(lambda: world.xen.iomem_permission(domid, first, count, allow=allow)) == expected
    assert world.xen.held()[domid].memory == RangeSet()


@pytest.mark.parametrize("mfn", [0, 0x1000, 0xFEC00])
def test_xen_does_not_check_for_ram(world: World, domid: int, mfn: int) -> None:
    world.xen.iomem_permission(domid, mfn, 1, allow=True)
    assert world.xen.held()[domid].memory == RangeSet([(mfn, mfn + 1)])


@pytest.mark.parametrize("allow", [True, False])
@pytest.mark.parametrize(
    ("first", "count", "expected"),
    [
        (0x3B0, 0, errno.EINVAL), (0xFFFF, 2, errno.EINVAL), (0x10000, 1, errno.EINVAL), (0xFFFFFFFF, 2, errno.EINVAL),
        (0x20, 1, errno.EPERM), (0x40, 1, errno.EPERM), (0x61, 1, errno.EPERM), (0x3F8, 1, errno.EPERM),
        (0xCFC, 1, errno.EPERM), (0xCF8, 8, errno.EPERM),
    ],
)  # fmt: skip
def test_port_ranges_that_are_refused(
    world: World, domid: int, first: int, count: int, expected: int, *, allow: bool
) -> None:
    assert code(lambda: world.xen.ioport_permission(domid, first, count, allow=allow)) == expected
    assert world.xen.held()[domid].ports == RangeSet()


def test_port_permissions_come_and_go(world: World, domid: int) -> None:
    for first, count in (MDA, VGA):
        world.xen.ioport_permission(domid, first, count, allow=True)
    assert world.xen.held()[domid].ports == BOTH
    world.xen.ioport_permission(domid, 0x3B4, 2, allow=False)
    assert world.xen.held()[domid].ports == BOTH - RangeSet([(0x3B4, 0x3B6)])


def test_what_mapping_ports_does_to_the_permission(world: World, domid: int) -> None:
    if not world.does.port_mapping_grants:
        assert code(lambda: world.xen.ioport_mapping(domid, *MDA[:1], *MDA, add=True)) == errno.EPERM
        for first, count in (MDA, VGA):
            world.xen.ioport_permission(domid, first, count, allow=True)
    for first, count in (MDA, VGA):
        world.xen.ioport_mapping(domid, first, first, count, add=True)
        world.xen.ioport_mapping(domid, first, first, count, add=True)
    assert world.xen.held()[domid].ports == BOTH
    for first, count in (VGA, MDA):
        world.xen.ioport_mapping(domid, first, first, count, add=False)
    assert world.xen.held()[domid].ports == (RangeSet() if world.does.port_mapping_grants else BOTH)
    if world.does.port_mapping_grants:
        world.xen.ioport_mapping(domid, *MDA[:1], *MDA, add=False)
    else:
        assert code(lambda: world.xen.ioport_mapping(domid, *MDA[:1], *MDA, add=False)) == errno.ENOENT


def test_port_mapping_errors(world: World, domid: int) -> None:
    xen = world.xen
    assert code(lambda: xen.ioport_mapping(domid, 0x3B0, 0x3B0, 0, add=True)) == errno.EINVAL
    assert code(lambda: xen.ioport_mapping(domid, 0xFFFF, 0x3B0, 2, add=True)) == errno.EINVAL
    assert code(lambda: xen.ioport_mapping(domid, 0x20, 0x20, 1, add=True)) == errno.EPERM


def test_a_memory_mapping_needs_the_permission(world: World, domid: int) -> None:
    refused = errno.EINVAL if world.does.unmap_by_caller else errno.EPERM
    assert code(lambda: world.xen.memory_mapping(domid, 0xA0, 0xA0, 0x20, add=True)) == refused
    world.xen.iomem_permission(domid, 0xA0, 0x20, allow=True)
    world.xen.memory_mapping(domid, 0xA0, 0xA0, 0x20, add=True)
    world.xen.memory_mapping(domid, 0xA0, 0xA0, 0x20, add=True)
    world.xen.memory_mapping(domid, 0xA0, 0xA0, 0x20, add=False)
    assert code(lambda: world.xen.memory_mapping(domid, 0xA0, 0xA0, 0x20, add=False)) == errno.EINVAL
    world.xen.memory_mapping(domid, 0xA0, 0xA0, 0, add=False)


def test_a_memory_mapping_that_is_refused_may_unmap_what_was_there(world: World, domid: int) -> None:
    """libxenctrl undoes the whole range, and from 4.22 Xen lets it, permitted or not."""
    xen = world.xen
    xen.iomem_permission(domid, 0xA0, 8, allow=True)
    xen.memory_mapping(domid, 0xA0, 0xA0, 8, add=True)
    xen.iomem_permission(domid, 0xA0, 4, allow=False)
    assert code(lambda: xen.memory_mapping(domid, 0xA0, 0xA0, 8, add=True)) == errno.EPERM
    xen.iomem_permission(domid, 0xA0, 4, allow=True)
    if world.does.unmap_by_caller:
        assert code(lambda: xen.memory_mapping(domid, 0xA0, 0xA0, 8, add=False)) == errno.EINVAL
        xen.memory_mapping(domid, 0xA4, 0xA4, 4, add=True)
        xen.iomem_permission(domid, 0xA0, 4, allow=False)
        xen.iomem_permission(domid, 0xA8, 4, allow=False)
        assert code(lambda: xen.memory_mapping(domid, 0xA4, 0xA4, 8, add=True)) == errno.EINVAL
        assert code(lambda: xen.memory_mapping(domid, 0xA4, 0xA4, 4, add=False)) == errno.EINVAL
    else:
        xen.memory_mapping(domid, 0xA0, 0xA0, 8, add=False)


def test_revoking_while_mapped_leaves_the_mapping(world: World, domid: int) -> None:
    world.xen.iomem_permission(domid, 0xA0, 0x20, allow=True)
    world.xen.memory_mapping(domid, 0xA0, 0xA0, 0x20, add=True)
    world.xen.iomem_permission(domid, 0xA0, 0x20, allow=False)
    if not world.does.unmap_by_caller:
        assert code(lambda: world.xen.memory_mapping(domid, 0xA0, 0xA0, 0x20, add=False)) == errno.EPERM
        world.xen.iomem_permission(domid, 0xA0, 0x20, allow=True)
    world.xen.memory_mapping(domid, 0xA0, 0xA0, 0x20, add=False)


def test_unmapping_stops_at_the_first_hole(world: World, domid: int) -> None:
    xen = world.xen
    xen.iomem_permission(domid, 0xA0, 4, allow=True)
    xen.memory_mapping(domid, 0xA0, 0xA0, 4, add=True)
    xen.memory_mapping(domid, 0xA2, 0xA2, 1, add=False)
    assert code(lambda: xen.memory_mapping(domid, 0xA0, 0xA0, 4, add=False)) == errno.EINVAL
    assert code(lambda: xen.memory_mapping(domid, 0xA0, 0xA0, 1, add=False)) == errno.EINVAL, "before the hole: gone"
    xen.memory_mapping(domid, 0xA3, 0xA3, 1, add=False)


@pytest.mark.parametrize("add", [True, False])
@pytest.mark.parametrize(
    ("gfn", "mfn", "count"), [(0xA0, (1 << 64) - 1, 2), ((1 << 64) - 1, 0xA0, 2), (0xA0, 1 << 40, 1)]
)
def test_memory_mappings_that_no_machine_has(
    world: World, domid: int, gfn: int, mfn: int, count: int, *, add: bool
) -> None:
    assert code(lambda: world.xen.memory_mapping(domid, gfn, mfn, count, add=add)) == errno.EINVAL


def test_a_domain_that_is_not_there_below_one_that_is(world: World, fresh: Callable[[], int]) -> None:
    """Whatever failed before: up to 4.17 libxenctrl leaves errno alone here, and finds the higher domain."""
    gone, _ = fresh(), fresh()
    world.destroy(gone)
    assert code(lambda: world.xen.iomem_permission(0, 0xFEE00, 1, allow=True)) == errno.EPERM
    assert code(lambda: world.xen.memory_mapping(gone, 0xA0, 0xA0, 1, add=True)) == errno.ESRCH
    assert code(lambda: world.xen.iomem_permission(gone, 0xA0, 1, allow=True)) == errno.ESRCH
    assert world.xen.domain_info(gone) is None


def test_another_mfn_on_a_mapped_gfn_crashes_the_domain(world: World, fresh: Callable[[], int]) -> None:
    domid = fresh()
    world.xen.iomem_permission(domid, 0xA0, 0x20, allow=True)
    world.xen.memory_mapping(domid, 0xA0, 0xA0, 1, add=True)
    assert code(lambda: world.xen.memory_mapping(domid, 0xA0, 0xA1, 1, add=True)) == errno.EPERM
    assert world.crashed(domid)


def pages(world: World, domid: int) -> tuple[int, int]:
    info = world.xen.domain_info(domid)
    assert info is not None
    return info.nr_pages, info.max_pages


def test_populating(world: World, fresh: Callable[[], int]) -> None:
    xen, domid = world.xen, fresh()
    tot, limit = pages(world, domid)
    xen.set_max_mem(domid, 4 * (tot + 6) + 3)
    assert pages(world, domid) == (tot, tot + 6)
    xen.populate_physmap(domid, [0x80000, 0x80001])
    assert pages(world, domid)[0] == tot + 2
    xen.populate_physmap(domid, [0x80000])
    assert pages(world, domid)[0] == tot + 3, "a gfn that is RAM already leaks its old page"
    xen.decrease_reservation(domid, [0x80000, 0x80001])
    assert pages(world, domid)[0] == tot + 1
    assert code(lambda: xen.decrease_reservation(domid, [0x80000])) == errno.EINVAL
    xen.populate_physmap(domid, [0x80000, 0x80001])
    assert code(lambda: xen.decrease_reservation(domid, [0x80001, 0x80001, 0x80000])) == errno.EINVAL
    assert pages(world, domid)[0] == tot + 2, "a gfn that is named twice ends it after the first time"
    xen.decrease_reservation(domid, [0x80000])
    xen.set_max_mem(domid, 4 * (tot + 3))
    assert code(lambda: xen.populate_physmap(domid, [0x80000 + i for i in range(4)])) == errno.EBUSY
    assert pages(world, domid)[0] == tot + 3, "what fitted before the limit stays"
    xen.set_max_mem(domid, 4 * limit)


def test_populating_nothing_is_fine_for_any_domain_and_something_is_not(world: World) -> None:
    world.xen.populate_physmap(77, [])
    assert code(lambda: world.xen.populate_physmap(77, [0x80000])) == errno.EBUSY


def test_populating_with_large_extents(world: World, fresh: Callable[[], int]) -> None:
    xen, domid = world.xen, fresh()
    tot, _ = pages(world, domid)
    xen.set_max_mem(domid, 4 * (tot + 1024))
    xen.populate_physmap(domid, [0x80000], 9)
    assert pages(world, domid)[0] == tot + 512
    xen.decrease_reservation(domid, [0x80000 + i for i in range(512)])
    assert pages(world, domid)[0] == tot
    assert code(lambda: xen.populate_physmap(domid, [0x80000], 18)) == errno.EBUSY


def test_populating_a_mapped_gfn_crashes_the_domain(world: World, fresh: Callable[[], int]) -> None:
    xen, domid = world.xen, fresh()
    tot, _ = pages(world, domid)
    xen.iomem_permission(domid, 0xA0, 0x20, allow=True)
    xen.memory_mapping(domid, 0xA0, 0xA0, 1, add=True)
    populate(world, domid, 0xA0)
    assert world.crashed(domid)
    assert pages(world, domid)[0] == tot + 1


def test_populating_beyond_the_address_space_leaks(world: World, fresh: Callable[[], int]) -> None:
    domid = fresh()
    tot, _ = pages(world, domid)
    populate(world, domid, 1 << 36)
    assert pages(world, domid)[0] == tot + 1
    assert code(lambda: world.xen.decrease_reservation(domid, [1 << 36])) == errno.EINVAL


def populate(world: World, domid: int, gfn: int) -> None:
    """Populate a gfn that cannot have a page."""
    if world.does.populate_checked:
        assert code(lambda: world.xen.populate_physmap(domid, [gfn])) == errno.EBUSY
    else:
        world.xen.populate_physmap(domid, [gfn])


def test_taking_from_a_domain_that_is_not_there(world: World) -> None:
    world.xen.decrease_reservation(77, [])
    assert code(lambda: world.xen.decrease_reservation(77, [0x80000])) == errno.EINVAL
