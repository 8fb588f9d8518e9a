# SPDX-License-Identifier: LGPL-2.1-only
"""A display that stops answering: the last test of this machine, because nothing brings it back."""

from pathlib import Path

from tests.lab.dom0.conftest import dump, sh, xlplug
from tests.lab.dom0.hooked import domid_of
from tests.lab.igd.dom0.display import DISPLAY, ROOM, SYSFS, created
from tests.lab.igd.server import GONE
from xlplug.model.rangeset import RangeSet


def test_a_display_that_does_not_answer(tmp_path: Path) -> None:
    before = dump()
    sh("setpci", "-s", DISPLAY, f"e0.b={GONE:x}")
    assert (SYSFS / "config").read_bytes()[:4] == b"\xff" * 4
    for words in (("doctor",), ("record", "host", "-o", str(tmp_path / "host.json"))):
        done = xlplug(*words)
        assert "Traceback" not in done.stderr, done.stderr
    with created(tmp_path, "gone", hooked=True) as made:
        assert "Traceback" not in made.stderr + made.log
        domid = domid_of("gone")
        if domid is not None:  # to stock xl and QEMU it is a device like any other
            assert dump()[domid].memory & RangeSet([(ROOM[0] >> 12, ROOM[1] >> 12)]) == RangeSet(), "no OpRegion"
    assert dump() == before
    assert "gone" not in sh("xl", "list").stdout
