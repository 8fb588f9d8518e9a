# SPDX-License-Identifier: LGPL-2.1-only
"""The display as class 0380, "other display controller": so Raptor Lake's shows itself."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.dom0.conftest import dump, sh
from tests.lab.dom0.hooked import until
from tests.lab.igd.dom0.display import DISPLAY, SYSFS, created, register
from tests.lab.igd.dom0.table import documented


def reread() -> None:
    """Let Linux and Xen find the display again: they keep the class that they saw first."""
    sh("xl", "pci-assignable-remove", DISPLAY)
    (SYSFS / "remove").write_text("1")
    assert until(lambda: not SYSFS.exists())
    Path("/sys/bus/pci/rescan").write_text("1")
    assert until(SYSFS.exists)
    assert sh("xl", "pci-assignable-add", DISPLAY).returncode == 0


@pytest.fixture(scope="module", autouse=True)
def other_class() -> Iterator[None]:
    register("e0.b", 0x80)
    reread()
    assert (SYSFS / "class").read_text() == "0x038000\n"
    yield
    register("e0.b", 0)
    reread()
    assert (SYSFS / "class").read_text() == "0x030000\n"


@pytest.mark.parametrize("hooked", [False, True], ids=["stock", "hooked"])
def test_stock_qemu_refuses_it(tmp_path: Path, column: str, hooked: bool) -> None:
    before = dump()
    with created(tmp_path, "other", hooked=hooked) as made:
        assert made.outcome == documented("class 0380, stock xl or the hook", column)
    assert dump() == before
