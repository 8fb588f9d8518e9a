# SPDX-License-Identifier: LGPL-2.1-only
"""The supervisor, with processes that follow a script in place of ones that serve; and the file that outlives them."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from xlplug.delegate.state import State
from xlplug.model.errors import HostError
from xlplug.model.rangeset import Range

#: Runs a supervisor whose processes write down how they were started, and end as a file says, or at SIGTERM.
PROGRAM = """
import os, select, signal, sys, time
from xlplug.delegate import process, supervisor
folder = sys.argv[1]

def run(job, ready, control, *, adopt, retire=False):
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    with open(f"{folder}/log", "a") as log:
        log.write(f"{os.getpid()} adopt={adopt} retire={retire}{' absent' if job.absent else ''}\\n")
    if retire:
        return 0
    said = open(f"{folder}/says", "rb").read()
    if said == b"sleep":
        time.sleep(600)
    if said != process.READY:
        os.write(ready, said)
        return 3
    if not adopt:
        os.write(ready, said)
    while True:
        if select.select([control], [], [], 0.05)[0]:
            text = os.read(control, 100)
            if not text:
                return 9
            open(f"{folder}/heard", "ab").write(text)
        if os.path.exists(f"{folder}/end"):
            return int(open(f"{folder}/end").read())

supervisor.run = run
supervisor._READY_SECONDS = 2
job = process.Job(7, (process.Placement(process.Bdf(0, 3, 0, 0), process.Bdf(0, 0, 29, 0), b"", ()),), None, folder, "test")
os.makedirs(f"{folder}/0000:03:00.0", exist_ok=True)
os.symlink("../pciback", f"{folder}/0000:03:00.0/driver")

def fork(fork=os.fork):
    if os.path.exists(f"{folder}/full"):
        raise BlockingIOError(11, "no room")
    return fork()

os.fork = fork
if sys.argv[2:] == ["noted"]:
    from xlplug.commands import dm
    from xlplug.model.errors import StoreError

    def note(*_):
        raise StoreError("xenstored is dead", hint="start it")

    dm.load_stable, dm._prepare, dm.note = (lambda name: None), (lambda *_: (job, "", 0)), note
    try:
        dm.dm(dm.DmOptions("7", ("03:00.0",)))
    except supervisor.ApplyError as error:
        sys.stderr.write(f"{error}\\n")
        sys.exit(error.exit_code)
one = supervisor.Supervisor(job)
try:
    one.start()
except supervisor.ApplyError as error:
    print(error, flush=True)
    sys.exit(error.exit_code)
print("started", flush=True)
sys.exit(one.watch())
"""


class Run:
    def __init__(self, folder: Path, says: bytes = b"ready\n", *words: str, stderr: int = subprocess.PIPE) -> None:
        self.folder = folder
        (folder / "says").write_bytes(says)
        argv = [sys.executable, "-c", PROGRAM, str(folder), *words]
        self.process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=stderr, text=True)

    def wait_started(self) -> None:
        """Until the first process is ready: one that ends before that is not followed by another."""
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "started\n"

    @property
    def log(self) -> list[str]:
        path = self.folder / "log"
        return path.read_text().splitlines() if path.exists() else []

    def until(self, count: int) -> int:
        """Wait for that many processes; the last one's pid."""
        deadline = time.monotonic() + 60
        while len(self.log) < count:
            assert time.monotonic() < deadline, self.log
            time.sleep(0.01)
        return int(self.log[-1].split()[0])

    def heard(self) -> bytes:
        """What a process has heard, once it has heard something."""
        path = self.folder / "heard"
        deadline = time.monotonic() + 60
        while not path.exists():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        return path.read_bytes()

    def end(self) -> tuple[int, str]:
        _, err = self.process.communicate(timeout=60)
        return self.process.returncode, err


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    made = Run(tmp_path)
    made.wait_started()
    yield made
    if made.process.poll() is None:
        made.process.kill()
    made.process.communicate()


def test_it_stops_when_told_and_takes_its_process_with_it(run: Run) -> None:
    pid = run.until(1)
    run.process.send_signal(signal.SIGTERM)
    assert run.end() == (0, "")
    assert not Path(f"/proc/{pid}").exists()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGBUS])
def test_another_one_takes_over(run: Run, number: int) -> None:
    pid = run.until(1)
    os.kill(pid, number)
    second = run.until(2)
    assert [line.partition(" ")[2] for line in run.log] == ["adopt=False retire=False", "adopt=True retire=False"]
    run.process.send_signal(signal.SIGINT)
    status, err = run.end()
    assert (status, err) == (
        0,
        f"xlplug: test: process {pid} ended with signal {int(number)}; another one takes over\n",
    )
    assert not Path(f"/proc/{second}").exists()


def test_five_deaths_are_enough(run: Run) -> None:
    for count in range(1, 6):
        os.kill(run.until(count), signal.SIGKILL)
    status, err = run.end()
    assert (status, err.count("\n")) == (3, 5)
    assert err.endswith("ended with signal 9, 5 of them within 60 s: given up\n")
    assert run.log[-1].endswith("adopt=True retire=True")


def test_one_that_was_stopped_is_continued(run: Run) -> None:
    pid = run.until(1)
    os.kill(pid, signal.SIGSTOP)
    deadline = time.monotonic() + 60
    while "State:\tT" in Path(f"/proc/{pid}/status").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    (run.folder / "end").write_text("20")
    status, err = run.end()
    assert (status, len(run.log)) == (0, 1)
    assert err.splitlines()[-1] == "xlplug: test: the guest, or its ioreq server, is gone"


@pytest.mark.parametrize(
    ("code", "words"),
    [("20", "the guest, or its ioreq server, is gone"), ("0", "was asked to stop; the guest reads all ones")],
)
def test_what_ends_it(run: Run, code: str, words: str) -> None:
    run.until(1)
    (run.folder / "end").write_text(code)
    status, err = run.end()
    assert (status, err.count("\n"), words in err) == (0, 1, True)


def test_a_device_that_is_gone_is_reported_once(run: Run) -> None:
    run.until(1)
    (run.folder / "0000:03:00.0" / "driver").unlink()
    (run.folder / "0000:03:00.0").rmdir()
    assert run.heard() == b"removed 0000:03:00.0\n"
    time.sleep(1.2)
    assert run.heard() == b"removed 0000:03:00.0\n"
    run.process.send_signal(signal.SIGTERM)
    assert run.end()[0] == 0


def test_another_device_of_that_address_is_not_the_guest_s(run: Run) -> None:
    """dom0 takes the function back, and gives it to pciback once more: what is there now was not delegated."""
    driver = run.folder / "0000:03:00.0" / "driver"
    pid = run.until(1)
    driver.unlink()
    driver.symlink_to("../e1000e")
    assert run.heard() == b"removed 0000:03:00.0\n"
    driver.unlink()
    driver.symlink_to("../pciback")
    time.sleep(1.2)
    os.kill(pid, signal.SIGKILL)
    run.until(2)
    assert run.log[-1].endswith(" adopt=True retire=False absent")
    run.process.send_signal(signal.SIGTERM)
    assert run.end()[0] == 0


def test_where_dom0_has_no_room_for_a_process_it_is_tried_again(run: Run) -> None:
    """A vCPU may wait for it: the end of the supervisor would be the end of its record, and nobody could take over."""
    pid = run.until(1)
    (run.folder / "full").touch()
    os.kill(pid, signal.SIGKILL)
    time.sleep(2.5)
    assert (run.process.poll(), len(run.log)) == (None, 1)
    (run.folder / "full").unlink()
    run.until(2)
    run.process.send_signal(signal.SIGTERM)
    status, err = run.end()
    assert (status, "no process can be started (no room)" in err) == (0, True)


def test_one_that_was_killed_while_it_was_asked_to_stop_is_retired(run: Run) -> None:
    pid = run.until(1)
    os.kill(run.process.pid, signal.SIGSTOP)
    os.kill(pid, signal.SIGKILL)
    os.kill(run.process.pid, signal.SIGTERM)
    os.kill(run.process.pid, signal.SIGCONT)
    assert run.end()[0] == 0
    assert run.log[-1].endswith("adopt=True retire=True")


def test_a_process_that_cannot_be_recorded_is_stopped(tmp_path: Path) -> None:
    failed = Run(tmp_path, b"ready\n", "noted")
    status, err = failed.end()
    assert (status, err) == (3, "xenstored is dead; start it [XLP110]\n")
    assert len(failed.log) == 1
    assert not Path(f"/proc/{failed.until(1)}").exists()


@pytest.mark.parametrize(
    ("says", "words"),
    [(b"no; such luck", "no; such luck"), (b"", "the delegate's process ended before it was ready; ")],
)
def test_one_that_does_not_start(tmp_path: Path, says: bytes, words: str) -> None:
    failed = Run(tmp_path, says)
    out, err = failed.process.communicate(timeout=60)
    assert (failed.process.returncode, err) == (3, "")
    assert out.startswith(words)


def test_one_that_never_gets_ready(tmp_path: Path) -> None:
    failed = Run(tmp_path, b"sleep")
    failed.until(1)
    out, err = failed.process.communicate(timeout=60)
    assert (failed.process.returncode, err) == (3, "")
    assert out.startswith("the delegate's process was not ready within 2 s; ")
    assert not Path(f"/proc/{failed.until(1)}").exists()


def test_signals_that_were_blocked_before_are_heard(tmp_path: Path) -> None:
    blocked = {signal.SIGTERM, signal.SIGCHLD, signal.SIGUSR1}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, blocked)
    try:
        started = Run(tmp_path)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    started.wait_started()
    began = time.monotonic()
    os.kill(started.until(1), signal.SIGUSR1)  # by itself: its script has no handler for it
    started.until(2)
    started.process.terminate()
    status, err = started.end()
    assert (status, f"signal {int(signal.SIGUSR1)}" in err) == (0, True)
    assert time.monotonic() - began < 20, "the end was not waited for"


def test_a_terminal_is_not_read_by_the_process_that_serves(tmp_path: Path) -> None:
    ours, its = os.openpty()
    started = Run(tmp_path, b"ready\n", stderr=its)
    try:
        started.wait_started()
        info = Path(f"/proc/{started.until(1)}/fdinfo/2").read_text()
        assert int(info.split("flags:")[1].split()[0], 8) & os.O_ACCMODE == os.O_WRONLY
    finally:
        started.process.terminate()
        started.process.communicate(timeout=60)
        os.close(ours)
        os.close(its)


# the state --------------------------------------------------------------------------------------------------------------


def test_the_state_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = str(tmp_path / "run" / "dm-7.state")
    written, fd = State.create(path, 2)
    os.close(fd)
    assert (written.server, written.pid) == (None, 0)
    written.server, written.pid = 0, 1234
    written.functions[1].registers[4] = 3
    written.functions[1].ranges.set(5, 1 << 63, (1 << 64) - 1)
    written.functions[0].ranges.set(0, 1, 2)
    written.functions[0].ranges.clear(0)
    read = State.read(path)
    assert read is not None
    assert (read.server, read.pid, len(read.functions)) == (0, 1234, 2)
    assert read.functions[1].registers[4] == 3
    assert read.functions[1].ranges[5] == Range(1 << 63, (1 << 64) - 1)
    assert [read.functions[0].ranges[bar] for bar in range(6)] == [None] * 6
    assert oct(Path(path).stat().st_mode & 0o777) == "0o600"
    assert State.read(str(tmp_path / "other")) is None


def test_a_new_state_replaces_a_link_and_not_its_target(tmp_path: Path) -> None:
    target = tmp_path / "elsewhere"
    target.write_text("keep")
    (tmp_path / "state").symlink_to(target)
    _, fd = State.create(str(tmp_path / "state"), 1)
    os.close(fd)
    assert target.read_text() == "keep"


@pytest.mark.parametrize(
    "content", [b"", b"xlplugd1", bytes(64), b"xlplugd2" + bytes(56 + 512), b"xlplugd1" + bytes(100)]
)
def test_a_file_that_is_not_a_state(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "state"
    path.write_bytes(content)
    if content == b"xlplugd1" + bytes(56):
        return
    with pytest.raises(HostError, match="not a delegate's state"):
        State.read(str(path))
