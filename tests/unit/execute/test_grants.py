# SPDX-License-Identifier: LGPL-2.1-only
"""Carrying out and taking back, with a failure at every call, on both personalities of Xen."""

import errno
from collections.abc import Callable

import pytest

from xlplug.config.domain import DomainConfig
from xlplug.execute import grants
from xlplug.execute.apply import apply
from xlplug.execute.compare import compare
from xlplug.execute.journal import Journal
from xlplug.model.addr import Domid
from xlplug.model.errors import ApplyError, Refused, RollbackError, StoreError
from xlplug.model.host import HostSnapshot
from xlplug.model.hypervisor import DomainInfo, HeldRights
from xlplug.model.occasion import BY_HAND, Who
from xlplug.model.rangeset import RangeSet
from xlplug.plan import Plan, build
from xlplug.xen.in_memory import MemStore, MemXen

Host = Callable[[str], HostSnapshot]
Config = Callable[[str], DomainConfig]
TEXT = 'gfx_passthru="igd"\npci=["00:02.0"]\ndevice_model_stubdomain_override=1\nxlplug_map_legacy=1\nioports=["2f8-2ff"]\n'
VERSIONS = [(4, 14), (4, 17), (4, 23)]


def quiet(line: str) -> None:
    assert line


def world(version: tuple[int, int], held: HeldRights | None = None) -> tuple[MemXen, MemStore]:
    xen = MemXen(version)
    xen.add_domain(DomainInfo(7, nr_pages=1000, max_pages=1256), held)
    xen.add_domain(DomainInfo(8, hvm=False, nr_pages=1000, max_pages=1256))
    return xen, MemStore()


def state(xen: MemXen) -> object:
    return dict(xen.held()), xen.mapped(7), xen.mapped(8)


@pytest.fixture
def plan(host: Host, config: Config) -> Plan:
    return build(config(TEXT), host("igd-laptop"), Who(Domid(7), Domid(8)), BY_HAND)


@pytest.mark.parametrize("version", VERSIONS)
def test_grant_twice_and_revoke(plan: Plan, version: tuple[int, int]) -> None:
    xen, store = world(version)
    lines: list[str] = []
    outcome = grants.grant(plan, xen, store, lines.append)
    assert [str(s) for s in outcome.done] == lines == [str(s) for s in plan.steps]
    granted = state(xen)
    again = grants.grant(plan, xen, store, quiet)
    assert again.done == ()
    assert [s.key for s in again.already] == [s.key for s in outcome.done]
    assert state(xen) == granted
    assert xen.mapped(7)[1] == ((0x2F8, 0x2F8, 8), (0x3B0, 0x3B0, 12), (0x3C0, 0x3C0, 32))
    grants.revoke(7, xen, store, quiet)
    # What libxl grants too is left; everything else is gone, mappings first.
    assert xen.held()[7] == HeldRights(RangeSet([(0x2F8, 0x300)]), RangeSet([(0xA0, 0xC0)]))
    assert xen.held()[8] == HeldRights(RangeSet(), RangeSet([(0xA0, 0xD0)]))
    assert xen.mapped(7) == ({}, ())
    assert not any("xlplug" in node for node in store.nodes)
    assert grants.revoke(7, xen, store, quiet) == ()


@pytest.mark.parametrize("version", VERSIONS)
def test_a_failure_at_any_call_leaves_everything_as_it_was(plan: Plan, version: tuple[int, int]) -> None:
    for k in range(len(plan.steps)):
        held = HeldRights(RangeSet([(0x2F8, 0x300)]), RangeSet([(0xA0, 0xC0)]))
        xen, store = world(version, held)
        xen.iomem_permission(8, 0xA0, 0x30, allow=True)  # libxl's
        before, nodes = state(xen), dict(store.nodes)
        xen.fail_call(k, errno.ENOMEM)
        with pytest.raises(ApplyError, match="ENOMEM") as caught:
            grants.grant(plan, xen, store, quiet)
        assert str(plan.steps[k]) in str(caught.value)
        assert caught.value.exit_code == 3
        assert state(xen) == before, f"step {k}"
        assert {n for n in store.nodes if "xlplug" in n} == set(nodes)


@pytest.mark.parametrize("version", VERSIONS)
def test_an_interrupt_at_any_call_leaves_everything_as_it_was(plan: Plan, version: tuple[int, int]) -> None:
    for k in range(len(plan.steps)):
        held = HeldRights(RangeSet([(0x2F8, 0x300)]), RangeSet([(0xA0, 0xC0)]))
        xen, store = world(version, held)
        xen.iomem_permission(8, 0xA0, 0x30, allow=True)
        before = state(xen)
        seen = 0

        def interrupt(line: str, at: int = k) -> None:
            nonlocal seen
            if not line.startswith("undo"):
                seen += 1
                if seen == at + 1:
                    raise KeyboardInterrupt

        with pytest.raises(ApplyError, match="interrupted"):
            grants.grant(plan, xen, store, interrupt)
        assert state(xen) == before


def test_a_failed_undo_says_what_is_left_and_revoke_finishes(plan: Plan) -> None:
    xen, store = world((4, 17))
    xen.fail_call(3, errno.ENOMEM)
    xen.fail_call(4, errno.ENOMEM)  # the first undo
    with pytest.raises(RollbackError) as caught:
        grants.grant(plan, xen, store, quiet)
    assert caught.value.exit_code == 4
    assert len(caught.value.left) == 1
    assert str(caught.value.left[0]).startswith(str(plan.steps[1])) or str(plan.steps[2]) in caught.value.left[0]
    grants.revoke(7, xen, store, quiet)
    assert not xen.held()[7].ports.overlaps(0x3B0, 0x3E0)


def test_what_was_held_before_is_kept(plan: Plan) -> None:
    held = HeldRights(RangeSet([(0x3B4, 0x3B6)]), RangeSet([(0x7A18D, 0x7A18E), (0x500, 0x501)]))
    xen, store = world((4, 17), held)
    grants.grant(plan, xen, store, quiet)
    grants.revoke(7, xen, store, quiet)
    assert xen.held()[7].ports == held.ports | RangeSet([(0x2F8, 0x300)])
    assert xen.held()[7].memory == held.memory | RangeSet([(0xA0, 0xC0)])


def test_a_killed_run_is_finished(plan: Plan) -> None:
    for k in range(len(plan.steps)):
        for finish in ("grant", "revoke"):
            xen, store = world((4, 23))
            Journal(store, 7).write("applying", plan.steps)
            apply(plan.steps[:k], xen, quiet)
            if finish == "grant":
                grants.grant(plan, xen, store, quiet)
                assert xen.held()[7].ports.covers(0x3C0, 0x3E0)
                assert Journal(store, 7).read().state == "applied"
            grants.revoke(7, xen, store, quiet)
            assert not xen.held()[7].ports.overlaps(0x3B0, 0x3E0)
            assert xen.mapped(7) == ({}, ())


def test_a_second_grant_adds_what_is_new(host: Host, config: Config) -> None:
    xen, store = world((4, 17))
    without = build(config(TEXT.replace("xlplug_map_legacy=1", "")), host("igd-laptop"), Who(Domid(7), Domid(8)))
    grants.grant(without, xen, store, quiet)
    outcome = grants.grant(build(config(TEXT), host("igd-laptop"), Who(Domid(7), Domid(8))), xen, store, quiet)
    assert [s.op for s in outcome.done] == ["memory_mapping", "ioport_mapping", "ioport_mapping"]
    grants.revoke(7, xen, store, quiet)
    assert xen.held()[7].ports == RangeSet([(0x2F8, 0x300)])


def test_refusals_touch_nothing(host: Host, config: Config, plan: Plan) -> None:
    xen, store = world((4, 17))
    bad = build(config(TEXT), host("igd-malformed-opregion"), Who(Domid(7), Domid(8)))
    with pytest.raises(Refused, match="malformed OpRegion"):
        grants.grant(bad, xen, store, quiet)
    with pytest.raises(Refused, match="domain 9 does not exist"):
        grants.grant(plan._replace(target=Domid(9)), xen, store, quiet)
    xen.add_domain(DomainInfo(10, dying=True))
    with pytest.raises(Refused, match="being destroyed"):
        grants.grant(plan._replace(target=Domid(10)), xen, store, quiet)
    assert xen.calls == 0
    assert store.nodes == {}


def test_a_second_claimant_of_vga_is_refused(plan: Plan) -> None:
    xen, store = world((4, 17))
    xen.add_domain(DomainInfo(9), HeldRights(RangeSet([(0x3D4, 0x3D6)])))
    with pytest.raises(Refused, match="domain 9 holds the legacy VGA ports"):
        grants.grant(plan, xen, store, quiet)
    assert xen.calls == 0
    assert store.nodes == {}


def test_revoking_after_the_stubdomain_is_gone(plan: Plan) -> None:
    xen, store = world((4, 17))
    grants.grant(plan, xen, store, quiet)
    del xen._domains[8]
    assert grants.revoke(7, xen, store, quiet)
    assert not xen.held()[7].ports.overlaps(0x3B0, 0x3E0)


def test_a_journal_of_someone_else_is_not_guessed_at(plan: Plan) -> None:
    for text in ("", "x", "ioport_permission target zz 3b0 c - - -", "reboot target 7 3b0 c - - -"):
        xen, store = world((4, 17))
        store.write("/libxl/7/xlplug/state", "applied")
        store.write("/libxl/7/xlplug/steps/000", text)
        with pytest.raises(StoreError, match="xenstore-rm /libxl/7/xlplug"):
            grants.grant(plan, xen, store, quiet)
        assert xen.calls == 0


def test_journal_round_trip(plan: Plan) -> None:
    journal = Journal(MemStore(), 7)
    journal.write("applied", plan.steps)
    assert journal.read().steps == tuple(s._replace(reason="") for s in plan.steps)


def test_comparison(plan: Plan) -> None:
    xen, store = world((4, 17))
    grants.grant(plan, xen, store, quiet)
    xen.ioport_permission(7, 0x3C0, 0x20, allow=False)
    xen.iomem_permission(7, 0x500, 1, allow=True)
    rows = {(r.domid, r.kind): r for r in compare(7, xen.held(), store)}
    assert rows[7, "ioport"].missing == RangeSet([(0x3C0, 0x3E0)])
    assert rows[7, "iomem"].others == RangeSet([(0x500, 0x501)])
    assert not rows[8, "iomem"].missing
    again = grants.grant(plan, xen, store, quiet)
    assert [(s.domid, s.range) for s in again.done] == [(7, (0x3C0, 0x3E0))], "grant mends what show calls missing"
    assert not any(r.missing for r in compare(7, xen.held(), store))
    xen.ioport_permission(7, 0x3C0, 0x20, allow=False)
    xen.fail_call(0, errno.ENOMEM)
    with pytest.raises(ApplyError):
        grants.grant(plan, xen, store, quiet)
    assert Journal(store, 7).read().state == "applied"
    assert len(Journal(store, 7).read().steps) == len(plan.steps)
