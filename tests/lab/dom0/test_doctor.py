# SPDX-License-Identifier: LGPL-2.1-only
"""``xlplug doctor`` in a real dom0: healthy, then with one thing after another really broken, and mended by its advice."""

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.lab.dom0.conftest import BASE, IGD, VGA, Guests, dump, sh, xlplug
from tests.lab.dom0.hooked import FRONT_END, STOCK, WRAPPER, installed, until
from tests.lab.dom0.test_mismatch import OTHERS, TEXT, VERSION, instead, python
from xlplug.hook.device_model import default_path, firmware_folder
from xlplug.model.hypervisor import HeldRights
from xlplug.xen.lib import running_version

QEMU = default_path(running_version()[:2])
IMAGES = 'stubdomain_kernel="/stubdom/kernel"\nstubdomain_ramdisk="/stubdom/ramdisk"\n'
FIRST = {"PATH": f"/usr/local/sbin:{STOCK}"}


class Report(NamedTuple):
    """A run: its exit status, and its findings, (status, name, what, advice, code, skipped)."""

    status: int
    findings: list[tuple[str, str, str, str, str, list[str]]]

    def of(self, name: str) -> list[tuple[str, str, str]]:
        return [(f[0], f[2], f[3]) for f in self.findings if f[1] == name]

    @property
    def bad(self) -> list[tuple[str, str, str, str]]:
        return [f[:4] for f in self.findings if f[0] in ("warning", "failure")]

    def skipped(self, name: str) -> list[str]:
        return [each for f in self.findings if f[1] == name for each in f[5]]


def doctor(*configs: Path, argv: tuple[str, ...] = (), **env: str) -> Report:
    words = ["doctor", "--format", "json", *map(str, configs)]
    if argv:
        done = sh("env", *(f"{key}={value}" for key, value in {**FIRST, **env}.items()), *argv, "-m", "xlplug", *words)
    else:
        done = xlplug(*words, **{**FIRST, **env})
    assert done.stderr == ""
    report = json.loads(done.stdout)
    assert report["schema"] == "xlplug/doctor/2"
    assert done.returncode == (1 if report["status"] == "failure" else 0)
    return Report(done.returncode, [tuple(f.values()) for f in report["findings"]])


@pytest.fixture(scope="module", autouse=True)
def hook() -> Iterator[None]:
    yield from installed()


@pytest.fixture(autouse=True)
def nothing_is_changed() -> Iterator[None]:
    """Neither a domain more or less, nor a right of any."""
    before = dump()
    yield
    assert set(dump()) == set(before)
    assert dump()[0] == before[0]


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "g.cfg"
    path.write_text(f'name="g"\n{BASE}{IGD}')
    return path


@pytest.mark.smoke
def test_a_healthy_dom0(config: Path) -> None:
    found = doctor(config)
    assert found.bad == []
    assert found.status == 0
    expected = {
        "root": "running as root",
        "xen": f"Xen {TEXT}",
        "dom0": "this is the control domain",
        "privcmd": "/dev/xen/privcmd",
        "xenbus": "/run/xenstored/socket",
        "libxenctrl": f"libxenctrl.so.{VERSION} has every call",
        "domain control": "Xen accepts libxenctrl's domain control calls",
        "libxenstore": "loads",
        "libxendevicemodel": "loads",
        "libxentoollog": "loads",
        "xenstored": "it answers",
        "iommu": "Xen uses an IOMMU (hvm_directio)",
        "pciback": f"loaded; assignable: {VGA}",
        "display": f"{VGA} [1234:1111] is assignable",
        "/dev/mem": "readable",
        "hook": f"'xl create' runs {FRONT_END}, the front end of xlplug",
        "hook files": "as installed below /usr/local",
        "real xl": f"/usr/lib/xen-{VERSION}/bin/xl",
        "device model": f"{QEMU} (built for Xen {VERSION})",
        str(config): f"needs legacy ranges; its device model is {QEMU} (built for Xen {VERSION})",
    }
    assert {name: found.of(name) for name in expected} == {name: [("ok", text, "")] for name, text in expected.items()}
    optional = {
        "preload library": "not installed: needed only for xlplug_preload=1 and a device model in dom0",
        "watcher": "not running: needed only without the hook, or for displays plugged in later",
    }
    assert {f[1]: f[2] for f in found.findings if f[0] == "info" and f[1] != "console ring"} == optional
    [(status, text, _)] = found.of("console ring")
    # What has come to the console so far decides.
    assert (status, text[:8]) == ("info", "not full") or (status == "ok" and "with room for" in text)
    assert found.of("wrapper")[0][1].startswith(f"{WRAPPER} starts, with xlplug ")
    assert found.of("legacy vga")[0][1].startswith(f"legacy VGA cycles reach {VGA} (boot VGA, driven by pciback)")
    assert found.of("firmware")[0][1].endswith("of 1234:1111"), "the VBIOS, through /dev/mem"


@pytest.mark.smoke
def test_the_iommu_as_xl_sees_it() -> None:
    line = next(line for line in sh("xl", "info").stdout.splitlines() if line.startswith("virt_caps"))
    assert ("hvm_directio" in line.split()) == (doctor().of("iommu")[0][0] == "ok")


@pytest.mark.once
def test_text(config: Path) -> None:
    done = subprocess.run(
        ["xlplug", "doctor", "--strict", str(config)], capture_output=True, text=True, env={**os.environ, **FIRST}
    )
    assert (done.returncode, done.stderr) == (0, "")
    rows = done.stdout.splitlines()
    assert {row.split()[0] for row in rows[:-1]} == {"ok", "info"}
    optional = [row for row in rows if row.startswith("info")]
    assert len(optional) in (2, 3), "the preload library, the watcher, and a console ring that is not full yet"
    assert rows[-1] == f"{len(rows) - 1 - len(optional)} ok, {len(optional)} info, 0 warnings, 0 failures"


@pytest.mark.once
def test_a_device_that_is_not_assignable(config: Path) -> None:
    """What is advised mends it."""
    assert sh("xl", "pci-assignable-remove", VGA).returncode == 0
    found = doctor(config)
    [(status, text, advice)] = found.of(str(config))[1:]
    assert (status, text) == ("failure", f"{VGA}: bound to no driver, not assignable")
    assert found.of("pciback")[0][1] == "loaded, and no device is assignable yet"
    command = advice.removeprefix("run: ").split()
    assert command == ["xl", "pci-assignable-add", VGA]
    assert sh(*command).returncode == 0
    assert doctor(config).bad == []


@pytest.mark.once
def test_pciback_is_not_loaded(config: Path) -> None:
    sh("xl", "pci-assignable-remove", VGA)
    assert sh("rmmod", "xen-pciback").returncode == 0
    try:
        found = doctor(config)
    finally:
        sh("modprobe", "xen-pciback", "passthrough=1")
        sh("xl", "pci-assignable-add", VGA)
    text = "the xen-pciback driver is not loaded, so no device is assignable"
    assert found.of("pciback") == [("failure", text, "modprobe xen-pciback")]
    assert doctor(config).bad == []


@pytest.mark.once
def test_the_hook_is_uninstalled() -> None:
    assert sh("xlplug", "hook", "uninstall").returncode == 0
    try:
        found = doctor()
    finally:
        assert sh("xlplug", "hook", "install").returncode == 0
    xl = shutil.which("xl", path=STOCK)
    advice = "run 'xlplug hook install', or 'xlplug watch' as a service"
    assert found.bad == [("failure", "hook", f"'xl create' is not hooked: it runs {xl}", advice)]
    assert doctor().bad == []


@pytest.mark.once
def test_another_xl_comes_first(tmp_path: Path) -> None:
    other = tmp_path / "xl"
    other.write_text("#!/bin/sh\nexit 1\n")
    other.chmod(0o755)
    found = doctor(PATH=f"{tmp_path}:{FIRST['PATH']}")
    advice = f"put /usr/local/sbin before {tmp_path} in PATH"
    assert found.bad == [("failure", "hook", f"'xl create' is not hooked: it runs {other}", advice)]


@pytest.mark.once
def test_the_wrapper_is_damaged() -> None:
    path = Path(WRAPPER)
    mode, text = path.stat().st_mode, path.read_text()
    try:
        path.chmod(0o644)
        not_executable = doctor().bad
        path.chmod(mode)
        path.write_text(text.replace(text.split()[0], "#!/usr/bin/python3.99", 1))
        no_python = doctor().bad
    finally:
        path.write_text(text)
        path.chmod(mode)
    assert [f[:3] for f in not_executable] == [
        ("failure", "hook files", f"{WRAPPER} is not executable"),
        ("failure", "wrapper", f"there is no device model wrapper at {WRAPPER}"),
    ]
    assert [f[:3] for f in no_python] == [
        ("warning", "hook files", f"{WRAPPER} is not as it was installed"),
        ("failure", "wrapper", f"{WRAPPER} wants /usr/bin/python3.99: No such file or directory"),
    ]
    assert doctor().bad == []


@pytest.mark.smoke
@pytest.mark.parametrize("version", OTHERS)
def test_another_release_s_library(tmp_path: Path, version: str) -> None:
    """It loads, has every call, and could list domains: only the domctl tells."""
    shutil.copytree(f"/job/lib-{version}/xen", tmp_path / "lib")
    wrong = tmp_path / "lib" / f"libxenctrl.so.{VERSION}"
    (tmp_path / "lib" / f"libxenctrl.so.{version}").rename(wrong)
    found = doctor(argv=tuple(python(version, tmp_path / "lib")))
    assert found.of("libxenctrl")[0][0] == "ok"
    text = f"{wrong} is Xen {version}'s library, and the running Xen {TEXT} refuses it"
    advice = f"install the real libxenctrl.so.{VERSION} (Debian: libxenmisc{VERSION}), or boot Xen {version}"
    assert found.of("domain control") == [("failure", text, advice)]
    assert [f[1] for f in found.findings if f[0] == "failure"] == ["domain control"]


@pytest.mark.once
def test_the_library_is_gone() -> None:
    with instead():
        found = doctor()
    text = f"the running Xen's libxenctrl.so.{VERSION} is not installed"
    assert ("failure", "libxenctrl", text, f"install it (Debian: libxenmisc{VERSION})") in found.bad
    assert "domain control" in found.skipped("libxenctrl")
    assert found.of("xenstored")[0][0] == "ok", "which has a library of its own"


@pytest.mark.smoke
def test_an_unprivileged_user() -> None:
    found = doctor(argv=("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "python3"))
    assert found.status == 1
    assert found.of("root") == [
        ("failure", "not root (euid 65534): Xen can be changed by root only", "run it with sudo")
    ]
    assert {"domain control", "xenstored"} <= set(found.skipped("root"))
    assert found.of("domain control") == []
    for name in ("xen", "dom0", "libxenctrl", "pciback", "hook", "device model", "wrapper"):
        assert found.of(name)[0][0] == "ok", name


@pytest.mark.once
def test_xenstored_hangs() -> None:
    """Stopped, not killed: it cannot be started a second time in one boot."""
    pid = int(Path("/run/xenstored.pid").read_text())
    os.kill(pid, signal.SIGSTOP)
    try:
        found = doctor()
    finally:
        os.kill(pid, signal.SIGCONT)
    assert [f[:3] for f in found.bad] == [("failure", "xenstored", "xenstored does not answer within 5 s")]
    assert until(lambda: doctor().bad == [], seconds=60)


@pytest.mark.once
def test_xenstored_s_socket_is_gone() -> None:
    """Its clients then go through the kernel, which works as well."""
    socket = Path("/run/xenstored/socket")
    aside = socket.rename(socket.with_name("aside"))
    try:
        found = doctor()
    finally:
        aside.rename(socket)
    assert found.of("xenbus") == [("ok", "/dev/xen/xenbus", "")]
    assert found.of("xenstored")[0][0] == "ok"


@pytest.mark.once
def test_no_dev_mem(config: Path) -> None:
    aside = Path("/dev/mem").rename("/dev/mem-aside")
    try:
        found = doctor(config)
    finally:
        aside.rename("/dev/mem")
    assert found.of("/dev/mem") == [("failure", "/dev/mem is missing", "boot a dom0 kernel with CONFIG_DEVMEM")]
    [(status, text, _)] = found.of("firmware")
    assert (status, text) == ("warning", "VBIOS header not read: /dev/mem: No such file or directory")


@pytest.mark.once
def test_hazards_of_configs(tmp_path: Path) -> None:
    def write(name: str, more: str) -> Path:
        path = tmp_path / f"{name}.cfg"
        path.write_text(f'name="{name}"\n{BASE}{more}')
        return path

    stub = 'device_model_stubdomain_override=1\ndevice_model_version="qemu-xen"\n'
    plain, pod = write("plain", ""), write("pod", f"{IGD}maxmem=128\n")
    missing, there = write("missing", IGD + stub), write("there", f"{IGD}{stub}{IMAGES}")
    absent, syntax, model = (
        write("absent", IGD.replace("01.0", "1f.7")),
        write("syntax", "a=0xFF\n"),
        tmp_path / "m.cfg",
    )
    model.write_text(f'name="m"\n{BASE}{IGD}device_model_override="/nonexistent"\ndevice_model_version="qemu-xen"\n')
    # The real device model, as if it had been built for the Xen before: the library's name is in it but once, for the linker.
    other, older = tmp_path / "qemu", f"4.{int(VERSION[2:]) - 1}"
    soname = f"libxenctrl.so.{VERSION}\0".encode()
    program = Path(QEMU).read_bytes()
    assert program.count(soname) == 1
    other.write_bytes(program.replace(soname, soname.replace(VERSION.encode(), older.encode())))
    other.chmod(0o755)
    old = write("old", f'{IGD}device_model_override="{other}"\ndevice_model_version="qemu-xen"\n')
    found = doctor(plain, pod, missing, there, absent, syntax, model, old)
    assert found.of(str(old))[0] == (
        "failure",
        f"the device model {other}: it needs libxenctrl.so.{older}, but Xen {TEXT} is running",
        f"install a device model that was built for Xen {VERSION}, or boot Xen {older}",
    )
    assert found.of(str(plain)) == [("ok", "needs no legacy range: the real xl runs unchanged", "")]
    assert "cannot populate on demand" in found.of(str(pod))[1][1]
    folder = firmware_folder(running_version()[:2])
    assert [f[:2] for f in found.of(str(missing))[-2:]] == [
        ("failure", f"the stubdomain's {what} {folder}/qemu-stubdom-linux-{name} is missing or not readable")
        for what, name in (("kernel", "kernel"), ("ramdisk", "rootfs"))
    ]
    assert [f[0] for f in found.of(str(there))] == ["ok"] * 3
    assert found.of(str(absent))[-1][1].endswith("no such PCI device on host lab")
    assert found.of(str(syntax))[0][0] == "failure"
    assert found.of(str(model))[0][:2] == ("failure", "the device model /nonexistent is missing or not executable")


@pytest.mark.once
def test_another_domain_has_the_display(config: Path, guests: Guests) -> None:
    domid, _ = guests.make(IGD)
    assert dump()[domid] != HeldRights()
    found = doctor(config)
    guests.destroy(domid)
    assert found.of("display") == [("ok", f"{VGA} [1234:1111] belongs to domain {domid}", "")]
    texts = [f[1] for f in found.of(str(config)) if f[0] == "failure"]
    assert texts == [
        f"{VGA}: assigned to domain {domid}",
            f"domain {domid} has the display {VGA} with gfx_passthru, so its device model maps the legacy VGA ports",
    ]  # fmt: skip
