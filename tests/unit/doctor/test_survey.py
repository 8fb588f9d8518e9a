# SPDX-License-Identifier: LGPL-2.1-only
"""``xlplug doctor``: a dom0 made of files, whole and damaged in every part; and real processes on this machine."""

import contextlib
import errno
import functools
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from tests.forked import xlplug
from tests.unit.fakes import recorder
from xlplug.doctor import survey, survey_hook, survey_xenstored
from xlplug.doctor.checks import examine
from xlplug.doctor.facts import Facts, Hook, InstalledFile, Named, Wrapper
from xlplug.doctor.finding import FAILURE, INFO, OK, WARNING, Finding, worst
from xlplug.doctor.places import Doors, Places
from xlplug.doctor.reading import Missing, Unread
from xlplug.dom0 import pci
from xlplug.execute.journal import Entry, Journal
from xlplug.hook import create, device_model, install
from xlplug.model.addr import Domid
from xlplug.model.bdf import Bdf
from xlplug.model.errors import StoreError, XenError, XenUnavailableError
from xlplug.model.host import E820_RAM, MemRegion
from xlplug.model.hypervisor import DomainInfo, HeldRights
from xlplug.model.steps import Step
from xlplug.plan import Plan
from xlplug.xen.in_memory import MemStore

ROOT = Path(__file__).parents[3]
PATH = {"PATH": "/usr/bin:/bin"}
output_of = survey_hook._output_of
VGA = "0000:00:01.0"
CONFIG = f'name="g"\ntype="hvm"\nmemory=64\nvga="none"\ngfx_passthru="igd"\npci=["{VGA}"]\n'


class FakeXen:
    """A hypervisor that is only read; ``broken`` names what fails."""

    def __init__(self, broken: str = "") -> None:
        self.broken = broken
        self.direct: bool | None = True
        self.guests: dict[int, HeldRights] = {}

    def _call(self, name: str) -> None:
        if name == self.broken:
            raise XenError(name, errno.EPERM, hint="look")

    def domains(self) -> list[DomainInfo]:
        self._call("domains")
        return [DomainInfo(domid) for domid in (0, *self.guests)]

    def domain_info(self, domid: int) -> DomainInfo | None:
        return DomainInfo(domid)

    def machine_memory_map(self) -> tuple[MemRegion, ...]:
        self._call("machine_memory_map")
        return (MemRegion(0, 0xA0000, E820_RAM), MemRegion(0x70000000, 0x70010000, 2))

    def held(self) -> dict[int, HeldRights]:
        self._call("held")
        return self.guests

    def ioport_permission(self, domid: int, first_port: int, nr_ports: int, *, allow: bool) -> None:
        assert (domid, allow) == (0, True)
        if set(range(first_port, first_port + nr_ports)) & set(range(0x3F8, 0x400)):
            raise XenError("ioport_permission", errno.EPERM)

    def console_room(self) -> int | None:
        self._call("console_room")
        return 16 << 10

    def directio(self) -> bool | None:
        self._call("directio")
        return self.direct


class Dom0:
    """A dom0 below a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.places = Places(
            sys_hypervisor=str(folder / "hypervisor"),
            capabilities=str(folder / "capabilities"),
            proc=str(folder / "proc"),
            dev=str(folder / "dev"),
            store_socket=str(folder / "socket"),
            sys_pci=str(folder / "devices"),
            pciback=str(folder / "pciback"),
            prefix=str(folder / "prefix"),
            os_release=str(folder / "os-release"),
        )
        self.xen = FakeXen()
        self.store = MemStore()
        self.store.write("/local/domain/0/domid", "0")
        self.doors = Doors(
            xen=lambda: contextlib.nullcontext(self.xen),
            store=lambda: contextlib.nullcontext(self.store),
            ctrl=lambda major, minor: (major, minor),
            stable=lambda name: name,
            euid=lambda: 0,
        )
        self.write("hypervisor/type", "xen\n")
        for part, text in (("major", "4"), ("minor", "17"), ("extra", ".7")):
            self.write(f"hypervisor/version/{part}", f"{text}\n")
        self.write("capabilities", "control_d\n")
        for name in ("dev/xen/privcmd", "dev/mem", "socket"):
            self.write(name, "")
        self.write("dev/vga_arbiter", "count:1,PCI:0000:00:01.0,decodes=io+mem,owns=io+mem,locks=none(0:0)\n")
        (folder / "proc").mkdir()
        self.device(VGA, 0x1234, 0x030000, boot_vga="1\n")
        self.device("0000:00:03.0", 0x8086, 0x020000)
        (folder / "pciback").mkdir()
        self.bind(VGA)
        for name in ("bind", "new_slot"):
            self.write(f"pciback/{name}", "")

    def write(self, name: str, text: str) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def device(self, bdf: str, vendor: int, class_code: int, **more: str) -> None:
        files = {
            "vendor": hex(vendor),
            "device": "0x1111",
            "class": hex(class_code),
            "resource": "",
            "config": "\0" * 64,
        }
        for name, text in (files | more).items():
            self.write(f"devices/{bdf}/{name}", text)

    def bind(self, bdf: str) -> None:
        (self.folder / "pciback" / bdf).symlink_to(self.folder / "devices" / bdf)
        (self.folder / "devices" / bdf / "driver").symlink_to(self.folder / "pciback")

    def look(self, *configs: str) -> Facts:
        return survey.survey(configs, self.places, self.doors)


@pytest.fixture
def dom0(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Dom0:
    """Healthy, with the hook installed by ``xlplug hook install`` and stand-ins for xl and QEMU."""
    made = Dom0(tmp_path / "dom0")
    (tmp_path / "bin").mkdir()
    recorder(tmp_path / "bin" / "xl")
    recorder(tmp_path / "bin" / "xlplug")
    qemu = recorder(tmp_path / "qemu").path
    monkeypatch.setenv("PATH", f"{made.places.prefix}/sbin:{tmp_path}/bin:/usr/bin:/bin")
    monkeypatch.setattr(device_model, "real", lambda override: override or qemu)
    monkeypatch.setattr(create, "real", lambda override: override or qemu)
    monkeypatch.setattr(device_model, "firmware_folder", lambda version: str(tmp_path))
    assert install.install(made.places.prefix) == 0
    monkeypatch.setattr(survey_hook, "_output_of", _output_of)
    return made


@functools.cache
def answer(*argv: str) -> list[str]:
    return output_of(list(argv))


def _output_of(argv: list[str]) -> list[str]:
    """Of the wrapper, which is the same in each of these: started once."""
    return answer(*argv)


def lines(facts: Facts) -> dict[str, Finding]:
    return {finding.name: finding for finding in examine(facts)}


SCRIPT = Unread(
    "a script, not a program", "give the path of the QEMU that it starts", "XLP851"
)  # such is the device model here


def test_a_healthy_dom0(dom0: Dom0, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    facts = dom0.look()
    assert {f.name for f in examine(facts) if f.status != OK} == {"preload library", "watcher"}
    assert {f.status for f in examine(facts)} == {OK, INFO}
    prefix = dom0.places.prefix
    assert facts == Facts(
        euid=0,
        python=sys.version_info[:3],
        modules=facts.modules,
        version=(4, 17),
        version_text="4.17.7",
        control=True,
        nodes=(Named("privcmd", f"{dom0.folder}/dev/xen/privcmd"), Named("xenbus", f"{dom0.folder}/socket")),
        library="libxenctrl.so.4.17 has every call",
        domctl=1,
        libraries=tuple(Named(f"lib{name}", "loads") for name in ("xenstore", "xendevicemodel", "xentoollog")),
        store="0",
        directio=True,
        console_room=16 << 10,
        assignable=(Bdf.parse(VGA),),
        devices=facts.devices,
        arbiter="count:1,PCI:0000:00:01.0,decodes=io+mem,owns=io+mem,locks=none(0:0)",
        dev_mem=f"{dom0.folder}/dev/mem",
        firmware=facts.firmware,
        hook=Hook(
            first=f"{prefix}/sbin/xl",
            hooked=True,
            prefix=prefix,
            files=tuple(
                InstalledFile(f"{prefix}/{name}")
                for name in ("lib/xlplug/device-model", "lib/xlplug/xlplug", "sbin/xl")
            ),
            real_xl=f"{tmp_path}/bin/xl",
            program=f"{prefix}/lib/xlplug/xlplug",
            wrapper=f"{prefix}/lib/xlplug/device-model",
            ran=Wrapper(sys.modules["xlplug"].__version__),
            device_model=f"{tmp_path}/qemu",
            fits=SCRIPT,
        ),
        watcher=None,
    )
    assert [m.name for m in facts.modules] == ["cffi", "pyudev", "click"]
    assert all(isinstance(m.found, str) and m.found.startswith(f"{m.name} ") for m in facts.modules)
    assert not isinstance(facts.devices, Missing)
    assert [(str(d.bdf), d.driver, d.boot_vga) for d in facts.devices] == [
        (VGA, "pciback", True), ("0000:00:03.0", None, None),
    ]  # fmt: skip


def raising(error: Exception) -> Callable[..., Any]:
    def call(*arguments: object) -> Any:
        raise error

    return call


GONE = XenUnavailableError("libx is not installed", hint="install it")


@pytest.mark.parametrize(
    ("damage", "name", "status", "text", "advice"),
    [
        (
            lambda d: (d.folder / "hypervisor/type").unlink(),
            "xen",
            FAILURE,
            "this machine does not run on Xen",
            "boot the Xen entry of the boot menu",
        ),
        (
            lambda d: d.write("hypervisor/version/minor", "x"),
            "xen",
            FAILURE,
            "{f}/hypervisor/version does not hold Xen's version",
            "mount sysfs on /sys",
        ),
        (
            lambda d: d.write("hypervisor/version/minor", "9"),
            "xen",
            "warning",
            "Xen 4.9.7 is older than 4.14, the oldest that xlplug was tried with",
            "upgrade Xen",
        ),
        (
            lambda d: (d.folder / "capabilities").unlink(),
            "dom0",
            FAILURE,
            "{f}/capabilities: No such file or directory",
            "mount it: mount -t xenfs xenfs /proc/xen",
        ),
        (lambda d: d.write("capabilities", ""), "dom0", FAILURE, "this is a guest domain", "run xlplug in dom0"),
        (
            lambda d: (d.folder / "dev/xen/privcmd").unlink(),
            "privcmd",
            FAILURE,
            "{f}/dev/xen/privcmd is missing",
            "modprobe xen-privcmd",
        ),
        (
            lambda d: (d.folder / "socket").unlink(),
            "xenbus",
            FAILURE,
            "neither {f}/socket nor {f}/dev/xen/xenbus exists",
            "start it: systemctl start xenstored (Debian: xen)",
        ),
        (
            lambda d: setattr(d, "doors", d.doors._replace(ctrl=raising(GONE))),
            "libxenctrl",
            FAILURE,
            "libx is not installed",
            "install it",
        ),
        (
            lambda d: setattr(d, "doors", d.doors._replace(xen=raising(GONE))),
            "domain control",
            FAILURE,
            "libx is not installed",
            "install it",
        ),
        (
            lambda d: setattr(d, "doors", d.doors._replace(stable=raising(GONE))),
            "libxendevicemodel",
            FAILURE,
            "libx is not installed",
            "install it",
        ),
        (
            lambda d: setattr(d.xen, "broken", "domains"),
            "domain control",
            FAILURE,
            "domains: EPERM (Operation not permitted)",
            "look",
        ),
        (
            lambda d: setattr(d.xen, "broken", "directio"),
            "iommu",
            FAILURE,
            "directio: EPERM (Operation not permitted)",
            "look",
        ),
        (
            lambda d: setattr(d.xen, "direct", False),
            "iommu",
            FAILURE,
            "Xen uses no IOMMU, so no HVM guest can have a PCI device",
            None,
        ),
        (
            lambda d: setattr(d.xen, "direct", None),
            "iommu",
            "warning",
            "not checked: this Xen's xc_physinfo is not as this xlplug knows it",
            "see virt_caps in 'xl info'",
        ),
        (
            lambda d: d.store.remove("/local/domain/0/domid"),
            "xenstored",
            FAILURE,
            "it answers, but does not know dom0",
            None,
        ),
        (
            lambda d: setattr(d, "doors", d.doors._replace(store=raising(StoreError("no", hint="start")))),
            "xenstored",
            FAILURE,
            "no",
            "start",
        ),
        (
            lambda d: setattr(d, "doors", d.doors._replace(store=raising(OSError(13, "Denied")))),
            "xenstored",
            "warning",
            "not checked: Denied",
            "",
        ),
        (
            lambda d: (d.folder / "pciback").rename(d.folder / "away"),
            "pciback",
            FAILURE,
            "the xen-pciback driver is not loaded, so no device is assignable",
            "modprobe xen-pciback",
        ),
        (
            lambda d: (d.folder / "devices").rename(d.folder / "away"),
            "display",
            "warning",
            "not checked: {f}/devices: No such file or directory",
            "",
        ),
        (
            lambda d: d.write("devices/0000:00:03.0/class", "what"),
            "pci",
            "warning",
            "PCI function 0000:00:03.0 cannot be read: invalid literal for int() with base 16: 'what'",
            "see 'lspci -D' and dom0's kernel log",
        ),
        (
            lambda d: (d.folder / "prefix/sbin/xl").unlink(),
            "hook",
            FAILURE,
            "'xl create' is not hooked: it runs {t}/bin/xl",
            "put {f}/prefix/sbin before {t}/bin in PATH",
        ),
        (
            lambda d: (d.folder / "prefix/lib/xlplug/device-model").unlink(),
            "wrapper",
            FAILURE,
            "there is no device model wrapper at {f}/prefix/lib/xlplug/device-model",
            "run 'xlplug hook install'",
        ),
        (
            lambda d: (d.folder / "prefix/lib/xlplug/device-model").unlink(),
            "hook files",
            FAILURE,
            "{f}/prefix/lib/xlplug/device-model is missing",
            "run 'xlplug hook install' again",
        ),
        (
            lambda d: (d.folder / "prefix/lib/xlplug/device-model").chmod(0o644),
            "hook files",
            FAILURE,
            "{f}/prefix/lib/xlplug/device-model is not executable",
            "run 'xlplug hook install' again",
        ),
        (
            lambda d: d.write("prefix/lib/xlplug/manifest", "0  /etc/passwd\n"),
            "hook files",
            FAILURE,
            "{f}/prefix/lib/xlplug/manifest names '/etc/passwd', which is not xlplug's",
            "remove that line",
        ),
        (
            lambda d: (d.folder / "prefix/lib/xlplug/manifest").unlink(),
            "hook files",
            "warning",
            "{f}/prefix/sbin/xl is not in a manifest below {f}/prefix: a copy made by hand",
            None,
        ),
        (
            lambda d: d.folder.parent.joinpath("bin/xl").unlink(),
            "real xl",
            FAILURE,
            "no xl in PATH",
            "install it (Debian: xen-system-amd64), or correct PATH",
        ),
        (
            lambda d: (d.folder / "proc").rmdir(),
            "watcher",
            "warning",
            "not checked: {f}/proc: No such file or directory",
            "",
        ),
    ],
)
def test_each_damage(
    dom0: Dom0, tmp_path: Path, damage: Callable[[Dom0], object], name: str, status: str, text: str, advice: str | None
) -> None:
    damage(dom0)
    found = lines(dom0.look())[name]
    where = {"f": str(dom0.folder), "t": str(tmp_path)}
    assert (found.status, found.what) == (status, text.format(**where))
    if advice is None:
        assert found.advice
    else:
        assert found.advice == advice.format(**where)


def test_everything_damaged_is_still_a_report(dom0: Dom0, monkeypatch: pytest.MonkeyPatch) -> None:
    bug = raising(RuntimeError("what a surprise"))
    dom0.doors = Doors(bug, bug, bug, bug, lambda: 0)
    for name in ("first_xl", "installed", "wrapper_of", "program_of"):
        monkeypatch.setattr(install, name, bug)
    monkeypatch.setattr(pci, "function", bug)
    monkeypatch.setattr(create, "rehearse", bug)
    found = lines(dom0.look(str(dom0.write("g.cfg", CONFIG))))
    for name in ("libxenctrl", "libxenstore", "xenstored", "hook"):
        assert found[name].what == "not checked: RuntimeError: what a surprise"
        assert found[name].advice == "report this as a bug of xlplug"
    assert found["libxenctrl"].skipped == ("domain control", "iommu", "console ring", "firmware")


def test_functions_behind_vmd_are_left_out_and_are_no_damage(dom0: Dom0) -> None:
    dom0.device("10000:e0:17.0", 0x8086, 0x010802)
    facts = dom0.look()
    assert ["10000:e0:17.0: behind Intel VMD" in problem.what for problem in facts.unnamed] == [True]
    assert facts.damaged == ()
    assert VGA in [str(device.bdf) for device in facts.devices]  # type: ignore[union-attr]


def test_who_is_not_root(dom0: Dom0) -> None:
    """What needs root is not tried, and is not called broken."""
    dom0.doors = dom0.doors._replace(xen=raising(AssertionError()), store=raising(AssertionError()), euid=lambda: 1000)
    found = lines(dom0.look())
    assert found["root"] == Finding(
        FAILURE, "root", "not root (euid 1000): Xen can be changed by root only", "run it with sudo", "",
        ("domain control", "xenstored", "iommu", "console ring"),
    )  # fmt: skip
    assert [f.name for f in found.values() if f.status == FAILURE] == ["root"]
    assert found["hook"].status == found["pciback"].status == found["xen"].status == OK


def children() -> set[str]:
    """Our processes, also those that have ended and that nobody has waited for.  Other tests may have left some."""
    found = set()
    for status in Path("/proc").glob("[0-9]*/status"):
        with contextlib.suppress(OSError):
            if f"\nPPid:\t{os.getpid()}\n" in status.read_text():
                found.add(status.parent.name)
    return found


def test_a_xenstored_that_never_answers(dom0: Dom0, monkeypatch: pytest.MonkeyPatch) -> None:
    before = children()
    monkeypatch.setattr(survey_xenstored, "_STORE_SECONDS", 0.3)
    dom0.doors = dom0.doors._replace(store=lambda: time.sleep(60))
    began = time.monotonic()
    found = lines(dom0.look())["xenstored"]
    assert time.monotonic() - began < 20
    assert (found.status, found.what) == (FAILURE, "xenstored does not answer within 0 s")
    assert children() <= before


@pytest.mark.parametrize(
    ("first", "after", "text"),
    [
        ("#!/nonexistent/python3 -I", "", "{w} wants /nonexistent/python3: No such file or directory"),
        (
            "#!{python} -I",
            "FOLDERS = ['/nonexistent']",
            "{w} does not start: ModuleNotFoundError: No module named 'xlplug'",
        ),
    ],
)
def test_a_wrapper_that_does_not_start(dom0: Dom0, first: str, after: str, text: str, tmp_path: Path) -> None:
    """Its Python has been upgraded, or xlplug has gone from where it was."""
    path = Path(dom0.places.prefix) / "lib" / "xlplug" / "device-model"
    rest = [after if line.startswith("FOLDERS = ") else line for line in path.read_text().splitlines()[1:]]
    # A Python that has never heard of xlplug: not the one of this environment, but that which it was made from.
    bare = tmp_path / "bare"
    bare.write_text(f'#!/bin/sh\nexec {sys.base_exec_prefix}/bin/python3 "$@"\n')
    bare.chmod(0o755)
    path.write_text("\n".join([first.format(python=bare), *rest]))
    found = lines(dom0.look())
    assert found["wrapper"].status == FAILURE
    assert found["wrapper"].what == text.format(w=path)
    assert found["hook files"].what == f"{path} is not as it was installed"


def test_a_running_watcher(dom0: Dom0) -> None:
    for pid, words in (
        (7, "/bin/sh\0xlplug"),
        (30, "python3\0/usr/bin/xlplug\0watch"),
        (31, "python3\0-m\0xlplug\0watch\0--map-legacy"),
    ):
        dom0.write(f"proc/{pid}/cmdline", f"{words}\0")
    dom0.write("proc/self", "")
    expected = 30 if os.geteuid() == 0 else None
    assert dom0.look().watcher == expected


# configurations


def test_a_config_of_each_kind(dom0: Dom0, tmp_path: Path) -> None:
    good = str(dom0.write("good.cfg", CONFIG))
    bad = str(dom0.write("bad.cfg", "a=0xFF\n"))
    absent = str(dom0.folder / "absent.cfg")
    on_demand = str(dom0.write("pod.cfg", f"{CONFIG}maxmem=128\n"))
    other = str(dom0.write("other.cfg", CONFIG.replace(VGA, "0000:00:03.0")))
    plain = str(dom0.write("plain.cfg", 'name="p"\n'))
    later = str(dom0.write("later.cfg", CONFIG.replace(f'"{VGA}"', "")))
    paths = [good, bad, absent, on_demand, other, plain, later]
    facts = dom0.look(*paths)
    found = [(Path(f.name).stem, f.status, f.what, f.advice) for f in examine(facts) if f.name in paths]
    served = f"needs legacy ranges; its device model is {tmp_path}/qemu (not looked into: {SCRIPT.what})"
    assert found[0] == ("good", OK, served, "")
    assert found[1][:2] == ("bad", FAILURE)
    assert found[1][2].startswith("line 1: unexpected 'F'")
    assert found[2] == ("absent", FAILURE, "No such file or directory", "give the path of an xl config")
    assert [f[:2] for f in found[3:5]] == [("pod", OK), ("pod", FAILURE)]
    assert "cannot populate on demand" in found[4][2]
    assert (
        "other",
        FAILURE,
        "0000:00:03.0: bound to no driver, not assignable",
        "run: xl pci-assignable-add 0000:00:03.0",
    ) in found
    assert ("plain", OK, "needs no legacy range: the real xl runs unchanged", "") in found
    assert found[-1][0] == "later"
    assert found[-1][3] == 'write passthrough="enabled"'


def grant_vga(store: MemStore, domid: int) -> None:
    store.write(f"/local/domain/{domid}", "")
    step = Step("ioport_permission", "target", Domid(domid), 0x3B0, 0xC)
    Journal(store, domid, "").write(Entry("applied", (step,)))


def test_another_domain_holds_the_ports(dom0: Dom0) -> None:
    grant_vga(dom0.store, 5)
    dom0.xen.guests[5] = HeldRights()
    path = str(dom0.write("g.cfg", CONFIG))
    found = [f for f in examine(dom0.look(path)) if f.name == path]
    assert (found[1].status, found[1].what) == (FAILURE, "domain 5 holds the legacy VGA ports already")
    assert found[1].advice == "shut it down, or 'xlplug revoke 5'"


def test_what_was_granted_cannot_be_read(dom0: Dom0) -> None:
    grant_vga(dom0.store, 5)
    dom0.xen.guests[5] = HeldRights()
    dom0.store.write("/libxl/5/xlplug/steps/000", "nonsense")
    plain = str(dom0.write("p.cfg", 'name="p"\n'))
    assert worst(examine(dom0.look(plain))) == OK
    path = str(dom0.write("g.cfg", CONFIG))
    found = [f for f in examine(dom0.look(path)) if f.name == path]
    assert found[1].what.startswith("another domain's VGA ports not checked: xenstore: /libxl/5/xlplug")


def test_ports_that_xen_keeps_are_refused(dom0: Dom0) -> None:
    (broken,) = dom0.look(str(dom0.write("a.cfg", f'{CONFIG}ioports=["3f8-3ff"]\n'))).configs
    assert isinstance(broken.plan, Plan)
    assert [str(r) for r in broken.plan.refusals] == [
        "ioports: Xen keeps 3f8-3ff (Xen's own serial console, COM 1) even from dom0, so that xl create ends with EPERM; "
        "remove these ports from ioports= [XLP341]"
    ]
    (sound,) = dom0.look(str(dom0.write("b.cfg", f'{CONFIG}ioports=["2f8-2ff"]\n'))).configs
    assert isinstance(sound.plan, Plan)
    assert sound.plan.refusals == ()


def test_xen_s_dump_is_not_asked_for(dom0: Dom0) -> None:
    dom0.xen.broken = "held"
    path = str(dom0.write("g.cfg", CONFIG))
    assert not [f for f in examine(dom0.look(path)) if "VGA ports" in f.what]


def test_a_stubdomain_s_images(dom0: Dom0, tmp_path: Path) -> None:
    stub = f'{CONFIG}device_model_stubdomain_override=1\ndevice_model_version="qemu-xen"\n'
    path = str(dom0.write("g.cfg", stub))

    def found() -> list[tuple[str, str]]:
        return [
            (f.status, f.what)
            for f in examine(dom0.look(path))
            if f.name == path and "stubdomain" in f.what.split("/")[0]
        ]

    kernel, ramdisk = tmp_path / "qemu-stubdom-linux-kernel", tmp_path / "qemu-stubdom-linux-rootfs"
    missing = "the stubdomain's {} {} is missing or not readable"
    assert found() == [(FAILURE, missing.format("kernel", kernel)), (FAILURE, missing.format("ramdisk", ramdisk))]
    kernel.write_text("")
    mine = dom0.write("mine", "")
    dom0.write("g.cfg", f'{stub}stubdomain_ramdisk="{mine}"\n')
    assert found() == [(OK, f"stubdomain kernel {kernel}"), (OK, f"stubdomain ramdisk {mine}")]
    dom0.write("g.cfg", f'{stub}stubdomain_kernel="/nonexistent"\n')
    assert found()[0] == (FAILURE, missing.format("kernel", "/nonexistent"))


# real processes, on whatever machine this is


def started(*words: str, **env: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "xlplug", *words],
        cwd=ROOT, env=PATH | env, capture_output=True, text=True, timeout=120,
    )  # fmt: skip


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("doctor") / "pl\nain.cfg"
    path.write_text('name="p"\n')
    return str(path)


def test_text_and_json_agree(config: str) -> None:
    text, data = started("doctor", config), xlplug("doctor", "--format", "json", config, env=PATH)
    assert text.stderr == data.stderr == ""
    report = json.loads(data.stdout)
    jsonschema.validate(report, json.loads((ROOT / "docs" / "doctor.schema.json").read_text()))
    rows = text.stdout.splitlines()
    assert [row.split()[0] for row in rows[:-1]] == [f["status"] for f in report["findings"]]
    assert report["findings"][-1]["name"] == config
    assert "pl\\nain.cfg" in rows[-2]
    expected = 1 if report["status"] == FAILURE else 0
    assert text.returncode == data.returncode == expected
    assert xlplug("doctor", "--strict", env=PATH).returncode == (0 if report["status"] == OK else 1)
    counts = [sum(f["status"] == status for f in report["findings"]) for status in (OK, INFO, WARNING, FAILURE)]
    counts += [count] if (count := sum(len(f["skipped"]) for f in report["findings"])) else []
    assert [int(word) for word in rows[-1].replace(",", "").split() if word.isdecimal()] == counts


def test_wrong_use() -> None:
    assert xlplug("doctor", "--format", "xml").returncode == 2
    assert "Check this dom0" in xlplug("doctor", "--help").stdout


@pytest.mark.parametrize("module", ["_cffi_backend", "pyudev"])
def test_a_missing_module_is_a_finding(tmp_path: Path, module: str) -> None:
    (tmp_path / f"{module}.py").write_text(f"raise ModuleNotFoundError('No module named {module}', name='{module}')\n")
    done = started("doctor", PYTHONPATH=f"{tmp_path}:{ROOT}")
    name = {"_cffi_backend": "cffi"}.get(module, module)
    assert (done.returncode, done.stderr) == (1, "")
    line = next(line for line in done.stdout.splitlines() if f"  {name} " in line)
    assert line.startswith("failure")
    assert line.endswith(f"No module named {module}; install it (Debian: python3-{name})")


def test_a_missing_click_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "click.py").write_text("raise ModuleNotFoundError('No module named click', name='click')\n")
    done = started("doctor", PYTHONPATH=f"{tmp_path}:{ROOT}")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "xlplug: Python's click is not installed; install it (Debian: python3-click) [XLP855]\n"


class CountedXen(FakeXen):
    """How many calls about domains were made."""

    calls = 0

    def domains(self) -> list[DomainInfo]:
        self.calls += 1
        return super().domains()

    def domain_info(self, domid: int) -> DomainInfo | None:
        self.calls += 1
        return super().domain_info(domid)


class CountedStore(MemStore):
    """How many requests xenstored would have had."""

    requests = 0

    def read(self, path: str) -> str | None:
        self.requests += 1
        return super().read(path)

    def list(self, path: str) -> "list[str]":
        self.requests += 1
        return super().list(path)


@pytest.mark.parametrize("configs", [0, 1])
def test_a_host_with_200_domains_costs_no_more(dom0: Dom0, configs: int) -> None:
    """None of the checks goes from domain to domain."""
    paths = [str(dom0.write(f"{n}.cfg", CONFIG)) for n in range(configs)]
    counts = []
    for guests in (2, 200):
        dom0.xen, dom0.store = CountedXen(), CountedStore()
        dom0.store.write("/local/domain/0/domid", "0")
        for domid in range(1, guests + 1):
            dom0.xen.guests[domid] = HeldRights()
            dom0.store.write(f"/local/domain/{domid}/name", f"g{domid}")
        assert dom0.look(*paths).domctl == guests + 1
        counts.append((dom0.xen.calls, dom0.store.requests))
    assert counts[0] == counts[1]
    assert counts[1][0] > 0
