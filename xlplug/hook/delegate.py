# SPDX-License-Identifier: LGPL-2.1-only
"""Starting a guest's delegate from the device model wrapper or the daemon, before the guest runs.

A process of its own, freshly executed and in a session of its own, because the wrapper becomes QEMU.  Its stderr is the device
model's log, or the daemon's.  It ends with the guest; after a reboot the wrapper runs again, for another domain.
"""

import os
import select
import sys
import time

from xlplug.config.delegated import Spec
from xlplug.hook.become import first_environment
from xlplug.model.errors import ApplyError
from xlplug.model.problem import Problem

__all__ = ["READY", "spawn", "start"]

READY = b"ready\n"  #: its last line when the guest may run

_SECONDS = 60
_PROGRAM = (
    "import sys; sys.path.insert(0, sys.argv.pop(1)); from xlplug.commands.dm import hooked; hooked(*sys.argv[1:])"
)


def start(domid: int, specs: tuple[Spec, ...]) -> None:
    """Start it, and wait until the guest may run.

    Raises:
        ApplyError: it did not start, in its own words.
    """
    read = spawn(domid, specs)
    try:
        said = _until_ready(read)
    finally:
        os.close(read)
    if said != "ready":
        why = Problem.unpacked(said) if said else Problem(f"not ready within {_SECONDS} s")
        raise ApplyError(
            f"the delegate of domain {domid} did not start: {why.what}", hint=why.advice, code=why.code or "XLP716"
        )


def spawn(domid: int, specs: tuple[Spec, ...] = ()) -> int:
    """Start it; without ``specs`` it takes over the delegate that the domain has.  A pipe from which `READY` can be read."""
    import xlplug

    folder = os.path.dirname(os.path.dirname(os.path.abspath(xlplug.__file__)))
    read, write = os.pipe2(os.O_CLOEXEC)
    argv = [sys.executable, "-I", "-c", _PROGRAM, folder, str(domid), *(str(spec) for spec in specs)]
    actions = [(os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0), (os.POSIX_SPAWN_DUP2, write, 1)]
    try:
        pid = os.posix_spawn(sys.executable, argv, first_environment(), file_actions=actions, setsid=True)
        os.waitpid(pid, 0)  # it goes on in a child of its own, which QEMU would never reap
    finally:
        os.close(write)
    return read


def _until_ready(fd: int) -> str:
    """The last line that it says, up to "ready"; "" for none in time."""
    text, deadline = b"", time.monotonic() + _SECONDS
    while READY not in text and select.select([fd], [], [], max(0, deadline - time.monotonic()))[0]:
        piece = os.read(fd, 4096)
        if not piece:
            break
        text += piece
    lines = text.decode("utf-8", "replace").splitlines()
    return lines[-1] if lines else ""
