# SPDX-License-Identifier: LGPL-2.1-only
"""What is applied: any sequence of grants, revokes, hot-plug, faults and kills, on a Xen in memory that libxl was at first.

Never, not even for a moment that a kill makes last, does a domain hold what neither libxl nor the rules give it; nobody but
the guest and its own stubdomain gets or loses anything; and whoever ends in order leaves libxl its own.
"""

import copy
import errno
from typing import NamedTuple

from hypothesis import assume, event, given, settings
from hypothesis import strategies as st

from tests.fault.inject import Fault, FaultyLog, FaultyStore, FaultyXen, Injector, Killed
from tests.property import rules
from tests.property.rules import VGA_PAGES, VGA_PORTS, Held
from tests.property.test_plans import WHO
from tests.property.worlds import VERSIONS, World, worlds
from tests.unit.fakes import xenstore
from xlplug.config import from_xl, language
from xlplug.execute import grants
from xlplug.execute.journal import Journal
from xlplug.model.errors import RollbackError, XlplugError
from xlplug.model.hypervisor import DomainInfo, HeldRights
from xlplug.model.occasion import STARTING
from xlplug.model.rangeset import RangeSet
from xlplug.plan import Plan, build
from xlplug.xen.in_memory import MemXen

TARGET, STUBDOM, STRANGER = 7, 8, 9
KINDS = {TARGET: "target", STUBDOM: "stubdom"}
#: What another guest was given by its own libxl: it overlaps with what we may grant, and is never ours to take.
STRANGERS = HeldRights(RangeSet([(0x2F8, 0x300), (0x3C0, 0x3E0)]), RangeSet([(0xA0, 0xC0), (0x7A000, 0x7A010)]))


class Op(NamedTuple):
    """One run of ours, and what befalls it: a fault of ``kind`` at one of its calls, store accesses and lines, by number.

    ``unplug`` is ``xl pci-detach`` and what the watcher does then; with ``vanish`` the device also leaves the host, and nobody
    notices until a ``tidy``.
    """

    name: str
    kind: str = "none"
    at: int = 0
    after: bool = False


ops = st.builds(
    Op,
    st.sampled_from(("grant", "grant", "map-legacy", "revoke", "unplug", "vanish", "tidy", "device model maps")),
    st.sampled_from(("none", "none", "none", "errno", "kill", "store", "signal")),
    st.integers(0, 60),
    st.booleans(),
)


class Dom0:
    """A Xen and a xenstore with a guest, its stubdomain and another guest, as libxl leaves them."""

    def __init__(self, world: World, version: tuple[int, int]) -> None:
        self.host = world.host
        self.wish = world.wish
        self.devices = rules.assigned(world)
        self.may = {kind: Held() for kind in KINDS.values()}
        self.xen = MemXen(version)
        self.store = xenstore(TARGET, STUBDOM)
        ram = world.wish.memory << 8
        theirs = self.libxl
        for domid, kind in KINDS.items():
            rights = HeldRights(ports=_ranges(theirs[kind].ports), memory=_ranges(theirs[kind].pages))
            info = DomainInfo(domid, hvm=domid == TARGET, nr_pages=ram - 0x2000, max_pages=ram + 256, uuid=f"u{domid}")
            self.xen.add_domain(info, rights)
        self.xen.add_domain(DomainInfo(STRANGER, nr_pages=1 << 14, max_pages=1 << 15, uuid="u9"), STRANGERS)
        self.others = {domid: self.xen.held()[domid] for domid in (0, STRANGER)}

    @property
    def libxl(self) -> dict[str, Held]:
        """What libxl holds for the domains with the devices that they have now."""
        return rules.by_libxl(self.wish, self.devices)

    def plan(self) -> Plan:
        config = from_xl.from_settings(language.parse(self.wish.text.encode()))
        plan = build(config, self.host, WHO[self.wish.stubdom], STARTING)
        if plan.refusals:
            return plan
        for kind, held in rules.allowed(World(self.host, self.wish)).items():
            self.may[kind] |= held
        return plan

    def held(self, domid: int) -> Held:
        rights = self.xen.held()[domid]
        return Held(
            frozenset(n for r in rights.memory for n in range(*r)),
            frozenset(n for r in rights.ports for n in range(*r)),
        )

    def run(self, op: Op) -> str:
        """Do it; "done", "failed" (all is undone), "not undone" or "killed"."""
        fault = Fault()
        if op.kind != "none":
            dry = Injector()
            copy.deepcopy(self)._run(op, dry)
            points = [
                p.number
                for p in dry.points
                if op.kind in ("kill", "signal") or (p.side == "store") == (op.kind == "store")
            ]
            if op.kind == "errno":
                points = [number for number in points if dry.points[number].errnos]
            if points:
                # Xen's calls that fail have no effect, so for an errno there is no "after".
                at = points[op.at % len(points)]
                fault = Fault(op.kind, at, op.after and op.kind != "errno", code=errno.ENOMEM)
        return self._run(op, Injector(fault))

    def _run(self, op: Op, injector: Injector) -> str:
        xen, store, log = FaultyXen(self.xen, injector), FaultyStore(self.store, injector), FaultyLog(injector)
        name = op.name
        if name in ("unplug", "vanish"):
            self.unplug(op.at, vanish=name == "vanish")
        self.wish = self.wish._replace(map_legacy=self.wish.map_legacy or name == "map-legacy")
        plan = self.plan()
        try:
            if name == "revoke":
                grants.revoke(TARGET, xen, store, log)  # type: ignore[arg-type] # a hypervisor without a q dump
            elif name == "device model maps":
                self.device_model_maps()
            elif name in ("unplug", "tidy"):  # also where the rest could not be granted: the display is gone
                grants.revoke_detached(plan, xen, store, log)  # type: ignore[arg-type] # the same
            elif name != "vanish" and not plan.refusals:
                grants.grant(plan, xen, store, log)  # type: ignore[arg-type] # the same
        except Killed:
            return "killed"
        except RollbackError:
            return "not undone"
        except (XlplugError, KeyboardInterrupt):
            return "failed"
        return "done"

    def unplug(self, number: int, *, vanish: bool) -> None:
        """``xl pci-detach`` of a device: the device model unmaps, libxl revokes what it granted for it."""
        if not self.devices:
            return
        before = self.libxl
        gone = self.devices[number % len(self.devices)]
        self.devices = tuple(device for device in self.devices if device is not gone)
        if vanish:
            self.host = self.host._replace(devices=tuple(d for d in self.host.devices if d.bdf != gone.bdf))
        self.wish = self.wish._replace(pci=tuple((device.bdf, False) for device in self.devices))
        for domid, kind in KINDS.items():
            lost = before[kind] - self.libxl[kind]
            if gone.class_code == 0x030000:  # the frame buffer's right is not one that a detach takes
                lost = lost._replace(pages=lost.pages - VGA_PAGES)
            for r in _ranges(lost.pages):
                self.xen.iomem_permission(domid, r.start, r.nr, allow=False)
            for r in _ranges(lost.ports):
                self.xen.ioport_permission(domid, r.start, r.nr, allow=False)

    def device_model_maps(self) -> None:
        """QEMU maps the VGA set where it may."""
        if self.held(TARGET).pages >= VGA_PAGES and self.held(TARGET).ports >= VGA_PORTS:
            self.xen.memory_mapping(TARGET, 0xA0, 0xA0, 0x20, add=True)
            for port, nr in ((0x3B0, 0xC), (0x3C0, 0x20)):
                self.xen.ioport_mapping(TARGET, port, port, nr, add=True)

    def check_always(self) -> None:
        """What holds at any moment."""
        for domid, before in self.others.items():
            assert self.xen.held()[domid] == before, f"domain {domid} is not ours"
        theirs = self.first_libxl
        for domid, kind in KINDS.items():
            more = self.held(domid) - theirs[kind] - self.may[kind]
            assert not more, f"{kind} holds {more}"
        gfns, ports = self.xen.mapped(TARGET)
        assert all(gfn == mfn for gfn, mfn in gfns.items())
        rights = self.may["target"] | theirs["target"]
        assert set(gfns.values()) <= rights.pages & VGA_PAGES
        for gport, port, count in ports:
            assert gport == port
            assert set(range(port, port + count)) <= rights.ports
        assert not self.xen.crashed(TARGET)

    def all_held(self) -> tuple[Held, Held, tuple[tuple[int, int, int], ...]]:
        """Rights of guest and stubdomain, but for the a0-bf that a detached display may leave, and mappings of ports."""
        left = Held(VGA_PAGES) if self.unplugged else Held()
        return self.held(TARGET) - left, self.held(STUBDOM) - left, self.xen.mapped(TARGET)[1]

    def check_libxl(self) -> None:
        """What holds after a run that ended in order."""
        for domid, kind in KINDS.items():
            lost = self.libxl[kind] - self.held(domid)
            if self.unplugged:  # a0-bf that a detached display of class 030000 leaves, or not
                lost = lost._replace(pages=lost.pages - VGA_PAGES)
            assert not lost, f"{kind} has lost {lost} of libxl's"

    first_libxl: dict[str, Held] = {}
    unplugged = False


def _ranges(numbers: frozenset[int]) -> RangeSet:
    return RangeSet((n, n + 1) for n in numbers)


def begin(world: World, version: tuple[int, int]) -> Dom0:
    """A domain that libxl has created: dom0 must hold what libxl gave."""
    dom0 = Dom0(world, version)
    dom0.first_libxl = dom0.libxl
    has = dom0.xen.held()[0]
    for held in dom0.libxl.values():
        assume(not _ranges(held.pages) - has.memory)
        assume(not _ranges(held.ports) - has.ports)
    return dom0


def relevant(world: World) -> bool:
    """Whether any grant comes of it: what else there may be, test_plans.py looks at."""
    return any(rules.allowed(world).values())


@given(worlds().filter(relevant), st.sampled_from(VERSIONS), st.lists(ops, min_size=1, max_size=5))
def test_no_sequence_of_runs_gives_or_takes_a_right_too_many(
    world: World, version: tuple[int, int], todo: list[Op]
) -> None:
    dom0 = begin(world, version)
    for op in todo:
        was, mapped = dom0.all_held(), dom0.xen.mapped(TARGET)[0]
        killed = Journal(dom0.store, TARGET, "u7").read().pending  # a run before, which this one undoes first
        ended = dom0.run(op)
        dom0.unplugged |= op.name in ("unplug", "vanish")
        event(f"{op.name}: {ended}")
        dom0.check_always()
        if ended in ("done", "failed"):
            dom0.check_libxl()
        if (
            ended == "failed"
            and op.name in ("grant", "map-legacy")
            and not killed
            and not Journal(dom0.store, TARGET, "u7").read().pending
        ):
            assert dom0.all_held() == was, (
                "a grant that failed has left something, or taken what a grant before it gave"
            )
            # Memory that the device model had mapped may be unmapped: Xen does not say that it was mapped before.
            assert dom0.xen.mapped(TARGET)[0] in (mapped, {}), "a grant that failed has left a mapping"
    last = dom0.run(Op("revoke"))
    assert last == "done"
    dom0.check_always()
    dom0.check_libxl()
    for domid, kind in KINDS.items():
        more = dom0.held(domid) - dom0.first_libxl[kind]
        assert not more, f"{kind} keeps {more} after a revoke"
    gfns, ports = dom0.xen.mapped(TARGET)
    libxl = dom0.first_libxl["target"]  # by its rights alone a device model may map, and nothing was granted then
    if not (libxl.pages >= VGA_PAGES and libxl.ports >= VGA_PORTS):
        assert not gfns, "mapped after a revoke"
        assert not {port for _, port, _ in ports} & VGA_PORTS
    assert not Journal(dom0.store, TARGET, "u7").read().every or dom0.wish.preload


@given(worlds().filter(relevant), st.sampled_from(VERSIONS), st.integers(0, 3), st.booleans())
def test_unplugging_takes_no_other_devices_grants(
    world: World, version: tuple[int, int], number: int, vanish: bool
) -> None:
    """What the devices that stay were granted stays, also where something else overlaps with it."""
    dom0 = begin(world, version)
    assume(len(dom0.devices) > 1)
    had = dom0.devices
    dom0.run(Op("grant"))
    dom0.unplugged = True
    if vanish:  # then somebody else may have the VGA ranges, and is granted what the device that is gone still has
        dom0.run(Op("vanish", at=number))
        dom0.run(Op("grant"))
    before = {domid: dom0.held(domid) for domid in KINDS}
    assume(dom0.run(Op("tidy") if vanish else Op("unplug", at=number)) == "done")
    may = rules.allowed(World(dom0.host, dom0.wish))
    gone = tuple(device for device in had if device not in dom0.devices)
    revoked = rules.by_libxl(world.wish._replace(ioports=(), iomem=(), gfx=""), gone)  # their BARs, by libxl itself
    for domid, kind in KINDS.items():
        lost = before[domid] - dom0.held(domid) - revoked[kind]
        lost = Held(lost.pages & may[kind].pages, lost.ports & may[kind].ports)
        assert not lost, f"{kind} has lost {lost}, which its other devices need"
    dom0.check_always()


def test_the_sequences_reach_xen_and_fail() -> None:
    """Otherwise they prove nothing."""
    seen: dict[str, int] = {}
    faults = st.builds(Op, st.just("grant"), st.sampled_from(("none", "errno", "kill")), st.integers(0, 60))

    @settings(max_examples=100, derandomize=True)
    @given(worlds().filter(relevant), st.sampled_from(VERSIONS), faults)
    def look(world: World, version: tuple[int, int], op: Op) -> None:
        dom0 = begin(world, version)
        before = dom0.held(TARGET)
        ended = dom0.run(op)
        seen[ended] = seen.get(ended, 0) + 1
        seen["changed"] = seen.get("changed", 0) + (dom0.held(TARGET) != before)

    look()
    assert all(seen.get(name, 0) > 2 for name in ("done", "failed", "killed", "changed")), seen
