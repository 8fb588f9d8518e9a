# SPDX-License-Identifier: LGPL-2.1-only
"""The process that serves: opens everything as root, gives up its rights, and answers the guest until it is stopped.

It is forked from a supervisor that has no handle of any Xen library open, so what it restricts is its own.
"""

import contextlib
import errno
import os
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable
from typing import NamedTuple

from xlplug.delegate.config_space import ConfigSpace
from xlplug.delegate.guest_memory import GuestMemory
from xlplug.delegate.host_device import is_held, open_bar
from xlplug.delegate.model import Function, Model, bars_without_device
from xlplug.delegate.privileges import confine
from xlplug.delegate.state import State
from xlplug.model.bar import Bar
from xlplug.model.bdf import Bdf
from xlplug.model.errors import EXIT_DONE, EXIT_FAILED, XenError, XlplugError, one_line
from xlplug.xen.devicemodel import DeviceModel
from xlplug.xen.evtchn import EventChannels
from xlplug.xen.foreignmemory import ForeignMemory
from xlplug.xen.ioreq import IoreqServer, gone

__all__ = ["EXIT_GONE", "EXIT_LEFT", "LEAVE", "LIBRARIES", "PIPE_BYTES", "READY", "Job", "Placement", "run"]

EXIT_GONE = 20  #: the guest is gone, and the server with it
EXIT_LEFT = 21  #: it was asked to leave its server to another process
LEAVE = signal.SIGUSR1  #: what asks for that: no request is lost, none is answered before the next process is there
READY = b"ready\n"  #: what is written when the guest may run; anything else is why it may not
PIPE_BYTES = 4096  #: at most, so that it comes in one piece: pipe(7), PIPE_BUF
#: What it calls, by their names in `xlplug.xen.lib`.  Of none of them a handle is opened by the supervisor.
LIBRARIES = ("xendevicemodel", "xenforeignmemory", "xenevtchn", "xentoolcore", "seccomp")
_ALIVE_SECONDS = 1.0
_REMOVED = b"removed "


class Placement(NamedTuple):
    """A function of the host, its header and BARs, and where the guest sees it."""

    host: Bdf
    guest: Bdf
    header: bytes
    bars: tuple[Bar, ...]


class Job(NamedTuple):
    """What a delegate does: the guest, its functions, and the file that outlives it, with its path.

    ``locks`` are descriptors that stay open as long as anyone serves: the devices' locks.  ``absent`` are functions whose
    device has left the host, or is not delegated any more: what has their address now is not the guest's.
    """

    domid: int
    placements: tuple[Placement, ...]
    state: State
    sys_pci: str
    name: str
    path: str = ""
    locks: tuple[int, ...] = ()
    absent: frozenset[Bdf] = frozenset()


def run(job: Job, ready: int, control: int, *, adopt: bool, retire: bool = False) -> int:
    """Serve until SIGTERM, `LEAVE` or the guest's end; the exit status.  ``ready`` is written to when everything is in place.

    ``adopt`` takes over the server of a process that died, ``retire`` takes it over only to end it decently.  From ``control``
    come lines "removed BDF"; its end means that the supervisor is gone, which is not a reason to stop.
    """
    try:
        with DeviceModel() as devices, ForeignMemory() as memory, EventChannels() as channels:
            number = job.state.server if adopt else None
            server = IoreqServer(job.domid, devices, memory, channels, number)
            try:
                return (
                    _retire(server)
                    if retire
                    else _serve(job, server, GuestMemory(job.domid, memory), ready, control, adopt)
                )
            finally:
                server.close()
    except XenError as error:
        if gone(error) and adopt:
            return EXIT_GONE
        return _failed(job, error, ready)
    except XlplugError as error:
        return _failed(job, error, ready)


def _failed(job: Job, error: XlplugError, ready: int) -> int:
    """Say why to who waits, and to the log when nobody waits any more."""
    try:
        os.write(ready, error.problem.packed().encode()[:PIPE_BYTES])
    except OSError:
        sys.stderr.write(one_line(f"{job.name}: {error}"))
        sys.stderr.flush()
    return EXIT_FAILED


def _retire(server: IoreqServer) -> int:
    server.enable()
    server.close()
    return EXIT_DONE


def _serve(job: Job, server: IoreqServer, memory: GuestMemory, ready: int, control: int, adopt: bool) -> int:
    woken, wake = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    for number in (signal.SIGTERM, LEAVE):
        signal.signal(number, lambda *_: None)  # the pipe says it
    job.state.server, job.state.pid = server.id, os.getpid()
    functions = _functions(job)

    def log(line: str) -> None:
        with contextlib.suppress(OSError):  # a log that nobody reads any more must not stop a guest
            os.write(2, one_line(f"{job.name}: {line}").encode())

    model = Model(functions, server, memory, log)
    for function in functions:
        _claim(server, function.guest.sbdf)
    vcpus = server.enable()
    confine(job.domid)
    model.take_over()
    waiting = server.serve_all(model.answer)
    if adopt:
        log(f"took over ioreq server {server.id}, {waiting} of {vcpus} vCPUs were waiting")
    with contextlib.suppress(BrokenPipeError):  # nobody waits for a successor
        os.write(ready, READY)
    os.close(ready)
    loop = _Loop(server, model, functions[0].guest.sbdf, woken, control, log)
    try:
        code = loop.run()
    finally:
        memory.forget()
    if code == EXIT_LEFT:
        server.abandon()  # who opened it has nothing to close then
    return code


def _functions(job: Job) -> list[Function]:
    """Every function with what it is made of; one whose device is gone already reads all ones."""
    found = []
    for placement, kept in zip(job.placements, job.state.functions, strict=True):
        many = any(other.guest[:3] == placement.guest[:3] for other in job.placements if other is not placement)
        config = ConfigSpace(placement.header, placement.bars, kept.registers, many=many)
        if placement.host not in job.absent and is_held(job.sys_pci, placement.host):
            bars = {bar.number: open_bar(job.sys_pci, placement.host, bar) for bar in placement.bars}
        else:
            bars = bars_without_device(placement.bars)
        found.append(Function(placement.host, placement.guest, config, bars, kept.ranges))
    return found


def _claim(server: IoreqServer, sbdf: int) -> bool:
    """Claim a function; False when it was claimed already, by us or by who served before."""
    try:
        server.claim_pci(sbdf)
    except XenError as error:
        if error.errno != errno.EEXIST:
            raise
        return False
    return True


class _Loop:
    """Waits for requests, for the supervisor, for SIGTERM and `LEAVE`, and for the guest's end."""

    def __init__(
        self, server: IoreqServer, model: Model, sbdf: int, woken: int, control: int, log: Callable[[str], None]
    ) -> None:
        self._server, self._model, self._sbdf, self._log = server, model, sbdf, log
        self._woken, self._control = woken, control
        self._poll = select.poll()
        self._events = server.fileno()
        for fd in (self._events, woken, control):
            self._poll.register(fd, select.POLLIN)

    def run(self) -> int:
        look = time.monotonic() + _ALIVE_SECONDS
        while True:
            ready = self._poll.poll(int(_ALIVE_SECONDS * 1000))
            try:
                for fd, _ in ready:
                    if fd == self._events:
                        self._server.serve(self._model.answer)
                    elif fd == self._woken:
                        # The server is closed by who opened it.
                        return EXIT_DONE if signal.SIGTERM in os.read(self._woken, 512) else EXIT_LEFT
                    else:
                        self._listen()
                if time.monotonic() >= look:
                    if not self._alive():
                        return EXIT_GONE
                    look = time.monotonic() + _ALIVE_SECONDS
            except XenError as error:
                if not self._alive():
                    return EXIT_GONE
                self._log(str(error))
            except Exception:  # noqa: BLE001 - ours, and no reason to leave a guest alone: it is logged, and serving goes on
                self._log(traceback.format_exc(limit=-2))

    def _alive(self) -> bool:
        """Nobody says that a guest is gone.  Claiming again what is claimed has no effect while it is there."""
        try:
            if _claim(self._server, self._sbdf):
                self._log("someone had taken the function away from this server; claimed again")
        except XenError as error:
            return not gone(error)
        return True

    def _listen(self) -> None:
        text = os.read(self._control, 4096)
        if not text:
            self._poll.unregister(self._control)
            self._log("the supervisor is gone; serving goes on, and nobody will take over from this process")
        for line in text.splitlines():
            if line.startswith(_REMOVED):
                host = Bdf.parse(line.removeprefix(_REMOVED).decode())
                self._log(f"{host} is gone from the host; the guest reads all ones")
                self._model.remove(host)
