# SPDX-License-Identifier: LGPL-2.1-only
"""The hook's other mode, for stacks that start no device model in dom0: ``xlplug watch`` and a Linux stubdomain.

No hook is installed here; what stock xl makes of the same guest without the daemon, test_stubdom.py shows.
"""

import os
import re
from pathlib import Path

import pytest

from tests.lab.dom0.conftest import Guests, dump, journal, sh, xlplug
from tests.lab.dom0.hooked import busy, domid_of, until
from tests.lab.dom0.test_physmap import pages_in
from tests.lab.dom0.test_stubdom import ALIVE, DEAD, MEMORY, PORTS, display, granted  # noqa: F401 - a fixture
from tests.lab.dom0.test_watch import Daemon, daemon  # noqa: F401 - a fixture
from tests.lab.dom0.vgaguest import (
    CURSOR_HIGH,
    CURSOR_LOW,
    TEXT,
    Card,
    Guest,
    again_if_libxl_gives_up,
    created,
    creating,
    running,
    seen,
)
from xlplug.hook.device_model import default_path
from xlplug.xen.ctrl import XenCtrl
from xlplug.xen.lib import running_version
from xlplug.xen.qdump import parse_q

#: In place of the QEMU in dom0 that serves the stubdomain's consoles; it waits until the watcher is done.
PAUSED = """#!/bin/sh
domid= previous=
for word; do
	[ "$previous" = -xen-domid ] && domid=$word
	previous=$word
done
if [ "$domid" ]; then
	target=$(xenstore-read "/local/domain/$domid/target")
	for _ in $(seq 100); do
		[ "$(xenstore-read "/libxl/$target/xlplug/state" 2>/dev/null)" = applied ] &&
			! xenstore-read "/libxl/$domid/xlplug-paused" 2>/dev/null && break
		sleep 0.2
	done
	echo "$domid" >{out}/domid
	xl list "$domid" | tail -n 1 >{out}/list
	xl debug-keys q; xl dmesg >{out}/dump
	xenstore-ls -f -p "/local/domain/$domid/xlplug" >{out}/told.new 2>/dev/null
	mv {out}/told.new {out}/told
fi
exec {qemu} "$@"
"""


class Faulty(Daemon):
    """With a Xen that is out of memory at every second call about ports."""

    command = (
        "python3", "-c",
        "import itertools, sys\n"
        "from xlplug.model.errors import XenError\n"
        "from xlplug.xen.ctrl import XenCtrl\n"
        "real, count = XenCtrl.ioport_permission, itertools.count(1)\n"
        "def faulty(self, *args, allow):\n"
        "    if allow and next(count) % 2 == 0:\n"
        "        raise XenError('xc_domain_ioport_permission', 12, '')\n"
        "    real(self, *args, allow=allow)\n"
        "XenCtrl.ioport_permission = faulty\n"
        "from xlplug.__main__ import main\n"
        "sys.argv = ['xlplug', 'watch']\n"
        "main()\n",
    )  # fmt: skip


def stubdom_of(name: str) -> int:
    """0 while there is none."""
    text = sh("xenstore-read", f"/local/domain/{domid_of(name)}/image/device-model-domid").stdout.strip()
    return int(text) if text.isdecimal() else 0


def ran(name: str) -> bool:
    """Whether its stubdomain has run."""
    stubdom = stubdom_of(name)
    with XenCtrl() as xen:
        info = xen.domain_info(stubdom) if stubdom else None
    return info is not None and info.cpu_time > 0


def in_time(watch: Daemon, guest: Guest) -> None:
    """Granted before the stubdomain ran, and said so once."""
    assert not watch.says("ran before the grants were made"), watch.lines()
    mine = [line for line in watch.lines() if f"domain {guest.domid} " in line]
    assert sum("grant stubdom" in line for line in mine) == 3, mine
    assert sum("grant target" in line for line in mine) == 3, mine
    assert 'state = "applied"' in journal(guest.domid)
    assert sh("xenstore-read", f"/libxl/{guest.stubdom}/xlplug-paused").returncode != 0


@again_if_libxl_gives_up
def test_through_the_watcher_the_display_works(daemon: Daemon, tmp_path: Path, display: Card) -> None:  # noqa: F811
    """With dom0 kept busy until the stubdomain runs, by then the watcher must be done; idle, the other tests have it.

    From then on libxl waits 30 s for the QEMU inside, which on a slow machine can be too little.
    """
    before = dump()
    with creating(tmp_path, "watched") as (config, process):
        with busy(os.cpu_count() or 1):
            assert until(lambda: ran("watched"), 120), config.with_suffix(".stderr").read_text()
        created(config, process)
        guest = seen(config)
        granted(guest, display)
        in_time(daemon, guest)
    assert until(lambda: journal(guest.domid) == "")
    assert dump() == before, "destroying the guest leaves dom0 as it was"


def test_a_refusal_leaves_the_guest_without_rights(daemon: Daemon, tmp_path: Path, guests: Guests) -> None:  # noqa: F811
    """There is one set of VGA ports, and another guest holds them."""
    holder, _ = guests.make('ioports=["3c0-3df"]\n')
    assert xlplug("grant", str(holder)).returncode == 0
    with running(tmp_path, "refused", wait=False) as guest:
        assert until(lambda: daemon.says(f"domain {guest.domid} ")), daemon.lines()
        assert daemon.says("refused: "), daemon.lines()
        held = dump()
        assert [str(held[domid].ports) for domid in (guest.domid, guest.stubdom)] == ["{ }", "{ }"]
        assert journal(guest.domid) == ""
        assert sum(f"domain {guest.domid} " in line for line in daemon.lines()) == 1, daemon.lines()
        assert sh("xenstore-read", f"/libxl/{guest.stubdom}/xlplug-paused").returncode != 0


def test_ram_is_populated_before_the_stubdomain_runs(daemon: Daemon, tmp_path: Path) -> None:  # noqa: F811
    text = 'vga="stdvga"\n'
    preload = 'stubdomain_cmdline="console=hvc0 quiet xlplug.preload=trace"\nxlplug_preload=1\n'
    with running(tmp_path, "laden", extra=text + preload) as guest:
        assert guest.said == ALIVE
        in_time(daemon, guest)
        asked = re.findall(r"xlplug-preload: populate .*: (.*)", Path("/var/log/xen/qemu-dm-laden.log").read_text())
        assert asked == ["done before"] * 2
        assert "populate_physmap" in journal(guest.domid)


def test_ram_is_there_while_the_stubdomain_is_paused(daemon: Daemon, tmp_path: Path) -> None:  # noqa: F811
    """libxl lets it run when the QEMU in dom0 serves its consoles.  In that one's place: first a look at it all."""
    probe = tmp_path / "device-model"
    model = default_path(running_version()[:2])
    probe.write_text(PAUSED.format(out=tmp_path, qemu=model))
    probe.chmod(0o755)
    extra = f'vga="stdvga"\ndevice_model_override="{probe}"\n'
    found = []
    for preload in ("", "xlplug_preload=1\n"):
        with creating(tmp_path, f"held{len(preload)}", extra=extra + preload) as (config, process):
            assert until(lambda: (tmp_path / "told").exists() or process.poll() is not None, 60), daemon.lines()
            domid = int(sh("xl", "domid", config.stem).stdout)
            stubdom = int((tmp_path / "domid").read_text())
            assert (tmp_path / "list").read_text().split()[4:] == ["--p---", "0.0"]
            dumped = (tmp_path / "dump").read_text(errors="replace")
            found.append(pages_in(dumped, domid))
            for holder in (domid, stubdom):
                assert str(parse_q(dumped)[holder].ports) == PORTS
            folder, permissions = f"/local/domain/{stubdom}/xlplug", f"(n0,r{stubdom})"
            nodes = (' = ""', '/iomem = "a0-bf"', '/populated = "3000-400f"')
            told = {f"{folder}/{domid}{node}   {permissions}" for node in (nodes if preload else ())}
            assert set((tmp_path / "told").read_text().splitlines()) == told
            (tmp_path / "told").unlink()
    (without, limit), (populated, raised) = found
    assert (populated, raised) == (without + (16 << 8) + 16, limit)


@again_if_libxl_gives_up
def test_late_and_yet_in_time(daemon: Daemon, tmp_path: Path, display: Card) -> None:  # noqa: F811
    """The stubdomain runs already and has not been given the card: its grants are made, and no RAM is populated."""
    daemon.freeze()
    with creating(tmp_path, "tardy", extra='vga="stdvga"\nxlplug_preload=1\n') as (config, process):
        assert until(lambda: ran(config.stem), 60)
        daemon.thaw()
        created(config, process)
        guest = seen(config)
        assert (guest.said, guest.log) == (ALIVE, [])
        assert daemon.says(
            f"domain {guest.stubdom} ran before the grants were made, and had no PCI device yet: in time"
        )
        assert not daemon.says("had the display")
        assert "populate" not in journal(guest.domid)
        told = sh("xenstore-ls", f"/local/domain/{guest.stubdom}/xlplug").stdout
        assert told == f'{guest.domid} = ""\n iomem = "a0-bf"\n'


@again_if_libxl_gives_up
def test_too_late_is_made_right_and_said(daemon: Daemon, tmp_path: Path, display: Card) -> None:  # noqa: F811
    """QEMU has tried to map the VGA ranges without the rights.  The guest itself has not run."""
    daemon.freeze()
    with creating(tmp_path, "late", "-p") as (config, process):
        created(config, process)
        assert str(dump()[domid_of("late") or 0].ports) == "{ }"
        daemon.thaw()
        assert until(lambda: daemon.says("had the display before the grants were made")), daemon.lines()
        assert sh("xl", "unpause", "late").returncode == 0
        guest = seen(config)
        assert guest.said == ALIVE
        assert (display.text, display.cursor) == (TEXT, (CURSOR_HIGH, CURSOR_LOW)), "in the card itself"
        assert guest.log == ["xen_pt_register_vga_regions: Error: VGA ioport mapping failed! (rc: -1)"]
        assert sum("before the grants" in line for line in daemon.lines()) == 1


@pytest.mark.once
@again_if_libxl_gives_up
def test_a_changed_config_is_refused_until_libxl_has_its_own_record(daemon: Daemon, tmp_path: Path) -> None:  # noqa: F811
    daemon.freeze()
    with creating(tmp_path, "changed", "-p") as (config, process):
        assert until(lambda: domid_of("changed") is not None)
        os.utime(config, (2**31, 2**31))
        daemon.thaw()
        assert until(lambda: ran("changed"), 60), "nothing holds the stubdomain"
        domid = domid_of("changed") or 0
        assert [line for line in daemon.lines() if f"domain {domid} " in line] == [
            f"xlplug: domain {domid} (changed): {config}: changed since xl read it; destroy changed and create it again [XLP208]"
        ]
        assert journal(domid) == ""
        held = dump()
        assert str(held[domid].ports) == str(held[stubdom_of("changed")].ports) == "{ }"
        created(config, process)
        assert until(lambda: daemon.says("had the display before the grants were made")), daemon.lines()
        assert str(dump()[domid].ports) == PORTS


def test_a_grant_that_fails_leaves_nothing(tmp_path: Path) -> None:
    """Xen's answer to every other call of that kind is made ENOMEM."""
    faulty = Faulty(tmp_path)
    try:
        with running(tmp_path, "faulty", wait=False) as guest:
            assert until(lambda: faulty.says(f"domain {guest.domid} ")), faulty.lines()
            held = dump()
            assert [str(held[domid].ports) for domid in (guest.domid, guest.stubdom)] == ["{ }", "{ }"]
            assert [str(held[domid].memory) for domid in (guest.domid, guest.stubdom)] == [MEMORY, MEMORY]
            assert journal(guest.domid) == ""
            (line,) = [line for line in faulty.lines() if f"domain {guest.domid} " in line]
            assert "ENOMEM" in line
            assert sh("xenstore-read", f"/libxl/{guest.stubdom}/xlplug-paused").returncode != 0
            assert seen(guest.config).said == DEAD, "it runs"
    finally:
        assert faulty.stop() == 0
        faulty.notify.close()
    assert "Traceback" not in faulty.log.read_text()


def test_libxl_cannot_save_such_a_guest(daemon: Daemon, tmp_path: Path) -> None:  # noqa: F811
    """It tells QEMU to write into a file of dom0's, and resumes the guest.  What was granted stays."""
    with running(tmp_path, "kept") as guest:
        before = journal(guest.domid), dump()
        done = sh("xl", "save", "kept", str(tmp_path / "image"))
        assert done.returncode != 0
        assert "/dev/fdset/1" in done.stderr, done.stderr  # "unable to open", or with QEMU 10 "failed to find"
        assert (journal(guest.domid), dump()) == before
        in_time(daemon, guest)


def test_nothing_is_done_twice(daemon: Daemon, tmp_path: Path) -> None:  # noqa: F811
    """The wrapper grants for stubdomains too, and whoever comes second finds it done."""
    prefix = tmp_path / "prefix"
    assert xlplug("hook", "install", "--prefix", str(prefix)).returncode == 0
    with running(tmp_path, "wrapper", path=str(prefix / "sbin")) as guest:
        assert guest.said == ALIVE
        said = [*daemon.lines(), *guest.console_log.splitlines()]
        # By domid: on a slow machine libxl may have given up once, and the guest was made again.
        for grantee, domid in (("stubdom", guest.stubdom), ("target", guest.domid)):
            assert sum(f"grant {grantee} domid={domid} " in line for line in said) == 3, said
        assert not any("ran before" in line for line in said)
        assert until(lambda: sh("xenstore-read", f"/libxl/{guest.stubdom}/xlplug-paused").returncode != 0)


def test_a_second_daemon_is_refused(daemon: Daemon) -> None:  # noqa: F811
    done = xlplug("watch")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert f"process {daemon.process.pid}" in done.stderr
