# SPDX-License-Identifier: LGPL-2.1-only
"""libxendevicemodel: the stable interface through which a device model serves its guest.

No command of xlplug calls it: what depends on the guest is left to the device model.  It is here for programs that use
this package, and for the tests.  Every entry point of interface 1.4 is here, under its C name without the prefix; the two
of 1.4 (Xen 4.15) are looked up when called.
"""

from typing import Any

from xlplug.model.errors import XenUnavailableError
from xlplug.model.hypervisor import check_domid
from xlplug.xen.lib import Handle, QuietLogger, check, ffi, has, load_stable

__all__ = ["OPERATIONS", "DeviceModel"]

#: Operations whose arguments are all plain numbers, and their names after the domid.
#: Source: tools/include/xendevicemodel.h.  Ranges are inclusive at both ends there, and so are they here.
OPERATIONS: dict[str, tuple[str, ...]] = {
    "map_io_range_to_ioreq_server": ("id", "is_mmio", "start", "end"),
    "unmap_io_range_from_ioreq_server": ("id", "is_mmio", "start", "end"),
    "map_mem_type_to_ioreq_server": ("id", "type", "flags"),
    "map_pcidev_to_ioreq_server": ("id", "segment", "bus", "device", "function"),
    "unmap_pcidev_from_ioreq_server": ("id", "segment", "bus", "device", "function"),
    "destroy_ioreq_server": ("id",),
    "set_ioreq_server_state": ("id", "enabled"),
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


class DeviceModel(Handle):
    """A handle on libxendevicemodel; a context manager, to be closed.

    Raises:
        XenUnavailableError: the library is absent, or Xen cannot be called from here.
    """

    def __init__(self) -> None:
        self._lib: Any = load_stable("xendevicemodel")
        self._quiet = QuietLogger()
        self._handle = self._lib.xendevicemodel_open(ffi.cast("struct xentoollog_logger *", self._quiet.logger), 0)
        if not self._handle:
            self._quiet.close()
            raise XenUnavailableError("libxendevicemodel cannot reach Xen", hint="run it as root in dom0")

    def close(self) -> None:
        """Close the handle; doing it again does nothing."""
        if self._handle:
            self._lib.xendevicemodel_close(self._handle)
            self._handle = ffi.NULL
            self._quiet.close()

    def call(self, operation: str, domid: int, **arguments: int) -> None:
        """One of `OPERATIONS`, its arguments by name.

        Raises:
            XenError: Xen refused; ESRCH for no such domain, EPERM where the caller does not serve it.
            XenUnavailableError: the installed library is older than the operation (interface 1.4 came with Xen 4.15).
            TypeError: other arguments than the operation takes.
        """
        names = OPERATIONS[operation]
        if set(arguments) != set(names):
            raise TypeError(f"{operation} takes {', '.join(names) or 'nothing'}")
        self._call(operation, domid, *(arguments[name] for name in names))

    def create_ioreq_server(self, domid: int, *, handle_bufioreq: int) -> int:
        """A new ioreq server's id; ``handle_bufioreq`` as HVM_IOREQSRV_BUFIOREQ_* (0 off, 1 legacy, 2 atomic)."""
        out = ffi.new("ioservid_t *")
        self._call("create_ioreq_server", domid, handle_bufioreq, out)
        return int(out[0])

    def get_ioreq_server_info(self, domid: int, server: int) -> tuple[int, int, int]:
        """(gfn of the ioreq page, gfn of the buffered one, port of its event channel)."""
        gfn, buffered, port = ffi.new("xen_pfn_t *"), ffi.new("xen_pfn_t *"), ffi.new("evtchn_port_t *")
        self._call("get_ioreq_server_info", domid, server, gfn, buffered, port)
        return int(gfn[0]), int(buffered[0]), int(port[0])

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
                f"the installed libxendevicemodel has no {name}", hint="it came with Xen 4.15; use a newer Xen"
            )
        shown = " ".join(str(a) for a in arguments if isinstance(a, int))
        check(name, getattr(self._lib, name)(self._handle, domid, *arguments), f"domid={domid} {shown}".strip)
