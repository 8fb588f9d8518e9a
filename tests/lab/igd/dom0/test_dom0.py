# SPDX-License-Identifier: LGPL-2.1-only
"""The display passed through with QEMU in dom0, by stock xl and through the hook: what docs/igd.md says must come out."""

import errno
import os
import re
from pathlib import Path

import pytest

from tests.lab.dom0.conftest import dump, journal, sh, xlplug
from tests.lab.dom0.hooked import domid_of, until
from tests.lab.igd import firmware
from tests.lab.igd.dom0.display import (
    DISPLAY,
    GUEST_PAGE,
    LAST,
    MARK,
    MARK_AT,
    SYSFS,
    UNALIGNED,
    VBIOS_AT,
    Guest,
    created,
    host_memory,
    opregion,
    register,
    shadow,
)
from tests.lab.igd.dom0.table import documented
from xlplug.model.rangeset import RangeSet
from xlplug.xen.devicemodel import DeviceModel
from xlplug.xen.lib import running_version

#: A stub without a PCIR, as SeaBIOS leaves it at c0000 when no card has a ROM: a machine started by UEFI.
NO_VBIOS = b"\x55\xaa\x02\xcb"
ROM_FILE = 'xlplug_rom="/job/igd/vbios"\n'
_REBOOT = 1  # SHUTDOWN_reboot.  Source: xen/include/public/sched.h


def enabled() -> bool:
    """Whether sysfs ``rom`` can be read."""
    try:
        (SYSFS / "rom").read_bytes()
    except OSError as error:
        assert error.errno in (errno.EINVAL, errno.EIO), error
        return error.errno == errno.EIO
    return True


@pytest.fixture(autouse=True)
def as_before() -> None:
    """No test finds what another has left; on Linux 5.10 stock QEMU leaves ``rom`` enabled."""
    (SYSFS / "rom").write_text("0\n")
    assert not enabled()
    assert register("fc.l") == UNALIGNED


def alive(guest: Guest, page: int = UNALIGNED >> 12) -> None:
    """The guest has its OpRegion and VBIOS, and what it wrote is in the host's memory."""
    offset = register("fc.l") & 0xFFF
    assert guest.said["id"] == f"{firmware.DEVICE:04x}{firmware.VENDOR:04x}"
    assert guest.said["asls"] == f"{(GUEST_PAGE << 12) + offset:08x}"
    assert guest.said["signature"] == firmware.SIGNATURE.decode()
    assert guest.said["mark"] == f"{MARK:08x}"
    assert guest.said["c0000"] == firmware.vbios()[3::-1].hex()
    assert guest.said["vbios"] == firmware.ROM_TEXT.decode()
    assert f"d{guest.domid} gfn={GUEST_PAGE:x} mfn={page:x} nr=3" in guest.mapped
    with host_memory() as memory:
        assert memory.read((page << 12) + offset + MARK_AT, 4) == MARK.to_bytes(4, "little")


@pytest.mark.smoke
def test_stock(tmp_path: Path, column: str) -> None:
    with created(tmp_path, "stock", hooked=False) as made:
        assert made.outcome == documented("stock xl", column)


def test_stock_after_enabling_rom(tmp_path: Path, column: str) -> None:
    (SYSFS / "rom").write_text("1\n")
    try:
        with created(tmp_path, "enabled", hooked=False) as made:
            assert made.outcome == documented("stock xl after `echo 1 >rom`", column)
    finally:
        (SYSFS / "rom").write_text("0\n")


@pytest.mark.smoke
def test_hooked(tmp_path: Path, column: str) -> None:
    before = dump()
    with created(tmp_path, "hooked", hooked=True) as made:
        assert made.outcome == documented("through the hook", column) == "works"
        guest = made.guest()
        alive(guest)
        held = dump()[guest.domid]
        assert held.ports == RangeSet([(0x3B0, 0x3BC), (0x3C0, 0x3E0), (0xC000, 0xC040)])
        page = UNALIGNED >> 12
        assert RangeSet([(page, page + 3), (0xA0, 0xC0)]) - held.memory == RangeSet()
        assert 'state = "applied"' in journal(guest.domid)
        assert (
            guest.log.count(f"xlplug: {DISPLAY}: QEMU gets a copy of the VBIOS (32768 bytes, from host memory)\n") == 1
        )
        assert guest.log.count(f"xlplug: {DISPLAY}: the ROM's line in sysfs 'resource' is hidden from QEMU\n") == 1
        assert not enabled(), "switched off again at once"
    assert dump() == before
    assert journal(guest.domid) == ""


def qemu_of(guest: Guest) -> Path:
    pid = sh("xenstore-read", f"/local/domain/{guest.domid}/image/device-model-pid").stdout.strip()
    return Path(f"/proc/{pid}")


def test_only_qemu_sees_the_difference_and_it_ends_with_qemu(tmp_path: Path) -> None:
    mounts = Path("/proc/self/mountinfo").read_text()
    resource, names = (SYSFS / "resource").read_text(), sorted(os.listdir(SYSFS))
    with created(tmp_path, "alone", hooked=True) as made:
        qemu = qemu_of(made.guest())
        seen = Path(f"{qemu}/root{SYSFS.resolve()}")
        assert sorted(os.listdir(seen)) == names
        lines = (seen / "resource").read_text().splitlines()
        assert lines[6] == " ".join(["0x" + "0" * 16] * 3)
        assert [line for number, line in enumerate(lines) if number != 6] == [
            line for number, line in enumerate(resource.splitlines()) if number != 6
        ]
        descriptor = os.readlink(seen / "rom").rpartition("/")[2]
        assert (qemu / "fd" / descriptor).read_bytes() == firmware.vbios()
        assert (seen / "config").read_bytes()[:4] == (SYSFS / "config").read_bytes()[:4]
        assert (SYSFS / "resource").read_text() == resource
        assert Path("/proc/self/mountinfo").read_text() == mounts
    assert until(lambda: not qemu.exists())
    assert Path("/proc/self/mountinfo").read_text() == mounts


def test_a_guest_that_reboots_gets_it_again(tmp_path: Path) -> None:
    with created(tmp_path, "again", hooked=True) as made:
        first = made.guest()
        alive(first)
        with DeviceModel() as model:
            model.call("shutdown", first.domid, reason=_REBOOT)
        assert until(lambda: domid_of("again") not in (None, first.domid), 60)
        second = made.guest()
        assert second.domid != first.domid
        alive(second)


@pytest.mark.parametrize(
    ("row", "keys"),
    [
        ("through the hook, `xlplug_rom=0`", "xlplug_rom=0\n"),
        ("through the hook, `xlplug_hide_rom_line=0`", "xlplug_hide_rom_line=0\n"),
    ],
)
def test_each_can_be_switched_off(tmp_path: Path, column: str, row: str, keys: str) -> None:
    with created(tmp_path, "off", keys, hooked=True) as made:
        assert made.outcome == documented(row, column)
        assert ("QEMU gets a copy of the VBIOS" in made.log) == ("rom=0" not in keys)
        assert ("is hidden from QEMU" in made.log) == ("line=0" not in keys)


def test_no_vbios_in_memory_stock(tmp_path: Path, column: str) -> None:
    with shadow(NO_VBIOS), created(tmp_path, "uefi", hooked=False) as made:
        assert made.outcome == documented("no VBIOS in memory, stock xl", column)


def test_no_vbios_in_memory_is_refused_before_anything_is_created(tmp_path: Path, column: str) -> None:
    with shadow(NO_VBIOS):
        before, guests = dump(), sh("xl", "list").stdout.count("\n")
        with created(tmp_path, "uefi", hooked=True) as made:
            assert made.outcome == documented("no VBIOS in memory, through the hook", column) == "refused"
            assert made.status == 1
            line = made.stderr.splitlines()[-1]
            assert line.startswith(f"xlplug: refused: {DISPLAY}: no VBIOS for it in host memory (")
            assert "; set xlplug_rom to a file that holds this display's VBIOS" in line
        assert (dump(), sh("xl", "list").stdout.count("\n")) == (before, guests)
        assert "uefi" not in sh("xl", "list").stdout


def test_a_vbios_from_a_file(tmp_path: Path, column: str) -> None:
    with shadow(NO_VBIOS), created(tmp_path, "file", ROM_FILE, hooked=True) as made:
        assert (
            made.outcome == documented('no VBIOS in memory, through the hook, `xlplug_rom="FILE"`', column) == "works"
        )
        alive(made.guest())
        assert "QEMU gets a copy of the VBIOS (32768 bytes, /job/igd/vbios)" in made.log


def test_an_empty_vbios(tmp_path: Path, column: str) -> None:
    with shadow(NO_VBIOS), created(tmp_path, "empty", 'xlplug_rom="empty"\n', hooked=True) as made:
        assert made.outcome == documented('no VBIOS in memory, through the hook, `xlplug_rom="empty"`', column)
        guest = made.guest()
        assert guest.said["c0000"] == "cb01aa55"
        assert guest.said["mark"] == f"{MARK:08x}"


@pytest.mark.parametrize(
    ("data", "fault"),
    [
        (b"\x7fELF" + bytes(508), "no ROM header (55 aa)"),
        (b"", "no ROM header (55 aa)"),
        (firmware.vbios(vendor=0x10DE), "it is for vendor 10de, not 8086"),
        (firmware.vbios()[:1024], "its header claims 32768 bytes of 1024"),
        (firmware.vbios(size=0x1FE00).ljust(0x20001, b"\0"), "larger than 128 KiB"),
    ],
    ids=["not-a-rom", "empty", "another-vendor", "cut-off", "too-large"],
)
def test_a_file_that_is_not_its_vbios_is_refused(tmp_path: Path, data: bytes, fault: str) -> None:
    path = tmp_path / "rom.bin"
    path.write_bytes(data)
    with created(tmp_path, "bad", f'xlplug_rom="{path}"\n', hooked=True) as made:
        assert made.status == 1
        line = made.stderr.splitlines()[-1]
        assert line.startswith(f"xlplug: refused: {path}: not a VBIOS for {DISPLAY}: {fault}; "), line


def test_without_gfx_passthru_qemu_refuses_it(tmp_path: Path, column: str) -> None:
    with created(tmp_path, "plain", "gfx_passthru=0\n", hooked=True) as made:
        assert made.outcome == documented("`gfx_passthru` off", column)


@pytest.mark.parametrize("where", [UNALIGNED, LAST - 0x8000, LAST], ids=["unaligned", "page-aligned", "last-pages"])
def test_wherever_the_opregion_is(tmp_path: Path, where: int) -> None:
    with opregion(firmware.opregion(), where), created(tmp_path, "where", hooked=True) as made:
        alive(made.guest(), where >> 12)


@pytest.mark.parametrize(
    "header",
    [
        firmware.opregion(0x0201, rvda=0x2000, rvds=0x2400),
        firmware.opregion(signature=b"IntelGraphicsXXX"),
        firmware.opregion(kib=0xFFFFFFFF),
        firmware.opregion(0x0200, rvda=0x100000, rvds=0x1000),
    ],
    ids=["2.1-rvda", "signature", "size", "2.0-rvda-in-ram"],
)
def test_a_header_gives_nobody_more_than_three_pages(tmp_path: Path, header: bytes) -> None:
    """Whatever it claims; either the guest has exactly the pages that QEMU maps, or it is refused."""
    page = UNALIGNED >> 12
    with opregion(header), created(tmp_path, "claims", hooked=True, argv=("-p",)) as made:
        if made.status == 0:
            domid = domid_of("claims")
            assert domid is not None
            beyond = dump()[domid].memory - RangeSet([(0xA0, 0xE0), (page, page + 3)])
            assert all(span.start >= 0xC000000 for span in beyond), beyond
        else:
            assert made.status == 1
            assert "xlplug: refused: " in made.stderr, made.stderr


def test_a_header_that_changes_between_two_creations(tmp_path: Path) -> None:
    with created(tmp_path, "first", hooked=True) as made:
        alive(made.guest())
    with opregion(firmware.opregion(signature=b"\xff" * 16)), created(tmp_path, "second", hooked=True) as made:
        assert made.status in (0, 1)
    with created(tmp_path, "third", hooked=True) as made:
        alive(made.guest())


def test_an_address_in_ram_is_refused(tmp_path: Path) -> None:
    before = dump()
    register("fc.l", 0x20000018)
    try:
        with created(tmp_path, "ram", hooked=True) as made:
            assert made.status == 1
            assert "xlplug: refused: " in made.stderr, made.stderr
        assert dump() == before
    finally:
        register("fc.l", UNALIGNED)


def test_a_guest_that_writes_garbage(tmp_path: Path) -> None:
    """Into the registers of stolen memory and of the OpRegion: the host's do not change, and it gets the same three pages."""
    registers = ("50.w", "5c.l", "fc.l")
    before = [register(name) for name in registers]
    with created(tmp_path, "garbage", hooked=True, firmware="/job/igd/garbage") as made:
        guest = made.guest()
        assert guest.said["asls"] == "deadb018"
        assert guest.said["signature"] == firmware.SIGNATURE.decode()
        page = UNALIGNED >> 12
        maps = [line for line in guest.mapped if f"mfn={page:x}" in line]
        assert maps == [f"d{guest.domid} gfn=deadb mfn={page:x} nr=3"]
        assert [register(name) for name in registers] == before
    with created(tmp_path, "after", hooked=True) as made:
        alive(made.guest())


def test_a_real_guest(tmp_path: Path) -> None:
    """hvmloader asks for the OpRegion, and SeaBIOS runs the VBIOS."""
    with created(tmp_path, "real", hooked=True, firmware="") as made:
        assert made.status == 0, made.stderr + made.log
        domid = domid_of("real")
        assert until(lambda: f"(d{domid}) Running option rom at c000:0003" in sh("xl", "dmesg").stdout, 90)
        page = UNALIGNED >> 12
        assert re.search(rf"memory_map:add: d(?:om)?{domid} gfn=\w+ mfn={page:x} nr=3\n", sh("xl", "dmesg").stdout)


if running_version()[:2] == (4, 20):  # Debian has this QEMU for 4.20 only

    @pytest.mark.parametrize(
        ("row", "hooked", "keys"),
        [
            ("stock xl", False, ""),
            ("through the hook", True, ""),
            ("through the hook, `xlplug_hide_rom_line=0`", True, "xlplug_hide_rom_line=0\n"),
        ],
        ids=["stock", "hooked", "line"],
    )
    def test_the_newest_qemu(tmp_path: Path, qemu_11: str, row: str, hooked: bool, keys: str) -> None:
        with created(tmp_path, "newest", qemu_11 + keys, hooked=hooked) as made:
            assert made.outcome == documented(row, "4.20, QEMU 11.1")
            if made.outcome == "works":
                alive(made.guest())


def test_revoke_leaves_what_libxl_granted_and_the_display_goes_on(tmp_path: Path) -> None:
    with created(tmp_path, "revoked", hooked=True) as made:
        guest = made.guest()
        done = xlplug("revoke", str(guest.domid))
        assert done.returncode == 0, done.stderr
        held = dump()[guest.domid]
        page = UNALIGNED >> 12
        assert held.memory & RangeSet([(page, page + 3)]) == RangeSet()
        assert held.ports == RangeSet([(0xC000, 0xC040)])
        assert VBIOS_AT >> 12 in {span.start for span in held.memory & RangeSet([(0xC0, 0xE0)])}
