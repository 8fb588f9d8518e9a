# SPDX-License-Identifier: LGPL-2.1-only
"""The guest's memory, as far as string instructions (rep movs, ins, outs) name it.

Pages stay mapped, because mapping one takes longer than an access; all are let go when Xen says that the guest's memory has
changed (IOREQ_TYPE_INVALIDATE), and when there are many.
"""

from xlplug.xen.foreignmemory import PAGE_BYTES, ForeignMemory, GuestPages

__all__ = ["GuestMemory"]

_KEPT = 64  # pages


class GuestMemory:
    """Reads and writes guest physical bytes."""

    def __init__(self, domid: int, memory: ForeignMemory) -> None:
        self._domid, self._memory = domid, memory
        self._pages: dict[tuple[int, bool], GuestPages] = {}

    def read(self, address: int, size: int) -> int:
        """``size`` bytes as a little-endian number; XenError where the guest has no RAM."""
        data = b"".join(bytes(view) for view in self._views(address, size, writable=False))
        return int.from_bytes(data, "little")

    def write(self, address: int, size: int, value: int) -> None:
        """The reverse."""
        data = (value & ((1 << 8 * size) - 1)).to_bytes(size, "little")
        for view in self._views(address, size, writable=True):
            view[:] = data[: len(view)]
            data = data[len(view) :]

    def forget(self) -> None:
        """Unmap everything."""
        for page in self._pages.values():
            page.close()
        self._pages = {}

    def _views(self, address: int, size: int, *, writable: bool) -> list[memoryview]:
        """The bytes asked for: one piece, or two when they are in two pages."""
        if len(self._pages) > _KEPT - 2:  # never between the two: what is let go must not be in use
            self.forget()
        views = []
        while size:
            gfn, within = divmod(address, PAGE_BYTES)
            length = min(size, PAGE_BYTES - within)
            views.append(self._page(gfn, writable).data[within : within + length])
            address, size = address + length, size - length
        return views

    def _page(self, gfn: int, writable: bool) -> GuestPages:
        page = self._pages.get((gfn, writable))
        if page is None:
            page = self._memory.map(self._domid, [gfn], writable=writable)
            self._pages[gfn, writable] = page
        return page
