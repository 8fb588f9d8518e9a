# SPDX-License-Identifier: LGPL-2.1-only
"""The case that xlplug exists for: VGA passthrough to a guest whose device model runs in a Linux stubdomain.

Both ways, with the same guest, xl, QEMU and card: the first test holds that stock Xen fails, and fails silently, so that
what the second one proves does not rot.
"""

import json
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.dom0.conftest import dump, journal, sh, xlplug
from tests.lab.dom0.vgaguest import (
    CURSOR_HIGH,
    CURSOR_LOW,
    TEXT,
    Card,
    Guest,
    again_if_libxl_gives_up,
    card,
    created,
    creating,
    running,
    seen,
)
from xlplug.hook.device_model import default_path
from xlplug.model.rangeset import RangeSet
from xlplug.xen.lib import running_version

DEAD = {"misc": "ff", "crtc-3d5": "ff", "crtc-3b5": "ff", "b8000": "." * len(TEXT)}
ALIVE = {"misc": "67", "crtc-3d5": f"{CURSOR_LOW:02x}", "crtc-3b5": f"{CURSOR_HIGH:02x}", "b8000": TEXT}
PORTS = "{ 3b0-3bb, 3c0-3df }"
MEMORY = "{ a0-df, fd000-fdfff, febf0 }"


@pytest.fixture
def display() -> Iterator[Card]:
    """The card, with nothing of an earlier guest in it."""
    with card() as seen:
        seen.wipe()
        yield seen


@pytest.fixture(scope="module")
def hooked(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder for PATH in which our front end stands before xl."""
    prefix = tmp_path_factory.mktemp("prefix")
    done = xlplug("hook", "install", "--prefix", str(prefix))
    assert done.returncode == 0, done.stderr
    return str(prefix / "sbin")


def planned_memory(config: Path, domid: int, grantee: str) -> RangeSet:
    """All memory that the plan says a domain will hold: ours, and libxl's own."""
    done = xlplug("plan", str(config), "--target", str(domid), "--format", "json")
    assert done.returncode == 0, done.stderr
    plan = json.loads(done.stdout)
    rights = [s for s in plan["steps"] if s["op"] == "iomem_permission"]
    rights += [g for g in plan["by_libxl"] if g["kind"] == "iomem"]
    return RangeSet((r["first"], r["first"] + r["count"]) for r in rights if r["grantee"] == grantee)


def granted(guest: Guest, display: Card) -> None:
    """The display works, and both domains hold what was planned, and nothing else."""
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


def test_stock_xen_fails_silently(tmp_path: Path, display: Card) -> None:
    with running(tmp_path, "stock") as guest:
        assert guest.said == DEAD
        assert (display.text.strip(), display.cursor) == ("", (0, 0)), "nothing has reached the card"
        held = dump()
        assert [str(held[domid].ports) for domid in (guest.domid, guest.stubdom)] == ["{ }", "{ }"]
        assert [str(held[domid].memory) for domid in (guest.domid, guest.stubdom)] == [MEMORY, MEMORY]
        assert guest.log == ["xen_pt_register_vga_regions: Error: VGA ioport mapping failed! (rc: -1)"]
        assert guest.mapped == []
        assert "VGA" not in guest.stderr, "xl says nothing of it, and has returned 0"
        assert journal(guest.domid) == ""
        assert "xlplug" not in guest.console_log


def test_through_the_hook_the_display_works(tmp_path: Path, display: Card, hooked: str) -> None:
    before = dump()
    with running(tmp_path, "hooked", path=hooked) as guest:
        granted(guest, display)
        assert guest.console_log.count("xlplug: grant stubdom") == guest.console_log.count("xlplug: grant target") == 3
        assert 'state = "applied"' in journal(guest.domid)
    assert journal(guest.domid) == ""
    assert dump() == before, "destroying the guest leaves dom0 as it was"


def test_the_stubdomain_has_not_run_when_it_is_granted(tmp_path: Path, display: Card, hooked: str) -> None:
    """The config's own device model starts when our wrapper is done: it looks at both domains before it serves them."""
    probe = tmp_path / "device-model"
    model = default_path(running_version()[:2])
    probe.write_text(
        f'#!/bin/sh\nxl list >{tmp_path}/list; xl debug-keys q; xl dmesg >{tmp_path}/dmesg\nexec {model} "$@"\n'
    )
    probe.chmod(probe.stat().st_mode | stat.S_IXUSR)
    with running(tmp_path, "early", path=hooked, extra=f'device_model_override="{probe}"\n') as guest:
        assert guest.said == ALIVE
        listed = {words[0]: words for words in map(str.split, (tmp_path / "list").read_text().splitlines())}
        for name in ("early", "early-dm"):
            assert listed[name][4:] == ["--p---", "0.0"]
        dmesg = (tmp_path / "dmesg").read_text()
        for domid in (guest.domid, guest.stubdom):
            _, _, sets = dmesg.rpartition(f"Rangesets belonging to domain {domid}:")
            assert PORTS in sets.partition("Memory pages")[0]


@again_if_libxl_gives_up
def test_by_hand_what_the_stubdomain_could_not_map_is_mapped(tmp_path: Path, display: Card) -> None:
    """``xl create -p``, ``xlplug grant``, ``xl unpause``: by then the device model has had the display, and tried in vain."""
    with creating(tmp_path, "hand", "-p") as (config, process):
        created(config, process)
        domid = sh("xl", "domid", "hand").stdout.strip()
        done = xlplug("grant", domid, "--config", str(config))
        assert done.returncode == 0, done.stderr
        assert "the device model has the display already and could not map it; mapped here" in done.stderr
        assert sh("xl", "unpause", domid).returncode == 0
        guest = seen(config)
        assert guest.said == ALIVE
        assert (display.text, display.cursor) == (TEXT, (CURSOR_HIGH, CURSOR_LOW)), "in the card itself"
        assert xlplug("grant", domid, "--config", str(config)).stdout.startswith("nothing to do: all ")
        assert xlplug("revoke", domid).returncode == 0
        assert str(dump()[guest.domid].ports) == "{ }"
