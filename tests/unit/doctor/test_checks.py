# SPDX-License-Identifier: LGPL-2.1-only
"""What ``xlplug doctor`` makes of facts: each check with what is right, doubtful, wrong and unreadable; any mixture at all."""

import json
import random
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from xlplug.commands.doctor import as_json, as_text, exit_code
from xlplug.config.domain import DomainConfig, PciAssignment
from xlplug.doctor.build_date import built_on, parse_date
from xlplug.doctor.checks import CHECKS, examine
from xlplug.doctor.facts import ConfigFacts, Facts, Firmware, Hook, InstalledFile, Named, Wrapper
from xlplug.doctor.finding import FAILURE, INFO, OK, STATUSES, WARNING, Finding, worst
from xlplug.doctor.reading import Broken, Skipped, Unread
from xlplug.hide_at_boot import hide_at_boot
from xlplug.hook.create import rehearse
from xlplug.model.addr import Domid
from xlplug.model.bdf import Bdf
from xlplug.model.host import HostSnapshot, PciDevice, Resource, XenInfo
from xlplug.model.occasion import CREATING, NO_LIBRARY, Occasion
from xlplug.model.problem import Problem
from xlplug.model.rangeset import Range

ROOT = Path(__file__).parents[3]
SCHEMA = json.loads((ROOT / "docs" / "doctor.schema.json").read_text())
UNREAD, BROKEN = Unread("it is dark", "bring a lamp"), Broken("it is torn", "repair it")

VGA = PciDevice(Bdf.parse("00:01.0"), 0x1234, 0x1111, 0x030000, boot_vga=True, driver="pciback")
SECOND = PciDevice(Bdf.parse("01:00.0"), 0x1002, 0x73DF, 0x030000, boot_vga=False, driver="amdgpu")
INTEL = PciDevice(
    Bdf.parse("00:02.0"),
    0x8086,
    0x5916,
    0x030000,
    (Resource(6, 0xC0000, 0xE0000, 0x200),),
    boot_vga=True,
    driver="i915",
)
NIC = PciDevice(Bdf.parse("00:03.0"), 0x8086, 0x100E, 0x020000, driver="e1000")

HOOK = Hook(
    first="/usr/local/sbin/xl",
    hooked=True,
    prefix="/usr/local",
    files=(InstalledFile("/usr/local/sbin/xl"), InstalledFile("/usr/local/lib/xlplug/device-model")),
    real_xl="/usr/sbin/xl",
    program="/usr/local/bin/xlplug",
    wrapper="/usr/local/lib/xlplug/device-model",
    ran=Wrapper("1.0"),
    device_model="/usr/bin/qemu",
    fits="built for Xen 4.17",
)
UNHOOKED = HOOK._replace(first="/usr/sbin/xl", hooked=False, files=(), program=UNREAD, wrapper=BROKEN, ran=UNREAD)

HEALTHY = Facts(
    euid=0,
    python=(3, 11, 2),
    modules=(Named("cffi", "cffi 1.15"), Named("pyudev", "pyudev 0.24"), Named("click", "click 8.1")),
    version=(4, 17),
    version_text="4.17.7",
    control=True,
    nodes=(Named("privcmd", "/dev/xen/privcmd"), Named("xenbus", "/run/xenstored/socket")),
    library="libxenctrl.so.4.17 has every call",
    domctl=1,
    libraries=(Named("libxenstore", "loads"), Named("libxendevicemodel", "loads")),
    store="0",
    directio=True,
    console_room=16 << 10,
    assignable=(VGA.bdf,),
    devices=(VGA, NIC),
    arbiter="count:1,PCI:0000:00:01.0,decodes=io+mem,owns=io+mem,locks=none(0:0)",
    dev_mem="/dev/mem",
    firmware=Firmware(),
    hook=HOOK,
    watcher=None,
)


def findings(**facts: Any) -> dict[str, tuple[str, str, str]]:
    """The findings that differ from a healthy host's, by name: status, text, advice."""
    before = examine(HEALTHY)
    return {f.name: (f.status, f.what, f.advice) for f in examine(HEALTHY._replace(**facts)) if f not in before}


def test_a_healthy_host() -> None:
    found = examine(HEALTHY)
    assert {f.name for f in found if f.status != OK} == {"preload library", "watcher"}
    assert {f.status for f in found} == {OK, INFO}
    assert [f.name for f in found] == [
        "root", "python", "cffi", "pyudev", "click", "xen", "dom0", "privcmd", "xenbus", "libxenctrl", "domain control",
        "libxenstore", "libxendevicemodel", "xenstored", "iommu", "console ring", "pciback", "display", "legacy vga", "/dev/mem",
        "hook", "hook files", "real xl", "xlplug", "wrapper", "device model", "preload library", "watcher",
    ]  # fmt: skip
    assert findings() == {}


# Every check: what is changed in the facts, and the lines that come of it.
CASES: list[tuple[dict[str, Any], dict[str, tuple[str, str, str]]]] = [
    ({"euid": 1000}, {"root": (FAILURE, "not root (euid 1000): Xen can be changed by root only", "run it with sudo")}),
    (
        {"python": (3, 9, 2)},
        {"python": (FAILURE, "Python 3.9.2 is older than 3.11", "run xlplug with Python 3.11 or later")},
    ),
    ({"python": (3, 13, 0)}, {"python": (OK, "Python 3.13.0", "")}),
    ({"modules": (Named("cffi", BROKEN),)}, {"cffi": (FAILURE, "it is torn", "repair it")}),
    ({"modules": (Named("cffi", UNREAD),)}, {"cffi": (WARNING, "not checked: it is dark", "bring a lamp")}),
    (
        {"version": (4, 13), "version_text": "4.13.1"},
        {"xen": (WARNING, "Xen 4.13.1 is older than 4.14, the oldest that xlplug was tried with", "upgrade Xen")},
    ),
    ({"version": (4, 31), "version_text": "4.31-rc"}, {"xen": (OK, "Xen 4.31-rc", "")}),
    ({"version": BROKEN}, {"xen": (FAILURE, "it is torn", "repair it")}),
    ({"version": UNREAD}, {"xen": (WARNING, "not checked: it is dark", "bring a lamp")}),
    ({"control": False}, {"dom0": (FAILURE, "this is a guest domain", "run xlplug in dom0")}),
    ({"control": BROKEN}, {"dom0": (FAILURE, "it is torn", "repair it")}),
    ({"control": UNREAD}, {"dom0": (WARNING, "not checked: it is dark", "bring a lamp")}),
    ({"nodes": (Named("privcmd", BROKEN),)}, {"privcmd": (FAILURE, "it is torn", "repair it")}),
    ({"nodes": (Named("xenbus", UNREAD),)}, {"xenbus": (WARNING, "not checked: it is dark", "bring a lamp")}),
    ({"library": BROKEN}, {"libxenctrl": (FAILURE, "it is torn", "repair it")}),
    ({"library": UNREAD}, {"libxenctrl": (WARNING, "not checked: it is dark", "bring a lamp")}),
    ({"domctl": BROKEN}, {"domain control": (FAILURE, "it is torn", "repair it")}),
    ({"domctl": UNREAD}, {"domain control": (WARNING, "not checked: it is dark", "bring a lamp")}),
    ({"libraries": (Named("libxenstore", BROKEN),)}, {"libxenstore": (FAILURE, "it is torn", "repair it")}),
    (
        {"libraries": (Named("libxenstore", UNREAD),)},
        {"libxenstore": (WARNING, "not checked: it is dark", "bring a lamp")},
    ),
    (
        {"store": ""},
        {
            "xenstored": (
                FAILURE,
                "it answers, but does not know dom0",
                "run xen-init-dom0: systemctl start xen-init-dom0 (Debian: xen)",
            )
        },
    ),
    ({"store": BROKEN}, {"xenstored": (FAILURE, "it is torn", "repair it")}),
    ({"store": UNREAD}, {"xenstored": (WARNING, "not checked: it is dark", "bring a lamp")}),
    (
        {"directio": False},
        {
            "iommu": (
                FAILURE,
                "Xen uses no IOMMU, so no HVM guest can have a PCI device",
                "turn on VT-d or AMD-Vi in the firmware's setup, and remove iommu=0 from Xen's command line; see 'xl dmesg'",
            )
        },
    ),
    (
        {"domctl": 16, "console_room": 16 << 10},
        {
            "console ring": (
                INFO,
                "16 KiB have no room for what Xen says of 16 domains, which 'show', 'verify', 'map' and 'record domain' read; the "
                "hook and grants do without",
                "boot Xen with conring_size=1M",
            )
        },
    ),
    (
        {"domctl": 10, "console_room": 10 * 1548},
        {"console ring": (OK, "15 KiB, with room for what 'show' and 'verify' read of 10 domains", "")},
    ),
    (
        {"console_room": None},
        {"console ring": (INFO, "not full so far, so its size does not show: 'show' and 'verify' read it", "")},
    ),
    ({"console_room": BROKEN}, {"console ring": (FAILURE, "it is torn", "repair it")}),
    ({"console_room": UNREAD}, {"console ring": (WARNING, "not checked: it is dark", "bring a lamp")}),
    ({"directio": BROKEN}, {"iommu": (FAILURE, "it is torn", "repair it")}),
    ({"directio": UNREAD}, {"iommu": (WARNING, "not checked: it is dark", "bring a lamp")}),
    (
        {"assignable": ()},
        {"pciback": (INFO, "loaded, and no device is assignable yet", "to pass one through: xl pci-assignable-add ADDRESS")},
    ),
    ({"assignable": BROKEN}, {"pciback": (FAILURE, "it is torn", "repair it")}),
    ({"assignable": UNREAD}, {"pciback": (WARNING, "not checked: it is dark", "bring a lamp")}),
    ({"devices": UNREAD}, {"display": (WARNING, "not checked: it is dark", "bring a lamp"), "/dev/mem": (OK, "readable", "")}),
    ({"devices": BROKEN}, {"display": (FAILURE, "it is torn", "repair it"), "/dev/mem": (OK, "readable", "")}),
    ({"devices": (NIC,)}, {"display": (INFO, "none on this host", "")}),
    (
        {"devices": (VGA._replace(driver="bochs-drm"),)},
        {
            "display": (
                OK, "0000:00:01.0 [1234:1111] is dom0's own (bochs-drm)",
                f"to pass it through, {hide_at_boot(VGA.bdf, '')}",
            ),
            "legacy vga": (
                OK,
                "legacy VGA cycles reach 0000:00:01.0 (boot VGA, driven by bochs-drm); dom0's VGA arbiter: owns io+mem",
                "",
            ),
        },
    ),
    (
        {"devices": (VGA._replace(driver=None),)},
        {
            "display": (
                OK, "0000:00:01.0 [1234:1111] has no driver", "to pass it through: xl pci-assignable-add 0000:00:01.0",
            ),
            "legacy vga": (
                OK, "legacy VGA cycles reach 0000:00:01.0 (boot VGA); dom0's VGA arbiter: owns io+mem", "",
            ),
        },
    ),
    (
        {"devices": (VGA._replace(owner=Domid(3)),)},
        {"display": (OK, "0000:00:01.0 [1234:1111] belongs to domain 3", "")},
    ),
    (
        {"devices": (VGA._replace(boot_vga=None),)},
        {
            "legacy vga": (
                WARNING,
                "whether legacy VGA cycles reach 0000:00:01.0 is not known; dom0's VGA arbiter: owns io+mem",
                "let the firmware start the display that is to be passed through",
            )
        },
    ),
    (
        {"damaged": (Problem("PCI function 0000:00:05.0 cannot be read: no class", "see the log"),)},
        {"pci": (WARNING, "PCI function 0000:00:05.0 cannot be read: no class", "see the log")},
    ),
    (
        {"unnamed": (Problem("10000:e0:17.0: behind Intel VMD", "switch it off"),)},
        {"pci": (INFO, "10000:e0:17.0: behind Intel VMD", "switch it off")},
    ),
    ({"arbiter": UNREAD}, {"legacy vga": (OK, "legacy VGA cycles reach 0000:00:01.0 (boot VGA, driven by pciback)", "")}),
    ({"arbiter": "invalid"}, {"legacy vga": (OK, "legacy VGA cycles reach 0000:00:01.0 (boot VGA, driven by pciback)", "")}),
    ({"dev_mem": BROKEN}, {"/dev/mem": (INFO, "not readable, and no display here needs it", "")}),
    ({"dev_mem": UNREAD}, {"/dev/mem": (INFO, "not readable, and no display here needs it", "")}),
    ({"firmware": UNREAD}, {}),
    ({"firmware": BROKEN}, {}),
    (
        {"firmware": Firmware(("OpRegion at 0x7a18d018",), (Problem("VBIOS header not read: no", "do it"),))},
        {"firmware": (WARNING, "VBIOS header not read: no", "do it")},
    ),
    ({"hook": UNREAD}, {"hook": (WARNING, "not checked: it is dark", "bring a lamp")}),
    ({"hook": BROKEN}, {"hook": (FAILURE, "it is torn", "repair it")}),
    (
        {"hook": UNHOOKED},
        {
            "hook": (
                FAILURE, "'xl create' is not hooked: it runs /usr/sbin/xl",
                "run 'xlplug hook install', or 'xlplug watch' as a service",
            )
        },
    ),
    (
        {"hook": UNHOOKED, "watcher": 77},
        {
            "hook": (
                WARNING, "'xl create' is not hooked: it runs /usr/sbin/xl; only 'xlplug watch' grants",
                "run 'xlplug hook install', or 'xlplug watch' as a service",
            ),
            "watcher": (OK, "running (pid 77)", ""),
        },
    ),
    (
        {"hook": HOOK._replace(first="/opt/xl", hooked=False)},
        {"hook": (FAILURE, "'xl create' is not hooked: it runs /opt/xl", "put /usr/local/sbin before /opt in PATH")},
    ),
    (
        {"hook": HOOK._replace(first=None, hooked=False)},
        {"hook": (FAILURE, "no xl in PATH", "install it (Debian: xen-system-amd64), or correct PATH")},
    ),
    ({"hook": HOOK._replace(files=UNREAD)}, {"hook files": (WARNING, "not checked: it is dark", "bring a lamp")}),
    ({"hook": HOOK._replace(files=BROKEN)}, {"hook files": (FAILURE, "it is torn", "repair it")}),
    (
        {"hook": HOOK._replace(files=(InstalledFile("/a", "missing"),))},
        {"hook files": (FAILURE, "/a is missing", "run 'xlplug hook install' again")},
    ),
    (
        {"hook": HOOK._replace(files=(InstalledFile("/a", "not executable"),))},
        {"hook files": (FAILURE, "/a is not executable", "run 'xlplug hook install' again")},
    ),
    (
        {"hook": HOOK._replace(files=(InstalledFile("/a"), InstalledFile("/b", "changed")))},
        {
            "hook files": (
                WARNING, "/b is not as it was installed", "save your changes, remove it, and run 'xlplug hook install' again",
            )
        },
    ),
    (
        {"hook": HOOK._replace(files=())},
        {
            "hook files": (
                WARNING, "/usr/local/sbin/xl is not in a manifest below /usr/local: a copy made by hand",
                "'xlplug hook install' makes one that can be checked and removed",
            )
        },
    ),
    ({"hook": HOOK._replace(real_xl=BROKEN)}, {"real xl": (FAILURE, "it is torn", "repair it")}),
    ({"hook": HOOK._replace(real_xl=UNREAD)}, {"real xl": (WARNING, "not checked: it is dark", "bring a lamp")}),
    ({"hook": HOOK._replace(program=BROKEN)}, {"xlplug": (FAILURE, "it is torn", "repair it")}),
    ({"hook": HOOK._replace(program=UNREAD)}, {"xlplug": (WARNING, "not checked: it is dark", "bring a lamp")}),
    ({"hook": HOOK._replace(wrapper=BROKEN)}, {"wrapper": (FAILURE, "it is torn", "repair it")}),
    ({"hook": HOOK._replace(wrapper=UNREAD)}, {"wrapper": (WARNING, "not checked: it is dark", "bring a lamp")}),
    ({"hook": HOOK._replace(ran=BROKEN)}, {"wrapper": (FAILURE, "it is torn", "repair it")}),
    ({"hook": HOOK._replace(ran=UNREAD)}, {"wrapper": (WARNING, "not checked: it is dark", "bring a lamp")}),
    ({"hook": HOOK._replace(device_model=BROKEN)}, {"device model": (FAILURE, "it is torn", "repair it")}),
    ({"hook": HOOK._replace(fits=BROKEN)},
     {"device model": (FAILURE, "the device model /usr/bin/qemu: it is torn", "repair it")}),
    ({"hook": HOOK._replace(fits=UNREAD)}, {"device model": (OK, "/usr/bin/qemu (not looked into: it is dark)", "")}),
    ({"hook": HOOK._replace(device_model=UNREAD)}, {"device model": (WARNING, "not checked: it is dark", "bring a lamp")}),
    ({"hook": HOOK._replace(library="/lib/p.so")}, {"preload library": (OK, "/lib/p.so", "")}),
    ({"watcher": 12}, {"watcher": (OK, "running (pid 12)", "")}),
    ({"watcher": UNREAD}, {"watcher": (WARNING, "not checked: it is dark", "bring a lamp")}),
    ({"watcher": BROKEN}, {"watcher": (FAILURE, "it is torn", "repair it")}),
]  # fmt: skip


@pytest.mark.parametrize(("facts", "expected"), CASES, ids=",".join)
def test_each_check(facts: dict[str, Any], expected: dict[str, tuple[str, str, str]]) -> None:
    assert findings(**facts) == expected


def test_where_an_intel_display_needs_firmware_s_memory() -> None:
    devices = {"devices": (INTEL,)}
    assert findings(**devices, firmware=Firmware(("OpRegion at 0x1000",)))["firmware"] == (OK, "OpRegion at 0x1000", "")
    assert findings(**devices)["/dev/mem"] == (OK, "readable", "")
    assert findings(**devices, dev_mem=BROKEN)["/dev/mem"] == (FAILURE, "it is torn", "repair it")
    assert findings(**devices, dev_mem=UNREAD)["/dev/mem"] == (WARNING, "not checked: it is dark", "bring a lamp")
    assert findings(**devices, firmware=BROKEN)["firmware"] == (FAILURE, "it is torn", "repair it")
    assert findings(**devices, firmware=UNREAD)["firmware"] == (WARNING, "not checked: it is dark", "bring a lamp")


def test_unreadable_devices_leave_open_whether_memory_is_needed() -> None:
    found = findings(devices=UNREAD, dev_mem=BROKEN, firmware=UNREAD)
    assert found["/dev/mem"] == (FAILURE, "it is torn", "repair it")
    assert found["firmware"] == (WARNING, "not checked: it is dark", "bring a lamp")


# configurations

IGD = DomainConfig(
    name="g", type="hvm", memory=64, maxmem=64, gfx_passthru="igd", pci=(PciAssignment(VGA.bdf),), vga="none"
)


def planned(
    config: DomainConfig,
    *devices: PciDevice,
    version: tuple[int, int] = (4, 17),
    when: Occasion = CREATING,
    **facts: Any,
) -> ConfigFacts:
    host = HostSnapshot("h", devices, xen=XenInfo(version, "x"))
    plan = rehearse(config, host, when)
    return ConfigFacts("g.cfg", config, plan, "/usr/bin/qemu", **{"fits": "built for Xen 4.17"} | facts)


def of_config(facts: ConfigFacts, **others: Any) -> list[tuple[str, str, str]]:
    found = examine(HEALTHY._replace(configs=(facts,), **others))
    return [(f.status, f.what, f.advice) for f in found if f.name == "g.cfg"]


SERVED = (OK, "needs legacy ranges; its device model is /usr/bin/qemu (built for Xen 4.17)", "")


def test_a_config_that_works() -> None:
    assert of_config(planned(IGD, VGA)) == [SERVED]
    assert of_config(planned(IGD, VGA, fits=BROKEN)) == [
        (FAILURE, "the device model /usr/bin/qemu: it is torn", "repair it")
    ]


def test_a_config_that_needs_nothing() -> None:
    config = DomainConfig(name="g", type="pv")
    assert of_config(planned(config)) == [(OK, "needs no legacy range: the real xl runs unchanged", "")]


def test_a_config_that_cannot_be_read() -> None:
    assert of_config(ConfigFacts("g.cfg", UNREAD)) == [(WARNING, "not checked: it is dark", "bring a lamp")]
    assert of_config(ConfigFacts("g.cfg", BROKEN)) == [(FAILURE, "it is torn", "repair it")]


def test_what_a_config_needs_cannot_be_told() -> None:
    facts = planned(IGD, VGA)._replace(plan=UNREAD, device_model=UNREAD)
    assert of_config(facts) == [
        (WARNING, "device model not checked: it is dark", "bring a lamp"),
        (WARNING, "the plan not checked: it is dark", "bring a lamp"),
    ]
    assert of_config(facts._replace(plan=BROKEN, device_model=BROKEN)) == [(FAILURE, "it is torn", "repair it")] * 2


def test_an_assigned_device_that_is_not_assignable() -> None:
    assert of_config(planned(IGD, VGA._replace(driver="bochs-drm"))) == [
        SERVED,
        (FAILURE, "0000:00:01.0: a display bound to bochs-drm, not assignable", hide_at_boot(VGA.bdf, "")),
    ]


def test_another_domain_s_ports() -> None:
    facts = planned(IGD, VGA, sole_vga=Broken("domain 3 holds the legacy VGA ports already", "shut it down"))
    assert of_config(facts) == [SERVED, (FAILURE, "domain 3 holds the legacy VGA ports already", "shut it down")]
    text = "another domain's VGA ports not checked: it is dark"
    assert of_config(planned(IGD, VGA, sole_vga=UNREAD))[1] == (WARNING, text, "bring a lamp")


def test_memory_populated_on_demand() -> None:
    """The plan refuses for what we grant, xl for every other device."""
    more = IGD._replace(maxmem=128)
    [finding] = of_config(planned(more, VGA))[1:]
    assert finding[0] == FAILURE
    assert "cannot populate on demand" in finding[1]
    nic = DomainConfig(name="g", type="hvm", memory=64, maxmem=128, pci=(PciAssignment(NIC.bdf),))
    assert of_config(planned(nic, NIC._replace(driver="pciback")))[1:] == [
        (
            FAILURE,
            "maxmem=128 is more than memory=64: xl refuses a PCI device to a guest that populates on demand",
            "set maxmem to memory",
        )
    ]


def test_adjacent_ports_on_4_23() -> None:
    one = NIC._replace(driver="pciback", resources=(Resource(0, 0xC000, 0xC040, 0x100),))
    two = one._replace(bdf=Bdf.parse("00:04.0"), resources=(Resource(0, 0xC040, 0xC080, 0x100),))
    pair = DomainConfig(name="g", type="hvm", pci=(PciAssignment(one.bdf), PciAssignment(two.bdf)))
    assert [status for status, _, _ in of_config(planned(pair, one, two))] == [OK]
    [_, finding] = of_config(planned(pair, one, two, version=(4, 23)))
    assert finding[0] == WARNING
    assert finding[1].startswith("I/O BARs of 0000:00:03.0 (BAR 0) and 0000:00:04.0 (BAR 0) touch")
    assert finding[2] == "assign only one of them to this guest"


def test_a_display_to_be_plugged_in_later() -> None:
    later = IGD._replace(pci=())
    refuses = (
        WARNING, "gfx_passthru is set for a display to be plugged in later, which xl will refuse", 'write passthrough="enabled"'
    )  # fmt: skip
    for hotplug, expected in (("", True), ("disabled", True), ("enabled", False), (None, False)):
        assert (refuses in of_config(planned(later, hotplug=hotplug))) is expected


def test_legacy_cycles_that_reach_another_card() -> None:
    second = SECOND._replace(driver="pciback")
    config = IGD._replace(pci=(PciAssignment(second.bdf),))
    assert of_config(planned(config, VGA, second), devices=(VGA, second)) == [
        SERVED,
        (
            WARNING,
            "0000:01:00.0: no VGA set: legacy VGA cycles reach 0000:00:01.0, which is not assigned to this guest",
            "remove gfx_passthru: a second card needs none",
        ),
    ]


def test_a_stubdomain_s_images() -> None:
    facts = planned(IGD._replace(stubdom=True), VGA, kernel="/boot/kernel", ramdisk=BROKEN)
    found = of_config(facts)
    assert (OK, "stubdomain kernel /boot/kernel", "") in found
    assert (FAILURE, "it is torn", "repair it") in found
    text = "stubdomain kernel not checked: it is dark"
    assert (WARNING, text, "bring a lamp") in of_config(facts._replace(kernel=UNREAD))


def test_the_preload_library_that_a_config_wants() -> None:
    """``xlplug create`` says the same; a config that does not want it hears nothing."""
    preload = IGD._replace(preload=True, vga="stdvga", videoram=16)
    found = of_config(planned(preload, VGA, when=CREATING.without_ram(NO_LIBRARY)))
    assert [f for f in found if "libxlplug-preload.so is not installed" in f[1]], found
    assert {f[0] for f in found} == {OK, WARNING}
    without = of_config(planned(preload._replace(preload=False), VGA, when=CREATING.without_ram(NO_LIBRARY)))
    assert not [f for f in without if "preload" in f[1]], without


@pytest.mark.parametrize(
    ("built", "stubdom", "warns"),
    [
        (date(2026, 6, 3), True, True),
        (date(2026, 6, 4), True, False),
        (date(2026, 6, 3), False, False),
        (None, True, False),
    ],
)
def test_a_stubdomain_on_a_xen_from_before_xsa_491(built: date | None, stubdom: bool, warns: bool) -> None:
    found = of_config(planned(IGD._replace(stubdom=stubdom), VGA), built=built)
    assert any("XSA-491" in text for _, text, _ in found) == warns


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("Wed Jun  3 08:09:10 UTC 2026\n", date(2026, 6, 3)),
        ("Thu Dec 24 23:59:59 CET 2026", date(2026, 12, 24)),
        ("2026-06-04", date(2026, 6, 4)),
        ("Wed Foo  3 08:09:10 UTC 2026", None),
        ("Wed Jun 31 08:09:10 UTC 2026", None),
        ("", None),
        ("<denied>", None),
    ],
)
def test_when_xen_was_built(text: str, wanted: date | None, tmp_path: Path) -> None:
    assert parse_date(text) == wanted
    assert built_on(str(tmp_path)) is None
    (tmp_path / "compilation").mkdir()
    (tmp_path / "compilation" / "compile_date").write_text(text)
    assert built_on(str(tmp_path)) == wanted


def test_configs_keep_their_order() -> None:
    facts = tuple(ConfigFacts(name, BROKEN) for name in ("z", "a", "m"))
    assert [f.name for f in examine(HEALTHY._replace(configs=facts))][-3:] == ["z", "a", "m"]


# the whole

STRANGE = "no\nlines\x1b[31m \udcff \u202e; or; so"
ANY: dict[str, list[Any]] = {
    "euid": [0, 1, 1000],
    "python": [(3, 9, 0), (3, 11, 0), (4, 0, 0)],
    "modules": [(), (Named("cffi", "1"), Named("x", BROKEN), Named("y", UNREAD))],
    "version": [(4, 13), (4, 17), (9, 9), UNREAD, BROKEN],
    "version_text": ["", STRANGE],
    "control": [True, False, UNREAD, BROKEN, Skipped("xen")],
    "nodes": [(), (Named("privcmd", STRANGE), Named("xenbus", BROKEN))],
    "library": ["x", UNREAD, BROKEN, Skipped("xen")],
    "domctl": [1, UNREAD, BROKEN, Skipped("root"), Skipped("libxenctrl")],
    "libraries": [(), (Named("libxenstore", UNREAD),)],
    "store": ["0", "", STRANGE, UNREAD, BROKEN],
    "directio": [True, False, UNREAD, BROKEN],
    "console_room": [None, 0, 16 << 10, UNREAD, BROKEN],
    "assignable": [(), (VGA.bdf, NIC.bdf), UNREAD, BROKEN],
    "devices": [(), (NIC,), (VGA, SECOND), (INTEL,), (VGA._replace(boot_vga=None, owner=Domid(1)),), UNREAD, BROKEN],
    "damaged": [(), (Problem(STRANGE, STRANGE), Problem(""))],
    "unnamed": [(), (Problem(STRANGE),)],
    "distribution": ["", "debian", STRANGE],
    "built": [None, date(2026, 6, 3), date(2026, 6, 4)],
    "arbiter": ["", "owns=", "count:1,owns=none", STRANGE, UNREAD, BROKEN],
    "dev_mem": ["/dev/mem", UNREAD, BROKEN],
    "firmware": [Firmware(), Firmware((STRANGE,), (Problem(STRANGE), Problem("", STRANGE))), UNREAD, BROKEN],
    "hook": [
        HOOK, UNHOOKED, Hook(), Hook(first="xl", hooked=False, files=UNREAD), HOOK._replace(files=BROKEN, ran=BROKEN),
        HOOK._replace(files=tuple(InstalledFile(STRANGE, state) for state in ("", "missing", "changed", "not executable"))),
        UNREAD, BROKEN,
    ],
    "watcher": [None, 1, UNREAD, BROKEN],
    "configs": [
        (), (ConfigFacts(STRANGE, UNREAD), ConfigFacts("", BROKEN)), (planned(IGD, VGA), planned(IGD, INTEL)),
        (planned(IGD._replace(stubdom=True, ioports=(Range(1, 2),)), SECOND, kernel=UNREAD, ramdisk=STRANGE, sole_vga=BROKEN),),
        (planned(IGD, VGA)._replace(plan=UNREAD, device_model=BROKEN), planned(DomainConfig())),
        (planned(IGD._replace(pci=()), hotplug=""), planned(IGD._replace(maxmem=99), VGA)),
    ],
}  # fmt: skip


def mixtures() -> Iterator[Facts]:
    for name, values in ANY.items():
        for value in values:
            yield HEALTHY._replace(**{name: value})
    choose = random.Random(5)
    for _ in range(150):
        yield Facts(**{name: choose.choice(values) for name, values in ANY.items()})


def test_every_fact_is_varied() -> None:
    assert set(ANY) == set(Facts._fields)


def test_any_mixture_is_told_and_its_exit_status_is_that_of_the_worst() -> None:
    statuses = set()
    valid = jsonschema.validators.validator_for(SCHEMA)(SCHEMA)
    for facts in mixtures():
        found = examine(facts)
        text, data = as_text(found), as_json(found)
        lines = text.split("\n")
        assert len(lines) == len(found) + 2, "one line each, the counts, and the end of the last line"
        assert {f.status for f in found} <= set(STATUSES), "what was skipped is in another line"
        assert lines[-1] == ""
        assert [line.split("  ")[0].strip() for line in lines[:-2]] == [f.status for f in found]
        assert text.replace("\n", "").isprintable()
        valid.validate(data)
        assert json.loads(json.dumps(data)) == data
        level = max((STATUSES.index(f.status) for f in found), default=STATUSES.index(OK))
        assert worst(found) == data["status"] == STATUSES[level]
        assert exit_code(found) == (0, 0, 0, 1)[level]
        assert exit_code(found, strict=True) == (0, 0, 1, 1)[level]
        assert all(f.advice for f in found if f.status == FAILURE and f.name == "root")
        statuses.add(worst(found))
        assert examine(facts) == found
    assert statuses == {OK, WARNING, FAILURE}


def test_text() -> None:
    found = [
        Finding(OK, "root", "yes"),
        Finding(FAILURE, "a longer name", "no", "do it", "", ("y", "z")),
        Finding(WARNING, "x", "hm"),
        Finding(INFO, "watcher", "not running"),
    ]
    assert as_text(found) == (
        "ok       root           yes\n"
        "failure  a longer name  no; do it (2 checks skipped)\n"
        "warning  x              hm\n"
        "info     watcher        not running\n"
        "1 ok, 1 info, 1 warning, 1 failure, 2 skipped\n"
    )
    assert as_text(()) == "0 ok, 0 info, 0 warnings, 0 failures\n"
    assert exit_code(()) == 0


def test_what_depends_on_one_failure_is_in_its_line() -> None:
    by_xen = Skipped("xen")
    found = examine(
        HEALTHY._replace(
            version=BROKEN,
            control=by_xen,
            domctl=Skipped("libxenctrl"),
            configs=(planned(IGD, VGA)._replace(device_model=by_xen),),
        )
    )
    lines = {f.name: f for f in found}
    assert lines["xen"] == Finding(FAILURE, "xen", "it is torn", "repair it", "", ("dom0", "g.cfg: device model"))
    assert "dom0" not in lines
    assert lines["domain control"] == Finding(WARNING, "domain control", "not checked: it needs 'libxenctrl'")


def test_every_check_speaks() -> None:
    """A healthy host has a line of each, so that nothing is silently left out; configurations when they are given."""
    facts = HEALTHY._replace(configs=(planned(IGD, VGA),))
    for check in CHECKS:
        assert list(check(facts)), check
