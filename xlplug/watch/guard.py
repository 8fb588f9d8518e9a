# SPDX-License-Identifier: LGPL-2.1-only
"""The process that pauses domains for ``xlplug watch`` and lets go of them, whatever becomes of the daemon.

A killed daemon must not leave a domain paused.  So a child pauses for it, and unpauses what it holds as soon as the pipe to
the daemon closes, which the kernel does however the daemon ends.  Each pause is also written down in xenstore, for the case
that both are killed at once (the whole service): the next daemon's `recover` lets go.

Pauses count (xen/common/domain.c, controller_pause_count): ours is one more beside libxl's own, and order does not matter.
"""

import contextlib
import errno
import os
import signal
import socket
import sys
from collections.abc import Iterable
from typing import NoReturn, Protocol

from xlplug.dom0 import nodes
from xlplug.model.errors import EXIT_FAILED, StoreError, XenError, XlplugError
from xlplug.model.hypervisor import Store

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


def recover(xen: Pauser, store: Store) -> list[str]:
    """Let go of what an earlier guard held when it was killed too; one line for each domain."""
    lines = []
    for name in store.list(nodes.LIBXL):
        if not name.isdecimal():
            continue
        domid = int(name)
        state = store.read(nodes.paused(domid))
        if not state:
            continue
        by_hand = f"if it stays paused: xl unpause {domid}"
        if state == _PAUSED:
            try:
                xen.unpause(domid)
                lines.append(f"domain {domid}: unpaused; an earlier run was killed while it held it")
            except XenError as error:
                if error.errno != errno.ESRCH:
                    why = f"an earlier run was killed while it held it, and it cannot be unpaused: {error.message}"
                    lines.append(f"domain {domid}: {why}; {by_hand}")
        else:
            # Killed between the note and the call.  Taking back a pause that is not ours would start the domain too early.
            lines.append(f"domain {domid}: an earlier run was killed while {state} it; {by_hand}")
        _forget(domid, store)
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
        try:
            self._ask("ready")
        except XlplugError:
            self.close()
            raise

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
        answer = ""
        with contextlib.suppress(OSError):  # it is gone, and may have said why
            self._pipe.sendall(f"{words}\n".encode())
        with contextlib.suppress(OSError):
            answer = self._answers.readline().rstrip("\n")
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
        if sys.exc_info()[0] is not None:
            sys.excepthook(*sys.exc_info())
        os._exit(code)


def serve(lines: Iterable[str], pipe: socket.socket, xen: Pauser, store: Store) -> None:
    """Answer each line; at the end of them, however it comes, unpause whatever is still held."""
    held: list[int] = []
    try:
        # A daemon killed with an answer unread gives no end but ECONNRESET (unix(7)); what is no text is not from it.
        with contextlib.suppress(OSError, UnicodeDecodeError):
            for line in lines:
                try:
                    answer = _answer(line.strip(), held, xen, store)
                except XlplugError as error:
                    answer = " ".join(str(error).split())
                pipe.sendall(f"{answer}\n".encode())
    finally:
        for domid in tuple(held):
            with contextlib.suppress(XlplugError):
                _unpause(domid, held, xen, store)


def _answer(line: str, held: list[int], xen: Pauser, store: Store) -> str:
    verb, _, number = line.partition(" ")
    if verb in ("pause", "unpause"):
        if not (number.isascii() and number.isdecimal()):
            return f"what is '{line}'?"
        domid = int(number)
        if verb == "unpause":
            if domid in held:
                _unpause(domid, held, xen, store)
        elif domid in held:
            return f"domain {domid} is paused already"  # one note cannot stand for two pauses
        else:
            _pause(domid, held, xen, store)
    return "ok"


def _pause(domid: int, held: list[int], xen: Pauser, store: Store) -> None:
    try:
        store.write(nodes.paused(domid), _PAUSING)
        xen.pause(domid)
    except XlplugError:
        with contextlib.suppress(StoreError):
            _forget(domid, store)
        raise
    held.append(domid)
    try:
        store.write(nodes.paused(domid), _PAUSED)
    except StoreError:
        _unpause(domid, held, xen, store)
        raise


def _unpause(domid: int, held: list[int], xen: Pauser, store: Store) -> None:
    """Letting go matters more than the note of it."""
    with contextlib.suppress(StoreError):
        if (
            store.read(nodes.paused(domid)) is not None
        ):  # else libxl has destroyed the domain, and its nodes are not to return
            store.write(nodes.paused(domid), _UNPAUSING)
    try:
        xen.unpause(domid)
    except XenError as error:
        if error.errno != errno.ESRCH:
            raise
    held.remove(domid)
    with contextlib.suppress(StoreError):
        _forget(domid, store)


def _forget(domid: int, store: Store) -> None:
    """Remove the note; also the domain's folder where our note alone had made it: libxl's is never empty."""
    store.remove(nodes.paused(domid))
    if not store.list(nodes.libxl(domid)):
        store.remove(nodes.libxl(domid))
