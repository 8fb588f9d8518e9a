# SPDX-License-Identifier: LGPL-2.1-only
"""The process that pauses domains for ``xlplug watch`` and lets go of them, whatever becomes of the daemon.

A killed daemon must not leave a domain paused.  So a child pauses for it, and unpauses what it holds as soon as the pipe to
the daemon closes, which the kernel does however the daemon ends.  Each pause is also written down in xenstore, for the case
that both are killed at once (the whole service): the next daemon's `recover` lets go.

Pauses count (xen/common/domain.c, controller_pause_count): ours is one more beside libxl's own, and order does not matter.
"""

import contextlib
import os
import signal
import socket
from typing import NoReturn, Protocol

from xlplug.errors import EXIT_FAILED, StoreError, XenError, XlplugError
from xlplug.hypervisor import Store

__all__ = ["Guard", "GuardLostError", "Pauser", "recover", "serve"]

_PAUSING, _PAUSED, _UNPAUSING = "pausing", "paused", "unpausing"


class GuardLostError(XlplugError):
    """The guard process has ended: nothing can be paused, and what it held must be recovered."""

    exit_code = EXIT_FAILED


class Pauser(Protocol):
    """What pausing needs of a hypervisor."""

    def pause(self, domid: int) -> None:
        """Pause once more."""
        ...

    def unpause(self, domid: int) -> None:
        """Take one pause back."""
        ...


def _node(domid: int) -> str:
    """libxl removes it with the domain.  Not below ``xlplug``, which is the journal's."""
    return f"/libxl/{domid}/xlplug-paused"


def recover(xen: Pauser, store: Store) -> list[str]:
    """Let go of what an earlier guard held when it was killed too; one line for each domain."""
    lines = []
    for name in store.list("/libxl"):
        if not name.isdecimal():
            continue
        state = store.read(_node(int(name)))
        if state == _PAUSED:
            with contextlib.suppress(XenError):
                xen.unpause(int(name))
            lines.append(f"domain {name}: unpaused; an earlier run was killed while it held it")
        elif state:
            # Killed between the note and the call.  Taking back a pause that is not ours would start the domain too early.
            lines.append(
                f"domain {name}: an earlier run was killed while {state} it; if it stays paused: xl unpause {name}"
            )
        if state:
            store.remove(_node(int(name)))
    return lines


class Guard:
    """The daemon's end of the pipe.  To be made before anything is opened: the child opens Xen for itself."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        self._pid = os.fork()
        if self._pid == 0:
            ours.close()
            _child(theirs)
        theirs.close()
        self._pipe = ours
        self._answers = ours.makefile("r")
        self._ask("ready")

    def __enter__(self) -> "Guard":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def pause(self, domid: int) -> None:
        """Pause a domain once more.

        Raises:
            XlplugError: Xen refused.
            GuardLostError: the guard is gone.
        """
        self._ask(f"pause {domid}")

    def unpause(self, domid: int) -> None:
        """Take our pause back.

        Raises:
            XlplugError: Xen refused.
            GuardLostError: the guard is gone.
        """
        self._ask(f"unpause {domid}")

    def close(self) -> None:
        """Let the guard end, and wait for it."""
        self._answers.close()
        self._pipe.close()
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self._pid, 0)

    def _ask(self, words: str) -> None:
        try:
            self._pipe.sendall(f"{words}\n".encode())
            answer = self._answers.readline().rstrip("\n")
        except OSError:
            answer = ""
        if not answer:
            raise GuardLostError("the process that pauses domains was killed", hint="restart 'xlplug watch'")
        if answer != "ok":
            raise XlplugError(answer)


def _child(pipe: socket.socket) -> NoReturn:
    """Serve until the pipe closes, then let go of everything.  Signals that end the daemon must not end this first."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    code = 1
    try:
        from xlplug.xen.ctrl import XenCtrl
        from xlplug.xen.store import XenStore

        lines = pipe.makefile("r")
        with XenCtrl() as xen, XenStore() as store:
            serve(lines, pipe, xen, store)
        code = 0
    except XlplugError as error:
        with contextlib.suppress(OSError):
            pipe.sendall(f"{' '.join(str(error).split())}\n".encode())
    finally:
        os._exit(code)


def serve(lines: "object", pipe: socket.socket, xen: Pauser, store: Store) -> None:
    """Answer each line; at the end of them unpause whatever is still held."""
    held: list[int] = []
    for line in lines:  # type: ignore[attr-defined]
        verb, _, number = line.strip().partition(" ")
        answer = "ok"
        try:
            if verb == "pause":
                _pause(int(number), xen, store)
                held.append(int(number))
            elif verb == "unpause" and int(number) in held:
                held.remove(int(number))
                _unpause(int(number), xen, store)
        except XlplugError as error:
            answer = " ".join(str(error).split())
        try:
            pipe.sendall(f"{answer}\n".encode())
        except OSError:
            break
    for domid in held:
        with contextlib.suppress(XlplugError):
            _unpause(domid, xen, store)


def _pause(domid: int, xen: Pauser, store: Store) -> None:
    store.write(_node(domid), _PAUSING)
    try:
        xen.pause(domid)
    except XenError:
        with contextlib.suppress(StoreError):
            store.remove(_node(domid))
        raise
    store.write(_node(domid), _PAUSED)


def _unpause(domid: int, xen: Pauser, store: Store) -> None:
    store.write(_node(domid), _UNPAUSING)
    xen.unpause(domid)
    store.remove(_node(domid))
