# SPDX-License-Identifier: LGPL-2.1-only
"""Delegates that have lost their supervisor: the daemon has another one take over.

While its supervisor lives, a delegate's process is followed by another one when it dies.  A supervisor itself is nobody's child
here, so the daemon holds a descriptor for each (pidfd_open(2)), which becomes readable when it ends.  It learns of delegates
from their record, whoever started them, and of a supervisor that had ended before the daemon came as well.
"""

import os
from collections.abc import Callable, Collection
from typing import NamedTuple

from xlplug.delegate import record
from xlplug.dom0 import nodes
from xlplug.hook import delegate
from xlplug.model.addr import Domid
from xlplug.model.errors import StoreError
from xlplug.model.hypervisor import DomainInfo
from xlplug.model.problem import Problem
from xlplug.watch.guests import ERROR, WARNING, World

__all__ = ["Delegates"]


class _Followed(NamedTuple):
    """A supervisor: its process and start, and the descriptor that says when it ends."""

    pid: int
    started: int
    fd: int


class Delegates:
    """The delegates of this host's guests."""

    def __init__(
        self, world: World, register: Callable[[int], None], unregister: Callable[[int], None],
        spawn: Callable[[int], int] = delegate.spawn,
    ) -> None:  # fmt: skip
        """``register`` and ``unregister`` are those of the poll that waits for our descriptors.

        ``spawn`` has somebody take over a domain's delegate: a pipe with `delegate.READY`, or why not.
        """
        self._world, self._register, self._unregister, self._spawn = world, register, unregister, spawn
        self._watched: set[Domid] = set()
        self._followed: dict[Domid, _Followed] = {}
        self._answers: dict[int, tuple[Domid, bytes]] = {}  # by the pipe that an answer comes through
        self._tried: set[tuple[Domid, int, int]] = set()

    def look(self, present: Collection[Domid], changed: Collection[str]) -> None:
        """``present`` are the domains there are, ``changed`` the paths in xenstore that have changed."""
        for domid in self._watched - set(present):
            self._watched.discard(domid)
            self._world.unwatch(_path(domid))
            self._leave(domid)
        self._tried = {tried for tried in self._tried if tried[0] in self._watched}
        for domid in sorted(set(present) - self._watched):
            self._watched.add(domid)
            self._world.watch(_path(domid))  # and its first event comes at once
        for domid in sorted(self._watched):
            if any(path.startswith(_path(domid)) for path in changed):
                self._follow(domid)

    def ready(self, fd: int) -> None:
        """A descriptor that was registered is readable."""
        if fd in self._answers:
            self._hear(fd)
            return
        for domid, followed in list(self._followed.items()):
            if followed.fd == fd:
                self._follow(domid)

    def _follow(self, domid: Domid) -> None:
        """Wait for the end of a domain's supervisor, or have another one take over if that is past."""
        self._leave(domid)
        try:
            found = record.read(self._world.store, domid)
        except StoreError as error:
            if (domid, 0, 0) not in self._tried:
                self._world.log(ERROR, f"domain {domid}: {error}")
            self._tried.add((domid, 0, 0))
            return
        if found is None or found.process is None:
            return
        pid, started = found.process.pid, found.process.started
        if record.process_started(pid) == started:
            try:
                fd = os.pidfd_open(pid)
            except OSError:  # it has ended just now
                pass
            else:
                self._followed[domid] = _Followed(pid, started, fd)
                self._register(fd)
                return
        info: DomainInfo | None = self._world.xen.domain_info(domid)
        if info is None or info.dying or info.uuid != found.uuid or (domid, pid, started) in self._tried:
            return
        self._tried.add((domid, pid, started))
        self._world.log(WARNING, f"domain {domid}: the delegate's supervisor, process {pid}, is dead; taking over")
        answer = self._spawn(domid)
        self._answers[answer] = domid, b""
        self._register(answer)

    def _leave(self, domid: Domid) -> None:
        followed = self._followed.pop(domid, None)
        if followed is not None:
            self._unregister(followed.fd)
            os.close(followed.fd)

    def _hear(self, fd: int) -> None:
        """Read what a new supervisor says, up to its end or "ready"."""
        domid, text = self._answers[fd]
        piece = os.read(fd, 4096)
        text += piece
        self._answers[fd] = domid, text
        if piece and delegate.READY not in text:
            return
        del self._answers[fd]
        self._unregister(fd)
        os.close(fd)
        if delegate.READY not in text:
            said = Problem.unpacked(text.decode("utf-8", "replace").strip().rpartition("\n")[2])
            why = said if said.what else "it ended without a word"
            self._world.log(ERROR, f"domain {domid}: nobody could take over its delegate: {why}")


def _path(domid: int) -> str:
    return f"{nodes.devices(domid)}/delegate-process/started"
