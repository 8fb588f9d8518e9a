# SPDX-License-Identifier: LGPL-2.1-only
"""libxenctrl: the smallest possible use of an interface that changes with every Xen.

Structures are read at offsets that hold from 4.14 on (xen/include/public/domctl.h).  No version is assumed to be right or
wrong: whichever runs, its library is loaded, and then tried before anything is changed.
"""

import errno
from collections.abc import Callable, Sequence
from typing import TypeVar, cast

from xlplug.model.addr import DOMID_FIRST_RESERVED
from xlplug.model.errors import XenError, XenUnavailableError
from xlplug.model.host import MemRegion
from xlplug.model.hypervisor import DomainInfo, HeldRights, IoreqServerInfo, check_domid
from xlplug.model.rangeset import Range
from xlplug.xen.lib import (
    SYS_HYPERVISOR,
    Handle,
    QuietLogger,
    check,
    ffi,
    has,
    load_ctrl,
    require_dom0,
    running_capabilities,
    running_version,
)
from xlplug.xen.protocols import PhysinfoLib

__all__ = ["XenCtrl"]

T = TypeVar("T")

#: xen_domctl_getdomaininfo.flags.  Source: xen/include/public/domctl.h, XEN_DOMINF_*.
_DYING, _HVM, _SHUTDOWN, _PAUSED = 1, 2, 4, 8
#: Room for xc_domaininfo_t: 104 bytes in 4.14, 112 since 4.16, and a later Xen's may be larger.
_INFO_BYTES = 1024
#: Where it has nr_online_vcpus and max_vcpu_id.
_ONLINE_VCPUS, _MAX_VCPU_ID = 64, 68
#: struct xen_sysctl_physinfo up to its capabilities, eight u32, and two bits of these.
_PHYSINFO_BYTES = 32
_HVM_CAPABLE, _DIRECTIO = 1, 4
_MAX_CPUS = 16384  # more than any Xen is built for: xen/arch/Kconfig, NR_CPUS
_E820_BYTES = 20  # struct e820entry, packed: u64 addr, u64 size, u32 type
_E820_MAX = 1024  # entries asked for; Xen itself keeps at most 1024 (E820MAX)
_CHUNK = 1 << 18
_DUMP_TRIES = 5
_SMALLEST_RING = 16 << 10  # bytes; sizes are powers of two.  Source: xen/drivers/char/console.c, _CONRING_SIZE


class XenCtrl(Handle):
    """A handle on the running hypervisor; a context manager, to be closed.

    Raises:
        XenUnavailableError: not root, not dom0, not on Xen, or no libxenctrl that fits.
    """

    def __init__(self, sys_hypervisor: str = SYS_HYPERVISOR) -> None:
        major, minor, self.version_text = running_version(sys_hypervisor)
        require_dom0()
        self.version = (major, minor)
        self._lib = load_ctrl(major, minor)
        self._quiet = QuietLogger()
        logger = ffi.cast("struct xentoollog_logger *", self._quiet.logger)
        self._xch = self._lib.xc_interface_open(logger, logger, 0)
        if not self._xch:
            number = ffi.errno
            self._quiet.close()
            raise XenUnavailableError(
                f"xc_interface_open: {errno.errorcode.get(number, number)}",
                hint="load the driver: modprobe xen-privcmd",
                code="XLP107",
            )
        try:
            self._probe()
        except BaseException:
            self.close()
            raise

    def _probe(self) -> None:
        """Two harmless calls: whether Xen understands the library, and whether we understand what it hands out.

        Xen answers EACCES to a library of another interface version before it looks at anything else, and ESRCH for a
        domain that cannot be.  Domctls and sysctls have a version each: 4.17's xc_domain_getinfolist, a sysctl, works on
        4.20, where its domctls do not; with 4.21's library on 4.20 it is the other way round.
        """
        result = self._lib.xc_domain_ioport_permission(self._xch, DOMID_FIRST_RESERVED, 0x3B0, 1, 1)
        number = ffi.errno
        if result == -1 and number == errno.EPERM:
            raise XenUnavailableError(
                "Xen refuses this domain control calls",
                hint="run xlplug in dom0; look at the XSM policy",
                code="XLP108",
            )
        if result != -1 or number not in {errno.ESRCH, errno.EACCES}:
            raise self._incomplete("xc_domain_ioport_permission")
        if number == errno.EACCES:
            raise self._foreign()
        try:
            dom0 = self._raw_info(0)
        except XenError as error:
            if error.errno == errno.EACCES:
                raise self._foreign() from error
            raise
        online, highest = (int.from_bytes(dom0[at : at + 4], "little") for at in (_ONLINE_VCPUS, _MAX_VCPU_ID))
        seen = _info(dom0)
        if seen.domid or seen.dying or seen.shutdown or not seen.nr_pages or not 1 <= online <= highest + 1:
            raise self._incomplete("xc_domain_getinfolist")

    def _incomplete(self, name: str) -> XenUnavailableError:
        from xlplug.xen import mismatch

        return mismatch.incomplete("{}.{}".format(*self.version), name)

    def _foreign(self) -> XenUnavailableError:
        from xlplug.xen import mismatch

        return mismatch.foreign("{}.{}".format(*self.version), self.version_text)

    def close(self) -> None:
        """Close the handle; doing it again does nothing."""
        if self._xch:
            self._lib.xc_interface_close(self._xch)
            self._xch = ffi.NULL
            self._quiet.close()

    # changes

    def iomem_permission(self, domid: int, first_mfn: int, nr_mfns: int, *, allow: bool) -> None:
        call = "xc_domain_iomem_permission"
        check_domid(call, domid)
        result = self._lib.xc_domain_iomem_permission(self._xch, domid, first_mfn, nr_mfns, int(bool(allow)))
        check(call, result, lambda: f"domid={domid} mfn={Range(first_mfn, first_mfn + nr_mfns)} allow={int(allow)}")

    def ioport_permission(self, domid: int, first_port: int, nr_ports: int, *, allow: bool) -> None:
        call = "xc_domain_ioport_permission"
        check_domid(call, domid)
        result = self._lib.xc_domain_ioport_permission(self._xch, domid, first_port, nr_ports, int(bool(allow)))
        check(call, result, lambda: f"domid={domid} port={Range(first_port, first_port + nr_ports)} allow={int(allow)}")

    def memory_mapping(self, domid: int, first_gfn: int, first_mfn: int, nr_mfns: int, *, add: bool) -> None:
        call = "xc_domain_memory_mapping"
        check_domid(call, domid)
        result = self._lib.xc_domain_memory_mapping(self._xch, domid, first_gfn, first_mfn, nr_mfns, int(bool(add)))
        if result < -1:
            # Up to 4.17 it answers -EINVAL, and leaves errno alone, when xc_domain_getinfo finds a higher domid only.
            raise XenError(call, errno.ESRCH, f"domid={domid}", hint="no such domain; see 'xl list'", code="XLP112")
        # From 4.22 a missing permission may show as EINVAL: libxenctrl then unmaps the range, and keeps that call's errno.
        refused = add and result < 0 and ffi.errno == errno.EINVAL
        check(
            call,
            result,
            lambda: f"domid={domid} gfn={first_gfn:x} mfn={Range(first_mfn, first_mfn + nr_mfns)} add={int(add)}",
            hint="the domain and dom0 must hold the range (iomem permission); look at 'xl dmesg'" if refused else "",
        )

    def ioport_mapping(self, domid: int, first_gport: int, first_port: int, nr_ports: int, *, add: bool) -> None:
        call = "xc_domain_ioport_mapping"
        check_domid(call, domid)
        result = self._lib.xc_domain_ioport_mapping(self._xch, domid, first_gport, first_port, nr_ports, int(bool(add)))
        check(
            call,
            result,
            lambda: (
                f"domid={domid} gport={first_gport:x} port={Range(first_port, first_port + nr_ports)} add={int(add)}"
            ),
        )

    def populate_physmap(self, domid: int, gfns: Sequence[int], order: int = 0) -> None:
        self._extents("xc_domain_populate_physmap_exact", domid, gfns, order, 0)

    def decrease_reservation(self, domid: int, gfns: Sequence[int], order: int = 0) -> None:
        self._extents("xc_domain_decrease_reservation_exact", domid, gfns, order)

    def _extents(self, call: str, domid: int, gfns: Sequence[int], order: int, *flags: int) -> None:
        check_domid(call, domid)
        extents = ffi.new("xen_pfn_t[]", list(gfns))
        result = getattr(self._lib, call)(self._xch, domid, len(gfns), order, *flags, extents)
        check(call, result, lambda: f"domid={domid} extents={len(gfns)} order={order}")

    def set_max_mem(self, domid: int, kib: int) -> None:
        check_domid("xc_domain_setmaxmem", domid)
        check(
            "xc_domain_setmaxmem",
            self._lib.xc_domain_setmaxmem(self._xch, domid, kib),
            lambda: f"domid={domid} kib={kib}",
        )

    def pause(self, domid: int) -> None:
        """Pause a domain; pauses count."""
        check_domid("xc_domain_pause", domid)
        check("xc_domain_pause", self._lib.xc_domain_pause(self._xch, domid), lambda: f"domid={domid}")

    def unpause(self, domid: int) -> None:
        """Take one pause back."""
        check_domid("xc_domain_unpause", domid)
        check("xc_domain_unpause", self._lib.xc_domain_unpause(self._xch, domid), lambda: f"domid={domid}")

    # readings

    def domain_info(self, domid: int) -> DomainInfo | None:
        if not 0 <= domid < DOMID_FIRST_RESERVED:
            return None
        info = self._info(domid)
        return info if info is not None and info.domid == domid else None

    def domains(self) -> list[DomainInfo]:
        """Every domain, dom0 included, by domid."""
        found: list[DomainInfo] = []
        info = self._info(0)
        while info is not None:
            found.append(info)
            info = self._info(info.domid + 1)
        return found

    def _info(self, first: int) -> DomainInfo | None:
        """The first domain numbered ``first`` or more."""
        raw = self._raw_info(first)
        return _info(raw) if raw else None

    def _raw_info(self, first: int) -> bytes:
        """The structure of the first domain numbered ``first`` or more, with zeros after it; empty when there is none."""
        buffer = ffi.new("char[]", _INFO_BYTES)
        count = self._lib.xc_domain_getinfolist(self._xch, first, 1, ffi.cast("xc_domaininfo_t *", buffer))
        if check("xc_domain_getinfolist", count, lambda: f"first={first}") == 0:
            return b""
        return bytes(ffi.buffer(buffer, _INFO_BYTES))

    def machine_memory_map(self) -> tuple[MemRegion, ...]:
        """The machine's own memory map (E820), which dom0's kernel does not show unchanged."""
        buffer = ffi.new("char[]", _E820_BYTES * _E820_MAX)
        result = self._lib.xc_get_machine_memory_map(self._xch, ffi.cast("struct e820entry *", buffer), _E820_MAX)
        count = check("xc_get_machine_memory_map", result)
        raw = bytes(ffi.buffer(buffer, _E820_BYTES * count))
        regions = []
        for at in range(0, len(raw), _E820_BYTES):
            start, size = (int.from_bytes(raw[at + i : at + i + 8], "little") for i in (0, 8))
            regions.append(MemRegion(start, start + size, int.from_bytes(raw[at + 16 : at + 20], "little")))
        return tuple(regions)

    def directio(self) -> bool | None:
        """Whether Xen can give PCI devices to guests: it uses an IOMMU.  None where this Xen's answer is not understood.

        Xen reports it since 4.13 as it does now (xen/include/public/sysctl.h, XEN_SYSCTL_PHYSCAP_directio).
        """
        if not has(self._lib, "xc_physinfo"):
            return None
        buffer = ffi.new("char[]", _INFO_BYTES)
        library = cast("PhysinfoLib", self._lib)
        check("xc_physinfo", library.xc_physinfo(self._xch, ffi.cast("xc_physinfo_t *", buffer)))
        raw = bytes(ffi.buffer(buffer, _PHYSINFO_BYTES))
        numbers = [int.from_bytes(raw[at : at + 4], "little") for at in range(0, _PHYSINFO_BYTES, 4)]
        threads, cores, cpus, highest, nodes, highest_node, _, capabilities = numbers
        known = threads and cores and 1 <= cpus <= highest + 1 <= _MAX_CPUS and 1 <= nodes <= highest_node + 1
        if not known or bool(capabilities & _HVM_CAPABLE) != ("hvm-" in running_capabilities()):
            return None
        return bool(capabilities & _DIRECTIO)

    def held(self) -> dict[int, HeldRights]:
        """Every domain's rights from the ``q`` debug key, which Xen prints before the call returns.

        Raises:
            XenError: ENODATA when the console ring was too small for the dump; EAGAIN when other output tore it, again
                and again.
        """
        from xlplug.xen.qdump import parse_q

        return self._dumped(parse_q)

    def ioreq_servers(self) -> dict[int, tuple[IoreqServerInfo, ...]]:
        """Every domain's ioreq servers, from the same dump; the same errors."""
        from xlplug.xen.qdump import parse_servers

        return self._dumped(parse_servers)

    def console_room(self) -> int | None:
        """Bytes of Xen's console ring, once it has been filled; None before, when its size does not show.

        Reading sends nothing to any domain, unlike the ``q`` debug key.
        """
        index = ffi.new("uint32_t *", 0)
        text = self._ring(index)
        full = index[0] > len(text) >= _SMALLEST_RING and not len(text) & (len(text) - 1)
        return len(text) if full else None  # a ring that was cleared ('xl dmesg -c') holds less than its size

    def _dumped(self, parse: Callable[[str], dict[int, T]]) -> dict[int, T]:
        text = ""
        for _ in range(_DUMP_TRIES):
            text = self._dump()
            try:
                found = parse(text)
            except ValueError:
                continue
            if 0 not in found:
                raise XenError(
                    "xc_readconsolering", errno.ENODATA, "the dump of the q debug key did not fit Xen's console ring",
                    hint=f"boot Xen with conring_size=1M{_writer(text)}", code="XLP113",
                )  # fmt: skip
            return found
        raise XenError(
            "xc_readconsolering", errno.EAGAIN, "other console output tore the dump of the q debug key",
            hint="run it again" + (_writer(text) or "; 'xl dmesg' shows who writes there"), code="XLP113",
        )  # fmt: skip

    def _dump(self) -> str:
        """What comes to the console while Xen dumps: its beginning is lost when the ring is too small."""
        index = ffi.new("uint32_t *", 0)
        self._ring(index)
        check("xc_send_debug_keys", self._lib.xc_send_debug_keys(self._xch, b"q"))
        return self._ring(index)

    def _ring(self, index: object) -> str:
        """The console ring from ``index`` on, which moves to its end.

        Less than was asked for is all that there was (xen/drivers/char/console.c, read_console_ring).  Not until nothing comes:
        a guest can write faster than we read.
        """
        text: list[bytes] = []
        size = ffi.new("unsigned int *", _CHUNK)
        buffer = ffi.new("char[]", _CHUNK)
        while size[0] == _CHUNK:
            check("xc_readconsolering", self._lib.xc_readconsolering(self._xch, buffer, size, 0, 1, index))
            text.append(bytes(ffi.buffer(buffer, size[0])))
        return b"".join(text).decode("latin-1")


def _writer(text: str) -> str:
    """The end of an advice, which names the guest that wrote most lines of the ring; "" where no guest wrote any."""
    lines = [line[2:].partition(")")[0] for line in text.splitlines() if line.startswith("(d")]
    guests = [name for name in lines if name.isdecimal()]
    return f", and stop domain {max(guests, key=guests.count)} from writing to port e9" if guests else ""


def _info(raw: bytes) -> DomainInfo:
    """What is known of a struct xen_domctl_getdomaininfo."""
    flags = int.from_bytes(raw[4:8], "little")
    handle = raw[76:92].hex()
    return DomainInfo(
        domid=int.from_bytes(raw[0:2], "little"),
        hvm=bool(flags & _HVM),
        dying=bool(flags & _DYING),
        paused=bool(flags & _PAUSED),
        shutdown=bool(flags & _SHUTDOWN),
        nr_pages=int.from_bytes(raw[8:16], "little"),
        max_pages=int.from_bytes(raw[16:24], "little"),
        uuid="-".join((handle[:8], handle[8:12], handle[12:16], handle[16:20], handle[20:])),
        cpu_time=int.from_bytes(raw[56:64], "little"),
    )
