# SPDX-License-Identifier: LGPL-2.1-only
"""Populating, undoing and telling it, with a failure, an interrupt or a kill at every call."""

import errno
import random
from collections.abc import Callable, Sequence
from typing import TypeVar

import pytest

from tests.unit.fakes import xenstore
from xlplug.commands.show import comparison_lines
from xlplug.config.domain import DomainConfig
from xlplug.execute import grants
from xlplug.execute.apply import apply
from xlplug.execute.compare import compare
from xlplug.execute.journal import APPLYING, Entry, Journal
from xlplug.execute.populate import extents, populate, release
from xlplug.model.addr import Domid
from xlplug.model.errors import ApplyError, RollbackError, StoreError, XenError
from xlplug.model.host import HostSnapshot
from xlplug.model.hypervisor import DomainInfo, Nodes
from xlplug.model.occasion import BY_HAND, STARTING, Who
from xlplug.model.rangeset import RangeSet
from xlplug.model.steps import POPULATE_PHYSMAP, TARGET, Room, Step
from xlplug.plan import Plan, build
from xlplug.xen.in_memory import MemStore, MemXen

T = TypeVar("T")
Host = Callable[[str], HostSnapshot]
Config = Callable[[str], DomainConfig]
VERSIONS = [(4, 14), (4, 17), (4, 23)]
TEXT = 'xlplug_preload=1\nvga="stdvga"\nvif=["","","","",""]\ngfx_passthru="igd"\npci=["00:02.0"]\n'
STUB = 'device_model_stubdomain_override=1\ndevice_model_version="qemu-xen"\n'
TOLD = "/local/domain/8/xlplug/7"
RAM = (64 - 16) << 8  # pages of memory=64 with videoram=16
HEADROOM = (16 << 8) + 256  # what libxl adds to them: videoram, and LIBXL_MAXMEM_CONSTANT
NEEDED = (16 << 8) + 16 + 5 * 64
BLOCKS = RangeSet(((0x3000, 0x4010), *((0x4040 + 0x40 * i, 0x4080 + 0x40 * i) for i in range(5))))


def quiet(line: str) -> None:
    assert line


def machine(version: tuple[int, int] = (4, 17), kind: type[MemXen] = MemXen, *, ran: int = 0) -> MemXen:
    xen = kind(version)
    xen.add_domain(DomainInfo(7, nr_pages=RAM - 0x20, max_pages=RAM + HEADROOM))
    xen.add_domain(DomainInfo(8, hvm=False, nr_pages=1000, max_pages=1256, cpu_time=ran))
    return xen


def state(xen: MemXen) -> object:
    return xen.domain_info(7), xen.ram(7), dict(xen.held()), xen.mapped(7)


def pages(xen: MemXen) -> tuple[int, int]:
    info = xen.domain_info(7)
    assert info is not None
    return info.nr_pages, info.max_pages


def step(first: int, nr: int, before: Room | None = None) -> Step:
    return Step(POPULATE_PHYSMAP, TARGET, Domid(7), first, nr, before=before)


@pytest.fixture
def plan(host: Host, config: Config) -> Plan:
    return build(config(TEXT + STUB), host("igd-laptop"), Who(Domid(7), Domid(8)), STARTING)


# extents


def test_extents_cover_exactly_are_aligned_and_few() -> None:
    rng = random.Random(2)
    for _ in range(1000):
        first, nr = rng.randrange(3000), rng.choice((1, 16, 511, 512, 513, rng.randrange(1, 5000)))
        found = list(extents(first, nr))
        covered = [g + i for order, gfns in found for g in gfns for i in range(1 << order)]
        assert covered == list(range(first, first + nr)), "each gfn once, upwards"
        assert {order for order, _ in found} <= {0, 9}
        assert all(g % 512 == 0 for order, gfns in found for g in gfns if order)
        assert len(found) <= 3
        whole = (first + nr) // 512 - -(-first // 512)
        assert sum(len(gfns) for order, gfns in found if order) == max(0, whole), "as many large ones as fit"


def test_video_ram_takes_eight_extents_instead_of_4096() -> None:
    assert list(extents(0x3000, 0x1000)) == [(9, range(0x3000, 0x4000, 512))]


# one step


@pytest.mark.parametrize("version", VERSIONS)
def test_any_step_and_back(version: tuple[int, int]) -> None:
    rng = random.Random(3)
    for _ in range(20):
        xen = machine(version)
        before = state(xen)
        first, nr = rng.randrange(0x4000, 0x9000), rng.choice((1, 512, rng.randrange(1, 3000)))
        tot = pages(xen)[0]
        made = step(first, nr, Room(tot, RAM + HEADROOM, max(RAM + HEADROOM, tot + nr)))
        populate(made, xen)
        assert pages(xen)[0] == tot + nr
        assert xen.ram(7).covers(first, first + nr)
        release(made, xen)
        assert state(xen) == before


class Fragmented(MemXen):
    """A host with few pieces of 2 MiB."""

    pieces = 3

    def populate_physmap(self, domid: int, gfns: Sequence[int], order: int = 0) -> None:
        if order:
            given = list(gfns)[: self.pieces]
            self.pieces -= len(given)
            super().populate_physmap(domid, given, order)
            if len(given) < len(gfns):
                raise XenError("xc_domain_populate_physmap_exact", errno.EBUSY)
        else:
            super().populate_physmap(domid, gfns, order)


def test_a_fragmented_host_gets_small_pages_for_the_rest() -> None:
    xen = machine(kind=Fragmented)
    tot, limit = pages(xen)
    populate(step(0x5010, 0x1000), xen)
    assert pages(xen) == (tot + 0x1000, limit), "nothing populated twice"
    assert xen.ram(7).covers(0x5010, 0x6010)
    assert pages(xen)[0] - xen.ram(7).total == tot - machine().ram(7).total, "no page without a gfn"


def test_what_is_half_populated_or_has_holes_is_released() -> None:
    for there in ([(0x5000, 0x5100)], [(0x5100, 0x5200)], [(0x5000, 0x5001), (0x5555, 0x5557)], []):
        xen = machine()
        before = state(xen)
        for start, stop in there:
            xen.populate_physmap(7, range(start, stop))
        release(step(0x5000, 0x1000), xen)
        assert state(xen) == before


def test_releasing_from_a_domain_that_is_gone_or_going_is_nothing() -> None:
    xen = machine()
    xen.add_domain(DomainInfo(9, dying=True))
    for domid in (9, 10):
        release(step(0x5000, 16)._replace(domid=Domid(domid)), xen)
    assert xen.calls == 0


class Stuck(MemXen):
    """Takes no single pages out of a large one, as the real one was seen to do after about 1.3 GiB of large ones."""

    def decrease_reservation(self, domid: int, gfns: Sequence[int], order: int = 0) -> None:
        if gfns[0] >= 0x5200:
            raise XenError("xc_domain_decrease_reservation_exact", errno.EINVAL)
        super().decrease_reservation(domid, gfns, order)


def test_pages_that_cannot_be_taken_back_are_no_secret(plan: Plan) -> None:
    xen = machine(kind=Stuck)
    tot, limit = pages(xen)
    made = step(0x5200, 0x300, Room(tot, limit, limit))
    populate(made, xen)
    with pytest.raises(XenError, match="768 pages more than before"):
        release(made, xen)
    moved = plan._replace(steps=(made,))
    xen = machine(kind=Stuck)
    grants.grant(moved, xen, store := xenstore(), quiet)
    with pytest.raises(RollbackError, match=r"not revoked whole.*768 pages more than before"):
        grants.revoke(7, xen, store, quiet)
    assert Journal(store, 7, "").read().pending


def test_a_limit_that_someone_else_has_set_since_is_left() -> None:
    xen = machine()
    made = step(0x5000, 16, Room(RAM, RAM + HEADROOM, RAM + HEADROOM + 16))
    populate(made, xen)
    xen.set_max_mem(7, 4 * 30000)
    release(made, xen)
    assert pages(xen)[1] == 30000


# a whole plan


@pytest.mark.parametrize("version", VERSIONS)
def test_granted_told_once_and_taken_back(plan: Plan, version: tuple[int, int]) -> None:
    xen, store = machine(version), xenstore()
    before, (tot, limit) = state(xen), pages(xen)
    added = tot + NEEDED
    assert added > limit, "five NICs do not fit in what libxl leaves free: raised by just what is needed"
    grants.grant(plan, xen, store, quiet)
    assert pages(xen) == (added, added)
    assert xen.ram(7) & BLOCKS == BLOCKS
    assert store.read(f"{TOLD}/populated") == "3000-400f,4040-417f"
    assert store.read(f"{TOLD}/iomem") == "a0-bf,7a18d-7a18f"
    shown = "\n".join(comparison_lines(compare(7, xen.held(), store)))
    assert ["physmap", "populated", "by", "xlplug", "{", "3000-400f,", "4040-417f", "}"] in map(
        str.split, shown.splitlines()
    )
    granted, nodes = state(xen), dict(store.nodes)
    assert grants.grant(plan, xen, store, quiet).done == ()
    assert (state(xen), store.nodes) == (granted, nodes), "not twice"
    grants.revoke(7, xen, store, quiet)
    xen.iomem_permission(7, 0xA0, 0x20, allow=False)  # libxl's own, which stay
    xen.iomem_permission(8, 0xA0, 0x30, allow=False)
    assert state(xen) == before
    assert not any(node.startswith(TOLD) for node in store.nodes)
    assert Journal(store, 7, "").read() == Entry("revoked")


def test_no_raise_where_libxl_has_left_enough(host: Host, config: Config) -> None:
    xen, store = machine(), xenstore()
    limit = pages(xen)[1]
    small = config(TEXT.replace('vif=["","","","",""]', 'vif=[""]'))
    grants.grant(build(small, host("igd-laptop"), Who(Domid(7))), xen, store, quiet)
    assert pages(xen)[1] == limit
    assert {s.before.raised for s in Journal(store, 7, "").read().steps if s.before} == {limit}
    assert store.read("/local/domain/0/xlplug/7/populated") == "3000-400f,4040-407f", "the device model in dom0"


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("code", [errno.ENOMEM, errno.EBUSY])
def test_a_failure_at_any_call_leaves_everything_as_it_was(plan: Plan, version: tuple[int, int], code: int) -> None:
    counted = machine(version)
    grants.grant(plan, counted, xenstore(), quiet)
    failed = 0
    for k in range(counted.calls):
        xen, store = machine(version), xenstore()
        xen.iomem_permission(7, 0xA0, 0x20, allow=True)  # libxl's
        xen.iomem_permission(8, 0xA0, 0x30, allow=True)
        before = state(xen)
        xen.fail_call(k, code)
        try:
            grants.grant(plan, xen, store, quiet)
        except ApplyError as error:
            failed += 1
            assert error.exit_code == 3
            assert state(xen) == before, k
            assert not any("xlplug" in node for node in store.nodes)
        else:
            assert code == errno.EBUSY, "2 MiB pieces refused: done in small ones"
            assert xen.ram(7) & BLOCKS == BLOCKS
    assert failed == counted.calls - (code == errno.EBUSY)


class Partial(MemXen):
    """Runs out of memory in the middle of the call of that number, having done a part of it."""

    at = -1

    def populate_physmap(self, domid: int, gfns: Sequence[int], order: int = 0) -> None:
        if self.calls < self.at:
            super().populate_physmap(domid, gfns, order)
            return
        super().populate_physmap(domid, list(gfns)[: len(gfns) // 2], order)
        raise XenError("xc_domain_populate_physmap_exact", errno.EBUSY, f"domid={domid}")


@pytest.mark.parametrize("version", VERSIONS)
def test_running_out_of_memory_half_way_gives_all_back(plan: Plan, version: tuple[int, int]) -> None:
    counted = machine(version)
    grants.grant(plan, counted, xenstore(), quiet)
    for at in range(counted.calls):
        xen = machine(version, Partial)
        assert isinstance(xen, Partial)
        xen.at = at
        tot_limit, gfns = pages(xen), xen.ram(7)
        with pytest.raises(ApplyError, match="EBUSY"):
            grants.grant(plan, xen, xenstore(), quiet)
        assert (pages(xen), xen.ram(7)) == (tot_limit, gfns), at


class Interrupted(MemXen):
    """Ctrl-C after the call of that number has taken effect."""

    at = -1

    def _enter(self, call: str, domid: int) -> None:
        if self.calls == self.at + 1:
            self.at = -2
            raise KeyboardInterrupt
        super()._enter(call, domid)


def test_an_interrupt_after_any_call_leaves_everything_as_it_was(plan: Plan) -> None:
    counted = machine()
    grants.grant(plan, counted, xenstore(), quiet)
    for at in range(counted.calls - 1):
        xen = machine(kind=Interrupted)
        assert isinstance(xen, Interrupted)
        xen.at = at
        tot_limit, gfns = pages(xen), xen.ram(7)
        with pytest.raises(ApplyError, match="interrupted"):
            grants.grant(plan, xen, xenstore(), quiet)
        assert (pages(xen), xen.ram(7)) == (tot_limit, gfns), at


class Deaf:
    """A xenstore that does not take one of the nodes for the device model."""

    def __init__(self, store: MemStore, refuse: str) -> None:
        self.nodes, self.refuse, self.whole = store, refuse, store

    def __getattr__(self, name: str) -> object:
        return getattr(self.nodes, name)

    def write(self, path: str, value: str) -> None:
        if path.endswith(f"/{self.refuse}"):
            raise StoreError(f"xenstore: cannot write {path}: ENOSPC")
        self.nodes.write(path, value)

    def atomically(self, change: Callable[[Nodes], T]) -> T:
        def within(view: Nodes) -> T:
            self.nodes = view
            try:
                return change(self)
            finally:
                self.nodes = self.whole

        return self.whole.atomically(within)


@pytest.mark.parametrize("which", ["populated", "iomem"])
def test_what_cannot_be_told_is_not_done(plan: Plan, which: str) -> None:
    xen, store = machine(), xenstore()
    before, gfns = pages(xen), xen.ram(7)
    with pytest.raises(ApplyError, match="ENOSPC"):
        grants.grant(plan, xen, Deaf(store, which), quiet)
    assert (pages(xen), xen.ram(7)) == (before, gfns)
    assert not any("xlplug" in node for node in store.nodes)


# killed runs, and device models that have started


def killed(plan: Plan, xen: MemXen, store: MemStore, k: int) -> None:
    """A run that was killed after ``k`` steps and half of the next."""
    steps = grants._with_room(plan.steps, xen)
    Journal(store, 7, "").write(Entry(APPLYING, (), steps, Domid(8)))
    apply(steps[:k], xen, quiet)
    if k < len(steps) and steps[k].op == POPULATE_PHYSMAP:
        populate(steps[k]._replace(nr=max(1, steps[k].nr // 2)), xen)


@pytest.mark.parametrize("finish", ["grant", "revoke"])
def test_a_killed_run_is_finished_or_undone_before_the_device_model_starts(plan: Plan, finish: str) -> None:
    for k in range(len(plan.steps) + 1):
        xen, store = machine(), xenstore()
        before, gfns = pages(xen), xen.ram(7)
        killed(plan, xen, store, k)
        if finish == "grant":
            grants.grant(plan, xen, store, quiet)
            assert pages(xen) == (before[0] + NEEDED, before[0] + NEEDED), "no page lost"
            assert xen.ram(7) == gfns | BLOCKS
            assert store.read(f"{TOLD}/populated") == "3000-400f,4040-417f"
        grants.revoke(7, xen, store, quiet)
        assert (pages(xen), xen.ram(7)) == (before, gfns)


def test_after_a_killed_run_a_device_model_that_has_started_is_left_alone(
    plan: Plan, host: Host, config: Config
) -> None:
    """It was told nothing, and has populated the same gfns itself."""
    later = build(config(TEXT + STUB), host("igd-laptop"), Who(Domid(7), Domid(8)), BY_HAND)
    assert not any(s.op == POPULATE_PHYSMAP for s in later.steps)
    xen, store = machine(ran=1), xenstore()
    killed(plan, xen, store, len(plan.steps))
    gfns, lines = xen.ram(7), list[str]()
    grants.grant(later, xen, store, lines.append)
    assert xen.ram(7) == gfns
    assert sum("left to the device model" in line for line in lines) == 7
    assert store.read(f"{TOLD}/populated") is None
    assert store.read(f"{TOLD}/iomem") == "a0-bf,7a18d-7a18f"
    grants.revoke(7, xen, store, quiet)
    assert xen.ram(7) == gfns


def test_ram_that_a_device_model_has_in_use_stays(plan: Plan) -> None:
    xen, store = machine(), xenstore()
    grants.grant(plan, xen, store, quiet)
    stubdom = xen.domain_info(8)
    assert stubdom is not None
    xen._domains[8].info = stubdom._replace(cpu_time=1)
    gfns = xen.ram(7)
    for _ in range(2):
        lines: list[str] = []
        grants.revoke(7, xen, store, lines.append)
        assert sum("not taken back, its device model has it in use: populate" in line for line in lines) == 7
        assert xen.ram(7) == gfns
        assert not xen.held()[7].ports
        assert store.read(f"{TOLD}/populated") == "3000-400f,4040-417f", "still true"
        assert store.read(f"{TOLD}/iomem") is None
    done = grants.grant(plan, xen, store, quiet).done
    assert not any(s.op == POPULATE_PHYSMAP for s in done), "and is not populated again"


def test_a_device_model_in_dom0_has_started_once_all_is_done(host: Host, config: Config) -> None:
    made = build(config(TEXT), host("igd-laptop"), Who(Domid(7)), STARTING)
    xen, store = machine(), xenstore()
    before = xen.ram(7)
    grants.grant(made, xen, store, quiet)
    grants.revoke(7, xen, store, quiet)
    assert xen.ram(7) == before | BLOCKS
    xen, store = machine(), xenstore()
    Journal(store, 7, "").write(Entry(APPLYING, (), grants._with_room(made.steps, xen), Domid(0)))
    grants.revoke(7, xen, store, quiet)
    assert xen.ram(7) == before


def test_a_guest_that_is_gone_leaves_no_trace_for_the_next_of_its_number(host: Host, config: Config) -> None:
    xen, store = machine(), xenstore()
    for gone in (7, 9):
        store.write(f"/local/domain/0/xlplug/{gone}/populated", "0-fff")
    without = build(config('xlplug_preload=1\nioports=["2f8"]\n'), host("igd-laptop"), Who(Domid(7)))
    grants.grant(without, xen, store, quiet)
    assert not any(node.startswith("/local/domain/0/xlplug") for node in store.nodes)


def test_without_the_library_nothing_is_told(host: Host, config: Config) -> None:
    xen, store = machine(), xenstore()
    text = (TEXT + STUB).replace("xlplug_preload=1", "")
    grants.grant(build(config(text), host("igd-laptop"), Who(Domid(7), Domid(8))), xen, store, quiet)
    assert not any(node.startswith(("/local/domain/8/xlplug", "/local/domain/0")) for node in store.nodes)
    assert xen.ram(7) == machine().ram(7)


def test_a_detached_device_is_no_longer_told(plan: Plan) -> None:
    xen, store = machine(), xenstore()
    grants.grant(plan, xen, store, quiet)
    grants.revoke_detached(plan._replace(devices=()), xen, store, quiet)
    assert store.read(f"{TOLD}/iomem") is None
    assert store.read(f"{TOLD}/populated") == "3000-400f,4040-417f"
    assert Journal(store, 7, "").read().dm == 8


def ram(limit: int, raised: int) -> Step:
    return Step(POPULATE_PHYSMAP, TARGET, Domid(7), 0x200000, 2, "", None, before=Room(RAM - 0x20, limit, raised))


@pytest.mark.parametrize(("more", "calls"), [(-1, 2), (0, 1), (1, 1)])
def test_max_pages_is_raised_only_where_it_is_too_low(more: int, calls: int) -> None:
    xen = machine()
    limit = RAM + HEADROOM
    populate(ram(limit + more, limit), xen) if more >= 0 else populate(ram(limit, limit - more), xen)
    assert xen.calls == calls
    assert pages(xen)[1] == max(limit, limit - more)


def test_max_pages_is_lowered_only_where_it_was_raised() -> None:
    xen = machine()
    limit = RAM + HEADROOM
    for step, after in ((ram(limit, limit), limit), (ram(limit, limit + 5), limit)):
        populate(step, xen)
        calls = xen.calls
        release(step, xen)
        assert xen.calls == calls + 1 + (step.before is not None and step.before.raised > limit)
        assert pages(xen) == (RAM - 0x20, after)
    raised = ram(limit, limit + 5)
    populate(raised, xen)
    xen.set_max_mem(7, (limit + 9) * 4)  # somebody else
    release(raised, xen)
    assert pages(xen)[1] == limit + 9


def test_only_the_guest_has_ram_of_ours(host: Host, config: Config) -> None:
    xen, store = machine(), xenstore()
    plan = build(config(TEXT + STUB), host("igd-laptop"), Who(Domid(7), Domid(8)), STARTING)
    grants.grant(plan, xen, store, quiet)
    rows = [(row.domid, row.kind) for row in compare(7, xen.held(), store)]
    assert sorted(rows) == [(7, "iomem"), (7, "ioport"), (7, "physmap"), (8, "iomem"), (8, "ioport")]
    (populated,) = (row.ours for row in compare(7, xen.held(), store) if row.kind == "physmap")
    assert populated == RangeSet(step.range for step in plan.steps if step.op == POPULATE_PHYSMAP)
