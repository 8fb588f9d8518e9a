# SPDX-License-Identifier: LGPL-2.1-only
"""libxendevicemodel: the stable interface through which a device model serves its guest.

Granting calls none of these; `xlplug.delegate` does.  Every entry point of interface 1.4 is here, under its C name without the
prefix; the two of 1.4 (Xen 4.15) are looked up when called.  One is not to be had by its name:
xendevicemodel_set_ioreq_server_state.  `DeviceModel.set_server_state` takes the server's mapped page in place of an id.
"""

import errno

from xlplug.model.errors import XenUnavailableError
from xlplug.model.hypervisor import check_domid
from xlplug.xen.foreignmemory import IoreqPage
from xlplug.xen.lib import StableHandle, check, ffi, has

__all__ = ["BUFIOREQ_OFF", "OPERATIONS", "DeviceModel"]

#: HVM_IOREQSRV_BUFIOREQ_OFF: no page for writes that need no answer.  Source: xen/include/public/hvm/dm_op.h.
BUFIOREQ_OFF = 0

#: Operations whose arguments are all plain numbers, and their names after the domid.
#: Source: tools/include/xendevicemodel.h.  Ranges are inclusive at both ends there, and so are they here.
OPERATIONS: dict[str, tuple[str, ...]] = {
    "map_io_range_to_ioreq_server": ("id", "is_mmio", "start", "end"),
    "unmap_io_range_from_ioreq_server": ("id", "is_mmio", "start", "end"),
    "map_mem_type_to_ioreq_server": ("id", "type", "flags"),
    "map_pcidev_to_ioreq_server": ("id", "segment", "bus", "device", "function"),
    "unmap_pcidev_from_ioreq_server": ("id", "segment", "bus", "device", "function"),
    "destroy_ioreq_server": ("id",),
    "set_pci_intx_level": ("segment", "bus", "device", "intx", "level"),
    "set_isa_irq_level": ("irq", "level"),
    "set_irq_level": ("irq", "level"),
    "set_pci_link_route": ("link", "irq"),
    "inject_msi": ("msi_addr", "msi_data"),
    "modified_memory": ("first_pfn", "nr"),
    "set_mem_type": ("mem_type", "first_pfn", "nr"),
    "inject_event": ("vcpu", "vector", "type", "error_code", "insn_len", "extra"),
    "shutdown": ("reason",),
    "relocate_memory": ("size", "src_gfn", "dst_gfn"),
    "pin_memory_cacheattr": ("start", "end", "type"),
    "restrict": (),
}


#: What an errno means in an ioreq server's calls, as seen on Xen 4.14 to 4.20.  By call and errno, then by errno.
_SERVER_HINTS = {
    ("create", errno.EPERM): "only another domain's server can be made, and not dom0's",
    ("create", errno.EINVAL): "the domain is being destroyed, or is not an HVM or PVH guest",
    ("create", errno.ENOSPC): "a domain has room for 8 ioreq servers, the device model's included; stop one",
    ("map_io_range", errno.EINVAL): "the range ends before it begins",
    ("map_io_range", errno.EEXIST): "the server has a range there already; unmap that one first",
    ("map_io_range", errno.ENOMEM): "a server has room for 256 ranges of a kind",
    ("map_pcidev", errno.EEXIST): "the server has this function already",
    ("map_pcidev", errno.EINVAL): "a device is at most 1f, a function at most 7",
    ("unmap", errno.ENOENT): "not all of it is mapped, or the server is gone",
}
_ERRNO_HINTS = {
    errno.ENOENT: "the domain has no such ioreq server, or is being destroyed",
    errno.EPERM: "the server belongs to another domain, or this handle is restricted to another one",
    errno.ESRCH: "no such domain; see 'xl list'",
}


class DeviceModel(StableHandle):
    """A handle on libxendevicemodel; a context manager, to be closed.

    Raises:
        XenUnavailableError: the library is absent, or Xen cannot be called from here.
    """

    def __init__(self) -> None:
        super().__init__("xendevicemodel")

    def call(self, operation: str, domid: int, **arguments: int) -> None:
        """One of `OPERATIONS`, its arguments by name.

        Raises:
            XenError: Xen refused; ESRCH for no such domain, EPERM where the caller does not serve it.  The table for ioreq
                servers is in docs/bindings.md.
            XenUnavailableError: the installed library is older than the operation (interface 1.4 came with Xen 4.15).
            TypeError: other arguments than the operation takes.
        """
        names = OPERATIONS[operation]
        if set(arguments) != set(names):
            raise TypeError(f"{operation} takes {', '.join(names) or 'nothing'}")
        self._call(operation, domid, *(arguments[name] for name in names))

    def create_ioreq_server(self, domid: int, *, handle_bufioreq: int = BUFIOREQ_OFF) -> int:
        """A new ioreq server's id, the lowest that is free; it is disabled.

        ``handle_bufioreq`` is one of HVM_IOREQSRV_BUFIOREQ_* (0 off, 1 legacy, 2 atomic).
        """
        out = ffi.new("ioservid_t *")
        self._call("create_ioreq_server", domid, handle_bufioreq, out)
        return int(out[0])

    def set_server_state(self, page: IoreqPage, *, enabled: bool) -> None:
        """Have Xen send requests to the server whose page this is, or no longer.  The same state again is not an error.

        Raises:
            ValueError: the page is not mapped any more.
        """
        if not page.mapped:
            raise ValueError("the server's page is not mapped")
        self._call("set_ioreq_server_state", page.domid, page.server, int(enabled))

    def get_ioreq_server_info(self, domid: int, server: int) -> int:
        """The event channel port of buffered requests.

        Not the gfns of its pages: asked for these, Xen puts the pages into the guest, and `ForeignMemory.ioreq_page` is EPERM.
        """
        port = ffi.new("evtchn_port_t *")
        self._call("get_ioreq_server_info", domid, server, ffi.NULL, ffi.NULL, port)
        return int(port[0])

    def track_dirty_vram(self, domid: int, first_pfn: int, nr: int) -> bytes:
        """A bit for each page written since the last call, least significant first; ``nr`` 0 stops tracking."""
        bitmap = ffi.new("unsigned long[]", max(1, (nr + 63) // 64))
        self._call("track_dirty_vram", domid, first_pfn, nr, bitmap)
        return bytes(ffi.buffer(bitmap, (nr + 7) // 8))

    def modified_memory_bulk(self, domid: int, extents: list[tuple[int, int]]) -> None:
        """Mark (first pfn, number of pages) as written by the device model."""
        array = ffi.new("struct xen_dm_op_modified_memory_extent[]", len(extents))
        for i, (first, count) in enumerate(extents):
            array[i].first_pfn, array[i].nr = first, count
        self._call("modified_memory_bulk", domid, array, len(extents))

    def nr_vcpus(self, domid: int) -> int:
        """How many vCPUs the domain has."""
        out = ffi.new("unsigned int *")
        self._call("nr_vcpus", domid, out)
        return int(out[0])

    def _call(self, operation: str, domid: int, *arguments: object) -> None:
        name = f"xendevicemodel_{operation}"
        check_domid(name, domid)
        if not has(self._lib, name):
            raise XenUnavailableError(
                f"the installed libxendevicemodel has no {name}",
                hint="it came with Xen 4.15; use a newer Xen",
                code="XLP114",
            )
        shown = " ".join(str(a) for a in arguments if isinstance(a, int))
        result = getattr(self._lib, name)(self._handle, domid, *arguments)
        if result < 0:
            number = ffi.errno
            hint = _hint(operation, number)
            ffi.errno = number
            check(name, result, f"domid={domid} {shown}".strip(), hint=hint)


def _hint(operation: str, number: int) -> str:
    """What to do about an errno of an ioreq server's call; "" leaves it to `check`."""
    if "ioreq_server" not in operation:
        return ""
    for (prefix, known), hint in _SERVER_HINTS.items():
        if operation.startswith(prefix) and number == known:
            return hint
    return _ERRNO_HINTS.get(number, "")
