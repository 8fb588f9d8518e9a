# SPDX-License-Identifier: LGPL-2.1-only
"""What lasts as long as a delegate: its locks, its record in xenstore, its state.  And finding a process that it has left."""

import contextlib
import fcntl
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from xlplug.delegate import record
from xlplug.delegate.process import LEAVE, Job
from xlplug.delegate.record import DelegateProcess, RecordedDevice
from xlplug.delegate.state import FOLDER
from xlplug.model.errors import HostError, Refused, one_line
from xlplug.model.problem import Problem
from xlplug.xen.store import XenStore

__all__ = ["forget", "has_open", "lock_path", "note", "sole", "take_leave"]

#: What a dead xenstored is waited for: a request to it through the kernel never returns.
_STORE_SECONDS = 5.0
_LEAVE_SECONDS = 2.0


def lock_path(name: str, folder: str = FOLDER) -> str:
    """The file that is locked by the delegate of a domain ("dm-7") or of a function (its address)."""
    return f"{folder}/{name}.lock"


@contextmanager
def sole(name: str, taken: Problem, seconds: float, folder: str = FOLDER) -> Iterator[int]:
    """One delegate for a guest, and for a function: a lock, which goes when nobody has it open, however they ended.

    Raises:
        Refused: somebody has it, and still has it after so many seconds.
        HostError: it cannot be made.
    """
    path = lock_path(name, folder)
    try:
        os.makedirs(folder, mode=0o700, exist_ok=True)
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise HostError(
            f"{path}: {error.strerror}", hint="is /run writable, and is this root?", code="XLP821"
        ) from error
    try:
        deadline = time.monotonic() + seconds
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise Refused(taken) from None
                time.sleep(0.02)
        yield fd
    finally:
        os.close(fd)


def take_leave(pid: int, lock: str) -> None:
    """Have a process that serves without a supervisor leave its ioreq server; returns when it is gone.

    Only if it is one, which the lock that it has open shows: the number may be another process's by now.  One that does not
    listen is killed, which a successor copes with as well.
    """
    deadline = time.monotonic() + _LEAVE_SECONDS
    with contextlib.suppress(ProcessLookupError):
        if has_open(pid, lock):
            os.kill(pid, LEAVE)
            os.kill(pid, signal.SIGCONT)
        while has_open(pid, lock):
            if time.monotonic() >= deadline:
                os.kill(pid, signal.SIGKILL)
            time.sleep(0.01)


def has_open(pid: int, path: str) -> bool:
    """Whether a process has a file open: of a delegate's lock, whether it is that delegate's process and not a later one's."""
    folder = f"/proc/{pid}/fd"
    try:
        return any(os.readlink(f"{folder}/{name}") == path for name in os.listdir(folder))
    except OSError:  # it has ended, or closes just now
        return False


def note(job: Job, uuid: str, dm_domain: int) -> None:
    """Write the record, with no handle left open."""
    devices = tuple(RecordedDevice(p.host, p.bars, p.guest) for p in job.placements)
    own = os.getpid()
    process = DelegateProcess(job.state.server or 0, own, record.process_started(own) or 0, job.path)
    with XenStore() as store:
        record.write_delegate(store, job.domid, uuid, dm_domain, devices, process)


def forget(job: Job) -> None:
    """The end: what is written down about this delegate goes.  libxl may have removed the record with the domain."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(job.path)
    if not _within(_STORE_SECONDS, lambda: _forget_record(job.domid)):
        sys.stderr.write(one_line(f"{job.name}: xenstored does not answer, so its record stays until the guest ends"))


def _forget_record(domid: int) -> None:
    with XenStore() as store:
        record.forget_delegate(store, domid)


def _within(seconds: float, call: Callable[[], None]) -> bool:
    """Call in a process of its own, which is killed when it takes longer; whether it has done what it should."""
    pid = os.fork()
    if not pid:
        status = 1
        try:
            call()
            status = 0
        finally:
            os._exit(status)
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return status == 0
        time.sleep(0.01)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return False
