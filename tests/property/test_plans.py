# SPDX-License-Identifier: LGPL-2.1-only
"""No plan ever covers what it must not: any host, any configuration, against the rules of the documents."""

from collections import Counter

from hypothesis import event, given, settings
from hypothesis import strategies as st

from tests.property import rules
from tests.property.rules import VGA_PAGES, VGA_PORTS, Held
from tests.property.worlds import World, worlds
from xlplug.config import from_xl, language
from xlplug.model.addr import Domid
from xlplug.model.occasion import AHEAD, BY_HAND, CREATING, STARTING, Occasion, Who
from xlplug.model.steps import Step
from xlplug.pci_assign import LibxlGrant
from xlplug.plan import Plan, build

WHO = {False: Who(Domid(7)), True: Who(Domid(7), Domid(8))}
OCCASIONS = (STARTING, STARTING, BY_HAND, CREATING, AHEAD)


def planned(world: World, occasion: Occasion = STARTING) -> Plan:
    config = from_xl.from_settings(language.parse(world.wish.text.encode()))
    return build(config, world.host, WHO[world.wish.stubdom], occasion)


def covered(steps: tuple[Step, ...], grantee: str, ops: tuple[str, ...]) -> frozenset[int]:
    return frozenset(n for s in steps if s.grantee == grantee and s.op in ops for n in range(s.first, s.first + s.nr))


def granted(plan: Plan, grantee: str) -> Held:
    return Held(
        covered(plan.steps, grantee, ("iomem_permission", "memory_mapping")),
        covered(plan.steps, grantee, ("ioport_permission", "ioport_mapping")),
    )


@given(worlds(), st.sampled_from(OCCASIONS))
def test_no_step_covers_what_it_must_not(world: World, occasion: Occasion) -> None:
    plan = planned(world, occasion)
    if plan.refusals:
        event("refused")
        return
    mine = {device.bdf for device in rules.assigned(world)}
    never = rules.forbidden(world.host, mine)
    event("granted" if plan.steps else "nothing to grant")
    for step in plan.steps:
        assert step.grantee in ("target", "stubdom")
        assert step.domid == (7 if step.grantee == "target" else 8)
        assert step.domid == 7 or world.wish.stubdom, "no stubdomain was asked for"
        assert step.nr > 0
        assert step.first >= 0
    for grantee in ("target", "stubdom"):
        has = granted(plan, grantee)
        assert not has.pages & never.pages, f"{grantee}: {sorted(map(hex, has.pages & never.pages))}"
        assert not has.ports & never.ports, f"{grantee}: {sorted(map(hex, has.ports & never.ports))}"


@given(worlds(), st.sampled_from(OCCASIONS))
def test_a_plan_grants_exactly_what_the_documents_say(world: World, occasion: Occasion) -> None:
    """Memory and VGA ports; of ``ioports=`` no more than was asked for."""
    plan = planned(world, occasion)
    if plan.refusals:
        return
    allowed = rules.allowed(world)
    for grantee in ("target", "stubdom"):
        has, may = granted(plan, grantee), allowed[grantee]
        assert has.pages == may.pages, grantee
        assert has.ports <= may.ports, grantee
        assert has.ports & VGA_PORTS >= may.ports & VGA_PORTS or not rules.vga_display(world), grantee
        event(f"{grantee}: {len(has.pages)} pages")


@given(worlds())
def test_mappings_are_one_to_one_and_of_what_is_permitted(world: World) -> None:
    plan = planned(world)
    if plan.refusals:
        return
    mapped = covered(plan.steps, "target", ("memory_mapping",))
    assert mapped in (frozenset(), VGA_PAGES)
    assert not mapped or world.wish.map_legacy
    ports = Counter(port for s in plan.steps if s.op == "ioport_mapping" for port in range(s.first, s.first + s.nr))
    assert all(number == 1 for number in ports.values()), "mapped twice"
    assert set(ports) <= covered(plan.steps, "target", ("ioport_permission",))
    assert mapped <= covered(plan.steps, "target", ("iomem_permission",))
    for step in plan.steps:
        if step.op in ("memory_mapping", "ioport_mapping"):
            assert step.first_guest == step.first
            assert step.grantee == "target"
        if step.op == "populate_physmap":
            assert world.wish.preload
            video = {"none": 0, "stdvga": 16, "cirrus": 8}[world.wish.vga]  # libxl builds the guest without it
            ram = range(0, (world.wish.memory - video) << 8)
            assert not set(range(step.first, step.first + step.nr)) & set(ram), "over the guest's own RAM"
            assert not any(
                step.first <= gfn < step.first + step.nr for mfn, nr in world.wish.iomem for gfn in range(mfn, mfn + nr)
            )


def held(grants: list[LibxlGrant]) -> Held:
    return Held(
        frozenset(n for g in grants if g.kind == "iomem" for n in range(*g.range)),
        frozenset(n for g in grants if g.kind == "ioport" for n in range(*g.range)),
    )


@given(worlds())
def test_what_libxl_grants_is_known(world: World) -> None:
    """By which the undo goes: `plan.by_libxl` against libxl's source, read again."""
    plan = planned(world)
    if plan.refusals:
        return
    theirs = rules.by_libxl(world.wish, rules.assigned(world))
    for grantee in ("target", "stubdom"):
        found = [grant for grant in plan.by_libxl if grant.grantee == grantee]
        assert held(found) == theirs[grantee]
        for device in rules.assigned(world):  # one by one, because another one's may hide what is wrong
            alone = rules.by_libxl(world.wish._replace(ioports=(), iomem=()), (device,))
            assert held([grant for grant in found if grant.device == device.bdf]) == alone[grantee]
        for step in plan.steps:
            if step.op in ("iomem_permission", "ioport_permission") and step.grantee == grantee:
                has = theirs[grantee].pages if step.op == "iomem_permission" else theirs[grantee].ports
                assert {n for r in step.kept for n in range(*r)} == has & set(range(step.first, step.first + step.nr))


def test_the_worlds_put_the_policy_to_the_test() -> None:
    """Of the worlds, many must lead to grants of each kind: otherwise the properties hold for want of steps."""
    seen: Counter[str] = Counter()

    @settings(max_examples=600, derandomize=True)
    @given(worlds())
    def look(world: World) -> None:
        plan = planned(world)
        seen["refused"] += bool(plan.refusals)
        if plan.refusals:
            return
        seen["VGA"] += granted(plan, "target").pages >= VGA_PAGES
        seen["OpRegion"] += any(page >= 0x1000 for page in granted(plan, "target").pages)
        seen["VBIOS"] += 0xC0 in granted(plan, "stubdom").pages
        seen["ports"] += bool(covered(plan.steps, "target", ("ioport_mapping",)))
        seen["RAM"] += any(step.op == "populate_physmap" for step in plan.steps)

    look()
    assert all(seen[name] > 2 for name in ("refused", "VGA", "OpRegion", "VBIOS", "ports", "RAM")), seen
