# SPDX-License-Identifier: LGPL-2.1-only
"""Pausing that ends with the daemon: real processes, real sockets, real kills; Xen and xenstore are files or memory."""

import errno
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from xlplug.model.errors import StoreError, XenError, XlplugError
from xlplug.watch.guard import Guard, recover, serve
from xlplug.xen.in_memory import MemStore


class Pauser:
    """Counts pauses, as Xen does; ``fail`` maps a verb to the errno that it fails with from now on."""

    def __init__(self) -> None:
        self.count: dict[int, int] = {}
        self.fail: dict[str, int] = {}
        self.calls: list[str] = []

    def _do(self, verb: str, domid: int, step: int) -> None:
        self.calls.append(f"{verb} {domid}")
        if verb in self.fail:
            raise XenError(f"xc_domain_{verb}", self.fail[verb], f"domid={domid}")
        self.count[domid] = self.count.get(domid, 0) + step

    def pause(self, domid: int) -> None:
        self._do("pause", domid, 1)

    def unpause(self, domid: int) -> None:
        self._do("unpause", domid, -1)


class Store(MemStore):
    """``deny`` holds the beginnings of "verb value" that fail."""

    def __init__(self) -> None:
        super().__init__()
        self.deny: set[str] = set()

    def _check(self, what: str) -> None:
        if any(what.startswith(start) for start in self.deny):
            raise StoreError(f"xenstore: cannot {what}: ENOSPC")

    def write(self, path: str, value: str) -> None:
        self._check(f"write {value}")
        super().write(path, value)

    def remove(self, path: str) -> None:
        self._check("remove")
        super().remove(path)


class Line:
    """The daemon's end of a served pipe."""

    def __init__(self) -> None:
        self.xen, self.store = Pauser(), Store()
        for domid in (5, 6):
            self.store.write(f"/libxl/{domid}/type", "hvm")
        self.ours, theirs = socket.socketpair()
        self.answers = self.ours.makefile("r")

        def run() -> None:
            with theirs, theirs.makefile("r") as lines:
                serve(lines, theirs, self.xen, self.store)

        self.thread = threading.Thread(target=run)
        self.thread.start()

    def ask(self, words: str) -> str:
        self.ours.sendall(f"{words}\n".encode())
        return self.answers.readline().rstrip("\n")

    def end(self) -> None:
        self.answers.close()
        self.ours.close()
        self.thread.join(10)
        assert not self.thread.is_alive()

    @property
    def notes(self) -> dict[str, str]:
        return {path: value for path, value in self.store.nodes.items() if path.endswith("/xlplug-paused")}


@pytest.fixture
def line() -> Iterator[Line]:
    made = Line()
    yield made
    made.end()


def test_pause_and_unpause(line: Line) -> None:
    assert line.ask("pause 5") == "ok"
    assert line.xen.count == {5: 1}
    assert line.notes == {"/libxl/5/xlplug-paused": "paused"}
    assert line.ask("unpause 5") == "ok"
    assert line.xen.count == {5: 0}
    assert line.notes == {}


def test_the_end_lets_go_of_all(line: Line) -> None:
    for words in ("pause 5", "pause 6", "unpause 5"):
        assert line.ask(words) == "ok"
    line.end()
    assert line.xen.count == {5: 0, 6: 0}
    assert line.notes == {}


def test_only_what_is_held_is_let_go(line: Line) -> None:
    """Another's pause (libxl's own, at creation) is not ours to take back."""
    assert line.ask("unpause 5") == "ok"
    assert line.ask("pause 5") == "ok"
    assert line.ask("pause 5") == "domain 5 is paused already"
    assert line.ask("unpause 5") == "ok"
    assert line.ask("unpause 5") == "ok"
    assert line.xen.calls == ["pause 5", "unpause 5"]


@pytest.mark.parametrize("words", ["pause x", "pause", "pause -1", "unpause x", "pause \N{SUPERSCRIPT TWO}"])
def test_nonsense_does_not_end_it(line: Line, words: str) -> None:
    assert line.ask("pause 5") == "ok"
    assert line.ask(words) == f"what is '{words}'?"
    assert line.ask("unpause 5") == "ok"


def test_bytes_that_are_no_text_let_go() -> None:
    line = Line()
    assert line.ask("pause 5") == "ok"
    line.ours.sendall(b"\xff\xfe\n")
    line.end()
    assert line.xen.count == {5: 0}


def test_a_pause_that_xen_refuses_leaves_nothing(line: Line) -> None:
    before = dict(line.store.nodes)
    line.xen.fail["pause"] = errno.ESRCH
    for domid in (5, 9):  # 9 is gone, and so is all libxl had in xenstore for it
        assert line.ask(f"pause {domid}") == (f"xc_domain_pause domid={domid}: ESRCH (No such process) [XLP111]")
    assert line.store.nodes == before


@pytest.mark.parametrize("deny", [{"write pausing"}, {"write paused"}, {"write paused", "write unpausing", "remove"}])
def test_a_pause_that_cannot_be_noted_is_none(line: Line, deny: set[str]) -> None:
    line.store.deny = deny
    assert "ENOSPC" in line.ask("pause 5")
    assert line.xen.count.get(5, 0) == 0


@pytest.mark.parametrize("deny", [{"write unpausing"}, {"remove"}, {"write", "remove"}])
@pytest.mark.parametrize("asked", [True, False])
def test_xenstore_does_not_keep_a_domain_paused(deny: set[str], asked: bool) -> None:
    line = Line()
    assert line.ask("pause 5") == "ok"
    line.store.deny = deny
    if asked:
        assert line.ask("unpause 5") == "ok"
    line.end()
    assert line.xen.count == {5: 0}


def test_an_unpause_that_fails_is_tried_again_at_the_end(line: Line) -> None:
    assert line.ask("pause 5") == "ok"
    line.xen.fail["unpause"] = errno.EINTR
    assert "EINTR" in line.ask("unpause 5")
    del line.xen.fail["unpause"]
    line.end()
    assert line.xen.count == {5: 0}
    assert line.notes == {}


def test_a_domain_that_went_while_it_was_held(line: Line) -> None:
    assert line.ask("pause 5") == "ok"
    line.store.remove("/libxl/5")  # libxl's, as it destroys the domain
    line.xen.fail["unpause"] = errno.ESRCH
    assert line.ask("unpause 5") == "ok"
    assert not [path for path in line.store.nodes if path.startswith("/libxl/5")]
    line.end()
    assert line.xen.calls == ["pause 5", "unpause 5"]


# the next daemon


def test_recover() -> None:
    xen, store = Pauser(), Store()
    for domid, state in ((5, "paused"), (6, "pausing"), (7, "unpausing"), (8, "")):
        store.write(f"/libxl/{domid}/type", "hvm")
        if state:
            store.write(f"/libxl/{domid}/xlplug-paused", state)
    store.write("/libxl/device-model/x", "")
    assert recover(xen, store) == [
        "domain 5: unpaused; an earlier run was killed while it held it",
        "domain 6: an earlier run was killed while pausing it; if it stays paused: xl unpause 6",
        "domain 7: an earlier run was killed while unpausing it; if it stays paused: xl unpause 7",
    ]
    assert xen.calls == ["unpause 5"]
    assert recover(xen, store) == []


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (errno.ESRCH, []),  # it is gone
        (errno.EPERM, ["domain 5: an earlier run was killed while it held it, and it cannot be unpaused: "
                       "xc_domain_unpause domid=5: EPERM (Operation not permitted); if it stays paused: xl unpause 5"]),
    ],
)  # fmt: skip
def test_recover_when_xen_refuses(code: int, expected: list[str]) -> None:
    xen, store = Pauser(), Store()
    store.write("/libxl/5/xlplug-paused", "paused")
    xen.fail["unpause"] = code
    assert recover(xen, store) == expected
    assert store.nodes.keys() == {"/libxl"}


# real processes

DAEMON = """
import sys, time
import xlplug.xen.ctrl, xlplug.xen.store
from xlplug.watch.guard import Guard
from xlplug.xen.in_memory import MemStore

class Xen:
    def __enter__(self): return self
    def __exit__(self, *error): pass
    def pause(self, domid): self.note(f"pause {domid}")
    def unpause(self, domid): self.note(f"unpause {domid}")
    def note(self, line):
        with open(sys.argv[1], "a") as file:
            file.write(line + "\\n")
class Store(MemStore):
    def __enter__(self): return self
    def __exit__(self, *error): pass

xlplug.xen.ctrl.XenCtrl, xlplug.xen.store.XenStore = Xen, Store
guard = Guard()
print(guard._pid, flush=True)
guard.pause(5)
guard.pause(6)
guard.unpause(6)
"""


def run(tmp_path: Path, then: str) -> tuple[subprocess.Popen[str], int]:
    process = subprocess.Popen(
        [sys.executable, "-c", DAEMON + then, str(tmp_path / "log")], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, start_new_session=True,
    )  # fmt: skip
    assert process.stdout is not None
    return process, int(process.stdout.readline())


def wait_for(path: Path, expected: str) -> None:
    end = time.monotonic() + 10
    while time.monotonic() < end and (not path.exists() or path.read_text() != expected):
        time.sleep(0.01)
    assert path.read_text() == expected


HELD = "pause 5\npause 6\nunpause 6\n"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("unread", [False, True])
def test_a_killed_daemon_leaves_nothing_paused(tmp_path: Path, number: int, unread: bool) -> None:
    """Also with an answer that it had not read: the guard's socket then fails, it does not end."""
    then = "guard._pipe.sendall(b'ready\\n')\n" if unread else ""
    process, _ = run(tmp_path, f"{then}time.sleep(0.2); print('held', flush=True); time.sleep(60)")
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    process.send_signal(number)
    wait_for(tmp_path / "log", HELD + "unpause 5\n")
    process.communicate()


def test_a_signal_to_all_is_the_daemons_to_act_on(tmp_path: Path) -> None:
    """Ctrl-C reaches both; the guard goes on until the daemon ends."""
    process, guard = run(
        tmp_path,
        "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN); print('held', flush=True); time.sleep(60)",
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        os.kill(guard, number)
    time.sleep(0.1)
    assert (tmp_path / "log").read_text() == HELD
    process.kill()
    wait_for(tmp_path / "log", HELD + "unpause 5\n")
    process.communicate()


def test_a_closed_guard_has_ended(tmp_path: Path) -> None:
    process, guard = run(tmp_path, "guard.close()")
    _, error = process.communicate(timeout=10)
    assert (process.returncode, error) == (0, "")
    assert (tmp_path / "log").read_text() == HELD + "unpause 5\n"
    with pytest.raises(ProcessLookupError):
        os.kill(guard, 0)


def test_a_killed_guard_is_said(tmp_path: Path) -> None:
    process, _ = run(
        tmp_path, "import os; os.kill(guard._pid, 9); os.waitpid(guard._pid, 0)\ntry: guard.pause(7)\n"
        "except Exception as error: print(error)\nguard.close()",
    )  # fmt: skip
    assert process.stdout is not None
    output = process.stdout.read()  # communicate() would miss what readline() has read ahead
    _, error = process.communicate(timeout=10)
    assert (output, error) == ("the process that pauses domains was killed; restart 'xlplug watch' [XLP511]\n", "")


def test_without_xen_the_reason_is_xens() -> None:
    """However the child's end and the first question cross."""
    children = Path(f"/proc/self/task/{os.getpid()}/children")
    before = children.read_text()
    for _ in range(20):
        with pytest.raises(XlplugError, match="does not run on Xen"):
            Guard()
    assert children.read_text() == before
