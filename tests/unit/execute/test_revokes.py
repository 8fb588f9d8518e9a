# SPDX-License-Identifier: LGPL-2.1-only
"""Taking back from a guest that runs: what its device model has mapped by right of a grant, and what is said of it."""

from collections.abc import Callable

import pytest

from tests.unit.fakes import xenstore
from xlplug.config.domain import DomainConfig
from xlplug.execute import grants
from xlplug.execute.journal import Journal
from xlplug.model.addr import Domid
from xlplug.model.bdf import Bdf
from xlplug.model.host import HostSnapshot
from xlplug.model.hypervisor import DomainInfo
from xlplug.model.occasion import BY_HAND, Who
from xlplug.model.problem import Problem
from xlplug.model.rangeset import RangeSet
from xlplug.model.steps import IOPORT_MAPPING, MEMORY_MAPPING, STUBDOM
from xlplug.plan import Plan, build
from xlplug.xen.in_memory import MemStore, MemXen

TEXT = 'gfx_passthru="igd"\npci=["00:02.0"]\ndevice_model_stubdomain_override=1\n'
VGA = [(MEMORY_MAPPING, 0xA0, 0x20), (IOPORT_MAPPING, 0x3B0, 0xC), (IOPORT_MAPPING, 0x3C0, 0x20)]
DEAD = "domain 7's device model had the VGA ranges mapped: the display is dead until 'xl reboot 7'"


@pytest.fixture
def make(host: Callable[[str], HostSnapshot], config: Callable[[str], DomainConfig]) -> Callable[..., Plan]:
    return lambda more="": build(config(TEXT + more), host("igd-laptop"), Who(Domid(7), Domid(8)), BY_HAND)


def granted(plan: Plan, cpu_time: int = 5) -> tuple[MemXen, MemStore]:
    xen, store = MemXen((4, 17)), xenstore()
    xen.add_domain(DomainInfo(7, nr_pages=1000, max_pages=1256, cpu_time=cpu_time))
    xen.add_domain(DomainInfo(8, hvm=False, nr_pages=1000, max_pages=1256))
    assert grants.grant(plan, xen, store, lambda line: None).done
    return xen, store


def mapped_by_the_device_model(xen: MemXen, *, memory: bool = True) -> None:
    if memory:
        xen.memory_mapping(7, 0xA0, 0xA0, 0x20, add=True)
    xen.ioport_mapping(7, 0x3B0, 0x3B0, 0xC, add=True)
    xen.ioport_mapping(7, 0x3C0, 0x3C0, 0x20, add=True)


def revoked(xen: MemXen, store: MemStore) -> tuple[list[str], list[tuple[str, int, int]]]:
    """What is said, and the mappings that were recorded as being undone."""
    lines: list[str] = []
    undoing: list[tuple[str, int, int]] = []

    def log(line: str) -> None:
        pending = Journal(store, 7, "").read().pending
        mappings = [s for s in pending if s.op in (MEMORY_MAPPING, IOPORT_MAPPING)]
        assert all(s.grantee != STUBDOM for s in mappings)
        undoing[:] = [(s.op, s.first, s.nr) for s in mappings]
        lines.append(line)

    assert grants.revoke(7, xen, store, log)
    assert xen.mapped(7) == ({}, ())
    assert not xen.held()[7].ports & RangeSet([(0x3B0, 0x3BC), (0x3C0, 0x3E0)])
    return lines, undoing


def staying(lines: list[str]) -> list[str]:
    return [line for line in lines if "stays mapped where the guest's firmware put it" in line]


def test_a_guest_that_runs(make: Callable[..., Plan]) -> None:
    xen, store = granted(make())
    mapped_by_the_device_model(xen)
    (opregion,) = (s for s in make().steps if s.grantee == "target" and "OpRegion" in s.reason)
    lines, undoing = revoked(xen, store)
    assert [line.partition(" stays")[0] for line in staying(lines)] == [f"mfn {opregion.range}"]
    assert "until 'xl pci-detach 7 0000:00:02.0'" in staying(lines)[0]
    assert lines.count(DEAD) == 1
    assert sorted(undoing) == sorted(VGA)


def test_a_guest_that_has_not_run(make: Callable[..., Plan]) -> None:
    xen, store = granted(make(), cpu_time=0)
    lines, undoing = revoked(xen, store)
    assert staying(lines) == []
    assert DEAD not in lines
    assert sorted(undoing) == sorted(VGA)


def test_ports_alone_are_not_the_display(make: Callable[..., Plan]) -> None:
    xen, store = granted(make())
    mapped_by_the_device_model(xen, memory=False)
    lines, _ = revoked(xen, store)
    assert DEAD not in lines
    assert len(staying(lines)) == 1


def test_mappings_of_ours_are_undone_once(make: Callable[..., Plan]) -> None:
    xen, store = granted(make("xlplug_map_legacy=1\n"))
    lines, undoing = revoked(xen, store)
    assert sorted(undoing) == sorted(VGA)
    unmapped = [line for line in lines if line.startswith("unmap ")]
    assert len(unmapped) == len(set(unmapped)) == 3
    assert DEAD not in lines, "it was ours"


def test_what_a_detached_device_had_goes_and_nothing_else(make: Callable[..., Plan]) -> None:
    plan = make('ioports=["2f8-2ff"]\n')
    xen, store = granted(plan)
    before = xen.held()
    assert grants.revoke_detached(plan, xen, store, lambda line: None) == (), "the device is there"
    assert xen.held() == before
    gone = grants.revoke_detached(plan._replace(devices=()), xen, store, lambda line: None)
    assert gone
    assert {step.device for step in gone} == {plan.devices[0].device.bdf}
    left = Journal(store, 7, "").read().steps
    assert left
    assert {step.device for step in left} == {None}
    assert xen.held()[7].ports == RangeSet([(0x2F8, 0x300)])


def test_what_another_display_has_inherited_stays(make: Callable[..., Plan]) -> None:
    """The display left the host, and legacy VGA is another one's of the same guest by now."""
    plan = make()
    xen, store = granted(plan)
    before = xen.held()
    other = Bdf(0, 1, 0, 0)
    heir = plan._replace(
        devices=tuple(a._replace(device=a.device._replace(bdf=other)) for a in plan.devices),
        steps=tuple(step._replace(device=other) for step in plan.steps if step.reason.startswith("VGA")),
    )
    assert len(heir.steps) == 6, "a0-bf and two ranges of ports, for the guest and for its stubdomain"
    gone = grants.revoke_detached(heir, xen, store, lambda line: None)
    assert {step.key for step in gone} == {step.key for step in plan.steps} - {step.key for step in heir.steps}
    rest = Journal(store, 7, "").read().steps
    assert {(step.key, step.device) for step in rest} == {(step.key, other) for step in heir.steps}
    assert xen.held()[7].ports == before[7].ports
    refused = heir._replace(refusals=(Problem("it may not have it"),))
    assert grants.revoke_detached(refused._replace(devices=()), xen, store, lambda line: None) == rest
