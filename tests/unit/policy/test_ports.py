# SPDX-License-Identifier: LGPL-2.1-only
"""I/O ports: which are mapped, which are not, and what is said of each kind."""

from collections.abc import Callable

import pytest

from xlplug.config.domain import DomainConfig
from xlplug.model.bdf import Bdf
from xlplug.model.host import HostSnapshot, PciDevice, Resource, XenInfo
from xlplug.model.rangeset import RangeSet
from xlplug.model.steps import IOPORT_MAPPING
from xlplug.plan import Plan, build
from xlplug.xen.in_memory import dom0_rights

Host = Callable[[str], HostSnapshot]
Config = Callable[[str], DomainConfig]
IGD = 'gfx_passthru="igd"\npci=["00:02.0"]\n'
PLAIN = HostSnapshot("h", xen=XenInfo((4, 17), "4.17"))
NEW = PLAIN._replace(xen=XenInfo((4, 23), "4.23"))
ASKED = PLAIN._replace(kept_ports=RangeSet([(0x20, 0x22), (0x3F8, 0x400), (0x608, 0x60C), (0xCF9, 0xCFA)]))


def mapped(plan: Plan) -> list[str]:
    return [str(step.range) for step in plan.steps if step.op == IOPORT_MAPPING]


def said(plan: Plan) -> str:
    return "\n".join(map(str, plan.warnings))


def refused(plan: Plan) -> str:
    return "\n".join(map(str, plan.refusals))


@pytest.mark.parametrize(
    ("ports", "names"),
    [
        ("20", "20 (the interrupt controller)"),
        ("21", "21 (the interrupt controller)"),
        ("1f-22", "20-21 (the interrupt controller)"),
        ("43", "43 (the interval timer)"),
        ("61", "61 (timer channel 2 and the speaker)"),
        ("a1-a2", "a1 (the second interrupt controller)"),
        ("cf0-cff", "cfc-cff (PCI configuration)"),
        ("0-ffff", "a0-a1 (the second interrupt controller), cfc-cff (PCI configuration)"),
    ],
)
@pytest.mark.parametrize("kind", ["hvm", "pv"])
def test_what_xen_keeps_from_dom0_is_refused_by_name(config: Config, ports: str, names: str, kind: str) -> None:
    plan = build(config(f'type="{kind}"\nioports=["{ports}"]\n'), PLAIN)
    assert names in refused(plan)
    assert "EPERM" in refused(plan)
    assert len([problem for problem in plan.refusals if "even from dom0" in problem.what]) == 1


@pytest.mark.parametrize(
    ("ports", "names"),
    [
        ("92", "92 (system control port A, and its fast reset)"),
        ("b2", "b2 (the SMI command port)"),
        ("b3-b7", "b3 (the SMI command port)"),
        ("cf8", "cf8 (PCI configuration, and the reset at cf9)"),
        ("cf9", "cf9 (PCI configuration, and the reset at cf9)"),
        ("cf0-cfb", "cf8-cfb (PCI configuration, and the reset at cf9)"),
        ("a2-cf7", "b2-b3 (the SMI command port)"),
    ],
)
@pytest.mark.parametrize("kind", ["hvm", "pv", "pvh"])
def test_ports_of_the_whole_machine_are_refused_by_name(config: Config, ports: str, names: str, kind: str) -> None:
    plan = build(config(f'type="{kind}"\nioports=["{ports}"]\n'), PLAIN)
    assert refused(plan) == (
        f"ioports: a guest that writes to {names} can reset the host or run code of its firmware; "
        "remove these ports from ioports= [XLP347]"
    )


@pytest.mark.parametrize(
    "ports", ["1f", "22-3f", "44-60", "62-91", "93-9f", "a2-b1", "b4-cf7", "d00-ffff", "f0", "4d0-4d1"]
)
def test_what_dom0_has_is_not_refused(config: Config, ports: str) -> None:
    assert not build(config(f'ioports=["{ports}"]\n'), PLAIN).refusals


@pytest.mark.parametrize(
    ("ports", "names"),
    [
        ("3f8-3ff", "3f8-3ff (Xen's own serial console, COM 1)"),
        ("3ff-400", "3ff (Xen's own serial console, COM 1)"),
        ("608-60b", "608-60b (Xen uses them itself: ACPI's power management timer, or its console)"),
        ("20-3f", "20-21 (the interrupt controller)"),
        ("cf9", "cf9 (reset control)"),
        ("3fb-60f", "3fb-3ff (Xen's own serial console, COM 1), 608-60b (Xen uses them itself"),
        ("61", ""),
        ("2f8-2ff", ""),
    ],
)
def test_what_xen_itself_says_comes_before_any_list(config: Config, ports: str, names: str) -> None:
    found = refused(build(config(f'type="pv"\nioports=["{ports}"]\n'), ASKED))
    assert names in found
    assert bool(found) == bool(names)


@pytest.mark.parametrize("ports", ["92", "f0", "4d0", "4d1", "cf9"])
def test_4_19_keeps_more(config: Config, ports: str) -> None:
    """Source: xen/arch/x86/dom0_build.c of each branch; the lab's 4.20 shows it."""
    for version, kept in (((4, 18), False), ((4, 19), True), ((4, 20), True), ((4, 23), True)):
        host = PLAIN._replace(xen=XenInfo(version, ""))
        assert ("even from dom0" in refused(build(config(f'ioports=["{ports}"]\n'), host))) is kept
    for version in ((4, 20), (4, 23)):
        assert not dom0_rights(version).ports.overlaps(int(ports, 16), int(ports, 16) + 1)
    assert "even from dom0" not in refused(build(config(f'ioports=["{ports}"]\n'), PLAIN._replace(xen=None)))


@pytest.mark.parametrize(
    ("text", "ports", "name"),
    [
        ("", "60", "the keyboard controller"),
        ("", "70-71", "the clock (RTC)"),
        ("", "1f7", "the first IDE channel"),
        ("", "cf8-cfb", "PCI configuration"),
        ('serial="pty"\n', "3f8-3ff", "COM 1 (serial=)"),
        ('serial=["none","pty"]\n', "2f8", "COM 2 (serial=)"),
        ('serial=["pty","pty","pty","pty"]\n', "2ef", "COM 4 (serial=)"),
        ('vga="cirrus"\n', "3bb", "the cirrus card (vga=)"),
        ('vga="stdvga"\n', "3c0", "the stdvga card (vga=)"),
        ('vga="stdvga"\n', "1ce", "the stdvga card (vga=)"),
        ('vga="qxl"\n', "1d0", "the qxl card (vga=)"),
        ('soundhw="sb16"\n', "22f", "the sb16 card (soundhw=)"),
        ('soundhw="all"\n', "22f", "the sb16 card (soundhw=)"),
        ('soundhw="hda,adlib"\n', "388", "the adlib card (soundhw=)"),
        ("", "b3", "power management (APM)"),
        ("", "e9", "Xen's debug console"),
        ("", "f0", "the FPU's error port"),
        ("", "af1f", "CPU hotplug"),
        ("", "b13f", "the SMBus controller"),
        ("", "c10f", "PCI devices of QEMU's"),
        ("usb=1\n", "c12f", "PCI devices of QEMU's"),
        ('usbdevice="tablet"\n', "c110", "PCI devices of QEMU's"),
        ("vif=['']\n", "c20f", "PCI devices of QEMU's"),
        ('soundhw="ac97"\n', "c60f", "PCI devices of QEMU's"),
    ],
)
def test_what_is_emulated_for_this_very_config_is_warned_of(config: Config, text: str, ports: str, name: str) -> None:
    plan = build(config(f'{text}ioports=["{ports}"]\n'), PLAIN)
    assert mapped(plan) == [ports]
    assert len(plan.warnings) == 1, said(plan)
    assert f"not {name}" in said(plan)


@pytest.mark.parametrize(
    ("text", "ports"),
    [
        ("", "3f8-3ff"),
        ('serial="none"\n', "3f8-3ff"),
        ('serial="pty"\n', "2f8-2ff"),
        ('serial="pty"\n', "400"),
        ('parallel="pty"\n', "378-37f"),  # xl has no such setting
        ('vga="cirrus"\n', "3bc-3bf"),  # a printer port, whatever the card
        ("", "3b0-3bb"),
        ("", "3c0-3df"),
        ('vga="cirrus"\n', "1ce-1d0"),
        ("", "220-22f"),
        ('soundhw="hda"\n', "388"),
        ("", "c110"),
        ("vif=['type=vif']\n", "c110"),
        ("", "5f"),
        ("", "300-31f"),
    ],
)
def test_what_is_not_emulated_is_mapped_without_a_word(config: Config, text: str, ports: str) -> None:
    plan = build(config(f'{text}ioports=["{ports}"]\n'), PLAIN)
    assert mapped(plan) == [ports]
    assert (plan.warnings, plan.refusals) == ((), ())


def test_one_warning_for_each_device(config: Config) -> None:
    plan = build(config('serial=["pty","pty"]\nioports=["3f8-3ff","2f8-2ff","3fa"]\n'), PLAIN)
    assert [w.what.partition(":")[0] for w in plan.warnings] == ["ioports 3f8-3ff", "ioports 2f8-2ff"]
    assert all("remove serial=" in w.advice for w in plan.warnings)


def card(*ports: tuple[int, int]) -> PciDevice:
    lines = tuple(Resource(line, start, stop, 0x40101) for line, (start, stop) in enumerate(ports))
    return PciDevice(Bdf(0, 5, 0, 0), 0x9710, 0x9912, 0x070002, lines, driver="pciback")


CARD = 'pci=["05:00.0"]\n'


@pytest.mark.parametrize(
    ("ports", "left"),
    [
        ("e020-e027", []),  # the BAR itself
        ("e018-e01f", []),  # touches it from below
        ("e028-e02f", []),  # and from above
        ("e010-e017", ["e010-e017"]),
        ("e029-e030", ["e029-e030"]),
        ("e01f-e028", []),
        ("e000-e01e", ["e000-e01e"]),
        ("e000-e01f", []),
        ("300-307", ["300-307"]),
    ],
)
def test_ports_beside_an_assigned_bar_on_4_23(config: Config, ports: str, left: list[str]) -> None:
    host = NEW._replace(devices=(card((0xE020, 0xE028)),))
    plan = build(config(f'{CARD}ioports=["{ports}"]\n'), host)
    assert mapped(plan) == left
    assert ("not mapped" in said(plan)) == (left == [])
    assert mapped(build(config(f'{CARD}ioports=["{ports}"]\n'), host._replace(xen=None))) == left


def test_before_4_23_only_an_overlap_is_left_out(config: Config) -> None:
    host = PLAIN._replace(devices=(card((0xE020, 0xE028)),))
    assert mapped(build(config(f'{CARD}ioports=["e018-e02f"]\n'), host)) == ["e018-e01f", "e028-e02f"]
    assert mapped(build(config(f'{CARD}ioports=["e028"]\n'), host)) == ["e028"]


def test_the_bar_of_a_card_that_is_not_assigned_is_not_given_away(config: Config) -> None:
    host = PLAIN._replace(devices=(card((0xE020, 0xE028)),))
    plan = build(config('ioports=["e018-e023","300"]\n'), host)
    assert mapped(plan) == ["300", "e018-e01f"]
    assert "ioports e020-e023 not mapped: they are an I/O BAR of 0000:05:00.0, which is not assigned" in said(plan)


def test_a_bar_without_an_address_is_not_at_port_0(config: Config) -> None:
    unset = card((0, 0x80))
    plan = build(config(f'{CARD}ioports=["80"]\n'), NEW._replace(devices=(unset,)))
    assert mapped(plan) == ["80"]


def test_ports_that_repeat_or_touch_vga_are_left_to_the_device_model(host: Host, config: Config) -> None:
    laptop = host("igd-laptop")
    for xen in (NEW.xen, None):
        plan = build(config(IGD + 'ioports=["3b0-3df"]\n'), laptop._replace(xen=xen))
        assert mapped(plan) == []
        assert "touch the VGA ports" in said(plan)
        assert "repeats VGA ports" in said(plan)
    apart = build(config(IGD + 'ioports=["3bd-3be","3e1","3af"]\n'), laptop._replace(xen=NEW.xen))
    assert mapped(apart) == ["3bd-3be", "3e1"]
    before = build(config(IGD + 'ioports=["3b0-3df"]\n'), laptop)
    assert mapped(before) == ["3bc-3bf"], "up to 4.22 mappings may touch"
    assert "touch" not in said(before)
    printer = build(config(IGD + 'ioports=["3bc-3be","3e0"]\n'), laptop)
    assert (mapped(printer), printer.warnings) == (["3bc-3be", "3e0"], ())
    alone = build(config('ioports=["3b0-3bb","3c0-3df"]\n'), host("igd-laptop"))
    assert mapped(alone) == ["3b0-3bb", "3c0-3df"]


def test_without_a_display_that_gets_it_no_vga_set_is_mapped(host: Host, config: Config) -> None:
    plan = build(config('ioports=["300"]\n'), host("igd-laptop"), map_legacy=True)
    assert mapped(plan) == ["300"]
    assert "no display of this guest gets it" in said(plan)


def test_permissions_of_libxl_s_are_kept(config: Config) -> None:
    plan = build(config('ioports=["300-30f","310","320"]\n'), PLAIN)
    assert [(str(s.range), str(s.kept)) for s in plan.steps] == [
        ("300-310", "{ 300-310 }"), ("320", "{ 320 }"), ("300-310", "{ 300-310 }"), ("320", "{ 320 }"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "ports", "warned"),
    [
        ("second-card", "3c0-3df", "3c0-3df"),
        ("second-card", "3bb-3c0", "3bb, 3c0"),
        ("second-card", "3bc-3bf", ""),
        ("second-card", "2f8-2ff", ""),
        ("igd-laptop", "3c0-3df", ""),  # which no driver of dom0's uses
        ("server-bmc", "2f8-2ff", ""),
    ],
)
def test_ports_of_dom0_s_own_screen(host: Host, config: Config, name: str, ports: str, warned: str) -> None:
    plan = build(config(f'ioports=["{ports}"]\n'), host(name))
    found = [w for w in plan.warnings if "the guest can change dom0's screen" in w.what]
    assert [w.what.partition(":")[0] for w in found] == ([f"ioports {warned}"] if warned else [])
    assert all("0000:00:02.0, which dom0 drives (i915)" in w.what for w in found)
