# SPDX-License-Identifier: LGPL-2.1-only
"""Who owns legacy VGA, by bridges, decoding and boot_vga; and who gets the VGA set then."""

from collections.abc import Callable

import pytest

from xlplug.config.domain import DomainConfig
from xlplug.model.addr import Domid
from xlplug.model.bdf import Bdf
from xlplug.model.host import HostSnapshot, PciDevice
from xlplug.model.occasion import Who
from xlplug.plan import Plan, build
from xlplug.vga_owner import driven_by_dom0, legacy_owner, shows_dom0

Host = Callable[[str], HostSnapshot]
Config = Callable[[str], DomainConfig]
BOTH = 'gfx_passthru="igd"\npci=["00:02.0","02:00.0"]\n'
CARD = 'gfx_passthru="igd"\npci=["02:00.0"]\n'
FIRST, SECOND = Bdf(0, 0, 2, 0), Bdf(0, 2, 0, 0)


def display(bdf: Bdf, command: int | None = 3, boot_vga: bool | None = None, **others: object) -> PciDevice:
    config = b"" if command is None else bytes(4) + command.to_bytes(2, "little") + bytes(250)
    made = PciDevice(bdf, 0x8086, 0x1234, 0x030000, config=config, boot_vga=boot_vga, driver="pciback")
    return made._replace(**others)  # type: ignore[arg-type]


def bridge(bdf: Bdf, secondary: int, *, vga: bool, length: int = 256) -> PciDevice:
    config = bytearray(256)
    config[0x19], config[0x3E] = secondary, 8 if vga else 0xF7
    return PciDevice(bdf, 0x8086, 0x1901, 0x060400, config=bytes(config[:length]))


PORT, SWITCH = Bdf(0, 0, 1, 0), Bdf(0, 1, 0, 0)


@pytest.mark.parametrize(
    ("devices", "owner", "possible"),
    [
        ((), None, ()),
        ((display(FIRST),), FIRST, (FIRST,)),
        ((display(FIRST, 1),), FIRST, (FIRST,)),
        ((display(FIRST, 2),), FIRST, (FIRST,)),
        # Nothing speaks for it.
        ((display(FIRST, 0),), None, (FIRST,)),
        ((display(FIRST, 4),), None, (FIRST,)),
        ((display(FIRST, None),), None, (FIRST,)),
        ((display(FIRST, 0xFFFF),), None, (FIRST,)),
        ((display(SECOND),), None, (SECOND,)),
        ((display(FIRST, None, boot_vga=True),), FIRST, (FIRST,)),
        ((display(SECOND, 0, boot_vga=True),), SECOND, (SECOND,)),
        # Of two, the one that decodes; both: the boot VGA; else nobody knows.
        ((display(FIRST), display(SECOND, 0)), FIRST, (FIRST,)),
        ((display(FIRST, 0), display(SECOND)), None, (SECOND,)),
        ((display(FIRST), display(SECOND)), None, (FIRST, SECOND)),
        ((display(FIRST), display(SECOND, boot_vga=True)), SECOND, (SECOND,)),
        ((display(FIRST, boot_vga=True), display(SECOND, boot_vga=True)), None, (FIRST, SECOND)),
        ((display(FIRST, 0, boot_vga=True, driver="i915"), display(SECOND)), FIRST, (FIRST,)),
        ((display(FIRST, 0, boot_vga=True), display(SECOND)), None, (SECOND,)),
        # Bridges come first: who is behind a closed one is out, who is behind an open one has it.
        ((display(FIRST), bridge(PORT, 2, vga=False), display(SECOND, boot_vga=True)), FIRST, (FIRST,)),
        ((display(FIRST, boot_vga=True), bridge(PORT, 2, vga=True), display(SECOND)), SECOND, (SECOND,)),
        ((display(FIRST, boot_vga=True), bridge(PORT, 2, vga=True), display(SECOND, 0)), FIRST, (FIRST,)),
        # But for dom0's own screen: an Intel display that decodes comes before every bridge.
        (
            (display(FIRST, boot_vga=True, driver="i915"), bridge(PORT, 2, vga=True), display(SECOND)),
            FIRST,
            (FIRST,),
        ),
        (
            (display(FIRST, boot_vga=True, driver="i915"), bridge(PORT, 2, vga=True), display(SECOND, boot_vga=True)),
            None,
            (FIRST, SECOND),
        ),
        # Which needs no driver: the text console and the firmware's frame buffer bind to no PCI function.
        (
            (display(FIRST, boot_vga=True, driver=None), bridge(PORT, 2, vga=True), display(SECOND)),
            FIRST,
            (FIRST,),
        ),
        (
            (display(FIRST, 0, boot_vga=True, driver=None), bridge(PORT, 2, vga=True), display(SECOND)),
            SECOND,
            (SECOND,),
        ),
        (
            (display(FIRST, boot_vga=True, driver=None, owner=3), bridge(PORT, 2, vga=True), display(SECOND)),
            SECOND,
            (SECOND,),
        ),
        ((display(FIRST, driver=None), bridge(PORT, 2, vga=True), display(SECOND)), SECOND, (SECOND,)),
        ((display(FIRST, driver="i915"), bridge(PORT, 2, vga=True), display(SECOND)), SECOND, (SECOND,)),
        (
            (display(FIRST, 0, boot_vga=True, driver="i915"), bridge(PORT, 2, vga=True), display(SECOND)),
            SECOND,
            (SECOND,),
        ),
        (
            (
                display(FIRST, boot_vga=True, driver="i915", class_code=0x038000),
                bridge(PORT, 2, vga=True),
                display(SECOND),
            ),
            SECOND,
            (SECOND,),
        ),
        ((bridge(PORT, 2, vga=False), display(SECOND, boot_vga=True)), None, ()),
        ((bridge(PORT, 1, vga=True), bridge(SWITCH, 2, vga=True), display(SECOND)), SECOND, (SECOND,)),
        ((bridge(PORT, 1, vga=True), bridge(SWITCH, 2, vga=False), display(SECOND)), None, ()),
        ((bridge(PORT, 1, vga=False), bridge(SWITCH, 2, vga=True), display(SECOND)), None, ()),
        # Another segment's bridge, one whose header was not read, one that leads to itself.
        ((bridge(Bdf(1, 0, 1, 0), 2, vga=False), display(SECOND, boot_vga=True)), SECOND, (SECOND,)),
        ((bridge(PORT, 2, vga=False, length=0x3F), display(SECOND, boot_vga=True)), SECOND, (SECOND,)),
        ((bridge(PORT, 2, vga=False, length=0x40), display(SECOND, boot_vga=True)), None, ()),
        ((bridge(Bdf(0, 2, 5, 0), 2, vga=True), display(SECOND)), SECOND, (SECOND,)),
        # Not displays at all.
        ((display(FIRST, physfn=PORT),), None, ()),
        ((display(FIRST, class_code=0x030200),), None, ()),
        ((display(FIRST, class_code=0x038000),), FIRST, (FIRST,)),
        ((display(FIRST, class_code=0x038000, vendor=0x1002),), None, ()),
    ],
)
def test_the_owner(devices: tuple[PciDevice, ...], owner: Bdf | None, possible: tuple[Bdf, ...]) -> None:
    found = legacy_owner(devices)
    assert (None if found.owner is None else found.owner.bdf) == owner
    assert tuple(device.bdf for device in found.possible) == possible
    assert legacy_owner(devices[::-1]).owner == found.owner


def test_eight_displays_and_the_order_does_not_matter() -> None:
    many = [display(Bdf(0, bus, 0, 0), boot_vga=bus == 5) for bus in range(1, 9)]
    found = legacy_owner(many)
    assert found.owner is not None
    assert found.owner.bdf.bus == 5
    assert legacy_owner(reversed(many)).owner == found.owner


def test_who_drives_a_display() -> None:
    assert driven_by_dom0(display(FIRST, driver="i915"))
    assert not driven_by_dom0(display(FIRST, driver="pciback"))
    assert not driven_by_dom0(display(FIRST, driver=None))
    assert not driven_by_dom0(display(FIRST, driver="i915", owner=3))


@pytest.mark.parametrize(
    ("device", "shows"),
    [
        (display(FIRST, driver="i915"), True),
        (display(FIRST, driver=None), False),
        (display(FIRST, driver=None, boot_vga=True), True),
        (display(FIRST, None, driver=None, boot_vga=True), True),
        (display(FIRST, 0, driver=None, boot_vga=True), False),
        (display(FIRST, driver=None, boot_vga=True, owner=3), False),
        (display(FIRST, driver="pciback", boot_vga=True), False),
    ],
)
def test_whose_screen_is_dom0_s(device: PciDevice, shows: bool) -> None:
    assert shows_dom0(device) is shows


def vga(plan: Plan) -> set[Bdf | None]:
    """For whom the VGA set is granted."""
    return {step.device for step in plan.steps if "VGA" in step.reason}


def without(host: HostSnapshot, driver: str | None) -> HostSnapshot:
    """The host, its integrated display with another driver."""
    return host._replace(devices=tuple(d._replace(driver=driver) if d.bdf == FIRST else d for d in host.devices))


@pytest.mark.parametrize("stub", ["", "device_model_stubdomain_override=1\n"])
def test_dom0_s_live_display_is_never_handed_out(host: Host, config: Config, stub: str) -> None:
    plan = build(config(CARD + stub), host("second-card"))
    assert plan.steps == ()
    assert plan.legacy_owner is None
    assert "legacy VGA cycles reach 0000:00:02.0, which dom0 drives (i915)" in str(plan.refusals[0])
    assert "remove gfx_passthru" in plan.refusals[0].advice
    alone = build(config('pci=["02:00.0","02:00.1"]\n' + stub), host("second-card"))
    assert (alone.refusals, alone.warnings, alone.steps) == ((), (), ()), "and then all is well"
    assert "0000:02:00.0: gfx_passthru is off" in str(alone.notes[0])


@pytest.mark.parametrize("stub", ["", "device_model_stubdomain_override=1\n"])
def test_a_console_without_a_driver_is_dom0_s_live_display_too(host: Host, config: Config, stub: str) -> None:
    """As with nomodeset, or a card that dom0's kernel is too old for: vgacon, efifb or simpledrm has it."""
    plan = build(config(CARD + stub), without(host("second-card"), None))
    assert plan.steps == ()
    assert "reach 0000:00:02.0, where dom0 has its console (boot_vga, no driver): its VGA set is" in str(
        plan.refusals[0]
    )
    assert "remove gfx_passthru" in plan.refusals[0].advice


def test_another_guest_s_live_display_is_never_handed_out(host: Host, config: Config) -> None:
    """libxl grants a0-bf for every display with gfx_passthru, and QEMU maps it, to whichever screen it leads."""
    held = without(host("second-card"), "pciback")
    held = held._replace(devices=tuple(d._replace(owner=Domid(5)) if d.bdf == FIRST else d for d in held.devices))
    plan = build(config(CARD), held, Who(Domid(7)))
    assert plan.steps == ()
    assert "which domain 5 has: its VGA set is that domain's screen" in str(plan.refusals[0])
    assert not build(config(CARD), held, Who(Domid(5))).refusals, "its own, which was plugged in later"
    assert build(config('pci=["02:00.0","02:00.1"]\n'), held, Who(Domid(7))).refusals == ()


def test_an_owner_that_nobody_uses_is_only_a_warning(host: Host, config: Config) -> None:
    plan = build(config(CARD), without(host("second-card"), "pciback"))
    assert not plan.refusals
    assert vga(plan) == set()
    assert any("0000:02:00.0: no VGA set: legacy VGA cycles reach 0000:00:02.0" in w.what for w in plan.warnings)


@pytest.mark.parametrize("driver", ["pciback", "i915", None])
def test_gfx_passthru_is_not_to_be_removed_and_written_otherwise_at_once(
    host: Host, config: Config, driver: str | None
) -> None:
    plan = build(config('gfx_passthru=1\npci=["02:00.0"]\n'), without(host("second-card"), driver))
    advice = [problem.advice for problem in (*plan.refusals, *plan.warnings) if "gfx_passthru" in problem.advice]
    assert advice == ["remove gfx_passthru: a second card needs none"]


def test_the_card_that_the_bridges_lead_to_gets_it(host: Host, config: Config) -> None:
    plan = build(config(CARD), host("second-card-first"))
    assert not plan.refusals
    assert plan.legacy_owner == SECOND
    assert vga(plan) == {SECOND}


def test_two_displays_the_owner_gets_it_and_the_other_is_noted(host: Host, config: Config) -> None:
    plan = build(config(BOTH), without(host("second-card"), "pciback"))
    assert not plan.refusals
    assert vga(plan) == {FIRST}
    assert any("0000:02:00.0: secondary" in note.what for note in plan.notes)
    assert any("OpRegion" in step.reason for step in plan.steps)


@pytest.mark.parametrize("driver", ["pciback", "i915"])
def test_an_igd_that_is_not_the_owner_gets_its_opregion_and_a_warning(host: Host, config: Config, driver: str) -> None:
    both = without(host("second-card-first"), "pciback")
    plan = build(config(BOTH), both)
    assert not plan.refusals
    assert vga(plan) == {SECOND}
    assert [s.device for s in plan.steps if "OpRegion" in s.reason] == [FIRST]
    assert any("0000:00:02.0: no VGA set" in w.what and "up to Xen 4.22" in w.what for w in plan.warnings)
    driven = both._replace(devices=tuple(d._replace(driver="nouveau") if d.bdf == SECOND else d for d in both.devices))
    alone = build(config('gfx_passthru="igd"\npci=["00:02.0"]\n'), driven)
    assert not alone.refusals, "QEMU refuses this display without gfx_passthru"
    assert vga(alone) == set()
    assert any("(dom0's, nouveau)" in w.what for w in alone.warnings)


def test_an_owner_that_is_not_known(host: Host, config: Config) -> None:
    laptop = host("igd-laptop")
    blind = laptop._replace(devices=tuple(d._replace(boot_vga=None, config=b"") for d in laptop.devices))
    plan = build(config('gfx_passthru="igd"\npci=["00:02.0"]\n'), blind)
    assert vga(plan) == {FIRST}, "it is the only one"
    assert any("it is not known whether legacy VGA cycles reach 0000:00:02.0" in w.what for w in plan.warnings)
    two = host("hybrid-nvidia")
    two = two._replace(devices=tuple(d._replace(boot_vga=None) for d in two.devices))
    card = build(config('gfx_passthru="igd"\npci=["01:00.0"]\n'), two)
    assert vga(card) == set(), "the other one may be it"
    assert any("0000:00:02.0 or 0000:01:00.0: no VGA set" in w.what for w in card.warnings)
    both = build(config('gfx_passthru="igd"\npci=["00:02.0","01:00.0"]\n'), two)
    assert vga(both) == {FIRST}
    assert not both.refusals


def test_an_owner_that_is_not_known_and_may_be_somebody_s_screen(host: Host, config: Config) -> None:
    two = host("hybrid-nvidia")
    two = two._replace(devices=tuple(d._replace(boot_vga=None) for d in two.devices))
    for change, who in (
        ({"driver": "i915"}, "0000:00:02.0 is one which dom0 drives (i915): its VGA set is dom0's screen"),
        ({"owner": Domid(5)}, "0000:00:02.0 is one which domain 5 has: its VGA set is that domain's screen"),
    ):
        shown = two._replace(devices=tuple(d._replace(**change) if d.bdf == FIRST else d for d in two.devices))
        plan = build(config('gfx_passthru="igd"\npci=["01:00.0"]\n'), shown, Who(Domid(7)))
        assert plan.steps == ()
        assert who in str(plan.refusals[0])
    other = two._replace(devices=tuple(d._replace(driver="nouveau") if d.bdf != FIRST else d for d in two.devices))
    plan = build(config('gfx_passthru="igd"\npci=["00:02.0"]\n'), other)
    assert not plan.refusals, "QEMU refuses this display without gfx_passthru"
    assert vga(plan) == set()


def test_cycles_that_reach_nobody(host: Host, config: Config) -> None:
    card = host("second-card")
    only = card._replace(devices=tuple(d for d in card.devices if d.bdf != FIRST))
    plan = build(config(CARD), only)
    assert plan.steps == ()
    assert any("reach no display" in w.what for w in plan.warnings)
