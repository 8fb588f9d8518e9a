# SPDX-License-Identifier: LGPL-2.1-only
"""The hook's other mode, for stacks that start no device model in dom0: ``xlplug watch`` and a Linux stubdomain.

No hook is installed here; what stock xl makes of the same guest without the daemon, test_stubdom.py shows.
"""

import os
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.lab.dom0.conftest import Guests, dump, journal, sh, xlplug
from tests.lab.dom0.hooked import until
from tests.lab.dom0.test_physmap import pages
from tests.lab.dom0.test_stubdom import ALIVE, MEMORY, PORTS, display, planned_memory  # noqa: F401 - a fixture
from tests.lab.dom0.test_watch import Daemon, daemon  # noqa: F401 - a fixture
from tests.lab.dom0.vgaguest import CURSOR_HIGH, CURSOR_LOW, TEXT, Card, Guest, running
from xlplug.xen.ctrl import XenCtrl


@contextmanager
def busy(processes: int) -> Iterator[None]:
    """dom0's processors kept busy, by that many at the same priority as the daemon's."""
    loops = [subprocess.Popen(["sh", "-c", "while :; do :; done"]) for _ in range(processes)]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


def in_time(watch: Daemon, guest: Guest) -> None:
    """Granted before the stubdomain ran, and said so once."""
    assert not watch.says("ran before the grants were made"), watch.lines()
    mine = [line for line in watch.lines() if f"domain {guest.domid} " in line]
    assert sum("grant stubdom" in line for line in mine) == 3, mine
    assert sum("grant target" in line for line in mine) == 3, mine
    assert 'state = "applied"' in journal(guest.domid)
    assert sh("xenstore-read", f"/libxl/{guest.stubdom}/xlplug-paused").returncode != 0


def test_through_the_watcher_the_display_works(daemon: Daemon, tmp_path: Path, display: Card) -> None:  # noqa: F811
    """With dom0 kept busy; idle, the other tests have it."""
    before = dump()
    with busy(2 * (os.cpu_count() or 1)), running(tmp_path, "watched") as guest:
        assert guest.said == ALIVE
        assert (display.text, display.cursor) == (TEXT, (CURSOR_HIGH, CURSOR_LOW)), "in the card itself"
        held = dump()
        for domid, grantee in ((guest.domid, "target"), (guest.stubdom, "stubdom")):
            assert str(held[domid].ports) == PORTS
            assert str(held[domid].memory) == MEMORY
            assert held[domid].memory == planned_memory(guest.config, guest.domid, grantee)
        assert guest.log == []
        assert guest.mapped == [
            f"add: dom{guest.domid} gport=3b0 mport=3b0 nr=c",
            f"add: dom{guest.domid} gport=3c0 mport=3c0 nr=20",
            f"add: d{guest.domid} gfn=a0 mfn=a0 nr=20",
        ]
        in_time(daemon, guest)
    assert until(lambda: journal(guest.domid) == "")
    assert dump() == before, "destroying the guest leaves dom0 as it was"


def test_a_refusal_leaves_the_guest_without_rights(daemon: Daemon, tmp_path: Path, guests: Guests) -> None:  # noqa: F811
    """There is one set of VGA ports, and another guest holds them."""
    holder, _ = guests.make()
    with XenCtrl() as xen:
        xen.ioport_permission(holder, 0x3C0, 0x20, allow=True)
    with running(tmp_path, "refused", wait=False) as guest:
        assert until(lambda: daemon.says(f"domain {guest.domid} ")), daemon.lines()
        assert daemon.says("refused: "), daemon.lines()
        held = dump()
        assert [str(held[domid].ports) for domid in (guest.domid, guest.stubdom)] == ["{ }", "{ }"]
        assert journal(guest.domid) == ""
        assert sum(f"domain {guest.domid} " in line for line in daemon.lines()) == 1
        assert sh("xenstore-read", f"/libxl/{guest.stubdom}/xlplug-paused").returncode != 0


def test_ram_is_populated_before_the_stubdomain_runs(daemon: Daemon, tmp_path: Path) -> None:  # noqa: F811
    text = 'vga="stdvga"\n'
    preload = 'stubdomain_cmdline="console=hvc0 quiet xlplug.preload=trace"\nxlplug_preload=1\n'
    with running(tmp_path, "bare", extra=text) as guest:
        stock = pages(guest.domid)
        assert f"/local/domain/{guest.stubdom}/xlplug" not in sh("xenstore-ls", "-f").stdout
    with running(tmp_path, "laden", extra=text + preload) as guest:
        assert guest.said == ALIVE
        assert pages(guest.domid) == stock
        in_time(daemon, guest)
        asked = re.findall(r"xlplug-preload: populate .*: (.*)", Path("/var/log/xen/qemu-dm-laden.log").read_text())
        assert asked == ["done before"] * 2
        assert "populate_physmap" in journal(guest.domid)


@pytest.mark.parametrize("first", ["the wrapper", "a second daemon"])
def test_nothing_is_done_twice(daemon: Daemon, tmp_path: Path, first: str) -> None:  # noqa: F811
    """The wrapper grants for stubdomains too, and whoever comes second finds it done."""
    second: Daemon | None = None
    path: str | None = None
    if first == "the wrapper":
        prefix = tmp_path / "prefix"
        assert xlplug("hook", "install", "--prefix", str(prefix)).returncode == 0
        path = str(prefix / "sbin")
    else:
        (tmp_path / "second").mkdir()
        second = Daemon(tmp_path / "second")
    try:
        with running(tmp_path, first.split()[1], path=path) as guest:
            assert guest.said == ALIVE
            said = [*daemon.lines(), *guest.console_log.splitlines(), *(second.lines() if second else ())]
            for grantee in ("stubdom", "target"):
                assert sum(f"grant {grantee}" in line for line in said) == 3, said
            assert not any("ran before" in line for line in said)
            assert until(lambda: sh("xenstore-read", f"/libxl/{guest.stubdom}/xlplug-paused").returncode != 0)
    finally:
        if second is not None:
            assert second.stop() == 0
            second.notify.close()
