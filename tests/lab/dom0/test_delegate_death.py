# SPDX-License-Identifier: LGPL-2.1-only
"""However a delegate, its guest or its device ends: the guest goes on within a second, and nothing stays behind."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.dom0.conftest import Guests, sh, xlplug
from tests.lab.dom0.delegates import Delegate, alive, delegate, servers, verify
from tests.lab.dom0.puppet import EDU, EDU2, HVM, Device, Puppet, assignable
from xlplug.delegate.state import path_of

EDU_AT = 0xF0000000
KNOWN = 0x010000ED
PATIENCE = 8  # seconds, for what takes a moment on an emulated processor that others share


@pytest.fixture(scope="module", autouse=True)
def bound() -> None:
    assignable(EDU, EDU2)


@pytest.fixture
def puppet(guests: Guests) -> Iterator[Puppet]:
    domid, _ = guests.make(HVM)
    with Puppet(domid) as made:
        assert sh("xl", "unpause", str(domid)).returncode == 0
        yield made


@pytest.fixture
def served(puppet: Puppet) -> Iterator[Delegate]:
    with delegate(puppet.domid, f"{EDU},vslot=10") as made:
        edu = Device(puppet, 0x10)
        edu.place(0, EDU_AT)
        edu.decode(2)
        puppet.write(EDU_AT + 4, 0x1234)
        yield made


def successor(served: Delegate, pid: int) -> int:
    served.until(lambda: served.pid != pid, PATIENCE, "nobody takes over")
    return served.pid


def clean(served: Delegate) -> None:
    """Nothing is left of it: no process, no file, no server, no record."""
    assert not Path(path_of(served.domid)).exists()
    assert "xlplug-devices" not in sh("xenstore-ls", f"/libxl/{served.domid}").stdout
    command = int.from_bytes(Path(f"/sys/bus/pci/devices/{EDU}/config").read_bytes()[4:6], "little")
    assert command & 4 == 0


@pytest.mark.smoke
def test_sigterm(puppet: Puppet, served: Delegate) -> None:
    pid = served.pid
    assert served.stop() == 0
    assert not alive(pid)
    assert puppet.read(EDU_AT) == 0xFFFFFFFF
    assert puppet.config(0x80, 0, 4) == 0xFFFFFFFF
    assert len(servers(puppet.domid)) == 2
    clean(served)
    with delegate(puppet.domid, f"{EDU},vslot=10"):
        assert puppet.config(0x80, 0, 4) == 0x11E81234, "another one may come"


def test_sigterm_amid_accesses(puppet: Puppet, served: Delegate) -> None:
    os.kill(served.process.pid, signal.SIGTERM)
    seen = {puppet.read(EDU_AT) for _ in range(300)}
    assert seen <= {KNOWN, 0xFFFFFFFF}
    assert served.stop() == 0
    assert puppet.read(EDU_AT) == 0xFFFFFFFF


def test_sigkill_while_nobody_asks(puppet: Puppet, served: Delegate) -> None:
    pid = served.pid
    os.kill(pid, signal.SIGKILL)
    assert successor(served, pid) != pid
    assert puppet.read(EDU_AT) == KNOWN
    assert puppet.read(EDU_AT + 4) == 0x1234 ^ 0xFFFFFFFF
    assert verify(puppet.domid)[1]["problems"] == []
    assert f"process {pid} ended with signal 9; another one takes over" in "".join(served.complaints)


@pytest.mark.smoke
def test_sigkill_while_a_vcpu_waits(puppet: Puppet, served: Delegate) -> None:
    pid = served.pid
    os.kill(pid, signal.SIGSTOP)
    puppet.begin("read32", EDU_AT)
    os.kill(pid, signal.SIGKILL)
    began = time.monotonic()
    assert puppet.finish(seconds=PATIENCE) & 0xFFFFFFFF in (KNOWN, 0xFFFFFFFF)
    print("the vCPU waited", round(time.monotonic() - began, 2), "seconds")
    Device(puppet, 0x10).place(0, EDU_AT + (1 << 20))
    assert puppet.read(EDU_AT + (1 << 20)) == KNOWN
    assert verify(puppet.domid)[0] == 0


def test_sigstop(puppet: Puppet, served: Delegate) -> None:
    os.kill(served.pid, signal.SIGSTOP)
    assert puppet.read(EDU_AT) == KNOWN
    served.until(lambda: any("was stopped" in line for line in served.complaints), PATIENCE, "not said")


def test_dying_again_and_again_is_given_up(puppet: Puppet, served: Delegate) -> None:
    for _ in range(5):
        pid = served.pid
        os.kill(pid, signal.SIGKILL)
        served.until(lambda: served.pid != pid, PATIENCE, "nobody")  # noqa: B023
    assert served.process.wait(PATIENCE) == 3
    assert puppet.read(EDU_AT) == 0xFFFFFFFF
    assert len(servers(puppet.domid)) == 2
    clean(served)


def test_the_supervisor_is_killed(puppet: Puppet, served: Delegate) -> None:
    pid = served.pid
    os.kill(served.process.pid, signal.SIGKILL)
    served.process.wait()
    assert puppet.read(EDU_AT) == KNOWN
    status, report = verify(puppet.domid)
    assert (status, report["problems"][0]["what"]) == (
        1,
        f"process {pid} serves without its supervisor, process {served.process.pid}",
    )
    done = xlplug("dm", str(puppet.domid), EDU)
    assert (done.returncode, f"kill -TERM {pid}" in done.stderr, alive(pid)) == (1, True, True)
    os.kill(pid, signal.SIGTERM)
    served.until(lambda: not alive(pid), PATIENCE, "does not stop")
    assert puppet.read(EDU_AT) == 0xFFFFFFFF


@pytest.mark.smoke
def test_the_guest_is_destroyed(guests: Guests, served: Delegate) -> None:
    pid = served.pid
    guests.destroy(served.domid)
    assert served.process.wait(PATIENCE) == 0
    assert not alive(pid)
    assert "the guest, or its ioreq server, is gone" in "".join(served.complaints)
    clean(served)


def test_the_host_s_device_is_removed(puppet: Puppet) -> None:
    """And comes back, for the next guest."""
    try:
        with delegate(puppet.domid, f"{EDU2},vslot=10", f"{EDU},vslot=11") as served:
            edu, other = Device(puppet, 0x10), Device(puppet, 0x11)
            edu.place(0, EDU_AT)
            edu.decode(2)
            other.place(0, EDU_AT + (1 << 20))
            other.decode(2)
            assert puppet.read(EDU_AT) == KNOWN
            Path(f"/sys/bus/pci/devices/{EDU2}/remove").write_text("1")
            served.until(
                lambda: any("is gone from the host" in line for line in served.complaints), PATIENCE, "not said"
            )
            assert puppet.read(EDU_AT) == 0xFFFFFFFF
            assert puppet.read(EDU_AT + (1 << 20)) == KNOWN, "the other one stays"
            status, report = verify(puppet.domid)
            assert (status, [p["what"] for p in report["problems"]]) == (1, [f"{EDU2} is gone from the host"])
            pid = served.pid
            os.kill(pid, signal.SIGKILL)
            successor(served, pid)
            assert puppet.read(EDU_AT) == 0xFFFFFFFF
            assert puppet.read(EDU_AT + (1 << 20)) == KNOWN
    finally:
        Path("/sys/bus/pci/rescan").write_text("1")
        assignable(EDU2)


def test_pciback_lets_go(puppet: Puppet, served: Delegate) -> None:
    sh("xl", "pci-assignable-remove", EDU)
    assert puppet.read(EDU_AT) == KNOWN
    status, report = verify(puppet.domid)
    assignable(EDU)
    assert (status, [p["what"] for p in report["problems"]]) == (1, [f"{EDU} is not bound to pciback any more"])
