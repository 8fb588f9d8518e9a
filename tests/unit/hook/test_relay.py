# SPDX-License-Identifier: LGPL-2.1-only
"""What arrives passes through, its head looked at on the way: real pipes and processes."""

import contextlib
import errno
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tests.unit.dom0.test_savefile import JSON, header, optional
from xlplug.hook.relay import relay

ROOT = Path(__file__).parents[3]
HEAD = header(optional(JSON))
BODY = os.urandom(1 << 20) * 3


def fed(data: bytes, *, pieces: int = 0, kind: str = "pipe") -> int:
    """A descriptor from which the data comes, ``pieces`` bytes at a time (0: as it likes)."""
    if kind == "file":
        fd = os.memfd_create("source")
        os.write(fd, data)
        os.lseek(fd, 0, os.SEEK_SET)
        return fd
    if kind == "socket":
        ours, theirs = socket.socketpair()
        fd, to = theirs.detach(), ours.detach()
    else:
        fd, to = os.pipe()

    def send() -> None:
        step = pieces or len(data) or 1
        for at in range(0, len(data), step):
            part = memoryview(data)[at : at + step]
            try:
                while part:
                    part = part[os.write(to, part) :]
            except BrokenPipeError:
                break
            if pieces:
                time.sleep(0.0001)
        os.close(to)

    threading.Thread(target=send, daemon=True).start()
    return fd


def all_of(fd: int) -> bytes:
    with os.fdopen(fd, "rb") as file:
        return file.read()


def unchanged(data: bytes) -> bytes | None:
    return data


@pytest.mark.parametrize("kind", ["pipe", "socket", "file"])
def test_everything_comes_through(kind: str) -> None:
    source = fed(HEAD + BODY, kind=kind)
    assert all_of(relay(source, unchanged)) == HEAD + BODY
    os.close(source)


def test_a_file_that_splice_does_not_take(monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal, a device, a file system: it depends on the kernel."""

    def refuse(*arguments: object) -> int:
        raise OSError(errno.EINVAL, "")

    monkeypatch.setattr(os, "splice", refuse)
    source = fed(HEAD + BODY)
    assert all_of(relay(source, unchanged)) == HEAD + BODY
    os.close(source)


def test_in_small_pieces() -> None:
    source = fed(HEAD + b"stream", pieces=1)
    assert all_of(relay(source, unchanged)) == HEAD + b"stream"
    os.close(source)


def test_nonblocking() -> None:
    """As ssh may leave it: the flag is the open file's, not the descriptor's."""
    source = fed(HEAD + BODY, pieces=100_000)
    os.set_blocking(source, False)
    assert all_of(relay(source, unchanged)) == HEAD + BODY
    os.close(source)


@pytest.mark.parametrize(
    "data",
    [b"", HEAD[:20], HEAD[:-1], b"x" * 100, header(b"", length=0xFFFFFFFF), header(optional(JSON), order=1) + BODY],
)
def test_what_is_cut_short_or_no_saved_domain(data: bytes) -> None:
    source = fed(data)
    assert all_of(relay(source, unchanged)) == data
    os.close(source)


def test_the_head_is_altered_and_nothing_else() -> None:
    asked: list[bytes] = []
    report, to = os.pipe()

    def alter(data: bytes) -> bytes:
        os.write(to, data)
        asked.append(data)
        return b"another, longer head " * 10_000

    source = fed(HEAD + BODY)
    assert all_of(relay(source, alter, to)) == b"another, longer head " * 10_000 + BODY
    assert os.read(report, 1 << 16) == HEAD, "the head, and not a byte of what follows"
    assert asked == [], "in a process of its own"
    for fd in (report, to, source):
        os.close(fd)


def refused(data: bytes) -> bytes | None:
    return None


def test_what_is_refused_ends_at_once() -> None:
    source, to = os.pipe()  # the sender still waits
    os.write(to, HEAD)
    assert all_of(relay(source, refused)) == b""
    os.close(to)
    os.close(source)


def others_with(path: str) -> list[str]:
    found = []
    for pid in {name for name in os.listdir("/proc") if name.isdecimal()} - {str(os.getpid())}:
        with contextlib.suppress(OSError):
            for fd in os.listdir(f"/proc/{pid}/fd"):
                with contextlib.suppress(OSError):  # it has just closed this one, and may have others
                    if os.readlink(f"/proc/{pid}/fd/{fd}") == path and pid not in found:
                        found.append(pid)
    return found


@pytest.mark.parametrize("sent", [b"", HEAD[:-1], HEAD])
def test_it_ends_with_its_reader(sent: bytes) -> None:
    """The sender says nothing more for ever; xl is gone."""
    source, to = os.pipe()
    os.write(to, sent)
    fd = relay(source, unchanged)
    assert sent != HEAD or os.read(fd, len(HEAD)) == HEAD
    pipe = os.readlink(f"/proc/self/fd/{fd}")
    assert len(others_with(pipe)) == 1
    os.close(fd)
    end = time.monotonic() + 10
    while others_with(pipe) and time.monotonic() < end:
        time.sleep(0.01)
    assert others_with(pipe) == []
    os.close(to)
    os.close(source)


SCRIPT = """
import os, sys
sys.path.insert(0, {root!r})
from xlplug.hook.relay import relay
fd = relay(0, lambda head: head)
os.dup2(fd, 0)
try:
    os.waitpid(-1, os.WNOHANG)
    print("a child")
except ChildProcessError:
    print("no child")
sys.stdout.flush()
os.read(0, {length})
os.close(1)
os.close(2)
os.read(0, 1)
"""


def test_xl_has_no_child_and_the_way_back_to_itself() -> None:
    """When xl closes its output the sender sees the end, though the stream goes on."""
    script = SCRIPT.format(root=str(ROOT), length=len(HEAD))
    with subprocess.Popen(
        [sys.executable, "-I", "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdin.write(HEAD)
        process.stdin.flush()
        readable, _, _ = select.select([process.stdout], [], [], 10)
        assert readable
        assert process.stdout.read() == b"no child\n"
        assert process.stderr.read() == b""
        process.stdin.write(b"x")
        process.stdin.close()
        assert process.wait(10) == 0


@pytest.mark.parametrize("ignored", [False, True])
def test_an_interrupt_needs_no_words(ignored: bool) -> None:
    """Ctrl-C goes to xl and to us; where it was ignored, it still is."""
    script = SCRIPT.format(root=str(ROOT), length=len(HEAD)).replace('print("a child")', "pass")
    ignore = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\n" if ignored else ""
    with subprocess.Popen(
        [sys.executable, "-I", "-c", f"{ignore}{script}"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, start_new_session=True,
    ) as process:  # fmt: skip
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == b"no child\n"
        group = [pid for pid in filter(str.isdecimal, os.listdir("/proc")) if in_group(pid, process.pid)]
        (relaying,) = {int(pid) for pid in group} - {process.pid}
        os.kill(relaying, signal.SIGINT)
        if ignored:
            time.sleep(0.2)
            assert in_group(str(relaying), process.pid)
            process.stdin.write(HEAD + b"x")
        process.stdin.close()
        assert process.wait(10) == 0
        assert process.stderr.read() == b""


def in_group(pid: str, group: int) -> bool:
    try:
        return os.getpgid(int(pid)) == group
    except ProcessLookupError:
        return False


def test_a_bug_is_seen_and_xl_reads_nothing() -> None:
    script = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from xlplug.hook.relay import relay; import os; "
    script += "print(os.read(relay(0, lambda head: 1 / 0), 1))"
    done = subprocess.run([sys.executable, "-I", "-c", script], input=HEAD, capture_output=True)
    assert done.stdout == b"b''\n"
    assert b"ZeroDivisionError" in done.stderr
