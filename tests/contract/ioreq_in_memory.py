# SPDX-License-Identifier: LGPL-2.1-only
"""Xen's ioreq servers, event channels and guest memory, in memory: for unit tests of what serves guests.

They answer as the lab showed, errors included; test_contract_ioreq.py runs on these and on the real ones.  A guest's access is
dispatched as in xen/common/ioreq.c, ioreq_server_select: from the highest id down, to the first server whose ranges hold all
of it.  Nothing here waits: `Hub.access` leaves a request in a slot, and `Hub.result` looks whether it was answered.
"""

import errno
import itertools
import os
from typing import NamedTuple

from xlplug.model.errors import XenError
from xlplug.model.hypervisor import IoreqServerInfo, check_domid
from xlplug.model.rangeset import RangeSet
from xlplug.xen.foreignmemory import PAGE_BYTES, GuestPages, IoreqPage
from xlplug.xen.ioreq import ALL_ONES, COPY, INVALIDATE, PCI_CONFIG, PIO
from xlplug.xen.lib import ffi

SERVERS, RANGES = 8, 256  # xen/include/xen/sched.h, MAX_NR_IOREQ_SERVERS; xen/common/ioreq.c, MAX_NR_IO_RANGES
_NONE, _READY, _INPROCESS, _RESP_READY = range(4)


class _Server:
    def __init__(self) -> None:
        self.enabled = False
        self.pci, self.memory, self.ports = RangeSet(), RangeSet(), RangeSet()
        self.page = ffi.new("unsigned char[]", PAGE_BYTES)


class _Domain:
    def __init__(self, vcpus: int) -> None:
        self.vcpus = vcpus
        self.servers: dict[int, _Server] = {0: _Server()}  # QEMU's
        self.ram: dict[int, object] = {}


class Access(NamedTuple):
    """A request that a vCPU has made; ``server`` is None when nobody is asked."""

    domid: int
    server: int | None
    vcpu: int
    read: bool


class Hub:
    """The hypervisor: all domains, and who listens to what."""

    def __init__(self) -> None:
        self.domains: dict[int, _Domain] = {}
        self.bound: dict[int, tuple[int, int, int]] = {}  # our port: domain, server, vCPU
        self.events: list[int] = []
        self.notified: list[int] = []
        self._ports = itertools.count(20)
        self.remote: dict[tuple[int, int], tuple[int, int]] = {}  # (domain, port): server, vCPU
        self.wakers: list[MemChannels] = []

    def domain(self, domid: int, vcpus: int = 1) -> None:
        self.domains[domid] = _Domain(vcpus)

    def find(self, call: str, domid: int, server: int | None = None) -> "_Domain":
        check_domid(call, domid)
        if domid == 0:
            raise XenError(call, errno.EPERM, f"domid={domid}")
        if domid not in self.domains:
            raise XenError(call, errno.ESRCH, f"domid={domid}")
        if server is not None and server not in self.domains[domid].servers:
            raise XenError(call, errno.ENOENT, f"domid={domid} server={server}")
        return self.domains[domid]

    def infos(self, domid: int) -> tuple[IoreqServerInfo, ...]:
        return tuple(
            IoreqServerInfo(number, s.pci, s.memory, s.ports)
            for number, s in sorted(self.domains[domid].servers.items())
        )

    # the guest

    def access(
        self, domid: int, kind: int, addr: int, size: int, value: int | None = None, *, vcpu: int = 0, repeat: int = 1,
        pointer: bool = False, backwards: bool = False, data: int = 0,
    ) -> Access:  # fmt: skip
        """An access of a vCPU; a write when ``value`` is given, or, with ``pointer``, when ``value`` is not None."""
        read = value is None
        number = self._select(domid, kind, addr, size * repeat if kind == COPY and not backwards else size)
        if number is None:
            return Access(domid, None, vcpu, read)
        self.put(
            domid, number, vcpu, kind, addr, size, data if pointer else value or 0, repeat, read, pointer, backwards
        )
        return Access(domid, number, vcpu, read)

    def put(
        self, domid: int, number: int, vcpu: int, kind: int, addr: int, size: int, data: int, repeat: int = 1,
        read: bool = True, pointer: bool = False, backwards: bool = False, state: int = _READY,
    ) -> None:  # fmt: skip
        """Write a slot, sensible or not, and raise the event."""
        page = ffi.buffer(self.domains[domid].servers[number].page)
        at = vcpu * 32
        page[at : at + 8] = addr.to_bytes(8, "little")
        page[at + 8 : at + 16] = data.to_bytes(8, "little")
        page[at + 16 : at + 20] = repeat.to_bytes(4, "little")
        page[at + 20 : at + 24] = size.to_bytes(4, "little")
        page[at + 30 : at + 32] = bytes([state | pointer << 4 | read << 5 | backwards << 6, kind])
        for local, who in self.bound.items():
            if who == (domid, number, vcpu):
                self.raise_event(local)

    def raise_event(self, local: int) -> None:
        self.events.append(local)
        for channels in self.wakers:
            os.eventfd_write(channels.fd, 1)

    def _select(self, domid: int, kind: int, addr: int, size: int) -> int | None:
        for number, server in sorted(self.domains[domid].servers.items(), reverse=True):
            if not server.enabled:
                continue
            if kind == INVALIDATE:
                return number
            if kind == PCI_CONFIG and server.pci.covers(addr >> 32, (addr >> 32) + 1):
                return number
            if kind == COPY and server.memory.covers(addr, addr + size):
                return number
            if kind == PIO and server.ports.covers(addr, addr + size):
                return number
        return None

    def result(self, access: Access) -> int | None:
        """What the vCPU has read, 0 for a write that is done; None while it waits."""
        if access.server is None:
            return ALL_ONES
        domain = self.domains[access.domid]
        page = ffi.buffer(domain.servers[access.server].page)
        at = access.vcpu * 32
        if page[at + 30][0] & 0xF != _RESP_READY:
            return None
        page[at + 30] = b"\0"
        return int.from_bytes(page[at + 8 : at + 16], "little") if access.read else 0

    def ram(self, domid: int, gfn: int) -> object:
        return self.domains[domid].ram.setdefault(gfn, ffi.new("unsigned char[]", PAGE_BYTES))


class _Handle:
    def __enter__(self):
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        pass


class MemDevices(_Handle):
    """As `xlplug.xen.devicemodel.DeviceModel`, for ioreq servers."""

    def __init__(self, hub: Hub) -> None:
        self.hub = hub
        self.calls: list[str] = []

    def create_ioreq_server(self, domid: int, *, handle_bufioreq: int = 0) -> int:
        call = "xendevicemodel_create_ioreq_server"
        domain = self.hub.find(call, domid)
        if handle_bufioreq > 2:
            raise XenError(call, errno.EINVAL)
        free = [number for number in range(SERVERS) if number not in domain.servers]
        if not free:
            raise XenError(call, errno.ENOSPC, f"domid={domid}")
        domain.servers[free[0]] = _Server()
        return free[0]

    def set_server_state(self, page: IoreqPage, *, enabled: bool) -> None:
        if not page.mapped:
            raise ValueError("the server's page is not mapped")
        domain = self.hub.find("xendevicemodel_set_ioreq_server_state", page.domid, page.server)
        server = domain.servers[page.server]
        if enabled and not server.enabled:
            buffer = ffi.buffer(server.page)
            for vcpu in range(domain.vcpus):
                port = 0x100 + page.server * 0x20 + vcpu
                buffer[vcpu * 32 + 24 : vcpu * 32 + 28] = port.to_bytes(4, "little")
                self.hub.remote[page.domid, port] = page.server, vcpu
        server.enabled = enabled

    def call(self, operation: str, domid: int, **a: int) -> None:
        self.calls.append(operation)
        name = f"xendevicemodel_{operation}"
        domain = self.hub.find(name, domid, a["id"])
        server = domain.servers[a["id"]]
        if operation == "destroy_ioreq_server":
            del domain.servers[a["id"]]
        elif "pcidev" in operation:
            self._pci(name, server, a)
        else:
            self._range(name, server, a)

    def _pci(self, name: str, server: _Server, a: dict[str, int]) -> None:
        if a["device"] > 0x1F or a["function"] > 7:
            raise XenError(name, errno.EINVAL)
        sbdf = a["segment"] << 16 | a["bus"] << 8 | a["device"] << 3 | a["function"]
        one = RangeSet([(sbdf, sbdf + 1)])
        held = server.pci.covers(sbdf, sbdf + 1)
        if held == name.startswith("xendevicemodel_map"):
            raise XenError(name, errno.EEXIST if held else errno.ENOENT)
        server.pci = server.pci - one if held else server.pci | one

    def _range(self, name: str, server: _Server, a: dict[str, int]) -> None:
        if a["start"] > a["end"]:
            raise XenError(name, errno.EINVAL)
        kind = "memory" if a["is_mmio"] else "ports"
        ranges: RangeSet = getattr(server, kind)
        one = RangeSet([(a["start"], a["end"] + 1)])
        if name.startswith("xendevicemodel_map"):
            if ranges & one:
                raise XenError(name, errno.EEXIST)
            if len(ranges | one) > RANGES:
                raise XenError(name, errno.ENOMEM)
            setattr(server, kind, ranges | one)
        else:
            if not ranges.covers(a["start"], a["end"] + 1):
                raise XenError(name, errno.ENOENT)
            setattr(server, kind, ranges - one)


class MemMemory(_Handle):
    """As `xlplug.xen.foreignmemory.ForeignMemory`."""

    def __init__(self, hub: Hub) -> None:
        self.hub = hub
        self.mapped = 0

    def ioreq_page(self, domid: int, server: int) -> IoreqPage:
        domain = self.hub.find("xenforeignmemory_map_resource", domid, server)
        self.mapped += 1
        return IoreqPage(self, domid, server, object(), domain.servers[server].page)  # type: ignore[arg-type]

    def unmap_resource(self, resource: object) -> None:
        self.mapped -= 1

    def map(self, domid: int, gfns: list[int], *, writable: bool = True) -> GuestPages:
        call = "xenforeignmemory_map"
        self.hub.find(call, domid)
        (gfn,) = gfns
        if gfn not in self.hub.domains[domid].ram:
            raise XenError(call, errno.EINVAL, f"domid={domid} gfn={gfn:#x}")
        self.mapped += 1
        return GuestPages(self, self.hub.ram(domid, gfn), 1)  # type: ignore[arg-type]

    def unmap(self, address: object, pages: int) -> None:
        self.mapped -= 1


class MemChannels(_Handle):
    """As `xlplug.xen.evtchn.EventChannels`."""

    def __init__(self, hub: Hub) -> None:
        self.hub = hub
        self.fd = os.eventfd(0, os.EFD_SEMAPHORE | os.EFD_CLOEXEC)
        hub.wakers.append(self)

    def close(self) -> None:
        os.close(self.fd)
        self.hub.wakers.remove(self)

    def fileno(self) -> int:
        return self.fd

    def bind_interdomain(self, domid: int, remote_port: int) -> int:
        call = "xenevtchn_bind_interdomain"
        self.hub.find(call, domid)
        who = self.hub.remote.get((domid, remote_port))
        if who is None or (domid, *who) in self.hub.bound.values():
            raise XenError(call, errno.EINVAL, f"domid={domid} port={remote_port}")
        local = next(self.hub._ports)
        self.hub.bound[local] = (domid, *who)
        self.hub.raise_event(local)
        return local

    def pending(self) -> int:
        os.eventfd_read(self.fd)
        return self.hub.events.pop(0)

    def unmask(self, port: int) -> None:
        pass

    def notify(self, port: int) -> None:
        if port not in self.hub.bound:
            raise XenError("xenevtchn_notify", errno.ENOTCONN, f"port={port}")
        self.hub.notified.append(port)

    def unbind(self, port: int) -> None:
        if port not in self.hub.bound:
            raise XenError("xenevtchn_unbind", errno.ENOTCONN, f"port={port}")
        del self.hub.bound[port]
