# SPDX-License-Identifier: LGPL-2.1-only
"""Delegates for all kinds of guests: started by the hook, beside a device model in a stubdomain, and for a PVH guest."""

import os
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.dom0 import hooked
from tests.lab.dom0.conftest import BASE, Guests, sh, xlplug
from tests.lab.dom0.delegates import alive, delegate, servers, verify
from tests.lab.dom0.hooked import domid_of, until, xl
from tests.lab.dom0.puppet import EDU, EDU2, HVM, NE2K, TESTDEV, Device, Puppet, assignable
from tests.lab.dom0.test_delegate_death import waited
from tests.lab.dom0.test_watch import Daemon
from tests.lab.dom0.vgaguest import STUBDOM
from xlplug.delegate import record
from xlplug.delegate.state import State, path_of
from xlplug.xen.devicemodel import DeviceModel
from xlplug.xen.store import XenStore

EDU_AT, KNOWN = 0xF0000000, 0x010000ED


@pytest.fixture(scope="module", autouse=True)
def bound() -> None:
    assignable(EDU, EDU2, NE2K, TESTDEV)


@pytest.fixture(scope="module")
def hook() -> Iterator[None]:
    yield from hooked.installed()


def uses(puppet: Puppet, slot: int) -> None:
    edu = Device(puppet, slot)
    assert edu.config(0, 4) == 0x11E81234
    edu.place(0, EDU_AT)
    edu.decode(2)
    assert puppet.read(EDU_AT) == KNOWN
    assert verify(puppet.domid)[1]["problems"] == []


def config(folder: Path, name: str, *lines: str) -> str:
    path = folder / f"{name}.cfg"
    base = BASE.replace('type="hvm"\n', "") if any(line.startswith("type=") for line in lines) else BASE
    path.write_text("\n".join([f'name="{name}"', base, HVM, *lines, ""]))
    return str(path)


def test_the_hook_starts_it_before_the_guest_runs(hook: None, tmp_path: Path) -> None:
    done = xl("create", "-p", config(tmp_path, "hookeddm", f'xlplug_delegate=["{EDU},vslot=1d", "{NE2K}"]'))
    assert done.returncode == 0, done.stderr
    domid = int(sh("xl", "domid", "hookeddm").stdout)
    try:
        with XenStore() as store:
            found = record.read(store, domid)
        assert found is not None
        assert found.process is not None
        assert [str(device.guest) for device in found.delegate] == ["0000:00:1d.0", "0000:00:1e.0"]
        assert (found.process.server, alive(found.process.pid)) == (0, True), "before QEMU, whose server is the next"
        with Puppet(domid) as puppet:
            sh("xl", "unpause", str(domid))
            uses(puppet, 0x1D)
            again = xlplug("dm", str(domid), EDU2)
            assert (again.returncode, "has a delegate already" in again.stderr) == (1, True)
    finally:
        sh("xl", "destroy", str(domid))
    assert until(lambda: not alive(found.process.pid), 10), "it ends with the guest"


def test_a_guest_that_reboots_has_a_delegate_again(hook: None, tmp_path: Path) -> None:
    """Another domain takes its place; the wrapper starts another delegate for it, before it runs."""
    path = config(tmp_path, "rebootdm", f'xlplug_delegate=["{EDU},vslot=1d"]')
    done = xl("create", path)
    assert done.returncode == 0, done.stderr
    first = int(sh("xl", "domid", "rebootdm").stdout)
    try:
        with Puppet(first) as puppet:
            uses(puppet, 0x1D)
        with XenStore() as store:
            old = record.read(store, first)
        assert old is not None
        assert old.process is not None
        began = time.monotonic()
        with DeviceModel() as model:  # with the puppet's page mapped, the domain would not vanish
            model.call("shutdown", first, reason=1)  # SHUTDOWN_reboot.  Source: xen/include/public/sched.h
        assert until(lambda: domid_of("rebootdm") not in (None, first), 60)
        second = domid_of("rebootdm") or 0

        def served_again() -> bool:
            with XenStore() as store:
                found = record.read(store, second)
            return found is not None and found.process is not None and alive(found.process.pid)

        assert until(served_again)
        with Puppet(second) as puppet:
            uses(puppet, 0x1D)
        with Path("/out/waited").open("a") as file:
            file.write(f"the guest reboots, until it uses the device again: {time.monotonic() - began:.1f} s\n")
        assert until(lambda: not alive(old.process.pid))
        assert not Path(path_of(first)).exists()
    finally:
        sh("xl", "destroy", "rebootdm")


class Service(Daemon):
    """With the capabilities that its unit leaves it."""

    unit = (Path(__file__).parents[3] / "hooks" / "xlplug-watch.service").read_text()
    kept = [f"+{name[4:].lower()}" for name in re.findall(r"(?m)^CapabilityBoundingSet=(.*)$", unit)[0].split()]
    command = ("setpriv", "--no-new-privs", f"--bounding-set=-all,{','.join(kept)}", *Daemon.command)


@pytest.mark.once
def test_the_daemon_starts_it_and_takes_over_when_it_dies(tmp_path: Path) -> None:
    """Beside stock xl: no hook starts a wrapper."""
    daemon = Service(tmp_path)
    try:
        done = xl("create", config(tmp_path, "watcheddm", f'xlplug_delegate=["{EDU},vslot=1d"]'), front_end=False)
        assert done.returncode == 0, done.stderr
        domid = int(sh("xl", "domid", "watcheddm").stdout)
        assert until(lambda: daemon.says(f"domain {domid} (watcheddm): its delegate serves {EDU}")), daemon.lines()
        with Puppet(domid) as puppet:
            uses(puppet, 0x1D)
            with XenStore() as store:
                before = record.read(store, domid)
            assert before is not None
            assert before.process is not None
            state = State.read(before.process.state)
            assert state is not None
            with waited(puppet, "both are killed, and the daemon takes over", (KNOWN, 0x11E81234), 10, devfn=0x1D << 3):
                os.kill(before.process.pid, signal.SIGKILL)
                os.kill(state.pid, signal.SIGKILL)
            assert until(lambda: verify(domid)[0] == 0)
            assert daemon.says(
                f"domain {domid}: the delegate's supervisor, process {before.process.pid}, is dead; taking over"
            )
            with XenStore() as store:
                after = record.read(store, domid)
            assert after is not None
            assert after.process is not None
            assert daemon.stop() == 0
            assert puppet.read(EDU_AT) == KNOWN, "a delegate goes on without the daemon"
            sh("xl", "destroy", "watcheddm")
        assert until(lambda: not alive(after.process.pid), 10)
    finally:
        sh("xl", "destroy", "watcheddm")
        if daemon.process.poll() is None:
            daemon.process.kill()
        daemon.notify.close()
    assert "Traceback" not in daemon.log.read_text()


@pytest.mark.once
@pytest.mark.parametrize(
    ("lines", "complaint"),
    [
        (
            [f'xlplug_delegate=["{EDU}"]', f'pci=["{EDU}"]'],
            "is also in pci; remove it from one of them: only one can map it",
        ),
        (['xlplug_delegate=["0000:00:09.0"]'], "0000:00:09.0 was not found on this host; see 'lspci -D'"),
        (
            ['xlplug_delegate=["0000:00:00.0"]'],
            "refused: 0000:00:00.0 is bound to no driver, not to pciback; run: xl pci-assign",
        ),
        ([f'xlplug_delegate=["{EDU},dma=1"]'], "asks for dma, which no stable interface of Xen has for a delegate"),
        (
            [f'xlplug_delegate=["{EDU}"]', 'type="pvh"', 'kernel="/stubdom/puppet"'],
            "remove it, and run 'xlplug dm' once the guest is there",
        ),
    ],
)
def test_what_is_refused_before_anything_is_created(
    hook: None, tmp_path: Path, lines: list[str], complaint: str
) -> None:
    done = xl("create", "-p", config(tmp_path, "refuseddm", *lines))
    assert done.returncode == 1
    assert complaint in done.stderr
    assert done.stderr.count("xlplug: ") == 1, done.stderr
    assert sh("xl", "domid", "refuseddm").returncode != 0


@pytest.mark.once
def test_a_delegate_that_does_not_start_leaves_no_guest(hook: None, tmp_path: Path, guests: Guests) -> None:
    """Its device is another guest's delegate's."""
    other, _ = guests.make()
    with delegate(other, EDU):
        done = xl("create", "-p", config(tmp_path, "latedm", f'xlplug_delegate=["{EDU}"]'))
    assert done.returncode != 0
    assert f"did not start: refused: {EDU} is delegated already" in done.stderr
    assert sh("xl", "domid", "latedm").returncode != 0


@pytest.mark.smoke
def test_a_pvh_guest(tmp_path: Path) -> None:
    """It has no device model at all, so it is started paused, and the delegate by hand."""
    path = tmp_path / "pvhdm.cfg"
    path.write_text('name="pvhdm"\ntype="pvh"\nkernel="/stubdom/puppet"\nmemory=64\nvcpus=1\non_crash="preserve"\n')
    done = sh("xl", "create", "-p", str(path))
    assert done.returncode == 0, done.stderr
    domid = int(sh("xl", "domid", "pvhdm").stdout)
    try:
        with Puppet(domid) as puppet, delegate(domid, f"{EDU},vslot=1d") as served:
            assert [server.id for server in servers(domid)] == [0, 1]
            sh("xl", "unpause", str(domid))
            uses(puppet, 0x1D)
            assert served.stop() == 0
            assert puppet.read(EDU_AT) == 0xFFFFFFFF
    finally:
        sh("xl", "destroy", str(domid))


@pytest.mark.once
def test_linux_finds_sizes_places_and_uses_it(hook: None, tmp_path: Path) -> None:
    """Debian's own kernel behind stock hvmloader and SeaBIOS; the wrapper has started the delegate."""
    log, path = tmp_path / "serial", tmp_path / "linuxdm.cfg"
    path.write_text(
        f'name="linuxdm"\n{BASE}memory=192\nserial="file:{log}"\n'
        'kernel="/stubdom/vmlinuz"\nramdisk="/stubdom/linuxguest"\n'
        'cmdline="console=ttyS0 rdinit=/init quiet mitigations=off lpj=1000000"\n'
        f'xlplug_delegate=["{EDU},vslot=1d", "{TESTDEV}"]\n'
    )
    try:
        done = xl("create", str(path))
        assert done.returncode == 0, done.stderr
        assert until(lambda: "linuxguest: end" in log.read_text(errors="replace"), 150), log.read_text(errors="replace")
        domid = int(sh("xl", "domid", "linuxdm").stdout)
        said = [
            line.partition("linuxguest: ")[2].strip() for line in log.read_text().splitlines() if "linuxguest: " in line
        ]
        found = {line.split()[1]: line.split()[2:] for line in said if line.startswith("again ")}
        ids, bar = found["0000:00:1d.0"]
        assert ids == "0x12340x11e8"
        first, last = (int(number, 16) for number in bar.removeprefix("0=").split("-"))
        assert last - first == 0xFFFFF
        ids, *bars = found["0000:00:1e.0"]
        assert (ids, [bar[:2] for bar in bars]) == ("0x1b360x0005", ["0=", "1=", "2="])
        assert [line for line in said if line.startswith(("edu", "inv", "fac"))] == [
            "edu 0x010000ED", "inverted 0xEDCBA987", "factorial 0x000002D0",
        ]  # fmt: skip
        status, report = verify(domid)
        assert (status, report["problems"]) == (0, [])
    finally:
        sh("xl", "destroy", "linuxdm")


def test_beside_a_device_model_in_a_stubdomain(tmp_path: Path) -> None:
    path = tmp_path / "stubbeddm.cfg"
    path.write_text(f'name="stubbeddm"\n{BASE}{HVM}{STUBDOM}')
    done = sh("xl", "create", "-p", str(path))
    assert done.returncode == 0, done.stderr
    domid = int(sh("xl", "domid", "stubbeddm").stdout)
    stubdom = sh("xenstore-read", f"/local/domain/{domid}/image/device-model-domid").stdout.strip()
    try:
        with Puppet(domid) as puppet, delegate(domid, f"{EDU},vslot=1d"):
            sh("xl", "unpause", str(domid))
            uses(puppet, 0x1D)
            listed = sh("xenstore-ls", "-p", f"/libxl/{domid}/xlplug-devices").stdout
            assert f'dm = "{stubdom}"' in listed, listed
            assert all(line.endswith(f"(n0,r{stubdom})") for line in listed.splitlines()), listed
    finally:
        sh("xl", "destroy", str(domid))
