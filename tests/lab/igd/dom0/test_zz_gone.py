# SPDX-License-Identifier: LGPL-2.1-only
"""A display that stops answering: the last test of this machine, because nothing brings it back."""

from pathlib import Path

from tests.lab.dom0.conftest import dump, sh, xlplug
from tests.lab.igd.dom0.display import DISPLAY, SYSFS, created
from tests.lab.igd.server import GONE


def test_a_display_that_does_not_answer(tmp_path: Path) -> None:
    before = dump()
    sh("setpci", "-s", DISPLAY, f"e0.b={GONE:x}")
    assert (SYSFS / "config").read_bytes()[:4] == b"\xff" * 4
    for words in (("doctor",), ("record", "host", "-o", str(tmp_path / "host.json"))):
        done = xlplug(*words)
        assert "Traceback" not in done.stderr, done.stderr
    with created(tmp_path, "gone", hooked=True) as made:
        assert made.status != 0
        assert "Traceback" not in made.stderr + made.log
        print(made.status, made.stderr, made.log)
    assert dump() == before
    assert "gone" not in sh("xl", "list").stdout
