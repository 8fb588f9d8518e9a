# SPDX-License-Identifier: LGPL-2.1-only
"""A sample of tests/fault on the real Xen: after each fault, Xen's own dump is as before, or as after once the next run ends.

The faults are below libxenctrl (faults.py), in /var/log, in the terminal, in xenstored, and ``xl destroy`` meanwhile.
"""

import errno
import os
import pty
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.dom0.conftest import BASE, IGD, Guests, discard, dump, journal, patience, sh
from tests.lab.dom0.faults import FAIL, KILL_AFTER, KILL_BEFORE, RUN_AFTER, RUN_BEFORE, Fault, Runner
from tests.lab.dom0.hooked import STOCK, installed
from xlplug.model.hypervisor import HeldRights
from xlplug.model.rangeset import RangeSet

PORTS = RangeSet(((0x3B0, 0x3BC), (0x3C0, 0x3E0)))
MEMORY = RangeSet([(0xA0, 0xC0)])
GRANTED = HeldRights(PORTS, MEMORY)
REVOKED = HeldRights(RangeSet(), MEMORY)  # the frame buffer would be libxl's, and stays
HOOKED = f"/usr/local/sbin:{STOCK}"
ERRNOS = (errno.ENOMEM, errno.EPERM)


@pytest.fixture(scope="module")
def run() -> Iterator[Runner]:
    runner = Runner()
    yield runner
    runner.close()


class Claimant:
    """A paused guest without the display, and a config by which it wants it."""

    def __init__(self, guests: Guests, run: Runner) -> None:
        number, path = guests.make()
        path.write_text(path.read_text() + IGD)
        self.domid = number
        self.run = run
        self.grant = ("grant", str(number), "--config", str(path))
        self.map = (*self.grant, "--map-legacy")
        self.revoke = ("revoke", str(number))

    def ok(self, *words: str) -> int:
        """Run it without a fault; how many calls it took."""
        done = self.run(*words)
        assert done.status == 0, done.err
        return done.calls

    @property
    def held(self) -> HeldRights:
        return dump()[self.domid]

    @property
    def steps(self) -> int:
        """How many steps the record has in force; -1 where some are pending."""
        text = journal(self.domid)
        return -1 if "pending" in text else text.count("_permission ") + text.count("_mapping ")


@pytest.fixture(scope="module")
def claimant(run: Runner, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Claimant]:
    guests = Guests(tmp_path_factory.mktemp("fire"))
    it = Claimant(guests, run)
    it.ok(*it.grant)
    it.ok(*it.revoke)
    assert it.held == REVOKED
    yield it
    for domid in list(guests.made):
        guests.destroy(domid)


def kills(calls: int) -> Iterator[Fault]:
    """Before each call, and after the last."""
    yield from (Fault(at, KILL_BEFORE) for at in range(calls))
    yield Fault(calls - 1, KILL_AFTER)


def errnos(calls: int) -> Iterator[Fault]:
    yield from (Fault(at, FAIL, ERRNOS[at % len(ERRNOS)]) for at in range(calls))


def test_a_grant(claimant: Claimant, run: Runner) -> None:
    calls = claimant.ok(*claimant.map)
    claimant.ok(*claimant.revoke)
    for fault in errnos(calls):
        done = run(*claimant.map, fault=fault)
        assert (done.status, done.err.count("\n")) == (3, 1), (fault, done)
        assert (claimant.held, claimant.steps) == (REVOKED, 0), fault
    for n, fault in enumerate(kills(calls)):
        then, held, steps = ((claimant.map, GRANTED, 6), (claimant.revoke, REVOKED, 0))[n % 2]
        assert run(*claimant.map, fault=fault).status == -signal.SIGKILL
        claimant.ok(*then)
        assert (claimant.held, claimant.steps) == (held, steps), fault
        claimant.ok(*claimant.revoke)


def test_a_second_grant(claimant: Claimant, run: Runner) -> None:
    claimant.ok(*claimant.grant)
    calls = claimant.ok(*claimant.map)
    claimant.ok(*claimant.revoke)
    claimant.ok(*claimant.grant)
    for fault in errnos(calls):
        done = run(*claimant.map, fault=fault)
        assert (done.status, done.err.count("\n")) == (3, 1), (fault, done)
        assert (claimant.held, claimant.steps) == (GRANTED, 3), fault
    for fault in kills(calls):
        assert run(*claimant.map, fault=fault).status == -signal.SIGKILL
        claimant.ok(*claimant.grant)
        assert (claimant.held, claimant.steps) == (GRANTED, 3), fault
    claimant.ok(*claimant.revoke)
    assert claimant.held == REVOKED


def test_a_revoke(claimant: Claimant, run: Runner) -> None:
    claimant.ok(*claimant.map)
    calls = claimant.ok(*claimant.revoke)
    for fault in (*list(errnos(calls))[::2], *list(kills(calls))[1::2]):
        claimant.ok(*claimant.map)
        done = run(*claimant.revoke, fault=fault)
        assert done.status in ((-signal.SIGKILL,) if fault.action != FAIL else (0, 4)), (fault, done)
        if done.status == 4:
            assert claimant.steps == -1, (fault, done)
        claimant.ok(*claimant.revoke)
        assert (claimant.held, claimant.steps) == (REVOKED, 0), fault


@pytest.mark.once
def test_ssh_goes_away(claimant: Claimant) -> None:
    """The terminal is closed in the middle of it: SIGHUP and EIO come together."""
    for at in (1, 4):
        pid, terminal = pty.fork()
        if pid == 0:
            # The other end is closed by the very call, so the line that follows it is the first to fail.
            os.environ["LD_PRELOAD"] = "/stubdom/libfault.so"
            words = repr([*claimant.map[1:]])
            code = (
                "import os, sys, cffi; os.environ.pop('LD_PRELOAD'); ffi = cffi.FFI(); "
                "ffi.cdef('void fault_arm(int number, int what, int error, const char *words);'); "
                f"ffi.dlopen(None).fault_arm({at}, {RUN_AFTER}, 0, b'kill -USR1 {os.getppid()}; sleep 1'); "
                "from xlplug.commands import common, fast_argv, grant; "
                f"sys.exit(common.run(grant.grant, fast_argv.grant_options({words})))"
            )
            os.execvp("python3", ["python3", "-c", code])
        gone: list[int] = []

        def hang_up(number: int, frame: object, terminal: int = terminal, gone: list[int] = gone) -> None:
            os.close(terminal)
            gone.append(terminal)

        before = signal.signal(signal.SIGUSR1, hang_up)
        _, status = os.waitpid(pid, 0)
        signal.signal(signal.SIGUSR1, before)
        assert gone, "the fault was met"
        assert os.waitstatus_to_exitcode(status) == 3
        assert (claimant.held, claimant.steps) == (REVOKED, 0)


@pytest.mark.parametrize("at", [0, 2, 5])
def test_the_domain_is_destroyed_meanwhile(guests: Guests, run: Runner, at: int) -> None:
    it = Claimant(guests, run)
    action = RUN_AFTER if at == 5 else RUN_BEFORE
    done = run(*it.map, fault=Fault(at, action, 0, f"xl destroy {it.domid} >/dev/null 2>&1"))
    guests.made.remove(it.domid)
    assert done.status == 3, done
    assert done.err.count("\n") == 1
    assert it.domid not in dump()
    assert sh("xenstore-exists", f"/libxl/{it.domid}").returncode != 0
    assert sh("xenstore-exists", f"/tool/xlplug-vga/{it.domid}").returncode != 0
    assert sh("xenstore-exists", f"/local/domain/0/xlplug/{it.domid}").returncode != 0


def test_a_number_that_another_domain_had(guests: Guests, claimant: Claimant, run: Runner) -> None:
    """The record of a domain that is gone, under the number of one that lives: nothing is done by it."""
    claimant.ok(*claimant.map)
    old = {}
    for line in sh("xenstore-ls", "-f", f"/libxl/{claimant.domid}/xlplug").stdout.splitlines():
        path, _, value = line.partition(" = ")
        old[path.rpartition("/xlplug/")[2]] = value.strip('"')
    claimant.ok(*claimant.revoke)
    domid, _ = guests.make('ioports=["3c0-3df"]\n')
    for name, value in old.items():
        if "/xlplug" not in name:
            text = value.replace(f"target {claimant.domid:x} ", f"target {domid:x} ")
            assert sh("xenstore-write", f"/libxl/{domid}/xlplug/{name}", text).returncode == 0
    before = dump()[domid]
    done = run("revoke", str(domid))
    assert (done.status, done.out) == (0, f"nothing to do: xlplug has granted domain {domid} nothing\n")
    assert dump()[domid] == before


@pytest.fixture(scope="module")
def hook() -> Iterator[None]:
    yield from installed()


@pytest.mark.once
def test_a_full_log(hook: None, tmp_path: Path) -> None:
    """No room in /var/log, for xl, the wrapper and QEMU: hooked or not, a guest is created."""
    config = tmp_path / "full.cfg"
    config.write_text(f'name="full"\n{BASE}ioports=["2f8-2ff"]\n')
    assert sh("mount", "-t", "tmpfs", "-o", "size=4k", "tmpfs", "/var/log/xen").returncode == 0
    try:
        Path("/var/log/xen/filler").write_bytes(b"x" * 4096)
        for path in (STOCK, HOOKED):
            done = subprocess.run(
                ["xl", "create", "-p", str(config)], env={**os.environ, "PATH": path}, capture_output=True, text=True
            )
            assert done.returncode == 0, done.stderr
            domid = int(sh("xl", "domid", "full").stdout)
            assert ("ioport_mapping" in journal(domid)) == (path == HOOKED)
            discard("full")
    finally:
        sh("umount", "-l", "/var/log/xen")


@pytest.mark.once
def test_closed_streams(hook: None, tmp_path: Path) -> None:
    """As stock xl, which creates the guest and goes on as its daemon: through the front end, Python and the wrapper."""
    config = tmp_path / "closed.cfg"
    for n, closed in enumerate((">&-", "2>&-", "<&-", ">&- 2>&- <&-")):
        name = f"closed{n}"
        config.write_text(f'name="{name}"\n{BASE}ioports=["2f8-2ff"]\n')
        done = subprocess.run(["sh", "-c", f"xl create -p {config} {closed}"], env={**os.environ, "PATH": HOOKED})
        assert done.returncode == 0
        domid = int(sh("xl", "domid", name).stdout)
        assert "ioport_mapping" in journal(domid)
        assert "Waiting for domain" in Path(f"/var/log/xen/xl-{name}.log").read_text()
        discard(name)


def test_a_xenstored_that_is_dead(claimant: Claimant, tmp_path: Path) -> None:
    """A socket that nobody serves: said at once.  The kernel's ring would take a request and never answer."""
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "socket"))
    environment = {**os.environ, "XENSTORED_RUNDIR": str(tmp_path)}
    for words in (claimant.map, claimant.revoke, ("show",)):
        done = subprocess.run(
            ["python3", "-m", "xlplug", *words], env=environment, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 1
        assert done.stderr.startswith("xlplug: xenstored cannot be reached (ECONNREFUSED); ")


@pytest.mark.parametrize("ring", [False, True])
def test_a_xenstored_that_hangs(claimant: Claimant, tmp_path: Path, ring: bool) -> None:
    """Stopped.  Through its socket, and through the kernel's ring, where libxenstore goes on when there is none."""
    pid = int(sh("pidof", "xenstored").stdout)
    environment = {**os.environ, **({"XENSTORED_RUNDIR": str(tmp_path)} if ring else {})}
    os.kill(pid, signal.SIGSTOP)
    try:
        runs = [
            subprocess.Popen(["python3", "-m", "xlplug", *words], env=environment, stderr=subprocess.PIPE, text=True)
            for words in (claimant.map, claimant.revoke, ("show",))
        ]
        said = [run.communicate(timeout=patience(60))[1] for run in runs]
    finally:
        os.kill(pid, signal.SIGCONT)
    assert [run.returncode for run in runs] == [1, 1, 1]
    for text in said:
        assert text.startswith(
            "xlplug: xenstored cannot be reached (ETIMEDOUT); nothing has answered for ten seconds"
        ), text
    done = sh("env", *(f"{key}={value}" for key, value in environment.items()), "python3", "-m", "xlplug", "show")
    assert (done.returncode, done.stderr) == (0, ""), "it goes on"


def test_xenstored_is_updated_meanwhile(claimant: Claimant, run: Runner) -> None:
    """It starts itself again and keeps what it had; a grant that is under way goes on."""
    update = "xenstore-control live-update -s $(readlink -f /proc/$(pidof xenstored)/exe) >/dev/null"
    done = run(*claimant.map, fault=Fault(2, RUN_BEFORE, 0, update))
    assert done.status == 0, done.err
    assert "-U" in Path(f"/proc/{sh('pidof', 'xenstored').stdout.strip()}/cmdline").read_text().split("\0")
    assert (claimant.held, claimant.steps) == (GRANTED, 6)
    claimant.ok(*claimant.revoke)
    assert (claimant.held, claimant.steps) == (REVOKED, 0)
