# SPDX-License-Identifier: LGPL-2.1-only
"""The unit of ``xlplug watch`` under the real systemd, on the real Xen, with stock xl: one life of it, from enabled to purged.

In one piece, because each guest takes seconds.  No hook is installed here.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.dom0.conftest import BASE, discard, dump, journal, sh
from tests.lab.dom0.hooked import domid_of, guests_of_xen, until
from tests.lab.dom0.packaged import ok, run
from tests.lab.systemd.machine import DISPLAY
from xlplug.model.rangeset import RangeSet
from xlplug.xen.ctrl import XenCtrl

UNIT = "xlplug-watch.service"
PORTS = RangeSet(((0x3B0, 0x3BC), (0x3C0, 0x3E0)))
MEMORY = RangeSet([(0xA0, 0xC0)])
ERROR, INFO = "3", "6"  # as syslog(3) numbers them
#: Of "systemd-analyze security", times ten: below 5.0 it is called OK.  Measured with systemd 252: 4.1.
EXPOSED = 45


def shown(name: str) -> str:
    return ok("systemctl", "show", "--value", "-p", name, UNIT).strip()


def lines(unit: str = UNIT) -> list[tuple[str, str]]:
    """Priority and text of what the unit's processes have written into the journal."""
    found = ok("journalctl", "-o", "json", "-u", unit, "_TRANSPORT=stdout").splitlines()
    return [(entry["PRIORITY"], entry["MESSAGE"]) for entry in map(json.loads, found)]


def processes() -> list[str]:
    """In the unit's control group: the daemon and its guard."""
    group = shown("ControlGroup")
    path = Path(f"/sys/fs/cgroup{group}/cgroup.procs")
    return path.read_text().split() if group and path.exists() else []


@pytest.fixture
def config(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "watched.cfg"
    path.write_text(f'name="watched"\n{BASE}gfx_passthru="igd"\npci=["{DISPLAY}"]\n')
    yield path
    if domid_of("watched") is not None:
        discard("watched")


def test_what_systemd_says_of_the_unit() -> None:
    done = run("systemd-analyze", "verify", "--man=no", UNIT)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    done = run("systemd-analyze", "security", f"--threshold={EXPOSED}", "--no-pager", UNIT)
    assert done.returncode == 0, done.stdout
    assert run("systemctl", "is-enabled", UNIT).stdout == "disabled\n", "the package switches nothing on"
    assert run("systemctl", "is-active", UNIT).stdout == "inactive\n"


def test_a_life_of_the_unit(config: Path) -> None:
    # Type=notify: systemctl comes back when the daemon is ready, and not before.
    ok("systemctl", "enable", "--now", UNIT)
    assert (shown("Type"), shown("ActiveState"), shown("SubState")) == ("notify", "active", "running")
    assert run("systemctl", "is-enabled", UNIT).stdout == "enabled\n"
    assert lines() == [(INFO, "watching for domains")]
    daemon, guard = shown("MainPID"), set(processes()) - {shown("MainPID")}
    assert len(guard) == 1

    # All of it killed at once, the guard too: started again.
    ok("systemctl", "kill", "-s", "KILL", UNIT)
    assert until(lambda: (shown("NRestarts"), shown("SubState")) == ("1", "running")), run("systemctl", "status", UNIT)
    assert shown("MainPID") not in (daemon, "0")
    assert guard & set(processes()) == set()

    # The one that was started again grants, before the device model needs it.
    done = sh("xl", "create", str(config))
    assert done.returncode == 0, done.stderr
    domid = domid_of("watched")
    assert domid is not None
    held = dump()[domid]
    assert (held.ports, held.memory & MEMORY) == (PORTS, MEMORY)
    said = lines()
    assert [priority for priority, text in said if "grant target" in text] == [INFO] * 3, said
    assert {priority for priority, _ in said} == {INFO}, said

    # A second daemon is refused, and that is an error in the journal.
    done = run("systemd-run", "--unit=second", "--wait", "-p", "Type=notify", "xlplug", "watch")
    assert done.returncode == 1
    (refused,) = lines("second.service")
    assert refused[0] == ERROR, refused
    assert "another xlplug holds /run/xlplug/watch.lock" in refused[1]

    # Stopped: nothing of it is left, and the guest keeps what it was granted.
    ok("systemctl", "disable", "--now", UNIT)
    assert (shown("Result"), shown("ActiveState")) == ("success", "inactive")
    assert until(lambda: processes() == [])
    assert sh("xenstore-read", f"/libxl/{domid}/xlplug-paused").returncode != 0
    with XenCtrl() as xen:
        info = xen.domain_info(domid)
    assert info is not None
    assert not info.paused
    assert dump()[domid] == held
    assert 'state = "applied"' in journal(domid)
    discard("watched")
    assert until(lambda: guests_of_xen() == set())
