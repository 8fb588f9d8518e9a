# SPDX-License-Identifier: LGPL-2.1-only
"""The process that pauses domains for ``xlplug watch``, and unpauses them however the daemon ends.

A killed daemon must not leave a domain paused.  So a child of it does the pausing, and unpauses what it holds when its pipe to
the daemon closes, which the kernel sees to.  In case both are killed at once, with the whole service, each pause is also
recorded in xenstore, and the next daemon takes it back (`recover`).

Xen counts pauses (xen/common/domain.c, controller_pause_count).  Ours adds to libxl's own, and the order does not matter.
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
    """The guard process has ended: nothing can be paused, and `recover` must unpause what it held."""

    exit_code = EXIT_FAILED


class Pauser(Protocol):
    """The two calls of a hypervisor that pausing needs."""

    def pause(self, domid: int) -> None:
        """Pause once more."""
        ...

    def unpause(self, domid: int) -> None:
        """Take one pause back."""
        ...


def recover(xen: Pauser, store: Store) -> list[str]:
    """Unpause what an earlier guard held when it was killed together with its daemon; one line for each domain."""
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
            # It was killed between its record and the call, so we do not know whether it had paused the domain.  Taking back
            # a pause that is libxl's would start the domain too early.
            lines.append(f"domain {domid}: an earlier run was killed while {state} it; {by_hand}")
        _forget(domid, store)
    return lines


class Guard:
    """The daemon's end of the pipe.  Make it before opening anything else: the child opens Xen for itself."""

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
        with contextlib.suppress(OSError):  # the child is gone, but may have left a message
            self._pipe.sendall(f"{words}\n".encode())
        with contextlib.suppress(OSError):
            answer = self._answers.readline().rstrip("\n")
        if not answer:
            raise GuardLostError(
                "the process that pauses domains was killed", hint="restart 'xlplug watch'", code="XLP511"
            )
        if answer != "ok":
            raise XlplugError(answer)


def _child(pipe: socket.socket) -> NoReturn:
    """Serve until the pipe closes, then unpause everything.  The signals that end the daemon must not end this process."""
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
    """Answer each line until the pipe ends or breaks, then unpause all that is still held."""
    held: list[int] = []
    try:
        # A daemon that was killed before it had read our answer shows as ECONNRESET, not as end of file (unix(7)).  Bytes that
        # are not UTF-8 cannot come from the daemon, so we end as well.
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
            return f"domain {domid} is paused already"  # one record cannot stand for two pauses
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
    """Take our pause back.  That matters more than the record of it, whose errors are ignored."""
    with contextlib.suppress(StoreError):
        # If the record is gone, libxl has destroyed the domain, and its nodes must not be made again.
        if store.read(nodes.paused(domid)) is not None:
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
    """Remove the record, and with it the domain's folder if nothing else is in it: libxl's own is never empty."""
    store.remove(nodes.paused(domid))
    if not store.list(nodes.libxl(domid)):
        store.remove(nodes.libxl(domid))
