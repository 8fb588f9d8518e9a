# SPDX-License-Identifier: LGPL-2.1-only
"""Keeps a guest's delegate alive: starts the process that serves, and another one when it dies.

A vCPU that waits for a dead process waits forever, and one whose server is destroyed while it waits is lost as well.  So the
next process takes the server over: it answers what waits, and goes on with the registers that the last one left.  When they
die again and again, the last one answers, disables and destroys the server, and the guest reads all ones.

This process opens no handle of a Xen library while a child can be forked from it (see `xlplug.xen.toolcore`), and it touches
nothing that a guest has written.
"""

import contextlib
import os
import select
import signal
import sys
import time
from typing import NoReturn

from xlplug.delegate.host_device import is_held
from xlplug.delegate.process import EXIT_GONE, LEAVE, PIPE_BYTES, READY, Job, run
from xlplug.model.errors import EXIT_DONE, EXIT_FAILED, ApplyError, one_line
from xlplug.model.problem import Problem

__all__ = ["Supervisor"]

_READY_SECONDS = 60
_LOOK_SECONDS = 1.0
_ASK_SECONDS, _END_SECONDS = 0.5, 30
_DEATHS, _DEATHS_SECONDS = 5, 60  #: so many in so long, and it is given up
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)


class Supervisor:
    """One guest's delegate."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._child = 0
        self._control = -1
        self._over = False
        self._deaths: list[float] = []
        self._present = {placement.host for placement in job.placements} - job.absent
        self._woken, wake = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        for number in _SIGNALS:
            signal.signal(number, lambda *_: None)  # the pipe says which
        # Who started us may have blocked them, which outlives fork and exec: then nobody could stop us or our process.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (*_SIGNALS, LEAVE))
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)

    def start(self, *, adopt: bool = False) -> None:
        """Start serving; returns when the guest may run.  ``adopt``: go on with the server of a process that is gone.

        Raises:
            ApplyError: the process could not start, in its own words.
        """
        try:
            ready = self._fork(adopt=adopt)
        except OSError as error:
            what = f"the delegate's process cannot be started: {error.strerror}"
            raise ApplyError(what, hint="is dom0 out of processes, files or memory?", code="XLP716") from error
        try:
            answered = select.select([ready], [], [], _READY_SECONDS)[0]
            text = os.read(ready, PIPE_BYTES) if answered else None
        finally:
            os.close(ready)
        if text == READY:
            return
        self.stop()
        if text:
            said = Problem.unpacked(text.decode("utf-8", "replace"))
            raise ApplyError(said.what, hint=said.advice, code=said.code)
        late = text is None
        what = f"was not ready within {_READY_SECONDS} s" if late else "ended before it was ready"
        raise ApplyError(
            f"the delegate's process {what}",
            hint="is dom0 out of processor time or memory? try again" if late else "see dom0's kernel log (dmesg)",
            code="XLP716",
        )

    def watch(self) -> int:
        """Serve until a signal says stop, or until the guest is gone; the exit status."""
        poll = select.poll()
        poll.register(self._woken, select.POLLIN)
        while True:
            for _ in poll.poll(int(_LOOK_SECONDS * 1000)):
                numbers = set(os.read(self._woken, 512))
                if numbers & {signal.SIGTERM, signal.SIGINT, signal.SIGHUP}:
                    self.stop()
                    return EXIT_DONE
            self._look_for_devices()
            status = self._reap()
            if status is not None:
                return status

    def _reap(self) -> int | None:
        """What has become of the process; the exit status when there is nothing more to do."""
        if not self._child:
            self._take_over()
            return None
        pid, status = os.waitpid(self._child, os.WNOHANG | os.WUNTRACED)
        if pid == 0:
            return None
        if os.WIFSTOPPED(status):
            self._say(f"process {pid} was stopped, for which a guest cannot wait; continued")
            os.kill(pid, signal.SIGCONT)
            return None
        code = os.waitstatus_to_exitcode(status)
        self._child = 0
        self._close_control()
        if code in (EXIT_GONE, EXIT_DONE):
            self._over = True
            gone = "the guest, or its ioreq server, is gone"
            self._say(gone if code == EXIT_GONE else f"process {pid} was asked to stop; the guest reads all ones")
            return EXIT_DONE
        now = time.monotonic()
        self._deaths = [moment for moment in self._deaths if now - moment < _DEATHS_SECONDS] + [now]
        reason = f"signal {-code}" if code < 0 else f"status {code}"
        if len(self._deaths) >= _DEATHS:
            self._say(f"process {pid} ended with {reason}, {_DEATHS} of them within {_DEATHS_SECONDS} s: given up")
            self._over = True
            self._retire()
            return EXIT_FAILED
        self._say(f"process {pid} ended with {reason}; another one takes over")
        self._take_over()
        return None

    def _take_over(self) -> None:
        """Start the next process; where dom0 has no room for one, `watch` tries again at its next look."""
        try:
            os.close(self._fork(adopt=True))
        except OSError as error:
            self._say(f"no process can be started ({error.strerror}), and a vCPU may wait; trying again")

    def _retire(self) -> None:
        """Have a process end the server that a dead one has left."""
        try:
            os.close(self._fork(adopt=True, retire=True))
        except OSError as error:
            self._say(f"its ioreq server is left in Xen ({error.strerror}); restart the guest")
            return
        os.waitpid(self._child, 0)
        self._child = 0
        self._close_control()

    def _fork(self, *, adopt: bool, retire: bool = False) -> int:
        """Start a process; the end of a pipe from which `READY` can be read.  OSError leaves nothing open."""
        absent = {placement.host for placement in self._job.placements} - self._present
        ends: list[int] = []
        try:
            ends += os.pipe2(os.O_CLOEXEC)
            ends += os.pipe2(os.O_CLOEXEC)
            child = os.fork()
        except OSError:
            for end in ends:
                os.close(end)
            raise
        ready, ready_write, control, self._control = ends
        if not child:
            job = self._job._replace(absent=frozenset(absent))
            _be_the_child(job, ready_write, control, adopt=adopt, retire=retire)
        self._child = child
        os.close(ready_write)
        os.close(control)
        return ready

    def _look_for_devices(self) -> None:
        """Say which devices are gone from the host.  Where reading on would kill the process, another one takes over.

        What has gone once does not come back: another device may be there by then.
        """
        for host in list(self._present):
            if not is_held(self._job.sys_pci, host):
                self._present.discard(host)
                with contextlib.suppress(OSError):
                    os.write(self._control, f"removed {host}\n".encode())

    def stop(self) -> None:
        """Have the process stop, and its server with it; nothing where that is done.  If it was killed, another one does it."""
        if self._over:
            return
        self._over = True
        status = self._ask_to_stop() if self._child else None
        if self._child and status is None:
            self._say(f"process {self._child} does not stop; killed")
            os.kill(self._child, signal.SIGKILL)
            os.waitpid(self._child, 0)
        self._child = 0
        self._close_control()
        if status is None or os.WIFSIGNALED(status):
            self._retire()

    def _ask_to_stop(self) -> int | None:
        """Its wait status; None if it does not.  Asked again and again, because while it starts it does not listen."""
        deadline = time.monotonic() + _END_SECONDS
        while time.monotonic() < deadline:
            os.kill(self._child, signal.SIGTERM)
            os.kill(self._child, signal.SIGCONT)
            again = time.monotonic() + _ASK_SECONDS
            while time.monotonic() < again:
                ended, status = os.waitpid(self._child, os.WNOHANG)
                if ended:
                    return status
                time.sleep(0.01)
        return None

    def _close_control(self) -> None:
        if self._control >= 0:
            os.close(self._control)
        self._control = -1

    def _say(self, line: str) -> None:
        with contextlib.suppress(OSError):
            sys.stderr.write(one_line(f"{self._job.name}: {line}"))
            sys.stderr.flush()


def _keep_only(wanted: set[int]) -> None:
    """Close what was inherited: above all the lock under which this delegate was started, which would stay locked."""
    for name in os.listdir("/proc/self/fd"):
        if int(name) not in wanted:
            with contextlib.suppress(OSError):  # of the folder itself
                os.close(int(name))
    for _ in range(2):  # stdin and stdout, the lowest numbers that are free
        os.open(os.devnull, os.O_RDWR)


def _only_write_to_a_terminal() -> None:
    """A shell's terminal is open for reading as well, and what is typed there is not for a process that a guest may have taken."""
    if not os.isatty(2):
        return
    fd = os.open("/proc/self/fd/2", os.O_WRONLY | os.O_NOCTTY | os.O_CLOEXEC)
    os.dup2(fd, 2)
    os.close(fd)


def _be_the_child(job: Job, ready: int, control: int, *, adopt: bool, retire: bool) -> NoReturn:
    """Never comes back to what called the supervisor."""
    status = EXIT_FAILED
    try:
        signal.set_wakeup_fd(-1)
        _keep_only({2, ready, control, *job.locks})
        _only_write_to_a_terminal()
        for number in _SIGNALS:
            # The terminal's Ctrl-C also goes to the supervisor, which then asks us.
            signal.signal(number, signal.SIG_DFL if number == signal.SIGCHLD else signal.SIG_IGN)
        status = run(job, ready, control, adopt=adopt, retire=retire)
    except BaseException:  # noqa: BLE001 - a fork must end here
        import traceback

        traceback.print_exc()
    finally:
        os._exit(status)
