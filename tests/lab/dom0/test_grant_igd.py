# SPDX-License-Identifier: LGPL-2.1-only
"""A guest to which stock xl and QEMU have already given the display: what libxl granted stays there."""

import json
from pathlib import Path

from tests.lab.dom0.conftest import IGD, VGA, Guests, dump, journal, xlplug
from xlplug.model.rangeset import RangeSet


def test_what_libxl_granted_survives_grant_and_revoke(igd_guest: tuple[int, Path]) -> None:
    domid, _ = igd_guest
    before = dump()[domid]
    done = xlplug("grant", str(domid))
    assert done.returncode == 0, done.stderr
    assert dump()[domid] == before, "QEMU and libxl had granted all of it"
    assert xlplug("revoke", str(domid)).returncode == 0
    assert dump()[domid] == before._replace(ports=RangeSet()), "QEMU's mapping of the VGA ports is taken back, too"


def test_the_config_is_found_in_libxl_s_own_record(igd_guest: tuple[int, Path]) -> None:
    done = xlplug("grant", str(igd_guest[0]), "--dry-run")
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("dry run: nothing was changed\n")
    assert journal(igd_guest[0]) == ""


def test_a_device_of_another_domain_is_refused(guests: Guests, igd_guest: tuple[int, Path]) -> None:
    domid, path = guests.make()
    path.write_text(path.read_text() + IGD)
    done = xlplug("grant", str(domid), "--config", str(path))
    assert done.returncode == 1
    assert f"assigned to domain {igd_guest[0]}" in done.stderr
    assert dump()[domid].ports == RangeSet()


def test_record_and_replay(igd_guest: tuple[int, Path], tmp_path: Path) -> None:
    domid, _ = igd_guest
    folder = tmp_path / "rec"
    done = xlplug("record", "domain", str(domid), "-o", str(folder))
    assert done.returncode == 0, done.stderr
    host = json.loads((folder / "host.json").read_text())
    display = next(d for d in host["devices"] if d["bdf"] == VGA)
    assert (display["vendor"], display["class_code"], display["driver"]) == (0x1234, 0x030000, "pciback")
    assert display["owner"] == domid
    assert display["boot_vga"] is True
    assert {"start": 0x7FFE0000, "stop": 0x80000000, "kind": 2} in host["memory"]
    assert host["vbios"]["vendor"] == 0x1234
    assert host["xen"]["version"][0] == 4
    replay = xlplug("grant", str(domid), "--recorded", str(folder))
    assert replay.returncode == 0, replay.stderr
    assert f"domain {domid} would hold I/O Memory {dump()[domid].memory} I/O Ports" in replay.stdout
    assert xlplug("record", "host", "-o", str(tmp_path / "h.json")).returncode == 0
    plan = xlplug("plan", str(igd_guest[1]), "--host", str(tmp_path / "h.json"), "--format", "json")
    assert plan.returncode == 1, "the display belongs to a domain already"
    assert f"assigned to domain {domid}" in plan.stdout
    live = xlplug("plan", str(igd_guest[1]), "--target", str(domid), "--format", "json")
    assert live.returncode == 0, live.stderr
    assert len(json.loads(live.stdout)["steps"]) == 3
