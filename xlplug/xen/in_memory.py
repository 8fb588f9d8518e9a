# SPDX-License-Identifier: LGPL-2.1-only
"""A hypervisor and a xenstore in memory, for ``--recorded`` and for tests.

They behave as the real ones were seen to behave, errors and accidents included (docs/semantics.md); the contract tests
run on both.  ``personality`` is a Xen version; behaviour changes at 4.16 (populating), at 4.20 (what dom0 itself
holds), at 4.22 (unmapping memory) and at 4.23 (mapping ports).  4.14, 4.17, 4.20 and 4.23-dev were measured, 4.16 and 4.22 read in
Xen's source.
"""

import errno
from collections.abc import Sequence

from xlplug.model.errors import XenError
from xlplug.model.hypervisor import DomainInfo, HeldRights, check_domid
from xlplug.model.rangeset import Range, RangeSet
from xlplug.xen.store_in_memory import MemStore

__all__ = ["MemStore", "MemXen", "dom0_rights"]

#: What dom0 holds by itself, by the first version that has it so, as Xen's own q dump in the lab prints it.
_DOM0_TEXT = {
    (4, 14): (
        "{ 0-1f, 22-3f, 44-60, 62-9f, a2-3f7, 400-607, 60c-cfb, d00-ffff }",
        "{ 0-fed8f, fed91-fedff, fef00-fcfffff }",
    ),
    (4, 20): (
        "{ 0-1f, 22-3f, 44-60, 62-91, 93-9f, a2-ef, f1-3f7, 400-4cf, 4d2-607, 60c-cf8, cfa-cfb, d00-ffff }",
        "{ 0-fed8f, fed91-fedff, fee01-fcfffff }",
    ),
}


def dom0_rights(version: tuple[int, int]) -> HeldRights:
    """What dom0 holds on that version, in the lab's machine."""
    ports, memory = _DOM0_TEXT[max(known for known in _DOM0_TEXT if known <= max(version, (4, 14)))]
    return HeldRights(RangeSet.parse(ports), RangeSet.parse(memory))


_ULONG = 1 << 64
_HOLE = 0xF0000  # Source: xen/include/public/hvm/e820.h, HVM_BELOW_4G_RAM_END
_GFN_LIMIT = 1 << 36  # p2m of 48 bits of guest address: populating beyond leaks a page
_MFN_LIMIT = 1 << 40  # 52 bits of host address, the most that x86 has; Xen takes the CPU's own number
#: From here on Xen looks at whether a populated page could be placed.  Source: xen/common/memory.c, populate_physmap,
#: where up to 4.15 the result of guest_physmap_add_page is ignored.
_POPULATE_CHECKED = (4, 16)
#: From here on unmapping needs the caller's permission only.  Source: xen/common/domctl.c, XEN_DOMCTL_memory_mapping.
_UNMAP_BY_CALLER = (4, 22)
_MAX_ORDER = 18  # CONFIG_PAGEALLOC_MAX_ORDER of the control domain: 2 * 9 is refused, as seen


class _Domain:
    """One domain's state."""

    __slots__ = ("crashed", "info", "memory", "mmio", "port_map", "ports", "ram")

    def __init__(self, info: DomainInfo, rights: HeldRights, ram: RangeSet) -> None:
        self.info = info
        self.ports = rights.ports
        self.memory = rights.memory
        self.ram = ram
        self.mmio: dict[int, int] = {}  # gfn -> mfn
        self.port_map: list[tuple[int, int, int]] = []  # gport, port, count
        self.crashed = False


class MemXen:
    """An in-memory `xlplug.model.hypervisor.Hypervisor`."""

    def __init__(self, personality: tuple[int, int] = (4, 17)) -> None:
        self.version = personality
        self.calls = 0
        self._fail: dict[int, int] = {}
        dom0 = DomainInfo(0, hvm=False, nr_pages=1 << 18, max_pages=(1 << 32) - 1)
        self._domains = {0: _Domain(dom0, dom0_rights(personality), RangeSet())}

    def add_domain(self, info: DomainInfo, rights: HeldRights | None = None) -> None:
        """A new domain, its RAM at gfn 0 up, without the holes that libxl leaves: VGA (0xa0 to 0xbf), MMIO below 4 GiB."""
        end = 0xC0 + max(0, info.nr_pages - 0xA0)
        above = max(0, end - _HOLE)
        ram = RangeSet(((0, 0xA0), (0xC0, min(end, _HOLE)), (1 << 20, (1 << 20) + above)) if info.hvm else ())
        self._domains[info.domid] = _Domain(info, rights or HeldRights(), ram)

    def fail_call(self, number: int, code: int) -> None:
        """Make the ``number``-th call from now (0 is the next) that changes anything fail with errno ``code``."""
        self._fail[self.calls + number] = code

    def crashed(self, domid: int) -> bool:
        """Whether Xen has crashed the domain."""
        return self._domains[domid].crashed

    def _enter(self, call: str, domid: int) -> None:
        """What every changing call begins with: the injected failure, and our own check of the number."""
        check_domid(call, domid)
        code = self._fail.pop(self.calls, None)
        self.calls += 1
        if code is not None:
            raise XenError(call, code, f"domid={domid} (injected)")

    def _find(self, call: str, domid: int) -> _Domain:
        domain = self._domains.get(domid)
        if domain is None:
            raise XenError(call, errno.ESRCH, f"domid={domid}", hint="no such domain; see 'xl list'", code="XLP112")
        return domain

    # permissions

    def iomem_permission(self, domid: int, first_mfn: int, nr_mfns: int, *, allow: bool) -> None:
        call = "xc_domain_iomem_permission"
        self._enter(call, domid)
        domain = self._find(call, domid)
        detail = f"domid={domid} mfn={Range(first_mfn, first_mfn + nr_mfns)} allow={int(allow)}"
        if (nr_mfns == 0 and first_mfn > 0) or first_mfn + nr_mfns > _ULONG:
            raise XenError(call, errno.EINVAL, detail)
        if nr_mfns == 0 or not self._domains[0].memory.covers(first_mfn, first_mfn + nr_mfns):
            raise XenError(call, errno.EPERM, detail)  # 0+0 is "everything" to Xen, which dom0 never holds
        span = RangeSet([(first_mfn, first_mfn + nr_mfns)])
        domain.memory = domain.memory | span if allow else domain.memory - span

    def ioport_permission(self, domid: int, first_port: int, nr_ports: int, *, allow: bool) -> None:
        call = "xc_domain_ioport_permission"
        self._enter(call, domid)
        domain = self._find(call, domid)
        detail = f"domid={domid} port={Range(first_port, first_port + nr_ports)} allow={int(allow)}"
        if nr_ports == 0 or first_port + nr_ports > 0x10000:
            raise XenError(call, errno.EINVAL, detail)
        if not self._domains[0].ports.covers(first_port, first_port + nr_ports):
            raise XenError(call, errno.EPERM, detail)
        span = RangeSet([(first_port, first_port + nr_ports)])
        domain.ports = domain.ports | span if allow else domain.ports - span

    # mappings

    def memory_mapping(self, domid: int, first_gfn: int, first_mfn: int, nr_mfns: int, *, add: bool) -> None:
        call = "xc_domain_memory_mapping"
        self._enter(call, domid)
        domain = self._find(call, domid)
        detail = f"domid={domid} gfn={first_gfn:x} mfn={Range(first_mfn, first_mfn + nr_mfns)} add={int(add)}"
        if nr_mfns == 0 or not domain.info.hvm:
            return
        failed = self._memory_mapping(domain, first_gfn, first_mfn, nr_mfns, add=add)
        if failed:
            if add:  # libxenctrl then unmaps the whole range, also what was mapped before; the errno is that of the last failure
                failed = self._memory_mapping(domain, first_gfn, first_mfn, nr_mfns, add=False) or failed
            raise XenError(call, failed, detail)

    def _memory_mapping(self, domain: _Domain, first_gfn: int, first_mfn: int, nr_mfns: int, *, add: bool) -> int:
        """Xen's part of the call: 0 or an errno, at the first page that fails.  The pages before it are done."""
        mfns = (first_mfn, first_mfn + nr_mfns)
        if mfns[1] > _MFN_LIMIT or first_gfn + nr_mfns > _ULONG:
            return errno.EINVAL
        needs_target = add or self.version < _UNMAP_BY_CALLER
        if not self._domains[0].memory.covers(*mfns) or (needs_target and not domain.memory.covers(*mfns)):
            return errno.EPERM
        for i in range(nr_mfns):
            gfn, mfn = first_gfn + i, first_mfn + i
            there = domain.mmio.get(gfn)
            if not add:
                if there is None:
                    return errno.EINVAL
                del domain.mmio[gfn]
            elif there is None:
                domain.mmio[gfn] = mfn
                domain.ram -= RangeSet([(gfn, gfn + 1)])  # stays charged; a hole once unmapped
            elif there != mfn:
                domain.crashed = True
                return errno.EPERM
        return 0

    def ioport_mapping(self, domid: int, first_gport: int, first_port: int, nr_ports: int, *, add: bool) -> None:
        call = "xc_domain_ioport_mapping"
        self._enter(call, domid)
        domain = self._find(call, domid)
        detail = f"domid={domid} gport={first_gport:x} port={Range(first_port, first_port + nr_ports)} add={int(add)}"
        if not domain.info.hvm:
            raise XenError(call, errno.EOPNOTSUPP, detail)
        if nr_ports == 0 or max(first_gport, first_port) + nr_ports > 0x10000:
            raise XenError(call, errno.EINVAL, detail)
        if not self._domains[0].ports.covers(first_port, first_port + nr_ports):
            raise XenError(call, errno.EPERM, detail)
        if self.version >= (4, 23):
            self._ioport_mapping_exact(domain, first_gport, first_port, nr_ports, add=add, detail=detail)
            return
        span = RangeSet([(first_port, first_port + nr_ports)])
        same = next((i for i, entry in enumerate(domain.port_map) if entry[1] == first_port), None)
        if not add:
            if same is not None:
                del domain.port_map[same]
            domain.ports -= span
            return
        if same is None:
            domain.port_map.append((first_gport, first_port, nr_ports))
        else:
            domain.port_map[same] = (first_gport, first_port, nr_ports)
        domain.ports |= span

    def _ioport_mapping_exact(
        self, domain: _Domain, gport: int, port: int, count: int, *, add: bool, detail: str
    ) -> None:
        """Xen 4.23: permission first, exact ranges only, and no range may touch another."""
        call = "xc_domain_ioport_mapping"
        entry = next((i for i, e in enumerate(domain.port_map) if e[1:] == (port, count)), None)
        if not add:
            if entry is None:
                raise XenError(call, errno.ENOENT, detail)
            del domain.port_map[entry]
            return
        if not domain.ports.covers(port, port + count):
            raise XenError(call, errno.EPERM, detail)
        if entry is not None:
            domain.port_map[entry] = (gport, port, count)
            return
        if any(port + count >= p and p + n >= port for _, p, n in domain.port_map):
            raise XenError(call, errno.EBUSY, detail)
        domain.port_map.append((gport, port, count))

    # memory

    def populate_physmap(self, domid: int, gfns: Sequence[int], order: int = 0) -> None:
        call = "xc_domain_populate_physmap_exact"
        self._enter(call, domid)
        if not gfns:
            return
        domain = self._domains.get(domid)
        error = XenError(call, errno.EBUSY, f"domid={domid} extents={len(gfns)} order={order}")
        if domain is None or domain.info.dying or order >= _MAX_ORDER:
            raise error
        size, charged, placed = 1 << order, domain.info.nr_pages, list[tuple[int, int]]()
        room = charged + size * len(gfns) <= domain.info.max_pages
        if room and not domain.mmio and _touch(gfns, size) and gfns[-1] < _GFN_LIMIT:
            placed, charged, gfns = [(gfns[0], gfns[-1] + size)], charged + size * len(gfns), ()
        try:
            for gfn in gfns:
                if charged + size > domain.info.max_pages:
                    raise error
                charged += size
                on_mmio = bool(domain.mmio) and any(g in domain.mmio for g in range(gfn, gfn + size))
                domain.crashed |= on_mmio
                if not on_mmio and gfn < _GFN_LIMIT:
                    placed.append((gfn, gfn + size))
                elif self.version >= _POPULATE_CHECKED:
                    raise error  # the pages stay charged, here and where nobody looks
        finally:
            domain.info = domain.info._replace(nr_pages=charged)
            domain.ram |= RangeSet(placed)

    def decrease_reservation(self, domid: int, gfns: Sequence[int], order: int = 0) -> None:
        call = "xc_domain_decrease_reservation_exact"
        self._enter(call, domid)
        if not gfns:
            return
        domain = self._domains.get(domid)
        size, taken = 1 << order, set[int]()
        try:
            if domain is not None and _touch(gfns, size) and domain.ram.covers(gfns[0], gfns[-1] + size):
                taken.update(gfns)
                return
            for gfn in gfns:
                if domain is None or gfn in taken or not domain.ram.covers(gfn, gfn + size):
                    raise XenError(call, errno.EINVAL, f"domid={domid} extents={len(gfns)} order={order}")
                taken.add(gfn)
        finally:
            if domain is not None and taken:
                domain.ram -= RangeSet((gfn, gfn + size) for gfn in taken)
                domain.info = domain.info._replace(nr_pages=domain.info.nr_pages - size * len(taken))

    def set_max_mem(self, domid: int, kib: int) -> None:
        self._enter("xc_domain_setmaxmem", domid)
        domain = self._find("xc_domain_setmaxmem", domid)
        domain.info = domain.info._replace(max_pages=kib >> 2)

    # readings

    def domain_info(self, domid: int) -> DomainInfo | None:
        domain = self._domains.get(domid)
        return domain.info if domain else None

    def held(self) -> dict[int, HeldRights]:
        return {domid: HeldRights(d.ports, d.memory) for domid, d in self._domains.items()}

    def ram(self, domid: int) -> RangeSet:
        """The gfns that are RAM, which the real Xen does not report."""
        return self._domains[domid].ram

    def mapped(self, domid: int) -> tuple[dict[int, int], tuple[tuple[int, int, int], ...]]:
        """gfn -> mfn, and (gport, port, count) of each port mapping, which the real Xen does not report."""
        domain = self._domains[domid]
        return dict(domain.mmio), tuple(domain.port_map)

    def q_text(self) -> str:
        """The same as `held`, printed as Xen's q debug key does."""
        lines = ["(XEN) 'q' pressed -> dumping domain info (now = 0)"]
        for domid, domain in self._domains.items():
            lines += [
                f"(XEN) General information for domain {domid}:",
                f"(XEN) Rangesets belonging to domain {domid}:",
                "(XEN)     Interrupts { }",
                f"(XEN)     I/O Memory {domain.memory}",
                f"(XEN)     I/O Ports  {domain.ports}",
                f"(XEN) Memory pages belonging to domain {domid}:",
            ]
        return "\n".join(lines) + "\n"


def _touch(gfns: Sequence[int], size: int) -> bool:
    """Whether extents of that many pages lie one after the other, which saves looking at each."""
    return isinstance(gfns, range) and gfns.step == size
