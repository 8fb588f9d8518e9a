# SPDX-License-Identifier: LGPL-2.1-only
"""What execution needs of a hypervisor and of xenstore, as protocols, and the values they speak in.

Two classes satisfy each: the real one (xen/ctrl.py, xen/store.py) and the one in memory (xen/in_memory.py).  One contract test
suite runs on both.
"""

import errno
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol, TypeVar

from xlplug.model.addr import DOMID_FIRST_RESERVED
from xlplug.model.errors import XenError
from xlplug.model.rangeset import RangeSet

__all__ = ["DomainInfo", "HeldRights", "Hypervisor", "IoreqServerInfo", "Nodes", "Store", "check_domid"]

T = TypeVar("T")


class DomainInfo(NamedTuple):
    """A domain as Xen describes it; ``nr_pages`` and ``max_pages`` in 4 KiB pages, ``cpu_time`` in ns: 0 if it never ran."""

    domid: int
    hvm: bool = True
    dying: bool = False
    paused: bool = False
    shutdown: bool = False
    nr_pages: int = 0
    max_pages: int = 0
    uuid: str = ""
    cpu_time: int = 0


class HeldRights(NamedTuple):
    """What a domain holds according to Xen's ``q`` debug key: ports, and mfns."""

    ports: RangeSet = RangeSet()
    memory: RangeSet = RangeSet()


class IoreqServerInfo(NamedTuple):
    """What one ioreq server claims, from the same dump: functions as sbdf, guest physical bytes, ports.

    Whether it is enabled, and which process serves it, Xen does not say.
    """

    id: int
    pci: RangeSet = RangeSet()
    memory: RangeSet = RangeSet()
    ports: RangeSet = RangeSet()


class Hypervisor(Protocol):
    """The calls that plans are carried out with.

    Frame, port and page counts as libxenctrl takes them: a first number and a length.  Every method raises `XenError`
    with the errno that Xen gave (see docs/semantics.md for which and when).
    """

    version: tuple[int, int]

    def iomem_permission(self, domid: int, first_mfn: int, nr_mfns: int, *, allow: bool) -> None:
        """Grant or revoke access to mfns.  Xen does not check whether they are RAM."""
        ...

    def ioport_permission(self, domid: int, first_port: int, nr_ports: int, *, allow: bool) -> None:
        """Grant or revoke access to I/O ports."""
        ...

    def memory_mapping(self, domid: int, first_gfn: int, first_mfn: int, nr_mfns: int, *, add: bool) -> None:
        """Map or unmap mfns at gfns; the domain must hold them."""
        ...

    def ioport_mapping(self, domid: int, first_gport: int, first_port: int, nr_ports: int, *, add: bool) -> None:
        """Map or unmap ports at guest ports.  Up to Xen 4.22 this also grants or revokes them."""
        ...

    def populate_physmap(self, domid: int, gfns: Sequence[int], order: int = 0) -> None:
        """Give the domain RAM at ``gfns``, 2**order pages each."""
        ...

    def decrease_reservation(self, domid: int, gfns: Sequence[int], order: int = 0) -> None:
        """Take RAM at ``gfns`` back, 2**order pages each."""
        ...

    def set_max_mem(self, domid: int, kib: int) -> None:
        """Set the domain's limit, in KiB; Xen rounds down to pages."""
        ...

    def domain_info(self, domid: int) -> DomainInfo | None:
        """The domain, or None when there is none of that number."""
        ...

    def held(self) -> dict[int, HeldRights]:
        """Every domain's rights, from Xen's own ``q`` dump (the only way to read them back)."""
        ...


class Nodes(Protocol):
    """The nodes of xenstore: paths and text."""

    def read(self, path: str) -> str | None:
        """A node's value, None when it does not exist."""
        ...

    def write(self, path: str, value: str) -> None:
        """Create or replace a node."""
        ...

    def list(self, path: str) -> "list[str]":
        """Names of a node's children; an empty list when it does not exist."""
        ...

    def remove(self, path: str) -> None:
        """Remove a node and all below it; nothing to do when there is none."""
        ...


class Store(Nodes, Protocol):
    """xenstore: its nodes, and a way to change several of them at once."""

    def atomically(self, change: Callable[[Nodes], T]) -> T:
        """Call ``change`` with the nodes as one transaction sees them; all that it writes is there at once, or not at all.

        It is called again when somebody else has meanwhile changed what it read, so it must do nothing but read and write.
        An exception from it, and the end of this process, leave xenstore as it was.

        Raises:
            StoreError: xenstored failed, or others changed the same nodes again and again.
        """
        ...


def check_domid(call: str, domid: int) -> None:
    """Refuse a number that an ordinary domain cannot have, before it reaches Xen.

    Xen truncates domids to 16 bits: N + 0x10000 would act on N (seen on 4.14 to 4.20).

    Raises:
        XenError: ESRCH, as Xen answers for a domain that does not exist.
    """
    if not 0 <= domid < DOMID_FIRST_RESERVED:
        raise XenError(
            call, errno.ESRCH, f"domid={domid}", hint="give the domid of a running domain (xl list)", code="XLP112"
        )
