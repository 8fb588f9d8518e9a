# SPDX-License-Identifier: LGPL-2.1-only
"""What xen/ctrl.py does by itself, on a libxenctrl of our own; what it does on the real one is in tests/contract."""

import errno
from collections.abc import Callable
from typing import Any

import pytest

from xlplug.model.errors import XenError, XenUnavailableError
from xlplug.model.hypervisor import DomainInfo, HeldRights
from xlplug.model.rangeset import RangeSet
from xlplug.xen.ctrl import _MAX_VCPU_ID, _ONLINE_VCPUS, XenCtrl
from xlplug.xen.in_memory import MemXen
from xlplug.xen.lib import ffi


class Library:
    """A libxenctrl: answers by name, with what Xen prints in a console ring of ``size`` bytes."""

    def __init__(self, size: int = 1 << 20) -> None:
        self.calls: list[tuple[str, tuple[Any, ...]]] = []
        self.answers: dict[str, tuple[int, int]] = {}
        self.dumps: list[str] = []
        self.ring = b"(XEN) what was there before\n"
        self.info = b""  # of dom0, the only domain
        self.size = size
        self.guest = b""  # what a guest writes between any two calls

    def __getattr__(self, name: str) -> Callable[..., int]:
        def call(*arguments: Any) -> int:
            self.calls.append((name, arguments[1:]))
            result, number = self.answers.get(name, (0, ffi.errno))
            ffi.errno = number
            return result

        return call

    def xc_domain_getinfolist(self, _xch: object, first: int, room: int, buffer: Any) -> int:
        assert room == 1
        if first > 0 or not self.info:
            return 0
        ffi.buffer(ffi.cast("char *", buffer), len(self.info))[:] = self.info
        return 1

    def xc_send_debug_keys(self, _xch: object, keys: bytes) -> int:
        assert keys == b"q"
        self.ring += self.dumps.pop(0).encode()
        return 0

    def xc_readconsolering(self, _xch: Any, buffer: Any, size: Any, clear: int, incremental: int, index: Any) -> int:
        assert (clear, incremental) == (0, 1)
        start = max(index[0], len(self.ring) - self.size)
        chunk = self.ring[start : start + size[0]]
        ffi.buffer(buffer)[: len(chunk)] = chunk
        size[0], index[0] = len(chunk), start + len(chunk)
        self.ring += self.guest
        return 0


def control(library: Library) -> XenCtrl:
    ctrl = object.__new__(XenCtrl)
    ctrl._lib = library
    ctrl._xch = ffi.NULL
    ctrl.version, ctrl.version_text = (4, 17), "4.17.7"
    return ctrl


def dump(ports: str = "{ 3b0-3bb }") -> str:
    xen = MemXen()
    xen.add_domain(DomainInfo(7), HeldRights(RangeSet.parse(ports), RangeSet()))
    return xen.q_text()


HELD = {7: HeldRights(RangeSet([(0x3B0, 0x3BC)]), RangeSet())}


def test_held_is_of_the_new_dump() -> None:
    library = Library()
    library.ring += dump("{ 1-2 }").encode()
    library.dumps = [dump()]
    assert control(library).held()[7] == HELD[7]


def test_a_torn_dump_is_asked_for_again() -> None:
    library = Library()
    library.dumps = [dump().replace("3b0-3bb", "3b0(d5) x\n-3bb"), dump()]
    assert control(library).held()[7] == HELD[7]


def test_a_dump_torn_again_and_again_is_an_error() -> None:
    library = Library()
    library.dumps = [dump().replace("3b0-3bb", "3b0(d5) x\n-3bb")] * 9
    with pytest.raises(XenError, match="tore the dump") as caught:
        control(library).held()
    assert caught.value.errno == errno.EAGAIN


@pytest.mark.parametrize("size", [1, 60, 100, 200])
def test_a_ring_too_small_is_an_error_and_never_half_an_answer(size: int) -> None:
    library = Library(size)
    library.dumps = [dump()] * 9
    with pytest.raises(XenError, match="conring_size=1M") as caught:
        control(library).held()
    assert caught.value.errno == errno.ENODATA
    assert caught.value.hint == "boot Xen with conring_size=1M"


def test_a_ring_larger_than_what_is_read_at_once() -> None:
    library = Library(4 << 20)
    library.dumps = [dump().replace("(XEN) Rangesets", "(XEN) of no interest\n" * 30000 + "(XEN) Rangesets", 1)]
    assert len(library.dumps[0]) > 2 * (1 << 18)
    assert control(library).held()[7] == HELD[7]


def test_the_size_of_the_ring_shows_once_it_is_full() -> None:
    assert control(Library()).console_room() is None
    library = Library(16 << 10)
    library.ring = b"x" * (16 << 10)
    assert control(library).console_room() is None
    library.ring += b"y"
    assert control(library).console_room() == 16 << 10
    for size in (8 << 10, 24 << 10):
        cleared = Library(size)
        cleared.ring = b"x" * (size + 1)
        assert cleared.size == size
        assert control(cleared).console_room() is None


FLOOD = "(d5) Rangesets belonging to domain 0:\n(d5) I/O Ports { 0-ffff }\n"


def test_a_guest_that_writes_all_the_time_is_read_past() -> None:
    library = Library()
    library.guest = FLOOD.encode()
    library.dumps = [dump().replace("(XEN) Rangesets", f"{FLOOD}(XEN) Rangesets")]
    assert control(library).held()[7] == HELD[7]


def test_a_guest_that_fills_the_ring_is_named() -> None:
    library = Library(1000)
    library.dumps = [f"{dump()}(d3) x\n{FLOOD * 30}"] * 9
    with pytest.raises(XenError) as caught:
        control(library).held()
    assert caught.value.errno == errno.ENODATA
    assert caught.value.hint == "boot Xen with conring_size=1M, and stop domain 5 from writing to port e9"


def test_a_guest_that_tears_every_dump_is_named() -> None:
    library = Library()
    library.dumps = [dump().replace("3b0-3bb", f"3b0\n{FLOOD}-3bb")] * 9
    with pytest.raises(XenError) as caught:
        control(library).held()
    assert caught.value.errno == errno.EAGAIN
    assert caught.value.hint == "run it again, and stop domain 5 from writing to port e9"


def test_a_mapping_for_no_domain_is_esrch_whatever_errno_says() -> None:
    library = Library()
    library.answers["xc_domain_memory_mapping"] = (-errno.EINVAL, errno.EPERM)
    with pytest.raises(XenError) as caught:
        control(library).memory_mapping(7, 0xA0, 0xA0, 1, add=True)
    assert caught.value.errno == errno.ESRCH


def test_a_domain_as_xen_describes_it() -> None:
    """Offsets of struct xen_domctl_getdomaininfo that hold from 4.14 on."""
    library = Library()
    raw = bytearray(dom0_info(flags=2 | 8, pages=0x4000))
    raw[16:24] = (0x4100).to_bytes(8, "little")
    raw[56:64] = (12345).to_bytes(8, "little")
    library.info = bytes(raw)
    info = control(library).domain_info(0)
    assert info is not None
    assert (info.hvm, info.paused, info.dying, info.shutdown) == (True, True, False, False)
    assert (info.nr_pages, info.max_pages, info.cpu_time) == (0x4000, 0x4100, 12345)


@pytest.mark.parametrize("domid", [-1, 0x7FF0, 0x7FF4, 0x10007, 1 << 32])
def test_numbers_of_no_domain_never_reach_the_library(domid: int) -> None:
    library = Library()
    ctrl = control(library)
    calls: list[Callable[[], None]] = [
        lambda: ctrl.iomem_permission(domid, 1, 1, allow=True),
        lambda: ctrl.ioport_permission(domid, 1, 1, allow=True),
        lambda: ctrl.memory_mapping(domid, 1, 1, 1, add=True),
        lambda: ctrl.ioport_mapping(domid, 1, 1, 1, add=True),
        lambda: ctrl.populate_physmap(domid, [1]),
        lambda: ctrl.decrease_reservation(domid, [1]),
        lambda: ctrl.set_max_mem(domid, 4),
        lambda: ctrl.pause(domid),
        lambda: ctrl.unpause(domid),
    ]
    for call in calls:
        with pytest.raises(XenError) as caught:
            call()
        assert caught.value.errno == errno.ESRCH
    assert ctrl.domain_info(domid) is None
    assert library.calls == []


def test_allow_reaches_c_as_0_or_1() -> None:
    library = Library()
    ctrl = control(library)
    ctrl.iomem_permission(7, 0xA0, 0x20, allow=256)  # type: ignore[arg-type]  # C would truncate it: revoke
    ctrl.ioport_permission(7, 0x3B0, 0xC, allow=False)
    assert library.calls == [
        ("xc_domain_iomem_permission", (7, 0xA0, 0x20, 1)),
        ("xc_domain_ioport_permission", (7, 0x3B0, 0xC, 0)),
    ]


def dom0_info(*, domid: int = 0, flags: int = 0x20, pages: int = 1 << 18, online: int = 1, highest: int = 0) -> bytes:
    """A struct xen_domctl_getdomaininfo, up to max_vcpu_id."""
    raw = bytearray(_MAX_VCPU_ID + 4)
    for at, size, value in (
        (0, 2, domid), (4, 4, flags), (8, 8, pages), (_ONLINE_VCPUS, 4, online), (_MAX_VCPU_ID, 4, highest),
    ):  # fmt: skip
        raw[at : at + size] = value.to_bytes(size, "little")
    return bytes(raw)


def refused(library: Library) -> str:
    """The line with which the probe refuses."""
    with pytest.raises(XenUnavailableError) as caught:
        control(library)._probe()
    return str(caught.value)


def test_the_probe_is_satisfied_and_changes_nothing() -> None:
    library = Library()
    library.answers["xc_domain_ioport_permission"] = (-1, errno.ESRCH)
    library.info = dom0_info()
    control(library)._probe()
    (name, (domid, *_)) = library.calls[0]
    assert (name, domid) == ("xc_domain_ioport_permission", 0x7FF0), "a domain that cannot be"
    assert [name for name, _ in library.calls] == ["xc_domain_ioport_permission"]


@pytest.mark.parametrize(
    ("result", "number", "says"),
    [
        (
            -1,
            errno.EACCES,
            "libxenctrl.so.4.17 is of another build than the running Xen 4.17.7, which refuses it; install",
        ),
        (-1, errno.EPERM, "run xlplug in dom0"),
        (-1, errno.ENOSYS, "xc_domain_ioport_permission of the running Xen's libxenctrl.so.4.17 is not as this xlplug"),
        (-1, errno.EOPNOTSUPP, "use an xlplug that is newer"),
        (0, 0, "use an xlplug that is newer"),
    ],
)
def test_a_probe_that_is_answered_otherwise(result: int, number: int, says: str) -> None:
    library = Library()
    library.answers["xc_domain_ioport_permission"] = (result, number)
    library.info = dom0_info()
    assert says in refused(library)


@pytest.mark.parametrize(
    "info",
    [
        b"",
        dom0_info(domid=1),
        dom0_info(flags=1),
        dom0_info(flags=4),
        dom0_info(pages=0),
        dom0_info(online=0),
        dom0_info(online=2),
        dom0_info()[:48] + bytes(8) + dom0_info()[48:],  # a field more before the vCPUs
        dom0_info()[:8] + bytes(8) + dom0_info()[8:],  # and before the pages
    ],
)
def test_a_structure_that_is_laid_out_otherwise(info: bytes) -> None:
    library = Library()
    library.answers["xc_domain_ioport_permission"] = (-1, errno.ESRCH)
    library.info = info
    assert "xc_domain_getinfolist of the running Xen's libxenctrl.so.4.17 is not as this xlplug" in refused(library)


def physinfo(capabilities: int, *, cpus: int = 2, highest: int = 3, nodes: int = 1, threads: int = 1) -> bytes:
    numbers = (threads, 2, cpus, highest, nodes, 0, 2_000_000, capabilities)
    return b"".join(number.to_bytes(4, "little") for number in numbers)


class Physinfo(Library):
    """One whose xc_physinfo is as newer than 4.12, or any other bytes."""

    def __init__(self, raw: bytes) -> None:
        super().__init__()
        self.raw = raw

    def xc_physinfo(self, _xch: object, buffer: Any) -> int:
        ffi.buffer(ffi.cast("char *", buffer), len(self.raw))[:] = self.raw
        return 0


@pytest.mark.parametrize(
    ("raw", "hvm", "expected"),
    [
        (physinfo(0x0F), True, True),
        (physinfo(0x0B), True, False),
        (physinfo(0x06), False, True),
        (physinfo(0x02), False, False),
        # Of a Xen that lays it out otherwise, or gives the bits other meanings.
        (physinfo(0x0E), True, None),
        (physinfo(0x0F), False, None),
        (physinfo(0x0F, cpus=0), True, None),
        (physinfo(0x0F, cpus=5), True, None),
        (physinfo(0x0F, nodes=0), True, None),
        (physinfo(0x0F, threads=0), True, None),
        (bytes(32), True, None),
        (b"\xff" * 32, True, None),
    ],
)
def test_an_iommu_is_told_only_where_the_answer_is_understood(
    monkeypatch: pytest.MonkeyPatch, raw: bytes, *, hvm: bool, expected: bool | None
) -> None:
    text = "xen-3.0-x86_64 hvm-3.0-x86_64" if hvm else "xen-3.0-x86_64"
    monkeypatch.setattr("xlplug.xen.ctrl.running_capabilities", lambda: text)
    assert control(Physinfo(raw)).directio() is expected


def test_an_iommu_that_cannot_be_asked_for() -> None:
    class Without(Library):
        def __getattr__(self, name: str) -> Callable[..., int]:
            if name == "xc_physinfo":
                raise AttributeError(name)
            return super().__getattr__(name)

    assert control(Without()).directio() is None
    library = Library()
    library.answers["xc_physinfo"] = (-1, errno.EACCES)
    with pytest.raises(XenError) as caught:
        control(library).directio()
    assert caught.value.errno == errno.EACCES
