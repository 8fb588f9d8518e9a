# SPDX-License-Identifier: LGPL-2.1-only
"""What a killed run left, and what libxl has also granted."""

from collections.abc import Callable

import pytest

from xlplug.config.domain import DomainConfig
from xlplug.execute.journal import APPLIED, APPLYING, REVOKED, UNDOING, Entry
from xlplug.execute.settle import by_libxl, settle, unfinished
from xlplug.model.addr import Domid
from xlplug.model.bdf import Bdf
from xlplug.model.host import HostSnapshot
from xlplug.model.hypervisor import DomainInfo, HeldRights
from xlplug.model.occasion import BY_HAND, Who
from xlplug.model.rangeset import Range, RangeSet
from xlplug.model.steps import IOMEM_PERMISSION, IOPORT_PERMISSION, POPULATE_PHYSMAP, STUBDOM, TARGET, Step
from xlplug.plan import Plan, build
from xlplug.vga import VGA_MEMORY, VGA_PORTS
from xlplug.xen.in_memory import MemXen

DISPLAY = Bdf(0, 0, 2, 0)
TEXT = 'gfx_passthru="igd"\npci=["00:02.0"]\ndevice_model_stubdomain_override=1\n'


def step(op: str, span: Range, grantee: str = TARGET) -> Step:
    return Step(op, grantee, Domid(7 if grantee == TARGET else 8), span.start, span.nr, "", DISPLAY)


MEMORY, PORTS = step(IOMEM_PERMISSION, VGA_MEMORY), step(IOPORT_PERMISSION, VGA_PORTS[1])
OPREGION = step(IOMEM_PERMISSION, Range(0x7F4F8, 0x7F4FB))
RAM = step(POPULATE_PHYSMAP, Range(0x4000, 0x4100))._replace(kept=RangeSet([(1, 2)]))


@pytest.fixture
def make(host: Callable[[str], HostSnapshot], config: Callable[[str], DomainConfig]) -> Callable[[str], Plan]:
    return lambda more="": build(config(TEXT + more), host("igd-laptop"), Who(Domid(7), Domid(8)), BY_HAND)


def test_what_libxl_grants_is_found_by_domain_and_kind(make: Callable[[str], Plan]) -> None:
    plan = make('ioports=["2f8-2ff","c0-cf"]\n')
    frame_buffer = RangeSet([VGA_MEMORY])
    assert by_libxl(plan)(MEMORY) == by_libxl(plan)(step(IOMEM_PERMISSION, VGA_MEMORY, STUBDOM)) == frame_buffer
    assert by_libxl(plan)(step(IOMEM_PERMISSION, Range(0x90, 0xA8))) == RangeSet([(0xA0, 0xA8)])
    assert by_libxl(plan)(step(IOPORT_PERMISSION, Range(0x2F0, 0x300))) == RangeSet([(0x2F8, 0x300)])
    assert by_libxl(plan)(step(IOPORT_PERMISSION, Range(0x2F0, 0x300), STUBDOM)) == RangeSet(), "the guest's alone"
    assert by_libxl(plan)(step(IOPORT_PERMISSION, Range(0xA0, 0xC0))) == RangeSet(), "ports, not pages"
    assert by_libxl(plan)(OPREGION) == RangeSet()
    assert by_libxl(plan)(RAM) == RAM.kept


def test_the_frame_buffer_is_granted_at_creation_only(make: Callable[[str], Plan]) -> None:
    plan = make("")
    bar = next(g.range for g in plan.by_libxl if g.reason == "BAR 0")
    assert by_libxl(plan, (DISPLAY,))(MEMORY) == RangeSet()
    assert by_libxl(plan, (Bdf(0, 1, 0, 0),))(MEMORY) == RangeSet([VGA_MEMORY])
    assert by_libxl(plan, (DISPLAY,))(step(IOMEM_PERMISSION, bar)) == RangeSet([bar]), "a BAR at any time"
    asked_for = make('iomem=["a0,20"]\n')
    assert by_libxl(asked_for, (DISPLAY,))(MEMORY) == RangeSet([VGA_MEMORY]), "iomem= is not the device's"


@pytest.mark.parametrize(
    ("entry", "state"),
    [
        (Entry(UNDOING, (), (MEMORY, PORTS)), REVOKED),
        (Entry(UNDOING, (), (OPREGION,)), ""),
        (Entry(APPLYING, (), (MEMORY, PORTS)), ""),
        (Entry(UNDOING, (OPREGION,), (PORTS,)), APPLIED),
    ],
)
def test_what_is_recorded_once_a_killed_run_is_undone(make: Callable[[str], Plan], entry: Entry, state: str) -> None:
    """That mappings were taken away, a killed run's too, and not that they were never made."""
    xen = MemXen((4, 17))
    xen.add_domain(DomainInfo(7), HeldRights(RangeSet(VGA_PORTS), RangeSet([VGA_MEMORY, OPREGION.range])))
    settled = settle(entry._replace(dm=Domid(8)), make(""), xen, lambda line: None)
    assert settled == Entry(state, entry.steps, (), Domid(8))
    held = xen.held()[7]
    assert not any(RangeSet([s.range]) & (held.memory if "iomem" in s.op else held.ports) for s in entry.pending)
    assert settle(settled, make(""), xen, lambda line: None) is settled


def test_ram_is_undone_only_while_the_plan_has_it(make: Callable[[str], Plan]) -> None:
    plan = make("")
    entry = Entry(APPLYING, (), (OPREGION, RAM))
    assert unfinished(entry, plan) == (OPREGION,)
    assert unfinished(entry, plan._replace(steps=(RAM,))) == (OPREGION, RAM)
