# SPDX-License-Identifier: LGPL-2.1-only
"""Which functions a configuration assigns, and what is wrong with them."""

from collections.abc import Callable

import pytest

from xlplug.config.domain import DomainConfig
from xlplug.hide_at_boot import hide_at_boot
from xlplug.model.addr import Domid
from xlplug.model.bdf import Bdf
from xlplug.model.host import HostNote, HostSnapshot, PciDevice, Resource
from xlplug.model.occasion import BY_HAND, Who
from xlplug.model.problem import Problem
from xlplug.pci_assign import delegated, libxl_grants
from xlplug.plan import build

Host = Callable[[str], HostSnapshot]
Config = Callable[[str], DomainConfig]
SLOT_3 = Bdf(0, 3, 0, 0)


def test_a_display_that_dom0_drives_is_hidden_at_boot_and_never_unbound(host: Host, config: Config) -> None:
    for name, where in (
        ("debian", "GRUB_CMDLINE_LINUX_DEFAULT in /etc/default/grub"),
        ("ubuntu", "update-initramfs -u"),
        ("fedora", "dracut -f"),
        ("opensuse-leap", "grub2-mkconfig"),
        ("qubes", "rd.qubes.hide_pci=00:02.0 in GRUB_CMDLINE_LINUX"),
        ("xenenterprise", "xen-cmdline --set-dom0"),
        ("alpine", "update-extlinux"),
        ("", "Qubes OS: rd.qubes.hide_pci=00:02.0"),
        ("nixos", "on dom0's kernel command line"),
    ):
        laptop = host("igd-not-assignable")._replace(distribution=name)
        warning = next(
            w for w in build(config('gfx_passthru="igd"\npci=["00:02.0"]\n'), laptop).warnings if "i915" in w.what
        )
        assert where in warning.advice
        assert "pci-assignable-add" not in str(warning)
        assert ("xen-pciback.hide=(0000:00:02.0)" in warning.advice) == (name != "qubes")
        assert "reboot" in warning.advice
    assert hide_at_boot(Bdf(1, 2, 3, 4), "qubes").count("rd.qubes.hide_pci=0001:02:03.4") == 1


def test_anything_else_is_made_assignable_at_once(config: Config) -> None:
    nic = PciDevice(SLOT_3, 0x8086, 0x1533, 0x020000, driver="igb")
    text = config('pci=["03:00.0"]\n')
    assert "run: xl pci-assignable-add 0000:03:00.0" in str(build(text, HostSnapshot("h", (nic,))).warnings[0])
    idle = nic._replace(class_code=0x030000, driver=None)
    assert "run: xl pci-assignable-add 0000:03:00.0" in str(build(text, HostSnapshot("h", (idle,))).warnings[0])
    seized = config('pci=["03:00.0,seize=1"]\n')
    plan = build(seized, HostSnapshot("h", (nic,)), Who(Domid(3)), BY_HAND)
    assert "xl will seize it" in str(plan.warnings[0])
    assert not plan.refusals


def test_a_bridge_is_refused(config: Config) -> None:
    port = PciDevice(SLOT_3, 0x8086, 0x1901, 0x060400, driver="pcieport")
    plan = build(config('pci=["03:00.0"]\n'), HostSnapshot("h", (port,)))
    assert [str(r) for r in plan.refusals] == [
        "0000:03:00.0: a PCI bridge, which cannot be passed through; assign the functions behind it instead [XLP303]"
    ]
    assert plan.warnings == ()


def test_a_function_twice_is_counted_once(host: Host, config: Config) -> None:
    plan = build(config('pci=["00:02.*","00:02.1"]\n'), host("sriov-igd"))
    assert [str(a.device.bdf) for a in plan.devices] == [f"0000:00:02.{n}" for n in range(4)]
    assert any("0000:00:02.1: listed twice" in w.what for w in plan.warnings)


def test_why_a_function_is_absent(host: Host, config: Config) -> None:
    note = HostNote(
        "0000:07:00.0",
        Problem("PCI function 0000:07:00.0: cannot be read: Input/output error", "see dom0's kernel log"),
    )
    laptop = host("igd-laptop")._replace(notes=(HostNote("vbios", note.problem), note))
    assert build(config('pci=["07:00.0"]\n'), laptop).refusals == (note.problem,)
    assert "no such PCI device" in str(build(config('pci=["08:00.0"]\n'), laptop).refusals[0])


def test_what_xl_cannot_name_is_a_note(host: Host, config: Config) -> None:
    left_out = Problem("10000:e0:17.0: behind Intel VMD", "switch VMD off")
    laptop = host("igd-laptop")._replace(
        notes=(HostNote("unnamed", left_out), HostNote("0000:09:00.0", Problem("torn")))
    )
    plan = build(config('gfx_passthru="igd"\npci=["00:02.0"]\n'), laptop)
    assert plan.notes == (left_out,)
    assert (plan.warnings, plan.refusals) == ((), ())


@pytest.mark.parametrize("displays", [0, 1, 8])
def test_hosts_with_any_number_of_displays(config: Config, displays: int) -> None:
    many = tuple(
        PciDevice(Bdf(0, bus, 0, 0), 0x10DE, 1, 0x030000, driver="pciback", boot_vga=bus == 1)
        for bus in range(1, displays + 1)
    )
    text = ",".join(f'"{d.bdf}"' for d in many)
    plan = build(config(f'gfx_passthru="igd"\npci=[{text}]\n'), HostSnapshot("h", many))
    assert bool(plan.refusals) == (displays == 0)
    assert {s.device for s in plan.steps} == ({Bdf(0, 1, 0, 0)} if displays else set())
    assert len(plan.notes) == max(0, displays - 1)


def test_bars_without_an_address_are_nobody_s() -> None:
    card = PciDevice(
        SLOT_3, 1, 2, 0x020000,
        (Resource(0, 0, 0x1000, 0x20040200), Resource(1, 0x1000, 0x2000, 0x20040200), Resource(2, 0xF0001000, 0xF0002000, 0x200)),
    )  # fmt: skip
    assert [(d.bar, str(d.range)) for d in delegated(card)] == [(2, "f0001")]
    assert [(str(g.range), g.reason) for g in libxl_grants(card, ("target",))] == [("1", "BAR 1"), ("f0001", "BAR 2")]


def test_what_libxl_grants_of_a_line() -> None:
    lines = (
        Resource(5, 0xE000, 0xE080, 0x101),
        Resource(6, 0xC0000, 0xE0000, 0x212),
        Resource(7, 0xF0000000, 0xF0001000, 0x200),
    )
    card = PciDevice(SLOT_3, 1, 2, 0x020000, lines)
    assert [(g.kind, str(g.range)) for g in libxl_grants(card, ("target",))] == [
        ("ioport", "e000-e07f"),
        ("iomem", "c0-df"),
    ]
    reasons = [g.reason for g in libxl_grants(card, ("target", "stubdom")) if g.kind == "iomem"]
    assert reasons == ["ROM: the VBIOS shadow, writable; xlplug never grants it to the target", "ROM"]
    assert [d.bar for d in delegated(card)] == [5], "the ROM is emulated, and the VFs' BARs are the VFs'"
