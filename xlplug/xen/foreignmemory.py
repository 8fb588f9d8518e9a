# SPDX-License-Identifier: LGPL-2.1-only
"""libxenforeignmemory: a guest's memory, and the page through which Xen hands an ioreq server its requests."""

import mmap
from collections.abc import Sequence
from typing import Any

from xlplug.model.hypervisor import check_domid
from xlplug.xen.lib import Handle, StableHandle, check, ffi

__all__ = ["PAGE_BYTES", "ForeignMemory", "GuestPages", "IoreqPage"]

PAGE_BYTES = 4096
#: Source: xen/include/public/memory.h, XENMEM_resource_ioreq_server and its frame_ioreq(0).
_RESOURCE_IOREQ_SERVER, _FRAME_IOREQ = 0, 1


class GuestPages(Handle):
    """Pages of a guest, mapped in this process: ``data`` is all of them in one piece.  To be closed."""

    def __init__(self, owner: "ForeignMemory", address: Any, pages: int) -> None:  # noqa: ANN401 - cffi has no types
        self._owner, self._address, self._pages = owner, address, pages
        self.data = memoryview(ffi.buffer(address, pages * PAGE_BYTES)).cast("B")

    def close(self) -> None:
        """Unmap the pages; doing it again does nothing.  ``data`` must not be used afterwards."""
        if self._address is not None:
            self.data.release()
            self._owner.unmap(self._address, self._pages)
            self._address = None


class IoreqPage(Handle):
    """The page of one ioreq server, mapped in this process.  To be closed.

    ``octets`` and ``quads`` are two views of it: assigning to an element of either is one store of 1 or 8 bytes.
    """

    def __init__(self, owner: "ForeignMemory", domid: int, server: int, resource: Any, address: Any) -> None:  # noqa: ANN401
        self.domid, self.server = domid, server
        self._owner, self._resource = owner, resource
        buffer = ffi.buffer(address, PAGE_BYTES)
        self.octets = memoryview(buffer).cast("B")
        self.quads = memoryview(buffer).cast("B").cast("Q")

    @property
    def mapped(self) -> bool:
        """Whether it has not been closed yet."""
        return self._resource is not None

    def close(self) -> None:
        """Unmap the page; doing it again does nothing.  While it is mapped, a destroyed domain does not vanish."""
        if self._resource is not None:
            self.octets.release()
            self.quads.release()
            self._owner.unmap_resource(self._resource)
            self._resource = None


class ForeignMemory(StableHandle):
    """A handle on libxenforeignmemory; a context manager, to be closed after all that was mapped with it.

    Raises:
        XenUnavailableError: the library is absent, or this is not a place to call Xen from.
    """

    def __init__(self) -> None:
        super().__init__("xenforeignmemory")

    def map(self, domid: int, gfns: Sequence[int], *, writable: bool = True) -> GuestPages:
        """Guest pages at ``gfns``, side by side.

        Raises:
            XenError: a gfn is not RAM (EINVAL), the domain does not exist (ESRCH) or is not ours (EPERM).
        """
        call = "xenforeignmemory_map"
        check_domid(call, domid)
        frames = ffi.new("xen_pfn_t[]", list(gfns))
        prot = mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0)
        address = self._lib.xenforeignmemory_map(self._handle, domid, prot, len(gfns), frames, ffi.NULL)
        if not address:
            check(call, -1, f"domid={domid} gfn={gfns[0]:#x}+{len(gfns):#x}", hint="the guest has no RAM there")
        return GuestPages(self, address, len(gfns))

    def unmap(self, address: Any, pages: int) -> None:  # noqa: ANN401
        """For `GuestPages`."""
        check("xenforeignmemory_unmap", self._lib.xenforeignmemory_unmap(self._handle, address, pages))

    def ioreq_page(self, domid: int, server: int) -> IoreqPage:
        """The page of synchronous requests of an ioreq server; Xen allocates it at the first mapping.

        Raises:
            XenError: ENOENT for no such server, ESRCH for no such domain, EPERM when someone has asked for its gfns.
        """
        call = "xenforeignmemory_map_resource"
        check_domid(call, domid)
        out = ffi.new("void **")  # NULL: anywhere
        resource = self._lib.xenforeignmemory_map_resource(
            self._handle, domid, _RESOURCE_IOREQ_SERVER, server, _FRAME_IOREQ, 1, out,
            mmap.PROT_READ | mmap.PROT_WRITE, 0,
        )  # fmt: skip
        if not resource:
            check(
                call, -1, f"domid={domid} server={server}", hint="the domain or its ioreq server is gone, or not ours"
            )
        return IoreqPage(self, domid, server, resource, out[0])

    def unmap_resource(self, resource: Any) -> None:  # noqa: ANN401
        """For `IoreqPage`."""
        check("xenforeignmemory_unmap_resource", self._lib.xenforeignmemory_unmap_resource(self._handle, resource))
