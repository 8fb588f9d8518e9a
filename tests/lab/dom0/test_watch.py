# SPDX-License-Identifier: LGPL-2.1-only
"""``xlplug watch`` beside stock xl: no hook is installed here."""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.dom0.conftest import IGD, VGA, dump, journal, sh
from tests.lab.dom0.hooked import add, domid_of, guests_of_xen, own_config, qemu_log, until
from xlplug.model.rangeset import RangeSet
from xlplug.xen.ctrl import XenCtrl

PORTS = RangeSet(((0x3B0, 0x3BC), (0x3C0, 0x3E0)))
MEMORY = RangeSet([(0xA0, 0xC0)])


class Daemon:
    """A running ``xlplug watch`` with a service manager's socket, and what it said."""

    command = ("python3", "-m", "xlplug", "watch")

    def __init__(self, folder: Path) -> None:
        self.log = folder / "watch.log"
        address = str(folder / "notify")
        self.notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.notify.bind(address)
        self.notify.settimeout(30)
        self.start(address)

    def start(self, address: str) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(self.command, stderr=log, env={**os.environ, "NOTIFY_SOCKET": address})
        assert self.notify.recv(100) == b"READY=1"

    def lines(self) -> list[str]:
        return self.log.read_text().splitlines()

    def says(self, text: str) -> bool:
        return any(text in line for line in self.lines())

    def freeze(self) -> None:
        """Stop it where it waits for events.

        In the midst of a request, of which libxenstore writes the header first, xenstored would wait for the rest, and
        everybody for xenstored.
        """
        assert until(self._waits)
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def _waits(self) -> bool:
        def seen() -> list[str]:
            words = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(") ")[2].split()
            return [words[0], *words[11:13]]  # state, utime and stime: proc(5)

        before = seen()
        time.sleep(0.3)
        return before[0] == "S" and seen() == before

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        assert self.notify.recv(100) == b"STOPPING=1"
        return self.process.wait(30)


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    one = Daemon(tmp_path)
    yield one
    if one.process.poll() is None:
        assert one.stop() == 0
    one.notify.close()
    assert "Traceback" not in one.log.read_text()


@pytest.fixture
def config(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    with own_config(tmp_path, request) as path:
        yield path


def paused(domid: int) -> bool:
    with XenCtrl() as xen:
        info = xen.domain_info(domid)
    assert info is not None
    return info.paused


def test_a_new_guest_is_granted_before_its_device_model_needs_it(daemon: Daemon, config: Path) -> None:
    """QEMU maps the VGA ranges when libxl tells it of the display, and says in its log when it may not."""
    add(config, IGD)
    done = sh("xl", "create", str(config))
    assert done.returncode == 0, done.stderr
    domid = domid_of(config.stem)
    assert domid is not None
    assert qemu_log(config.stem) == []
    held = dump()[domid]
    assert (held.ports, held.memory & MEMORY) == (PORTS, MEMORY)
    assert 'state = "applied"' in journal(domid)
    assert until(lambda: not paused(domid)), "xl's unpausing and ours"
    assert sh("xenstore-read", f"/libxl/{domid}/xlplug-paused").returncode != 0
    assert sum("grant target" in line for line in daemon.lines()) == 3
    sh("xl", "destroy", config.stem)
    assert until(lambda: domid not in guests_of_xen())
    assert daemon.process.poll() is None


def test_a_display_plugged_in_later(daemon: Daemon, config: Path) -> None:
    add(config, 'gfx_passthru="igd"\npassthrough="enabled"\n')  # xl's own need for plugging a device in later
    assert sh("xl", "create", "-p", str(config)).returncode == 0
    domid = domid_of(config.stem)
    assert domid is not None
    assert until(lambda: daemon.says("nothing is granted until one is plugged in"))
    assert dump()[domid].ports == RangeSet()
    done = sh("xl", "pci-attach", config.stem, VGA)
    assert done.returncode == 0, done.stderr
    assert until(lambda: 'state = "applied"' in journal(domid)), daemon.lines()
    held = dump()[domid]
    assert held.ports & PORTS == PORTS
    assert held.memory & MEMORY == MEMORY
    assert "memory_mapping" in journal(domid)
    sh("xl", "pci-detach", config.stem, VGA, timeout=60)
    if VGA[5:] not in sh("xl", "pci-list", config.stem).stdout:
        assert until(lambda: "memory_mapping" not in journal(domid)), daemon.lines()
        assert dump()[domid].ports & PORTS == RangeSet()


def test_a_killed_daemon_leaves_nothing_paused_and_the_next_one_carries_on(
    daemon: Daemon, config: Path, tmp_path: Path
) -> None:
    """Killed at the worst time: while it holds a guest."""
    assert sh("xl", "create", "-p", str(config)).returncode == 0
    domid = domid_of(config.stem)
    assert domid is not None
    code = (
        "import os, time\nfrom xlplug.watch.guard import Guard\n"
        f"guard = Guard()\nguard.pause({domid})\nprint('holding', flush=True)\n{{}}"
    )
    for last, recovered in (
        ("os.kill(os.getpid(), 9)", False),
        ("os.kill(guard._pid, 9)\nos.waitpid(guard._pid, 0)\nos.kill(os.getpid(), 9)", True),
    ):
        done = sh("python3", "-c", code.format(last))
        assert done.stdout == "holding\n", done.stderr
        if recovered:
            assert sh("xenstore-read", f"/libxl/{domid}/xlplug-paused").stdout == "paused\n"
            assert daemon.stop() == 0
            daemon.start(str(tmp_path / "notify"))
            assert daemon.says(f"domain {domid}: unpaused; an earlier run was killed")
        assert until(lambda: sh("xenstore-read", f"/libxl/{domid}/xlplug-paused").returncode != 0)
        assert paused(domid), "xl's own pause is still there"
    sh("xl", "unpause", str(domid))
    assert not paused(domid), "and it was the only one"


def test_a_lost_guard_ends_the_daemon_in_one_line(daemon: Daemon, config: Path) -> None:
    (guard,) = sh("pgrep", "-P", str(daemon.process.pid)).stdout.split()
    os.kill(int(guard), 9)
    add(config, 'ioports=["2f8-2ff"]\n')
    assert sh("xl", "create", str(config)).returncode == 0
    assert daemon.process.wait(60) == 3
    assert daemon.lines()[-1] == "xlplug: the process that pauses domains was killed; restart 'xlplug watch' [XLP511]"
    domid = domid_of(config.stem)
    assert domid is not None
    assert until(lambda: not paused(domid))


def test_it_never_acts_twice_and_a_restart_changes_nothing(daemon: Daemon, config: Path, tmp_path: Path) -> None:
    add(config, 'ioports=["2f8-2ff"]\n')
    assert sh("xl", "create", "-p", str(config)).returncode == 0
    domid = domid_of(config.stem)
    assert domid is not None
    assert until(lambda: "ioport_mapping" in journal(domid))
    before = journal(domid), len(daemon.lines())
    sh("xl", "create", "-n", str(config))
    assert daemon.stop() == 0
    daemon.start(str(tmp_path / "notify"))
    assert journal(domid) == before[0]
    assert len([line for line in daemon.lines() if "map target" in line]) == 1


def held_up(pid: int) -> None:
    """Stop xl, and not in the midst of a request (see `Daemon.freeze`), which shows in xenstored's answering others."""
    while True:
        os.kill(pid, signal.SIGSTOP)
        try:
            assert sh("xenstore-read", "/local/domain/0/domid", timeout=10).stdout == "0\n"
        except subprocess.TimeoutExpired:
            os.kill(pid, signal.SIGCONT)
            time.sleep(0.05)
        else:
            return


def test_a_changed_config_is_refused_in_one_line(daemon: Daemon, config: Path) -> None:
    """xl has read it already; what it says now may be meant for another time."""
    add(config, 'ioports=["2f8-2ff"]\n')
    daemon.freeze()
    process = subprocess.Popen(["xl", "create", "-p", str(config)], stderr=subprocess.DEVNULL)
    assert until(lambda: domid_of(config.stem) is not None)
    os.utime(config, (2**31, 2**31))
    held_up(process.pid)  # libxl must not be done before the daemon looks
    daemon.thaw()
    assert until(lambda: daemon.says("changed since xl read it")), daemon.lines()
    os.kill(process.pid, signal.SIGCONT)
    assert process.wait(60) == 0
    # libxl's own record cannot have been changed, and now it is there.
    assert until(lambda: "ioport_mapping" in journal(domid_of(config.stem) or 0)), daemon.lines()


def test_without_xenstored_it_says_so() -> None:
    hidden = Path("/run/xenstored.hidden")
    Path("/run/xenstored").rename(hidden)
    try:
        done = subprocess.run(
            ["python3", "-m", "xlplug", "watch"], capture_output=True, text=True, timeout=60,
            env={**os.environ, "XENSTORED_PATH": "/nonexistent"},
        )  # fmt: skip
    finally:
        hidden.rename("/run/xenstored")
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "xenstored cannot be reached" in done.stderr
