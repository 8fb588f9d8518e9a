# SPDX-License-Identifier: LGPL-2.1-only
"""One fault at one position: a wrapper around the hypervisor in memory, xenstore and the log.

Every call and every line is a position, and has a before and an after.  Interrupts are real signals, so that what blocks
signals is tried, too.  A kill is an exception that nothing can handle: from then on every call raises it again, as if the
process were gone.
"""

import errno
import signal
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

from xlplug.model.errors import StoreError, XenError
from xlplug.model.hypervisor import DomainInfo, HeldRights, Nodes
from xlplug.xen.in_memory import MemStore, MemXen

T = TypeVar("T")

#: What Xen and libxenctrl can answer to a call that changes something, by call and direction.  ESRCH and "not mapped" mean
#: that there is nothing to undo, and are answered by the hypervisor in memory itself where that is so.
_GIVE = (errno.ENOMEM, errno.EPERM, errno.EACCES, errno.EFAULT, errno.EINVAL)
_TAKE = (errno.ENOMEM, errno.EPERM, errno.EACCES, errno.EFAULT)
ERRNOS: dict[tuple[str, bool], tuple[int, ...]] = {
    ("iomem_permission", True): _GIVE,
    ("iomem_permission", False): _TAKE,
    ("ioport_permission", True): _GIVE,
    ("ioport_permission", False): _TAKE,
    ("memory_mapping", True): _GIVE,
    ("memory_mapping", False): _TAKE,
    ("ioport_mapping", True): (*_GIVE, errno.EBUSY),
    ("ioport_mapping", False): _TAKE,
    ("populate_physmap", True): (errno.EBUSY, errno.EFAULT, errno.ENOMEM),
    ("decrease_reservation", True): (errno.EFAULT, errno.ENOMEM),
    ("set_max_mem", True): (errno.EPERM, errno.EACCES),
}


class Killed(BaseException):
    """The process is gone."""


class Point(NamedTuple):
    """A position: the n-th call or line; ``code`` numbers the errnos that can be had there."""

    number: int
    side: str
    call: str
    add: bool = True

    @property
    def errnos(self) -> tuple[int, ...]:
        return ERRNOS.get((self.call, self.add), ()) if self.side == "xen" else ()


class Fault(NamedTuple):
    """What happens at position ``at``, before or after the effect; from there on again and again if it is ``lasting``."""

    kind: str = "none"
    at: int = -1
    after: bool = False
    lasting: bool = False
    code: int = 0
    second: int = -1  #: for errno: a second one at this position

    def hits(self, number: int) -> bool:
        return number == self.at or number == self.second or (self.lasting and number >= self.at >= 0)


NONE = Fault()


class Injector:
    """Counts the positions of a run and lets the fault happen."""

    def __init__(self, fault: Fault = NONE) -> None:
        self.fault = fault
        self.points: list[Point] = []
        self.dead = False
        self.changed = 0  #: calls to Xen that took effect
        self.destroy: Callable[[], None] = lambda: None

    def enter(self, side: str, call: str, *, add: bool = True) -> Point:
        if self.dead:
            raise Killed
        point = Point(len(self.points), side, call, add)
        self.points.append(point)
        if not self.fault.after and self.fault.hits(point.number):
            self._strike(point)
        return point

    def leave(self, point: Point) -> None:
        if self.fault.after and self.fault.hits(point.number):
            self._strike(point)

    def _strike(self, point: Point) -> None:
        kind = self.fault.kind
        if kind == "kill":
            self.dead = True
            raise Killed
        if kind == "signal":
            signal.raise_signal(signal.SIGINT)
        elif kind == "destroy":
            self.destroy()
        elif kind == "store" and point.side == "store":
            raise StoreError(f"xenstore: cannot {point.call}: EIO")
        elif kind == "log" and point.side == "log":
            raise (
                OSError(errno.ENOSPC, "full"),
                OSError(errno.EIO, "gone"),
                ValueError("closed"),
                AttributeError("None"),
            )[self.fault.code]
        elif kind == "errno" and point.errnos:
            raise XenError(
                f"xc_{point.call}", self.fault.code if point.number == self.fault.at else errno.ENOMEM, "(injected)"
            )


class FaultyXen:
    """The hypervisor in memory, behind an injector."""

    def __init__(self, xen: MemXen, injector: Injector) -> None:
        self.xen = xen
        self.injector = injector

    def domain_info(self, domid: int) -> DomainInfo | None:
        return self._call("domain_info", lambda: self.xen.domain_info(domid))

    def held(self) -> dict[int, HeldRights]:
        raise AssertionError("the q dump must not be needed")

    def iomem_permission(self, domid: int, first: int, nr: int, *, allow: bool) -> None:
        self._change("iomem_permission", domid, first, nr, allow=allow)

    def ioport_permission(self, domid: int, first: int, nr: int, *, allow: bool) -> None:
        self._change("ioport_permission", domid, first, nr, allow=allow)

    def memory_mapping(self, domid: int, gfn: int, mfn: int, nr: int, *, add: bool) -> None:
        try:
            self._change("memory_mapping", domid, gfn, mfn, nr, add=add)
        except XenError:
            if add and domid in self.xen._domains:  # libxenctrl unmaps the whole range when Xen fails
                self.xen._memory_mapping(self.xen._domains[domid], gfn, mfn, nr, add=False)
            raise

    def ioport_mapping(self, domid: int, gport: int, port: int, nr: int, *, add: bool) -> None:
        self._change("ioport_mapping", domid, gport, port, nr, add=add)

    def populate_physmap(self, domid: int, gfns: Sequence[int], order: int = 0) -> None:
        try:
            self._change("populate_physmap", domid, gfns, order)
        except XenError:
            if not self.injector.dead:  # Xen stops in the middle, and what it has done stays
                self.xen.populate_physmap(domid, list(gfns)[: len(gfns) // 2], order)
            raise

    def decrease_reservation(self, domid: int, gfns: Sequence[int], order: int = 0) -> None:
        self._change("decrease_reservation", domid, gfns, order)

    def set_max_mem(self, domid: int, kib: int) -> None:
        self._change("set_max_mem", domid, kib)

    def _change(self, call: str, *args: Any, **direction: bool) -> None:
        add = next(iter(direction.values()), True)
        self._call(call, lambda: getattr(self.xen, call)(*args, **direction), add=add)
        self.injector.changed += 1

    def _call(self, call: str, effect: Callable[[], T], *, add: bool = True) -> T:
        point = self.injector.enter("xen", call, add=add)
        try:
            return effect()
        finally:
            if not self.injector.dead:
                self.injector.leave(point)


class FaultyNodes:
    """Nodes behind an injector."""

    def __init__(self, nodes: Nodes, injector: Injector) -> None:
        self.nodes = nodes
        self.injector = injector

    def read(self, path: str) -> str | None:
        return self._call("read", lambda: self.nodes.read(path))

    def list(self, path: str) -> "list[str]":
        return self._call("list", lambda: self.nodes.list(path))

    def write(self, path: str, value: str) -> None:
        self._call("write", lambda: self.nodes.write(path, value))

    def remove(self, path: str) -> None:
        self._call("remove", lambda: self.nodes.remove(path))

    def _call(self, call: str, effect: Callable[[], T]) -> T:
        point = self.injector.enter("store", call)
        result = effect()
        self.injector.leave(point)
        return result


class FaultyStore(FaultyNodes):
    """xenstore behind an injector: beginning and end of a transaction are positions, too."""

    def __init__(self, store: MemStore, injector: Injector) -> None:
        super().__init__(store, injector)
        self.store = store

    def atomically(self, change: Callable[[Nodes], T]) -> T:
        self.injector.leave(self.injector.enter("store", "transaction start"))
        ends: list[Point] = []

        def within(view: Nodes) -> T:
            result = change(FaultyNodes(view, self.injector))
            ends.append(self.injector.enter("store", "transaction end"))
            return result

        result = self.store.atomically(within)
        self.injector.leave(ends[-1])
        return result


class FaultyLog:
    """A log behind an injector."""

    def __init__(self, injector: Injector) -> None:
        self.injector = injector
        self.lines: list[str] = []

    def __call__(self, line: str) -> None:
        point = self.injector.enter("log", "line")
        self.lines.append(line)
        self.injector.leave(point)
