# SPDX-License-Identifier: LGPL-2.1-only
"""Carrying out and taking back, with a failure at every call, on both personalities of Xen."""

import errno
import time
from collections.abc import Callable
from typing import TypeVar

import pytest

from tests.unit.fakes import xenstore
from xlplug.config.domain import DomainConfig
from xlplug.execute import grants
from xlplug.execute.apply import apply
from xlplug.execute.compare import compare
from xlplug.execute.journal import Entry, Journal
from xlplug.model.addr import Domid
from xlplug.model.errors import ApplyError, Refused, RollbackError, StoreError, XenError
from xlplug.model.host import HostSnapshot
from xlplug.model.hypervisor import DomainInfo, HeldRights, Nodes
from xlplug.model.occasion import BY_HAND, Who
from xlplug.model.rangeset import RangeSet
from xlplug.plan import Plan, build
from xlplug.xen.in_memory import MemStore, MemXen

T = TypeVar("T")
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
    return xen, xenstore()


def state(xen: MemXen) -> tuple[dict[int, HeldRights], object, object]:
    return dict(xen.held()), xen.mapped(7), xen.mapped(8)


def xlplug_nodes(store: MemStore) -> dict[str, str]:
    return {path: value for path, value in store.nodes.items() if "/xlplug" in path}


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
    assert Journal(store, 7, "").read() == Entry("revoked"), "nothing but the fact that its mappings were taken away"
    assert grants.revoke(7, xen, store, quiet) == ()


@pytest.mark.parametrize("version", VERSIONS)
def test_a_failure_at_any_call_leaves_everything_as_it_was(plan: Plan, version: tuple[int, int]) -> None:
    for k in range(len(plan.steps)):
        held = HeldRights(RangeSet([(0x2F8, 0x300)]), RangeSet([(0xA0, 0xC0)]))
        xen, store = world(version, held)
        xen.iomem_permission(8, 0xA0, 0x30, allow=True)  # libxl's
        before, nodes = state(xen), xlplug_nodes(store)
        xen.fail_call(k, errno.ENOMEM)
        with pytest.raises(ApplyError, match="ENOMEM") as caught:
            grants.grant(plan, xen, store, quiet)
        assert str(plan.steps[k]) in str(caught.value)
        assert caught.value.exit_code == 3
        assert state(xen) == before, f"step {k}"
        assert xlplug_nodes(store) == nodes == {}


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


def test_what_libxl_grants_is_kept_whether_or_not_it_is_there(plan: Plan) -> None:
    """Xen cannot be asked what a domain holds, so what libxl has granted follows from the configuration."""
    held = HeldRights(RangeSet([(0x2F8, 0x300)]), RangeSet([(0x500, 0x501)]))
    xen, store = world((4, 17), held)
    grants.grant(plan, xen, store, quiet)
    grants.revoke(7, xen, store, quiet)
    assert xen.held()[7].ports == held.ports
    assert xen.held()[7].memory == held.memory | RangeSet([(0xA0, 0xC0)])


def test_a_killed_run_is_finished(plan: Plan) -> None:
    for k in range(len(plan.steps)):
        for finish in ("grant", "revoke"):
            xen, store = world((4, 23))
            Journal(store, 7, "").write(Entry("applying", (), plan.steps))
            apply(plan.steps[:k], xen, quiet)
            if finish == "grant":
                grants.grant(plan, xen, store, quiet)
                assert xen.held()[7].ports.covers(0x3C0, 0x3E0)
                assert Journal(store, 7, "").read().state == "applied"
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
    assert xlplug_nodes(store) == {}


@pytest.mark.parametrize("where", ["steps", "pending"])
def test_a_second_claimant_of_vga_is_refused(plan: Plan, where: str) -> None:
    """Also one whose run was killed: what is pending may be in force."""
    xen, store = world((4, 17))
    xen.add_domain(DomainInfo(9, uuid="nine"))
    store.write("/local/domain/9", "")
    theirs = tuple(step._replace(domid=Domid(9)) for step in plan.steps if step.grantee == "target")
    Journal(store, 9, "nine").write(Entry("applied", **{where: theirs}))
    nodes = xlplug_nodes(store)
    with pytest.raises(Refused, match="domain 9 holds the legacy VGA ports"):
        grants.grant(plan, xen, store, quiet)
    assert xen.calls == 0
    assert xlplug_nodes(store) == nodes
    xen.add_domain(DomainInfo(9, uuid="another of that number"))
    assert grants.grant(plan, xen, store, quiet).done


def test_revoking_after_the_stubdomain_is_gone(plan: Plan) -> None:
    xen, store = world((4, 17))
    grants.grant(plan, xen, store, quiet)
    del xen._domains[8]
    assert grants.revoke(7, xen, store, quiet)
    assert not xen.held()[7].ports.overlaps(0x3B0, 0x3E0)


@pytest.mark.parametrize("killed", [False, True])
@pytest.mark.parametrize("run", ["grant", "revoke", "unplug"])
def test_a_domain_that_has_the_number_of_a_stubdomain_that_died_is_let_alone(
    plan: Plan, host: Host, config: Config, killed: bool, run: str
) -> None:
    """The guest lives on without its device model, and its record still has the steps of both."""
    xen, store = world((4, 17))
    grants.grant(plan, xen, store, quiet)
    if killed:
        Journal(store, 7, "").write(Entry("applying", plan.steps[:1], plan.steps[1:], Domid(8)))
    store.remove("/local/domain/8")
    store.write("/local/domain/8/name", "another")
    held = HeldRights(RangeSet([(0x2F8, 0x300), (0x3C0, 0x3E0)]), RangeSet([(0xA0, 0xC0), (0x7A18D, 0x7A18E)]))
    xen.add_domain(DomainInfo(8, nr_pages=1000, max_pages=1256, uuid="another"), held)
    if run == "revoke":
        assert grants.revoke(7, xen, store, quiet)
    elif run == "unplug":
        bare = build(config('name="g"\n'), host("igd-laptop"), Who(Domid(7)), BY_HAND)
        assert grants.revoke_detached(bare, xen, store, quiet)
    else:
        alone = TEXT.replace("device_model_stubdomain_override=1", "")
        grants.grant(build(config(alone), host("igd-laptop"), Who(Domid(7)), BY_HAND), xen, store, quiet)
    assert xen.held()[8] == held
    assert xen.held()[7].ports.overlaps(0x3B0, 0x3E0) == (run == "grant")
    left = Journal(store, 7, "").read()
    assert left.dm is None
    assert 8 not in {step.domid for step in left.every}


def test_a_journal_of_someone_else_is_not_guessed_at(plan: Plan) -> None:
    good = "ioport_permission target 7 3b0 c - - - -"
    for text in (
        "", "x", "ioport_permission target zz 3b0 c - - -", "reboot target 7 3b0 c - - - -", good.replace("7", "0"),
        good.replace("7", "9"), good.replace("target", "stubdom"), good.replace("target 7", "stubdom 0"),
        good.replace("target 7", "stubdom 7ff0"), good.replace(" c ", " 0 "), good.replace("3b0", "-3b0"),
        good.replace("3b0", "1" * 17),
    ):  # fmt: skip
        xen, store = world((4, 17))
        store.write("/libxl/7/xlplug/state", "applied")
        store.write("/libxl/7/xlplug/handle", "")
        store.write("/libxl/7/xlplug/steps/000", text)
        with pytest.raises(StoreError, match="xenstore-rm /libxl/7/xlplug"):
            grants.grant(plan, xen, store, quiet)
        assert xen.calls == 0
    store.write("/libxl/7/xlplug/steps/000", good)
    assert Journal(store, 7, "").read().steps


def test_a_journal_that_names_two_stubdomains_is_not_guessed_at(plan: Plan) -> None:
    _, store = world((4, 17))
    journal = Journal(store, 7, "")
    two = tuple(plan.steps[0]._replace(grantee="stubdom", domid=Domid(n)) for n in (8, 9))
    journal.write(Entry("applied", two))
    with pytest.raises(StoreError, match="two stubdomains"):
        journal.read()


def test_journal_round_trip(plan: Plan) -> None:
    journal = Journal(xenstore(), 7, "")
    many = tuple(plan.steps[0]._replace(first=i, reason="") for i in range(1200))
    journal.write(Entry("applied", many, plan.steps, Domid(8)))
    assert journal.read() == Entry("applied", many, tuple(s._replace(reason="") for s in plan.steps), Domid(8))
    journal.remove()
    assert journal.read() == Entry()


def test_a_journal_of_another_domain_of_that_number_is_not_read(plan: Plan) -> None:
    xen, store = world((4, 17))
    Journal(store, 7, "the one before").write(Entry("applied", plan.steps))
    assert Journal(store, 7, "").read() == Entry()
    assert grants.revoke(7, xen, store, quiet) == ()
    assert grants.grant(plan, xen, store, quiet).done
    assert Journal(store, 7, "the one before").read() == Entry()


def test_nothing_is_written_for_a_domain_whose_nodes_are_gone(plan: Plan) -> None:
    """libxl removes /local/domain/7 and /libxl/7 before Xen forgets the domain."""
    xen, store = world((4, 17))
    store.remove("/local/domain/7")
    with pytest.raises(Refused, match="domain 7 is being destroyed"):
        grants.grant(plan, xen, store, quiet)
    assert xen.calls == 0
    assert xlplug_nodes(store) == {}


def test_a_domain_that_goes_during_a_grant_leaves_no_record(plan: Plan) -> None:
    for at in range(len(plan.steps)):
        xen, store = world((4, 17))
        before = state(xen)

        def destroy(line: str, store: MemStore = store, at: int = at) -> None:
            if line == str(plan.steps[at]):
                for path in ("/local/domain/7", "/libxl/7"):
                    store.remove(path)

        with pytest.raises(ApplyError, match="domain 7 is being destroyed"):
            grants.grant(plan, xen, store, destroy)
        assert xlplug_nodes(store) == {}
        assert (state(xen)[0][8], state(xen)[1:]) == (
            HeldRights(RangeSet(), RangeSet([(0xA0, 0xD0)])), before[1:],
        ), "all but what libxl grants"  # fmt: skip


@pytest.mark.parametrize("target", [None, "9", "x", ""])
def test_a_stubdomain_must_say_whom_it_serves(plan: Plan, target: str | None) -> None:
    xen, store = world((4, 17))
    store.remove("/local/domain/8/target")
    if target is not None:
        store.write("/local/domain/8/target", target)
    with pytest.raises(Refused, match="domain 8 is not the stubdomain of domain 7"):
        grants.grant(plan, xen, store, quiet)
    assert xen.calls == 0


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
    assert again.done == (), "Xen cannot be asked what is missing"
    assert not any(r.missing for r in compare(7, xen.held(), store)), "but grant mends it"
    xen.ioport_permission(7, 0x3C0, 0x20, allow=False)
    xen.fail_call(0, errno.ENOMEM)
    with pytest.raises(ApplyError):
        grants.grant(plan, xen, store, quiet)
    assert Journal(store, 7, "").read().state == "applied"
    assert len(Journal(store, 7, "").read().steps) == len(plan.steps)


class Torn(MemStore):
    """As xenstored in C does it: a transaction reads the tree of now, and fails at its end if that has changed."""

    gone = ""

    def atomically(self, change: Callable[[Nodes], T]) -> T:
        if self.gone:
            view = super().atomically(lambda view: view)
            path, self.gone = self.gone, ""
            view.list(path)
            listed = view.list
            view.list = lambda folder: [*listed(folder), "999"] if folder == path else listed(folder)  # type: ignore[method-assign]
            change(view)
        return super().atomically(change)


def test_a_record_that_goes_while_it_is_read(plan: Plan) -> None:
    """libxl removes a domain's folder node by node: a name is listed, and its node is gone."""
    xen, _ = world((4, 17))
    store = Torn()
    store.nodes.update(xenstore().nodes)
    grants.grant(plan, xen, store, quiet)
    store.gone = "/libxl/7/xlplug/steps"
    assert [step.key for step in Journal(store, 7, "").read().steps] == [step.key for step in plan.steps]
    assert not store.gone


class Willing(MemXen):
    """It says yes and does nothing, so that what is measured is ours; but it refuses to map one port."""

    refused = -1

    def ioport_permission(self, domid: int, first_port: int, nr_ports: int, *, allow: bool) -> None:
        pass

    def ioport_mapping(self, domid: int, first_gport: int, first_port: int, nr_ports: int, *, add: bool) -> None:
        if first_port == self.refused:
            raise XenError("xc_domain_ioport_mapping", errno.EBUSY)


def test_thousands_of_ports_take_thousands_of_steps_and_not_millions(config: Config) -> None:
    """Also for a second grant that fails at its last step.  There are configs with every other port of 65,536."""

    def took(count: int) -> float:
        ports = ",".join(f'"{0xD00 + 2 * i:x}"' for i in range(count))
        plan = build(config(f"ioports=[{ports}]\n"), HostSnapshot("h"), Who(7), BY_HAND)
        half = plan._replace(steps=plan.steps[: len(plan.steps) // 2])
        xen, store = Willing(), MemStore()
        xen.add_domain(DomainInfo(7, nr_pages=16384, max_pages=16384, uuid="seven"))
        store.write("/local/domain/7", "")
        began = time.process_time()
        assert len(grants.grant(half, xen, store, quiet).done) == count
        xen.refused = plan.steps[-1].first
        with pytest.raises(ApplyError):
            grants.grant(plan, xen, store, quiet)
        assert len(grants.revoke(7, xen, store, quiet)) == count
        return time.process_time() - began

    assert any(took(1000) < 8 * took(250) for _ in range(3))


def test_a_second_grant_that_fails_leaves_the_record_of_the_first(host: Host, config: Config) -> None:
    xen, store = world((4, 17))
    first = build(config(TEXT.replace("xlplug_map_legacy=1", "")), host("igd-laptop"), Who(Domid(7), Domid(8)))
    second = build(config(TEXT), host("igd-laptop"), Who(Domid(7), Domid(8)))
    grants.grant(first, xen, store, quiet)
    nodes = xlplug_nodes(store)
    xen.fail_call(len(first.steps), errno.ENOMEM)
    with pytest.raises(ApplyError):
        grants.grant(second, xen, store, quiet)
    assert xlplug_nodes(store) == nodes
    grants.revoke(7, xen, store, quiet)
    revoked = xlplug_nodes(store)
    assert revoked
    xen.fail_call(0, errno.ENOMEM)
    with pytest.raises(ApplyError):
        grants.grant(second, xen, store, quiet)
    assert xlplug_nodes(store) == revoked, "the device model's mappings are gone all the same"


def test_a_plan_without_steps(plan: Plan) -> None:
    xen, store = world((4, 17))
    nothing = plan._replace(steps=())
    store.write("/local/domain/0/xlplug/99/000", "of a domain that is gone")
    nodes = xlplug_nodes(store)
    assert grants.grant(nothing, xen, store, quiet) == grants.Outcome()
    assert (xen.calls, xlplug_nodes(store)) == (0, nodes)
    grants.grant(plan, xen, store, quiet)
    assert len(grants.grant(nothing, xen, store, quiet).already) == len(plan.steps)
