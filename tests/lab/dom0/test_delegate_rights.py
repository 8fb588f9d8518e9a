# SPDX-License-Identifier: LGPL-2.1-only
"""What a delegate can still do once it serves: what /proc says of it, and what it is refused."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.dom0.conftest import Guests
from tests.lab.dom0.delegates import Delegate, delegate
from tests.lab.dom0.puppet import EDU, NE2K, Puppet, assignable, living


@pytest.fixture(scope="module")
def puppet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Puppet]:
    assignable(EDU, NE2K)
    them = Guests(tmp_path_factory.mktemp("other"))
    other, _ = them.make()
    with living(tmp_path_factory.mktemp("puppet")) as made:
        made.other = other  # type: ignore[attr-defined]
        yield made
    them.destroy(other)


@pytest.fixture(scope="module")
def served(puppet: Puppet) -> Iterator[Delegate]:
    with delegate(puppet.domid, EDU, NE2K) as made:
        yield made


def status(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


@pytest.mark.smoke
def test_who_it_is(served: Delegate) -> None:
    found = status(served.pid)
    assert found["Uid"].split() == ["65534"] * 4
    assert found["Gid"].split() == ["65534"] * 4
    assert found["Groups"] == ""
    assert {found[f"Cap{kind}"] for kind in ("Inh", "Prm", "Eff", "Amb")} == {"0" * 16}
    assert (found["NoNewPrivs"], found["Seccomp"]) == ("1", "2")


def test_what_it_keeps_open(served: Delegate) -> None:
    folder = Path(f"/proc/{served.pid}/fd")
    names = sorted(re.sub(r"\[\d+\]", "", os.readlink(fd)) for fd in folder.iterdir())
    assert [name for name in names if name != "/dev/null"] == [
        "/dev/xen/evtchn", "/dev/xen/privcmd", "/dev/xen/privcmd", f"/run/xlplug/{EDU}.lock", f"/run/xlplug/{NE2K}.lock",
        f"/run/xlplug/dm-{served.domid}.lock", f"/sys/devices/pci0000:00/{EDU}/resource0",
        f"/sys/devices/pci0000:00/{NE2K}/resource0", "pipe:", "pipe:", "pipe:", "pipe:",
    ]  # fmt: skip
    maps = Path(f"/proc/{served.pid}/maps").read_text()
    assert f"{EDU}/resource0" in maps
    assert f"{NE2K}/config" not in maps


#: Confined as a delegate is, and then tries things.  Prints a line for each: what, and the errno, or "done".
TRIES = """
import errno, os, socket, sys
from xlplug.delegate.privileges import confine
from xlplug.model.errors import XenError
from xlplug.xen.devicemodel import DeviceModel
from xlplug.xen.evtchn import EventChannels
from xlplug.xen.foreignmemory import ForeignMemory
from xlplug.xen.ioreq import IoreqServer
domid, other = map(int, sys.argv[1:3])
devices, memory, channels = DeviceModel(), ForeignMemory(), EventChannels()
server = IoreqServer(domid, devices, memory, channels)
config = os.open("/sys/bus/pci/devices/" + sys.argv[3] + "/config", os.O_RDWR)
zero = memory.map(domid, [0x100])
zero.close()
confine(domid)
tries = {
    "own range": lambda: server.map_range(0x5000, 0x5001, memory=False),
    "own page": lambda: memory.map(domid, [0x100]).close(),
    "other's page": lambda: memory.map(other, [0x100]),
    "dom0's page": lambda: memory.map(0, [0x100]),
    "other's server": lambda: devices.create_ioreq_server(other),
    "other's interrupt": lambda: devices.call("set_isa_irq_level", other, irq=5, level=1),
    "other's channel": lambda: channels.bind_interdomain(other, 1),
    "read a file": lambda: os.open("/etc/passwd", os.O_RDONLY),
    "privcmd again": lambda: os.open("/dev/xen/privcmd", os.O_RDWR),
    "xenstored": lambda: socket.socket(socket.AF_UNIX),
    "network": lambda: socket.socket(socket.AF_INET),
    "be root": lambda: os.setuid(0),
    "fork": lambda: os.fork(),
    "exec": lambda: os.execv("/bin/true", ["true"]),
    "signal root's": lambda: os.kill(os.getppid(), 0),
    "chmod": lambda: os.chmod("/", 0),
    "pipe": lambda: os.pipe(),
}
for name, call in tries.items():
    try:
        call()
        result = "done"
    except OSError as error:
        result = errno.errorcode.get(error.errno, str(error.errno))
    os.write(1, f"{name}: {result}\\n".encode())
server.close()
os.write(1, b"end\\n")
os._exit(0)
"""


@pytest.mark.smoke
def test_what_it_is_refused(puppet: Puppet, served: Delegate) -> None:
    argv = [sys.executable, "-c", TRIES, str(puppet.domid), str(puppet.other), EDU]  # type: ignore[attr-defined]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines() == [
        "own range: done", "own page: done", "other's page: EPERM", "dom0's page: EPERM", "other's server: EPERM",
        "other's interrupt: EPERM", "other's channel: EPERM", "read a file: EPERM", "privcmd again: EPERM", "xenstored: EPERM",
        "network: EPERM", "be root: EPERM", "fork: EPERM", "exec: EPERM", "signal root's: EPERM", "chmod: EPERM",
        "pipe: EPERM", "end",
    ], done.stderr  # fmt: skip
