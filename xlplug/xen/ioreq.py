# SPDX-License-Identifier: LGPL-2.1-only
"""An ioreq server: what Xen asks a device model, and one object that makes, maps, enables and serves it in the right order.

Source of the layout: xen/include/public/hvm/ioreq.h.  The page is an array of 32-byte slots, one for each vCPU:

    u64 addr @0, u64 data @8, u32 count @16, u32 size @20, u32 vp_eport @24, u16 @28, u8 flags @30, u8 type @31

with the slot's state in bits 0 to 3 of the flags.  Xen writes a request and makes the state READY; the server makes it
RESP_READY when ``data`` holds the answer, and notifies.  Until then the vCPU stands still, so every request is answered,
also one that makes no sense.  The order of these stores is the order of assignment: x86 keeps it; other processors would
need barriers.
"""

import contextlib
import errno
import time
from collections.abc import Callable, Iterable
from typing import NamedTuple

from xlplug.model.errors import XenError
from xlplug.xen.devicemodel import DeviceModel
from xlplug.xen.evtchn import EventChannels
from xlplug.xen.foreignmemory import ForeignMemory, IoreqPage
from xlplug.xen.lib import Handle

__all__ = [
    "ALL_ONES",
    "COPY",
    "INVALIDATE",
    "PCI_CONFIG",
    "PIO",
    "TIMEOFFSET",
    "IoreqServer",
    "Request",
    "Slots",
    "gone",
]

PIO, COPY, PCI_CONFIG, TIMEOFFSET, INVALIDATE = 0, 1, 2, 7, 8  #: IOREQ_TYPE_*; COPY is memory
ALL_ONES = (1 << 64) - 1  #: what a read gives where nobody answers

_SLOT_BYTES, _SLOTS = 32, 128
_STATE_MASK, _POINTER, _READ, _BACKWARDS = 0x0F, 0x10, 0x20, 0x40
_READY, _INPROCESS, _RESP_READY = 1, 2, 3  # STATE_IOREQ_*
_FETCH_SECONDS = 0.25


class Request(NamedTuple):
    """What a vCPU is waiting for.

    ``addr`` is a port, a guest physical byte address, or for PCI_CONFIG sbdf<<32 | register.  ``repeat`` elements of ``size``
    bytes each: element i is at addr + i*size (memory) or at addr (ports), and - i*size when ``backwards``.  With ``pointer``,
    ``data`` is the guest physical address of element 0 in the guest's memory; else it is the value to write.
    """

    vcpu: int
    kind: int
    addr: int
    data: int
    size: int = 4
    repeat: int = 1
    read: bool = True
    pointer: bool = False
    backwards: bool = False


class Slots:
    """The slots of an ioreq page: reading requests, and answering them."""

    def __init__(self, page: IoreqPage) -> None:
        self._octets, self._quads = page.octets, page.quads

    def ports(self) -> dict[int, int]:
        """Xen's event channel port by vCPU; filled in when the server is enabled."""
        found = {vcpu: self._quads[vcpu * 4 + 3] & 0xFFFFFFFF for vcpu in range(_SLOTS)}
        return {vcpu: port for vcpu, port in found.items() if port}

    def take(self, vcpu: int) -> Request | None:
        """The request that waits in a slot, None when there is none."""
        octets = self._octets
        at = vcpu * _SLOT_BYTES + 30
        flags = octets[at]
        if flags & _STATE_MASK != _READY:
            return None
        octets[at] = flags & ~_STATE_MASK | _INPROCESS
        return self._read(vcpu, flags)

    def interrupted(self, vcpu: int) -> Request | None:
        """The request that a server had taken, and had not answered when it died."""
        flags = self._octets[vcpu * _SLOT_BYTES + 30]
        return self._read(vcpu, flags) if flags & _STATE_MASK == _INPROCESS else None

    def _read(self, vcpu: int, flags: int) -> Request:
        quads, first = self._quads, vcpu * 4
        counts = quads[first + 2]
        return Request(
            vcpu, self._octets[vcpu * _SLOT_BYTES + 31], quads[first], quads[first + 1], counts >> 32, counts & 0xFFFFFFFF,
            bool(flags & _READ), bool(flags & _POINTER), bool(flags & _BACKWARDS),
        )  # fmt: skip

    def unread(self, vcpus: Iterable[int]) -> bool:
        """Whether an answer is still there that its vCPU has not fetched."""
        return any(self._octets[vcpu * _SLOT_BYTES + 30] & _STATE_MASK == _RESP_READY for vcpu in vcpus)

    def answer(self, vcpu: int, data: int | None) -> None:
        """Complete the request of a slot; None leaves ``data`` as it is.  Then Xen must be notified."""
        if data is not None:
            self._quads[vcpu * 4 + 1] = data & ALL_ONES
        at = vcpu * _SLOT_BYTES + 30
        self._octets[at] = self._octets[at] & ~_STATE_MASK | _RESP_READY


Answer = Callable[[Request], "int | None"]


class IoreqServer(Handle):
    """One ioreq server of a guest; a context manager.  Leaving it destroys the server, `abandon` leaves it to another process.

    Made, it exists, its page is mapped, and it is disabled; claim what it serves, then `enable` it.  With ``adopt`` it is a
    server that exists already, whose process is dead: the id must be known from a record, because Xen lets any process of dom0
    take any server of dom0's, QEMU's too.

    Raises:
        XenError: see `DeviceModel`; ENOSPC when the domain has 8 servers already.
    """

    def __init__(
        self, domid: int, devices: DeviceModel, memory: ForeignMemory, channels: EventChannels, adopt: int | None = None
    ) -> None:
        self.domid = domid
        self._devices, self._channels = devices, channels
        self.id = devices.create_ioreq_server(domid) if adopt is None else adopt
        try:
            self._page = memory.ioreq_page(domid, self.id)
        except BaseException:
            if adopt is None:
                devices.call("destroy_ioreq_server", domid, id=self.id)
            raise
        self.slots = Slots(self._page)
        self._vcpus: dict[int, int] = {}  # by our own port
        self._ports: dict[int, int] = {}  # the other way round

    # what it serves; ranges are inclusive at both ends, as in Xen

    def claim_pci(self, sbdf: int) -> None:
        """Have config accesses to a function sent here."""
        self._devices.call("map_pcidev_to_ioreq_server", self.domid, id=self.id, **_address(sbdf))

    def release_pci(self, sbdf: int) -> None:
        """Take `claim_pci` back."""
        self._devices.call("unmap_pcidev_from_ioreq_server", self.domid, id=self.id, **_address(sbdf))

    def map_range(self, first: int, last: int, *, memory: bool) -> None:
        """Have accesses to guest bytes, or ports, sent here.  EEXIST where this server has some of them already."""
        self._devices.call(
            "map_io_range_to_ioreq_server", self.domid, id=self.id, is_mmio=int(memory), start=first, end=last
        )

    def unmap_range(self, first: int, last: int, *, memory: bool) -> None:
        """Take `map_range` back, also in parts; ENOENT where not all of it is mapped."""
        self._devices.call(
            "unmap_io_range_from_ioreq_server", self.domid, id=self.id, is_mmio=int(memory), start=first, end=last
        )

    # serving

    def enable(self) -> int:
        """Have Xen send requests here; how many vCPUs can send them.  Xen makes their ports known only now."""
        self._devices.set_server_state(self._page, enabled=True)
        for vcpu, port in self.slots.ports().items():
            local = self._channels.bind_interdomain(self.domid, port)
            self._vcpus[local], self._ports[vcpu] = vcpu, local
        return len(self._vcpus)

    def disable(self) -> None:
        """Have Xen send nothing more.  What waits in a slot already still has to be answered."""
        self._devices.set_server_state(self._page, enabled=False)

    def serve(self, answer: Answer) -> bool:
        """Wait for one event and answer what has come with it; False when nothing had."""
        port = self._channels.pending()
        self._channels.unmask(port)
        vcpu = self._vcpus.get(port)
        return vcpu is not None and self._complete(vcpu, self.slots.take(vcpu), answer)

    def serve_all(self, answer: Answer) -> int:
        """Answer every request that waits, whoever left it there, without waiting for events; how many there were.

        One that a dead server had taken is not carried out a second time: it may have been what killed it.  It reads all ones.
        """
        count = 0
        for vcpu in self._ports:
            interrupted = self.slots.interrupted(vcpu)
            if interrupted is not None:
                count += self._complete(vcpu, interrupted, _nobody)
            else:
                count += self._complete(vcpu, self.slots.take(vcpu), answer)
        return count

    def _complete(self, vcpu: int, request: Request | None, answer: Answer) -> bool:
        """``answer`` must not raise; if it does, the vCPU is still let go, with all ones."""
        if request is None:
            return False
        data: int | None = None if request.pointer else ALL_ONES
        try:
            data = answer(request)
        finally:
            self.slots.answer(vcpu, data)
            self._channels.notify(self._ports[vcpu])
        return True

    def fileno(self) -> int:
        """To be polled for reading; `serve` then does not wait."""
        return self._channels.fileno()

    # ending

    def stop(self) -> None:
        """Disable the server, let every waiting vCPU go with all ones, destroy it.  Nothing to do when Xen has done it.

        An answer that its vCPU has not fetched yet is lost with the server, and a read then gives 0.  So the vCPUs get a moment;
        those of a paused guest would take forever.
        """
        try:
            self.disable()
            self.serve_all(_nobody)
            deadline = time.monotonic() + _FETCH_SECONDS
            while self.slots.unread(self._ports) and time.monotonic() < deadline:
                time.sleep(0.001)
            self._devices.call("destroy_ioreq_server", self.domid, id=self.id)
        except XenError as error:
            if not gone(error):
                raise

    def abandon(self) -> None:
        """Let go of page and ports, and leave the server in Xen as it is; doing it again does nothing."""
        for port in self._vcpus:
            with contextlib.suppress(XenError):  # of a domain that is being destroyed
                self._channels.unbind(port)
        self._vcpus, self._ports = {}, {}
        self._page.close()

    def close(self) -> None:
        """Stop it and let go; doing it again does nothing."""
        if self._page.mapped:
            try:
                self.stop()
            finally:
                self.abandon()


def _nobody(request: Request) -> int | None:
    """What a vCPU gets where no device is."""
    return None if request.pointer else ALL_ONES


def gone(error: XenError) -> bool:
    """Whether an error says that the server, or the domain, does not exist any more: a dying domain's servers go first."""
    return error.errno in (errno.ENOENT, errno.ESRCH)


def _address(sbdf: int) -> dict[str, int]:
    return {"segment": sbdf >> 16, "bus": sbdf >> 8 & 0xFF, "device": sbdf >> 3 & 0x1F, "function": sbdf & 7}
